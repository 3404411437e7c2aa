"""The script for a machine with a GPU, rehearsed without one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sh") is None, reason="it is a shell script")
def test_gpu_script_runs_tests_and_writes_what_its_table_is_made_from(tmp_path):
    output = tmp_path / "gpu.json"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", str(ROOT / "benchmarks/gpu.sh"), str(output), "-k", "same_loss"],
        env=os.environ | {"PATH": path, "DEVICE": "cpu", "TINY": "--tiny", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert "1 passed" in result["tests"]
    assert {"mtcli, bf16", "mtcli, tf32"} <= {row["name"] for row in result["train"]}
    rows = [*result["train"], *result["decode"]]
    assert all(row["tokens_per_second"] > 0 for row in rows)
    table = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu_speed.py"), "--table", str(output)],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    ).stdout  # fmt: skip
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(rows) and all(row["name"] in table for row in rows)

"""The quick start needs nothing that only Linux has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LIKE_WINDOWS = """
import os, select, sys, types, warnings
sys.modules["fcntl"] = sys.modules["resource"] = sys.modules["termios"] = None  # to import them fails
sys.modules["portalocker"] = types.ModuleType("portalocker")  # sacrebleu's: it has another way on Windows
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "sched_getaffinity", "geteuid", "mkfifo"):
    delattr(os, name)

def no_pipes(readers, *_):
    raise OSError(10038, "an operation was attempted on something that is not a socket")

select.select = no_pipes
warnings.filterwarnings("ignore", "flock not supported")  # Windows has its own locks
from mtcli.cli import main
main()
"""


def mtcli(folder: Path, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIKE_WINDOWS, *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.slow
def test_train_and_translate_without_what_only_linux_has(tmp_path):
    (tmp_path / "data").symlink_to(ROOT / "data")
    settings = ["--set", "training.max_updates=4", "--set", "training.max_epochs=null"]
    train = ["train", "--config", str(ROOT / "configs/words.yaml"), *settings]
    mtcli(tmp_path, *train)
    mtcli(tmp_path, *train)  # once more: what is there is read
    assert mtcli(tmp_path, "translate", "apple").count("\n") == 1
    assert mtcli(tmp_path, "translate", stdin="apple\nhello\n").count("\n") == 2

"""What only a GPU can show; `benchmarks/gpu.sh` runs this. MTCLI_DEVICE=cpu rehearses what does not need CUDA itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from kinds import build, kinds, parameters

from mtcli import config as configs
from mtcli.config import Decoding
from mtcli.decoding.engine import Request
from mtcli.decoding.torch_engine import TorchEngine
from mtcli.models.base import Seq2Seq
from mtcli.models.batches import Sequences, padded_batch
from mtcli.run.checkpoint import to_tensors
from mtcli.run.directory import Run
from mtcli.support import devices
from mtcli.support.signals import Interrupted
from mtcli.text.vocab import EOS
from mtcli.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
DEVICE = torch.device(os.environ.get("MTCLI_DEVICE", "cuda"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA"),
]
SOURCES = [[4, 5, 6, 7, EOS], [8, EOS], [9, 10, 11, EOS]]
TARGETS = [[5, 6, EOS], [7, 8, 9, 10, EOS], [EOS]]
CONFIGS = [each for kind in kinds().values() for each in parameters(kind)]


@pytest.fixture
def no_waiting():
    """Within this, what waits for the GPU raises."""
    if DEVICE.type != "cuda":
        pytest.skip("only CUDA can tell")
    yield
    torch.cuda.set_sync_debug_mode("default")


def trainer(folder: Path, name: str, **training) -> Trainer:
    tiny.write(folder)
    path = tiny.write_config(folder, training={"log_every": 100, "validate_every": 100, **training})
    return Trainer(Run.create(folder / name, path.read_text(), configs.load(path)), DEVICE)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
def test_an_update_does_not_wait_for_the_gpu(tmp_path, no_waiting, optimizer, precision):
    job = trainer(tmp_path, "run", optimizer=optimizer, precision=precision)
    for number, rows in enumerate(job.plan.epoch(0)[:4]):
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        job._update(rows)  # the first one prepares what is kept
    torch.cuda.set_sync_debug_mode("default")
    assert job.tally.finite_updates() == 4 or precision == "fp16"


@pytest.mark.parametrize("config", CONFIGS)
def test_decoding_steps_do_not_wait_for_the_gpu(no_waiting, monkeypatch, config):
    model = build(config).float().eval().to(DEVICE)
    step, taken = model.decode_step, []

    def watched(*arguments, **options):
        taken.append(1)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(*arguments, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(model, "decode_step", watched)
    TorchEngine(model, DEVICE).search(Request(SOURCES, decoding=Decoding(beam_size=3)))
    assert taken


def states(model: Seq2Seq, precision: str) -> torch.Tensor:
    """Logits of all prefixes of the targets, one batch, by teacher forcing."""
    batch = padded_batch(Sequences.of(SOURCES), Sequences.of(TARGETS)).to(DEVICE)
    with torch.no_grad(), devices.autocast(DEVICE, precision)[0]():
        return model.project(model(batch.source, batch.source_mask, batch.target_in)).float()


@pytest.mark.parametrize("config", CONFIGS)
def test_bf16_agrees_with_float32_and_steps_with_teacher_forcing(config):
    model = build(config).float().eval().to(DEVICE)
    exact, rough = (states(model, precision) for precision in ("float32", "bf16"))
    batch = padded_batch(Sequences.of(SOURCES), Sequences.of(TARGETS)).to(DEVICE)
    with torch.no_grad(), devices.autocast(DEVICE, "bf16")[0]():
        memory = model.encode(batch.source, batch.source_mask)
        state, steps = model.init_state(memory), []
        for tokens in batch.target_in.unbind(1):
            logits, state = model.decode_step(tokens, state, memory)
            steps.append(logits.float())
    real = torch.zeros(exact.shape[:2], dtype=torch.bool).flatten()
    real[batch.target_places.cpu()] = True
    real = real.view(exact.shape[:2]).to(DEVICE)
    torch.testing.assert_close(rough[real], exact[real], rtol=0.1, atol=0.1)
    torch.testing.assert_close(torch.stack(steps, 1)[real], rough[real], rtol=0.1, atol=0.1)


def test_the_cpu_and_the_gpu_compute_the_same_loss():
    model = build(CONFIGS[-1].values[0]).float().eval()
    scores = [
        TorchEngine(model.to(device), device).score(SOURCES, TARGETS)
        for device in (torch.device("cpu"), DEVICE)
    ]
    for mine, yours in zip(*scores):
        assert mine == pytest.approx(yours, abs=1e-4)


def test_deterministic_training_is_continued_bit_for_bit(tmp_path):
    """In a process of its own: cuBLAS reads its setting once."""
    code = CONTINUED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


CONTINUED = """
import sys
sys.path.insert(0, {tests!r})
import test_gpu
from pathlib import Path
test_gpu.train_in_two_parts(Path({folder!r}))
"""


def train_in_two_parts(folder: Path) -> None:
    settings = {"deterministic": True, "optimizer": "muon", "max_updates": 12, "validate_every": 5}
    complete = trainer(folder, "complete", **settings)
    complete.train()
    job = trainer(folder, "parts", **settings)
    update = job._update

    def stopped(rows):
        update(rows)
        if job.progress.update == 7:
            signal.raise_signal(signal.SIGTERM)

    job._update = stopped
    with pytest.raises(Interrupted):
        job.train()
    again = trainer(folder, "parts", **settings)
    again.train()
    assert again.progress.update == 12
    for name, tensor in to_tensors(complete.model).items():
        assert torch.equal(tensor, to_tensors(again.model)[name]), name


def mtcli(*arguments: str, launcher: tuple[str, ...] = ("-m", "mtcli")) -> None:
    command = [sys.executable, *launcher, *arguments, "--device", DEVICE.type]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


def test_one_epoch_of_the_toy_corpus_lowers_the_loss(tmp_path):
    settings = ["max_epochs=1", "validate_every=20", "validation_metrics=[]", "best_by=loss"]
    chosen = [part for each in settings for part in ("--set", f"training.{each}")]
    config = str(ROOT / "configs/toy_transformer.yaml")
    mtcli("train", "--config", config, "--run", str(tmp_path / "toy"), *chosen)
    log = Run(tmp_path / "toy").read_log()
    losses = [entry["validation"]["loss"] for entry in log if "validation" in entry]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.skipif(
    DEVICE.type == "cuda" and torch.cuda.device_count() < 2, reason="needs two GPUs"
)
def test_two_processes_with_a_gpu_each_do_what_one_does(tmp_path):
    tiny.write(tmp_path)
    path = tiny.write_config(tmp_path, training={"precision": "float32", "max_updates": 10})
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = ["train", "--config", str(path), "--set", "model.dropout=0.0", "--run"]
    mtcli(*arguments, str(one))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    mtcli(*arguments, str(two), launcher=(*torchrun, "-m", "--", "mtcli"))
    first, second = (
        [e["validation"]["loss"] for e in Run(run).read_log() if "validation" in e]
        for run in (one, two)
    )
    assert first == pytest.approx(second, rel=1e-3) and len(first) > 1

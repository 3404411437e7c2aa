"""The command line in real processes, forked from one that has imported torch: each saves a second."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.context import BaseContext
from pathlib import Path
from tempfile import TemporaryDirectory

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def python_mtcli(*arguments: str | Path) -> list[str]:
    """The command line of a process that imports everything itself."""
    return [sys.executable, "-m", "mtcli", *map(str, arguments)]


def mtcli(
    folder: Path, *arguments: str | Path, stdin: bytes = b"", status: int = 0
) -> subprocess.CompletedProcess:
    """Run a command in ``folder``; it must end with ``status`` and without a traceback."""
    words = ["mtcli", *map(str, arguments)]
    with TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("stdin", "stdout", "stderr")]
        files[0].write_bytes(stdin)
        process = _context().Process(target=_run, args=(words, str(folder), files))
        process.start()
        process.join()
        stdout, stderr = (file.read_bytes() if file.exists() else b"" for file in files[1:])
    done = subprocess.CompletedProcess(words, process.exitcode, stdout, stderr)
    process.close()
    assert done.returncode == status, stderr.decode()
    assert b"Traceback" not in stderr
    return done


def lines(done: subprocess.CompletedProcess) -> list[str]:
    return done.stdout.decode("utf-8").split("\n")[:-1]


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mtcli.cli.main", "mtcli.decoding.evaluation", "mtcli.training.trainer"]
    )
    return context


def _run(words: list[str], folder: str, files: list[Path]) -> None:
    """Of the new process: run the command as if these files were its standard ones."""
    for number, file in enumerate(files):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    os.environ.update(ENVIRONMENT)
    os.chdir(folder)
    sys.argv = words
    from mtcli import cli

    cli.main()

"""The command line: its commands, and how their errors end. Help imports nothing heavy."""

from __future__ import annotations

import atexit
import errno
import io
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..support.errors import UserError, is_out_of_memory, visible
from ..support.signals import Interrupted, Signals
from .average import average
from .build_vocab import build_vocab
from .eval import evaluate
from .export import export
from .look import look
from .report import report
from .schema import schema
from .score import score
from .train import train
from .translate import translate

app = typer.Typer(
    name="mtcli",
    help="Train a translator from parallel text, use it, score it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("build-vocab")(build_vocab)
app.command("train")(train)
app.command("translate")(translate)
app.command("eval")(evaluate)
app.command("look")(look)
app.command("export")(export)
app.command("score")(score)
app.command("average")(average)
app.command("report")(report)
app.command("schema")(schema)

SIGPIPE = getattr(signal, "SIGPIPE", 13)  # Windows has none


def main() -> None:
    """Run the command line. Results go to stdout, all else to stderr.

    Exit status: 0, 1 (failure), 2 (wrong usage), or 128 + the number of a signal.
    """
    _open_closed_streams()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)
    try:
        with Signals():
            _run()
    except UserError as error:
        _complain(str(error))
        sys.exit(1)
    except Interrupted as stop:
        name = "Ctrl-C" if stop.signal == signal.SIGINT else signal.Signals(stop.signal).name
        _complain(f"stopped by {name}: {stop.hint}" if stop.hint else f"stopped by {name}")
        _leave(128 + stop.signal)
    except BrokenPipeError:  # the reader of our output has seen enough
        _drop_stdout()
        sys.exit(128 + SIGPIPE)
    except OSError as error:  # such as a full disk behind stdout
        what = f"{error.filename}: " if error.filename else ""
        closed = "stdin or stdout is closed" if error.errno == errno.EBADF else ""
        _complain(f"{what}{closed or error.strerror or error}.")
        _drop_stdout()
        sys.exit(1)
    except (ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, ImportError):
            told = (str(error).strip().splitlines() or [repr(error)])[-1].rstrip(".")
            told = f"a package that mtcli needs cannot be loaded: {told}"
            advice = "Is it installed, and is there enough memory (ulimit -v)?"
        elif is_out_of_memory(error):
            told, advice = "out of memory", "Close other programs, or raise the limit (ulimit -v)."
        else:
            raise
        _complain(f"{told}. {advice}")
        _leave(1)
    finally:  # all is done and said, but unloading PyTorch takes a second
        for number in (signal.SIGINT, signal.SIGTERM):
            atexit.register(signal.signal, number, signal.SIG_IGN)


def _run() -> None:
    try:
        app()
    except SystemExit:
        sys.stdout.flush()  # here a full disk can still be told
        raise


def _complain(text: str) -> None:
    print(f"mtcli: {visible(text)}", file=sys.stderr)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return visible(f"mtcli: warning: {text}" if record.levelno >= logging.WARNING else text)


def _open_closed_streams() -> None:
    """Put something in the place of standard streams that are closed, or files would get their numbers.

    To read from such a stdin or to write to such a stdout is an error; what goes to such a stderr is lost.
    """
    streams = (
        ("stdin", os.O_WRONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    )
    for number, (name, flags, mode) in enumerate(streams):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, closefd=False))


def _leave(status: int) -> NoReturn:
    """Exit at once: threads that are still in C++ code, or half a library, would abort a tidy end."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def _drop_stdout() -> None:
    """Discard what stdout still holds: it cannot be written, and Python would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mtcli {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass

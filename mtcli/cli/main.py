"""The command line: its commands, and how their errors end. Help imports nothing heavy."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from typing import Annotated

import typer

from .. import __version__
from ..support.errors import UserError
from .average import average
from .build_vocab import build_vocab
from .eval import evaluate
from .export import export
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
app.command("export")(export)
app.command("score")(score)
app.command("average")(average)
app.command("schema")(schema)

SIGPIPE = getattr(signal, "SIGPIPE", 13)  # Windows has none


def main() -> None:
    """Run the command line. Results go to stdout, all else to stderr.

    Exit status: 0, 1 (failure), 2 (wrong usage), or 128 + the number of a signal.
    """
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)
    try:
        app()
    except UserError as error:
        print(f"mtcli: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has seen enough
        _drop_stdout()
        sys.exit(128 + SIGPIPE)
    except OSError as error:  # such as a full disk behind stdout
        place = f"{error.filename}: " if error.filename else ""
        print(f"mtcli: {place}{error.strerror or error}.", file=sys.stderr)
        _drop_stdout()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


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

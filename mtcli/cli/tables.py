"""What is shown to people: tables and lines on stdout, and commands to paste into a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..support.errors import visible


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of equally many cells in aligned columns; numbers are aligned on the right."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *rest in rows:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(rest, widths[1:])
        ]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())


def command(*words: str | Path) -> str:
    """The command ``mtcli`` with these words, quoted for the shell."""
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return join(["mtcli", *map(str, words)])

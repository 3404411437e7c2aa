"""Tables on stdout."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of equally many cells in aligned columns; numbers are aligned on the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *rest in rows:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(rest, widths[1:])
        ]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())

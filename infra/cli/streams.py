"""What is printed as it comes, where it is not known how much it will be."""

import json
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from infra.cli.terminal import visible

_RIGHT = "quantity"


def print_json_as_it_comes(parts: Iterable[Iterable[Any]]) -> None:
    """Print one JSON document, a list, as :func:`infra.cli.shared.print_json` does; each part once it is there.

    Where it ends early it is no whole document, so that nobody takes it for one.
    """
    before = "["
    for part in parts:
        for one in part:
            text = json.dumps(one, indent=2).replace("\n", "\n  ")
            sys.stdout.write(f"{before}\n  {text}")
            before = ","
        sys.stdout.flush()
    sys.stdout.write("[]\n" if before == "[" else "\n]\n")


def print_rows_as_they_come(
    columns: Sequence[str], parts: Iterable[Iterable[Sequence[str]]], known: Sequence[int]
) -> bool:
    """Print rows under each other, each part once it is there, and say whether there were any.

    Columns are as wide as is ``known`` of what comes, or as what came so far is.
    """
    widths = [max(len(name), width) for name, width in zip(columns, known, strict=True)]
    is_first = True
    for part in parts:
        rows = [[*map(visible, row)] for row in part]
        widths = [max(width, *map(len, cells)) for width, *cells in zip(widths, *rows, strict=True)] if rows else widths
        if is_first and rows:
            rows.insert(0, [*columns])
            is_first = False
        for row in rows:
            cells = (
                cell.rjust(width) if name == _RIGHT else cell.ljust(width)
                for name, cell, width in zip(columns, row, widths, strict=True)
            )
            sys.stdout.write(" ".join(cells).rstrip() + "\n")
        sys.stdout.flush()
    return not is_first


def goes_into_a_pipe() -> bool:
    """Say whether what is printed goes into another program, which may show it on the terminal, as less does."""
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except OSError:
        return False

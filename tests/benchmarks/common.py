"""What the benchmarks share: their arguments, and how they tell what they measured."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def report(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was measured, as one JSON object or as indented lines."""
    sys.stdout.write(
        f"{json.dumps(result, indent=2)}\n" if as_json else "".join(f"{line}\n" for line in _lines(result))
    )


def _lines(values: Mapping[str, Any] | Sequence[Any], indent: str = "") -> Iterator[str]:
    named = values.items() if isinstance(values, Mapping) else (("-", value) for value in values)
    for name, value in named:
        if isinstance(value, Mapping | list):
            yield f"{indent}{name}"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{name}: {value:,}" if isinstance(value, int | float) else f"{indent}{name}: {value}"

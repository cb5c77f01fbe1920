"""How long a file and a function may be."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_OF_A_FILE = 400
MOST_OF_A_FUNCTION = 60

SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("functions", "infra")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".js")
)


def test_sources_of_both_languages_are_found() -> None:
    """So that the tests below look at something."""
    assert {"functions/record_usage.py", "functions/page/main.js", "infra/stack/metering.py"} <= set(SOURCES)


@pytest.mark.parametrize("path", SOURCES)
def test_a_file_is_read_in_one_go(path: str) -> None:
    """What is longer has two ideas, each with a name of its own."""
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= MOST_OF_A_FILE, f"{path} has {lines} lines: give its second idea a file"


@pytest.mark.parametrize("path", SOURCES)
def test_a_function_fits_on_a_page(path: str) -> None:
    """Its signature, its contract and what it does."""
    too_long = {
        name: length for name, length in functions((ROOT / path).read_text(), path) if length > MOST_OF_A_FUNCTION
    }
    assert not too_long, f"{path}: {too_long} lines: a part of it has a name"


def functions(source: str, path: str) -> Iterator[tuple[str, int]]:
    """Yield each function of a Python or JavaScript source, at any depth, and how many lines it has."""
    if path.endswith(".py"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1
    else:
        # A function ends with the first brace that stands where the line of its name begins.
        for found in re.finditer(
            r"^( *)(?:export )?(?:async )?function (\w+).*?^\1}", source, re.MULTILINE | re.DOTALL
        ):
            yield found[2], found[0].count("\n") + 1


def test_functions_are_measured_in_both_languages() -> None:
    """From the line of the name to the last one, methods and inner functions, too."""
    python = "class A:\n    def outer(\n        self,\n    ):\n        def inner():\n            return 1\n"
    assert list(functions(python, "a.py")) == [("outer", 5), ("inner", 2)]
    script = "export async function ask(\n  path,\n) {\n  if (path) {\n  }\n}\n\nfunction short() {\n}\n"
    assert list(functions(script, "a.js")) == [("ask", 6), ("short", 2)]

"""What reaches an operator's terminal: letters, and nothing that acts on it."""

import ast
import io
from pathlib import Path

import pytest
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.cli.terminal import Terminal, line, visible
from tests.conftest import ROOT

OSC_52 = "\x1b]52;c;Y3VybCBldmls\x07"
"""Puts a text into the clipboard of many terminals (XTerm Control Sequences, "Operating System Commands")."""

HOSTILE = f"a\x1b[2J{OSC_52}\x9b1m\x7f\r\b\u202e\u2066\u200b\ufeff\U000e0041\ud800\u2028\nb"
SEEN = r"a\x1b[2J\x1b]52;c;Y3VybCBldmls\x07\x9b1m\x7f\r\x08\u202e\u2066\u200b\ufeff\U000e0041\ud800\u2028" + "\\" + "nb"


@pytest.mark.parametrize(
    "text",
    [
        "Acme Ltd",
        "Zoë",
        "株式会社\u3000例",
        "\u0646\u200c\u0627",
        "👩\u200d👧",
        "1\u202f0\xa0€",
        "[b] :smile:",
        "\\x1b",
    ],
)
def test_names_stay_as_they_are(text: str) -> None:
    """Letters of any language, joiners in names, spaces of any width, and what looks like markup."""
    assert visible(text) == text
    written = Terminal(file=io.StringIO(), width=200)
    written.print(text)
    assert written.file.getvalue() == f"{text}\n"  # type: ignore[attr-defined]  # it is the one above


def test_what_acts_on_a_terminal_is_shown_as_python_writes_it() -> None:
    """Control characters of both sets, turned directions, what is not seen, and what cannot be written."""
    assert visible(HOSTILE) == SEEN


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_that_is_printed_acts(terminal: bool) -> None:  # noqa: FBT001 - the two kinds of a console
    """Whatever it is printed as; of a terminal's own sequences there are those of its colours and its lines alone."""
    written = Terminal(file=io.StringIO(), width=400, force_terminal=terminal, color_system=None)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    written.print(HOSTILE, HOSTILE, sep="\n", style="red")
    written.print(table)
    written.print(Group(line(HOSTILE, "bold"), Text(HOSTILE)))
    written.rule(HOSTILE)
    with Live(line(HOSTILE), console=written, auto_refresh=False) as live:
        live.update(table, refresh=True)
    said = written.file.getvalue()  # type: ignore[attr-defined]  # it is the one above
    assert said.startswith(f"{SEEN}\n{SEEN}\n")
    assert said.count("]52;c") >= 8
    for acting in (OSC_52, "\x1b[2J", *(one for one in HOSTILE if not one.isprintable() and one not in "\x1b\n\r")):
        assert acting not in said
    if not terminal:
        assert "\x1b" not in said


def test_there_is_no_other_way_to_a_terminal() -> None:
    """Commands write by the one console, and documents as JSON, which escapes whatever is no plain letter."""
    ways = {"echo", "secho", "Console", "stdout", "stderr", "print_exc"}
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "infra").glob("[co]*/**/*.py")):
        found[str(file.relative_to(ROOT))] = _used(file) & ways
    assert {file: used for file, used in found.items() if used} == {
        "infra/cli/local.py": {"stdout"},
        "infra/cli/shared.py": {"stdout"},
        "infra/cli/streams.py": {"stdout"},
        "infra/cli/terminal.py": {"Console"},
    }


def _used(file: Path) -> set[str]:
    """Return the names that a file calls or takes of something, and Python's own print."""
    used = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Name):
            used.add("echo" if node.id == "print" else node.id)
    return used

"""What surrounds every command: the process that it is, and the terminal that it writes on."""

import os
import pty
import re
import subprocess
import sys
import tomllib
from fcntl import ioctl
from itertools import pairwise
from pathlib import Path
from signal import SIGINT
from struct import pack
from termios import ECHO, TCSANOW, TIOCSWINSZ, tcgetattr, tcsetattr
from typing import Any

import pytest
import typer

from infra.cli.main import command_line
from infra.operate.customers import Customers
from tests.conftest import ROOT
from tests.integration.cli.command_line import Metering, Result

ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}", "TERM": "xterm"}


def process(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *arguments],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


WARNS = """
from aws_lambda_powertools import Logger
from infra.cli.main import main
from infra.operate.deployment import Deployment, OperatorError
import logging

def find(*_):
    Logger(child=True).warning("Stripe fails at a customer")
    logging.getLogger("stripe").warning("so it is")
    raise OperatorError("it is nowhere")

Deployment.find = find
main()
"""


def test_what_the_functions_code_logs_reaches_nobody() -> None:
    """It is for the functions' logs; nor does Python say that nobody listens."""
    ended = process(WARNS, "usage")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "error: it is nowhere\n")


IMPORTED = """
import sys
from infra.cli.main import main

try:
    main()
except SystemExit:
    print("loaded:", *sorted({"aiohttp", "boto3", "jwt", "stripe"} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("asked", "loaded"),
    [
        ("--help", "loaded:"),
        ("--version", "loaded:"),
        ("nonsense", "loaded:"),
        ("usage", "loaded: aiohttp boto3 stripe"),
    ],
)
def test_help_loads_no_sdk(asked: str, loaded: str) -> None:
    """It is there at once: a command is loaded when it is called."""
    assert process(IMPORTED, asked, "--help").stderr.splitlines()[-1] == loaded


def test_a_group_has_all_its_commands_where_it_alone_is_loaded() -> None:
    """Other modules than the one that makes it fill it."""
    names = "import typer; from infra.cli.main import command_line as called; print(*sorted({}))"
    alone = process(names.format("typer.main.get_command(called('customers')).commands['customers'].commands"))
    among_all = process(names.format("typer.main.get_command(called()).commands['customers'].commands"))
    assert alone.stdout == among_all.stdout
    assert {"add", "alerts", "link", "suspend"} <= set(alone.stdout.split())


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("metering reco", ["reconcile", "recount"]), ("metering customers su", ["subscribe", "suspend"])],
)
def test_a_shell_completes_commands(typed: str, offered: list[str]) -> None:
    """As the function for bash asks that --install-completion puts into its start."""
    asked = {"_METERING_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    assert process("from infra.cli.main import main; main()", **asked).stdout.split() == offered


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_names_every_command_by_what_a_person_wants(metering: Metering) -> None:
    """Each on one line of 80 columns."""
    told = metering("--help").out.splitlines()
    lines = {line.split()[1]: line for line in told if re.match("│ [a-z]", line)}
    commands: Any = typer.main.get_command(command_line())
    assert lines.keys() == commands.commands.keys()
    assert all(line.rstrip("│ ").endswith(".") for line in lines.values())
    assert [line.strip("╭─╮ ") for line in told if line.startswith("╭")] == [
        "Options",
        "See it",
        "Customers",
        "Money",
        "Mend",
        "Set up",
    ]


def test_a_paragraph_of_help_is_broken_where_the_terminal_ends(
    metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where its source ends a line: only the last line of one may be short."""
    monkeypatch.setenv("COLUMNS", "80")
    told = metering("usage", "--help").out
    paragraph = told[told.index(" States: ") : told.index(" Without CUSTOMER,")].rstrip().splitlines()
    assert len(paragraph) > 3
    for line, following in pairwise(paragraph):
        assert len(line.rstrip()) + len(following.split()[0]) > 77


def test_the_version_is_told(metering: Metering) -> None:
    """The project's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metering("--version") == Result(0, f"metering {project['version']}\n", "")


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("deployed")
def test_ctrl_c_says_how_far_a_command_had_come(
    metering: Metering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it had done stays, and the same command again does the rest."""
    file = tmp_path / "customers.csv"
    file.write_text("id,name,stripe_customer,keys\nacme,Acme,,k1\nglobex,Globex,,k2\ninitech,Initech,,k3\n")
    add, added = Customers.add, list[str]()

    def add_one(self: Customers, entry: Any, **more: Any) -> Any:
        if added:
            raise KeyboardInterrupt
        added.append(entry.id)
        return add(self, entry, **more)

    with monkeypatch.context() as patches:
        patches.setattr(Customers, "add", add_one)
        assert metering("customers", "import", str(file), "--unchecked") == Result(
            130,
            "",
            "stopped: importing, 1 of 3 done; what was done stays, and the same command again goes on from there\n",
        )
    assert [customer["id"] for customer in metering("customers", "list", "--json").json()] == ["acme"]
    assert metering("customers", "import", str(file), "--unchecked").code == 0
    assert len(metering("customers", "list", "--json").json()) == 3


@pytest.mark.usefixtures("deployed")
def test_ctrl_c_says_where_only_something_was_looked_at(
    metering: Metering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By commands that change something unless they are told not to, or only if they are told to."""
    file = tmp_path / "customers.csv"
    file.write_text("id,name,stripe_customer,keys\nacme,Acme,,k1\n")

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("infra.cli.customers.standing", stop)
    monkeypatch.setattr("infra.cli.recount.Recount", stop)
    stopped = Result(130, "", "stopped: nothing was changed\n")
    assert metering("customers", "import", str(file), "--unchecked", "--dry-run") == stopped
    assert metering("recount", "--all", "--hour", "2026-11-22T04") == stopped


# --- a terminal ------------------------------------------------------------------------------------------------------


def on_a_terminal(
    program: str, *arguments: str, columns: int, answers: bytes, stops: bool = False, **environment: str
) -> str:
    """Run Python code on a terminal and return what it writes there.

    Each time that it writes what ``answers`` says, it gets a line to read, or once Ctrl-C where ``stops`` is true.
    """
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, pack("HHHH", 40, columns, 0, 0))
    mode = tcgetattr(theirs)
    mode[3] &= ~ECHO
    tcsetattr(theirs, TCSANOW, mode)
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *arguments],
        env=ENVIRONMENT | environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        start_new_session=True,
    ) as running:
        os.close(theirs)
        written, since, stopped = b"", b"", False
        while part := _read(ours):
            written, since = written + part, since + part
            if answers in since:
                since = b""
                if not stops:
                    os.write(ours, b"\n")
                elif not stopped:
                    stopped = True
                    running.send_signal(SIGINT)
    os.close(ours)
    return written.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that nobody writes any more
        return b""


def screen(written: str) -> list[str]:
    """Return the lines that a terminal shows of what was written (XTerm Control Sequences: EL, CUU, SGR)."""
    lines, row, column = [""], 0, 0
    for sequence, count, kind, sign in re.findall(r"(\x1b\[\??(\d*)[\d;]*([A-Za-z]))|([^\x1b])", written):
        if kind == "A":
            row -= int(count or 1)
        elif kind == "K":
            lines[row] = "" if count == "2" else lines[row][:column]
        elif sign == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif sign == "\r":
            column = 0
        elif not sequence:
            lines[row] = lines[row][:column].ljust(column) + sign + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


CHECKS = """
from infra.cli.main import main
from infra.operate.deployment import Deployment
from infra.operate.doctor import examine
from infra.operate.doctor.findings import broken, ok

def first(*_):
    input()
    yield ok("it is there")

def second(*_):
    input()
    yield broken("it is gone", "bring it back")

Deployment.find = lambda *_: Deployment
examine.CHECKS.clear()
examine.CHECKS.update(one=first, two=second)
main()
"""


@pytest.mark.parametrize("columns", [80, 140])
def test_lines_are_not_mixed_into_what_moves(columns: int) -> None:
    """Doctor prints each line as soon as it has it, while its spinner turns."""
    assert screen(on_a_terminal(CHECKS, "doctor", columns=columns, answers=b"checking")) == [
        "ok       one: it is there",
        "broken   two: it is gone",
        "         -> bring it back",
    ]


def test_ctrl_c_takes_what_moves_off_the_terminal() -> None:
    """And the cursor comes back."""
    written = on_a_terminal(CHECKS, "doctor", columns=80, answers=b"checking", stops=True)
    assert screen(written) == ["stopped: nothing was changed"]
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


ASKS = """
from infra.cli.main import main
from infra.operate.deployment import Deployment
from unittest.mock import MagicMock

Deployment.find = lambda *_: MagicMock(reachable=lambda _: "https://here")
main()
"""


def test_ctrl_c_where_something_is_asked_changes_nothing() -> None:
    """What is asked is asked first; one presses Enter to leave it open."""
    written = on_a_terminal(ASKS, "stripe", "webhook", columns=80, answers=b"made at Stripe): ", stops=True)
    assert [line.removesuffix("^C") for line in screen(written)] == [
        "the address for Stripe's notifications: https://here",
        "Signing secret (press Enter to have the event destination made at Stripe):",
        "stopped: nothing was changed",
    ]


COLOURS = re.compile(r"\x1b\[[\d;]*?[349]\d[\d;]*m")


def test_no_color_is_heeded() -> None:
    """By lines and spinners (no-color.org); without it what is well is green."""
    coloured = on_a_terminal(CHECKS, "doctor", columns=80, answers=b"checking")
    plain = on_a_terminal(CHECKS, "doctor", columns=80, answers=b"checking", NO_COLOR="1")
    assert "\x1b[32m" in coloured
    assert COLOURS.findall(plain) == []
    assert screen(plain) == screen(coloured)


def test_no_color_is_heeded_by_tables() -> None:
    """Whose headings are bold, which is no colour."""
    plain = on_a_terminal(MANY, "set-aside", "list", columns=80, answers=b"no such", NO_COLOR="1")
    assert COLOURS.findall(plain) == []
    assert screen(plain)[0].startswith("batch")


WIDE = """
import sys
from infra.cli.shared import table
number = sys.argv[1]
columns = "customer", "metric", "hour", "id", "amount", "state", "reason"
row = "acme", "requests", "2026-11-22T05", "0123456789abcdef", number, "POSTED", "as we agreed by phone " * 4
table(columns, [row])
table(("customer", *["counted"] * 7), [("acme", *[number] * 7)])
"""


def test_what_is_copied_or_a_number_is_cut_into_lines_only_where_there_is_no_room() -> None:
    """And never left out in part."""
    told = screen(on_a_terminal(WIDE, "-3", columns=80, answers=b"no such"))
    assert told[1].split()[:6] == ["acme", "requests", "2026-11-22T05", "0123456789abcdef", "-3", "POSTED"]
    narrow = screen(on_a_terminal(WIDE, "1,234,567,890,123", columns=80, answers=b"no such"))
    cut = "".join(line for line in narrow[-4:] if "counted" not in line)
    assert [cut.count(digit) for digit in "1234567890,"] == [14, 14, 14, *[7] * 7, 28]


# --- a pipe ----------------------------------------------------------------------------------------------------------


MANY = """
from infra.cli.main import main
from infra.operate import redrive
from infra.operate.deployment import Deployment

Deployment.find = lambda *_: Deployment
entry = redrive.Entry("0" * 24, "lines", "", "", 1, 0, 0, 0, {"no customer": 1})
redrive.entries = lambda _: [entry] * 3_000
redrive.lines = lambda *_: [redrive.ShownLine("line", "set aside", "not JSON", "x" * 90)] * 3_000
main()
"""


@pytest.mark.parametrize(
    ("command", "first"),
    [(("list",), "batch "), (("list", "--json"), "["), (("show", "0" * 24), "line  set aside: not JSON")],
)
def test_who_reads_the_first_lines_alone_reads_no_more(command: tuple[str, ...], first: str) -> None:
    """A list goes into head, or into less that is left, without a word: in each of the ways that commands write."""
    line, said = left_after_a_line(MANY, "set-aside", *command)
    assert line.startswith(first)
    assert said == ""


def left_after_a_line(program: str, *arguments: str) -> tuple[str, str]:
    """Run Python code and read no more than the first line of what it prints; return that, and what it says."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as listing:
        assert listing.stdout
        assert listing.stderr
        line = listing.stdout.readline()
        listing.stdout.close()
        return line, listing.stderr.read()


def into_less(program: str, *arguments: str) -> str:
    """Run Python code whose output another program shows on the terminal; return what is written there beside it."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=ROOT,
    ) as shown:
        os.close(theirs)
        assert b" " in shown.communicate(b"\n\n")[0]
    beside = b""
    while part := _read(ours):
        beside += part
    os.close(ours)
    return beside.decode()


def test_what_less_shows_is_not_written_over() -> None:
    """By a spinner, or by how many there are; that there are more is said before the first row."""
    assert into_less(CHECKS, "doctor") == ""
    assert screen(into_less(MANY, "set-aside", "list")) == []
    some = into_less(MANY, "set-aside", "list", "--most", "2")
    assert screen(some) == ["2 batches shown; there are more: a larger --most"]

"""What everybody used, as it is printed: the largest on a terminal, everything into a pipe as it comes."""

from datetime import timedelta

import pytest

from tests.integration.cli.command_line import Metering
from tests.integration.cli.test_cli_frame import left_after_a_line, on_a_terminal, screen
from tests.integration.world import HOUR, World


@pytest.fixture
def used(deployed: World) -> World:
    """Three customers, of which the second used most in two hours by two keys, and a key of nobody."""
    for number in range(3):
        deployed.customer(f"c{number}", f"key{number}", stripe_customer=f"cus_{number}")
    deployed.customer("c1", "other")
    times = {"key0": 2, "key1": 3, "other": 1, "key2": 1, "nobodys": 4}
    deployed.record(*(deployed.line(key=key) for key, number in times.items() for _ in range(number)))
    deployed.after_grace()
    deployed.run()
    deployed.record(deployed.line(key="key1", time=str(int((HOUR.end + timedelta(minutes=5)).timestamp() * 1000))))
    return deployed


@pytest.mark.usefixtures("used")
def test_the_largest_come_first_and_each_as_a_whole(metering: Metering) -> None:
    """By the first metric; a customer's keys are added up, and those of nobody are shown by themselves."""
    shown = metering("usage", "--top", "2", "--json").json()
    assert [(line["customer"], line["key"], line["metric"], line["quantity"], line["state"]) for line in shown] == [
        ("c1", None, "bytes", 50, "OPEN"),
        ("c1", None, "requests", 5, "OPEN"),
        (None, "nobodys", "bytes", 40, "HELD"),
        (None, "nobodys", "requests", 4, "HELD"),
    ]
    assert {line["period"] for line in shown} == {"2026-11-21T06/2026-11-22T07"}
    by_hour = metering("usage", "--top", "1", "--by", "hour", "--json").json()
    assert [(line["period"], line["quantity"]) for line in by_hour if line["metric"] == "requests"] == [
        ("2026-11-22T05", 4),
        ("2026-11-22T06", 1),
    ]
    split = metering("usage", "--top", "1", "--by", "hour", "--by-dimension", "--json").json()
    assert [{**line, "value": None} for line in split] == [{**line, "value": None} for line in by_hour]


@pytest.mark.usefixtures("used")
def test_a_table_of_the_largest_says_of_how_many(metering: Metering) -> None:
    """And before it is read, how much that is (I10)."""
    shown = metering("usage", "--top", "2")
    assert [line.split()[:4] for line in shown.out.splitlines()] == [
        ["customer", "key", "metric", "quantity"],
        ["c1", "-", "bytes", "50"],
        ["c1", "-", "requests", "5"],
        ["(none)", "nobodys", "bytes", "40"],
        ["(none)", "nobodys", "requests", "4"],
    ]
    more = "'metering usage CUSTOMER' shows one by key and hour, --top more, a pipe or --json all"
    assert shown.err.splitlines() == [
        "25 hours of 3 customers and 1 key of nobody: from 2026-11-21T06 up to 2026-11-22T07 (UTC)",
        f"the 2 largest of 4 that used something, by requests: {more}",
    ]
    refused = metering("usage", "c1", "--top", "2")
    assert (refused.code, refused.err.splitlines()[0]) == (2, "error: --top is of everyone: leave it out, or CUSTOMER")


@pytest.mark.usefixtures("used")
def test_rows_in_a_pipe_stand_below_each_other(metering: Metering) -> None:
    """All of them, in the order in which they are read."""
    shown = metering("usage").out.splitlines()
    assert shown[0].split() == ["period", "customer", "key", "metric", "quantity", "state", "reason"]
    assert [line.split()[1] for line in shown[1:]] == ["(none)"] * 2 + ["c0"] * 2 + ["c1"] * 6 + ["c2"] * 2
    assert {line.index(" HELD") if " HELD" in line else line.index(" POSTED") for line in shown[1:7]} == {
        shown[0].index(" state")
    }
    nothing = metering("usage", "--from", "2026-11-20", "--to", "2026-11-21")
    assert (nothing.out, nothing.err.splitlines()[-1]) == ("", "nothing there")


USED = """
import os, time
from datetime import UTC, datetime
from unittest.mock import MagicMock

from infra.cli.main import main
from infra.operate.deployment import Deployment
from infra.operate.usage import Report
from infra.operate.usage_lines import Line
from infra.operate.usage_of_all import Everyone, Scope, Span

names = [f"c{number:04d}" for number in range(3_000)]
deployment = MagicMock(metrics=["requests"], gateway_clock=lambda moment: moment)

def by_subject(_self, _scope, span, _marked, period, progress):
    for number, name in enumerate(progress(names, len(names))):
        if number == 300 and "stops_here" in os.environ:
            os.write(1, b"<now>")  # past the bar, which may move just then
            while True:  # a call that blocks may begin just after the signal has come, and wait for ever
                time.sleep(0.01)
        yield [Line(period(span.first), name, "key", "requests", "", 1000 + number, "POSTED")]

Deployment.find = lambda *_: deployment
Report.span = lambda _self, first, end, _now: Span(first, end, first, end)
Everyone.scope = lambda _self, span: Scope(span.end.number - span.first.number, names, [])
Everyone._marked = lambda *_: {}
Everyone._by_subject = by_subject
main()
"""


def test_a_terminal_is_shown_the_largest_alone() -> None:
    """Twenty, if nobody says how many."""
    shown = screen(on_a_terminal(USED, "usage", columns=140, answers=b"never"))
    assert shown[0].startswith("25 hours of 3,000 customers: from ")
    assert [line.split()[0] for line in shown[1:-1]] == [
        "customer",
        *(f"c{number}" for number in range(2999, 2979, -1)),
    ]
    assert shown[-1].startswith("the 20 largest of 3,000 that used something, by requests: ")


def test_ctrl_c_says_how_much_was_read() -> None:
    """And that nothing was changed."""
    shown = screen(on_a_terminal(USED, "usage", columns=140, answers=b"<now>", stops=True, stops_here="1"))
    said = "stopped: reading 25 hours of 3,000 customers, 300 of 3000 done; nothing was changed"
    assert shown[-1].endswith(said)


@pytest.mark.parametrize(("option", "first", "said"), [((), "period ", ["25 hours"]), (("--json",), "[", [])])
def test_who_reads_the_first_rows_alone_reads_no_more(option: tuple[str, ...], first: str, said: list[str]) -> None:
    """It goes into head without a word more than how much there is, and ends with it."""
    line, told = left_after_a_line(USED, "usage", *option)
    assert line.startswith(first)
    assert [line[:8] for line in told.splitlines()] == said

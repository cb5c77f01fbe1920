"""A demo whose price moves, and whose invoice can be redone by hand."""

import io

import pytest
from rich.console import Console

from app import PLANS
from infra.local.demo.holdings import Step
from infra.local.demo.result import Result
from infra.local.demo.traffic import Answer, owed, request_of
from infra.operate.invoice_lines import unit_amount
from metering.model.prices import explain, terms

METRICS = ("requests", "response_bytes", "messages", "users")
CUSTOMERS = ("acme", "acme", "globex", "initech")


def cost(requests: int) -> int:
    """Return what the messages cost that acme has sent after so many requests, in cents."""
    answers = []
    for n in range(requests):
        request = request_of(n)
        is_good = n % 10 and request.user and request.path != "/fail" and request.declared == request.messages
        answers.append(Answer(CUSTOMERS[n % 4], request, 202 if is_good else 400, 0))
    used = owed(answers, METRICS, by_route=False).usage["acme", "messages"]
    return sum(line.amount for line in explain(terms(PLANS[0])["messages"], used))


def test_the_price_moves_within_the_demo_and_in_each_minute_after_it() -> None:
    """By app.py's prices: 600 requests leave the free units behind, and four a second go on."""
    assert [cost(150), cost(600), cost(600 + 60 * 4)] == [0, 1610, 2430]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"unit_amount": "2", "package": 1_000_000}, "0.02 USD per started 1,000,000"),
        ({"unit_amount": "0.5", "package": None}, "0.005 USD"),
        ({"unit_amount": None, "package": None}, ""),
    ],
)
def test_a_package_says_for_how_many_units_its_price_is(line: dict[str, object], said: str) -> None:
    """20,851 x 0.02 is no 0.02: one started million is."""
    assert unit_amount(line, "usd") == said


def test_the_invoice_of_the_demo_can_be_redone() -> None:
    """Quantity, what so many cost, and the amount stand in one row."""
    nothing = Step({}, {})
    line = {"price": "response_bytes", "description": "20851 x", "quantity": 20851, "unit_amount": "2", "amount": 2}
    invoice = {"customer": "acme", "currency": "usd", "lines": [line | {"package": 1_000_000}], "total": 2}
    result = Result("subscription", 600, {}, nothing, nothing, nothing, {}, [invoice], {}, METRICS, {})
    written = io.StringIO()
    Console(file=written, width=120).print(result.invoice_table())
    assert written.getvalue().splitlines()[1].split() == (
        ["acme", "response_bytes", "20851", "x", "20,851", "0.02", "USD", "per", "started", "1,000,000", "0.02", "USD"]
    )

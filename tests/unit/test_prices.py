"""Prices: which are refused, and how each comes about."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.model.limits import Limit, Spend
from metering.model.metrics import Count, Sum, Unique
from metering.model.price_checks import PriceError, check
from metering.model.prices import (
    Flat,
    Graduated,
    Line,
    Package,
    PerUnit,
    Plan,
    Price,
    Tier,
    Volume,
    asked_for,
    decode,
    encode,
    explain,
    in_words,
    limits_of,
    name_of,
    terms,
    title_of,
    units_until,
)

METRICS = (
    Count(name="requests"),
    Sum(name="messages", of="authorizer.messages"),
    Sum(name="response_bytes", of="response_length"),
    Count(name="calls", by="authorizer.plan", meters=("gold",)),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)
TIERS = (Tier(up_to=1000, amount=0), Tier(up_to=5000, amount="0.5", flat=100), Tier(up_to=None, amount="0.25"))


FLOAT: Any = 0.0004
TINY: Any = 1e-7
NOTHING: Any = None
THOUSAND: Any = 1e3


def plan(*prices: Any, **changes: Any) -> Plan:
    """Make a plan."""
    return Plan(**{"name": "standard", "title": "Standard", "currency": "usd", "prices": prices} | changes)


EVERY_KIND = plan(
    Flat(amount=4900, included={"requests": 10_000, "messages": 500}),
    Flat(name="support", title="Support", amount="2000"),
    PerUnit(metric="requests", amount="0.04"),
    Graduated(metric="messages", title="Messages sent", tiers=TIERS),
    Volume(metric="users", tiers=TIERS),
    Package(metric="response_bytes", size=1_000_000, amount=12),
    PerUnit(metric="calls_gold", amount=2),
    interval="year",
)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (plan(PerUnit(metric="requests", amount=1), name="Pro plan"), "a plan's name is up to 32 lower-case letters"),
        (plan(PerUnit(metric="requests", amount=1), title=""), "a title is 1 to 100 printable characters, got ''"),
        (plan(PerUnit(metric="requests", amount=1, title="a\n")), "'requests': a title is 1 to 100 printable"),
        (
            plan(PerUnit(metric="requests", amount=1), currency="USD"),
            "three lower-case letters, got 'USD': write 'usd'",
        ),
        (
            plan(PerUnit(metric="requests", amount=1), currency="$"),
            r"three lower-case letters, got '\$', such as 'usd'",
        ),
        (plan(PerUnit(metric="requests", amount=1), interval="monthly"), "an interval is 'month', got 'monthly'"),
        (plan(PerUnit(metric="requests", amount=1), interval="q"), "an interval is one of .*'year', got 'q'"),
        (plan(), "has no price: write for example PerUnit"),
        (
            plan(*(Flat(name=f"fee{n}", amount=1) for n in range(21))),
            "has 21 prices: a subscription at Stripe takes 20",
        ),
        (plan(PerUnit(metric="request", amount=1)), "a price for 'request', which is no metric: write 'requests'"),
        (plan(PerUnit(metric="calls", amount=1)), "a price for 'calls', which is no metric: write 'calls_gold'"),
        (plan(PerUnit(metric="x", amount=1)), r"a price for 'x', which is no metric: write one of 'requests', "),
        (plan(TIERS[0]), "a price is one of .*'PerUnit', .*got Tier"),
        (
            plan(PerUnit(metric="requests", amount=1), Package(metric="requests", size=10, amount=1)),
            "has two prices for 'requests': leave one out",
        ),
        (plan(Flat(amount=1), Flat(amount=2)), "has two fees named 'base_fee'"),
        (plan(Flat(name="requests", amount=1)), "a fee cannot have the name of the metric 'requests'"),
        (plan(Flat(name="Base", amount=1)), "a fee's name is up to 32 lower-case letters"),
        (plan(PerUnit(metric="requests", amount=FLOAT)), "an amount is never a float: write '0.0004', as a string"),
        (plan(PerUnit(metric="requests", amount=TINY)), "an amount is never a float: write '0.0000001', as a string"),
        (plan(PerUnit(metric="requests", amount=True)), "an int or a decimal string, got True"),
        (plan(PerUnit(metric="requests", amount=NOTHING)), "an int or a decimal string, got None"),
        (plan(PerUnit(metric="requests", amount=-1)), "an amount is 0 to 99999999 of .* got -1"),
        (plan(PerUnit(metric="requests", amount=100_000_000)), "an amount is 0 to 99999999 of .* got 100000000"),
        (plan(PerUnit(metric="requests", amount="$4")), "up to 12 decimals, got '\\$4'"),
        (plan(PerUnit(metric="requests", amount="1e-3")), "up to 12 decimals, got '1e-3'"),
        (plan(PerUnit(metric="requests", amount="0,04")), "up to 12 decimals, got '0,04'"),
        (plan(PerUnit(metric="requests", amount="٣")), "up to 12 decimals, got"),
        (plan(PerUnit(metric="requests", amount="0.0000000000001")), "up to 12 decimals, got '0.0000000000001'"),
        (plan(Flat(amount="49.90")), "a fixed amount is whole, in the currency's smallest unit, got '49.90'"),
        (plan(Package(metric="requests", size=1, amount=1)), "a whole number of units from 2 on, got 1"),
        (plan(Package(metric="requests", size=THOUSAND, amount=1)), "a whole number of units from 2 on, got 1000.0"),
        (plan(Graduated(metric="requests", tiers=())), "the last tier must be open, .*: leave its up_to out"),
        (plan(Graduated(metric="requests", tiers=TIERS[:1])), "the last tier must be open"),
        (plan(Volume(metric="requests", tiers=(TIERS[2], TIERS[2]))), "tier 1 is open, so that no later one is ever"),
        (
            plan(Volume(metric="requests", tiers=(TIERS[1], TIERS[0], TIERS[2]))),
            "tiers rise from 1 on, got one up to 1000 after one up to 5000",
        ),
        (
            plan(Volume(metric="requests", tiers=(Tier(up_to=0, amount=1), TIERS[2]))),
            "tiers rise from 1 on, got one up to 0 after one up to 0",
        ),
        (plan(Volume(metric="requests", tiers=(Tier(up_to=None, amount="x"),))), "'requests', tier 1: an amount is 0"),
        (
            plan(Volume(metric="requests", tiers=(Tier(up_to=None, amount=0, flat="0.5"),))),
            "'requests', tier 1, flat: a fixed amount is whole",
        ),
        (plan(Flat(amount=1, included={"request": 1})), "includes 'request', which is no metric: write 'requests'"),
        (
            plan(Flat(amount=1, included={"requests": 1})),
            "includes 'requests' but has no price for more of it: add one",
        ),
        (
            plan(Flat(amount=1, included={"requests": 0}), PerUnit(metric="requests", amount=1)),
            "included is a whole number of units from 1 on, got 0 of 'requests'",
        ),
        (
            plan(Flat(amount=1, included={"requests": 1}), Package(metric="requests", size=2, amount=1)),
            "which a Package cannot have at Stripe: make the price of 'requests' a PerUnit or a Graduated",
        ),
        (
            plan(
                Flat(amount=1, included={"requests": 1}),
                Flat(name="b", amount=1, included={"requests": 1}),
                PerUnit(metric="requests", amount=1),
            ),
            "includes 'requests' in two fees: leave it to one of them",
        ),
    ],
)
def test_a_plan_that_cannot_be_billed_is_refused(wrong: Plan, why: str) -> None:
    """The sentence says what to write instead."""
    with pytest.raises(PriceError, match=why):
        check([wrong], METRICS)


def test_two_plans_of_one_name_are_refused() -> None:
    """Their prices could not be told apart."""
    with pytest.raises(PriceError, match="the plan 'standard' is declared twice"):
        check([EVERY_KIND, EVERY_KIND], METRICS)


def test_no_plan_at_all_is_fine() -> None:
    """Prices may be kept at Stripe by hand."""
    check((), METRICS)


def test_plans_travel_as_json() -> None:
    """What app.py declares is what the command line applies, each kind with all that it says."""
    check([EVERY_KIND], METRICS)
    assert decode(encode([EVERY_KIND])) == (EVERY_KIND,)
    with pytest.raises(msgspec.ValidationError):
        decode(encode([EVERY_KIND]).replace('"title"', '"tilte"'))


def test_included_units_are_a_first_tier_that_costs_nothing() -> None:
    """The price's own tiers begin after them; the fee stands beside it."""
    said = terms(EVERY_KIND)
    assert {name: in_words(price) for name, price in said.items()} == {
        "base_fee": "4900 flat",
        "support": "2000 flat",
        "requests": "graduated: up to 10,000 0, beyond 0.04",
        "messages": "graduated: up to 500 0, up to 1,500 0, up to 5,500 0.5 + 100 flat, beyond 0.25",
        "users": "volume: up to 1,000 0, up to 5,000 0.5 + 100 flat, beyond 0.25",
        "response_bytes": "12 per started 1,000,000",
        "calls_gold": "2 per unit",
    }
    assert [title_of(price) for price in said.values()] == [
        "Base fee",
        "Support",
        "Requests",
        "Messages sent",
        "Users",
        "Response bytes",
        "Calls gold",
    ]


def test_one_amount_has_one_spelling() -> None:
    """So that nothing is replaced at Stripe because it was written otherwise."""
    assert terms(plan(PerUnit(metric="requests", amount="010.500"))) == terms(
        plan(PerUnit(metric="requests", amount="10.5"))
    )
    assert terms(plan(PerUnit(metric="requests", amount=10))) == terms(plan(PerUnit(metric="requests", amount="10.0")))


def asked(price: Price, quantity: int) -> list[tuple[int | None, int | None, int, str, int]]:
    """Return the lines of a price as literals."""
    (said,) = terms(plan(price)).values()
    return [(line.first, line.last, line.quantity, f"{line.exact:f}", line.amount) for line in explain(said, quantity)]


def test_a_unit_price_is_rounded_once_half_up() -> None:
    """Twelve units of 0.125 are one and a half."""
    assert asked(PerUnit(metric="requests", amount="0.125"), 12) == [(1, 12, 12, "1.500", 2)]
    assert asked(PerUnit(metric="requests", amount="0.0004"), 1000) == [(1, 1000, 1000, "0.4000", 0)]


def test_a_package_that_is_begun_is_paid() -> None:
    """And none of nothing."""
    price = Package(metric="requests", size=1000, amount=12)
    assert [asked(price, n)[0][2:] for n in (0, 1, 1000, 1001)] == [
        (0, "0", 0),
        (1, "12", 12),
        (1, "12", 12),
        (2, "24", 24),
    ]


def test_graduated_tiers_each_bill_their_own_units() -> None:
    """A tier that is not reached says nothing."""
    price = Graduated(metric="requests", tiers=TIERS)
    assert asked(price, 1000) == [(1, 1000, 1000, "0", 0)]
    assert asked(price, 1001) == [(1, 1000, 1000, "0", 0), (1001, 1001, 1, "0.5", 1), (None, None, 1, "100", 100)]
    assert asked(price, 5001) == [
        (1, 1000, 1000, "0", 0),
        (1001, 5000, 4000, "2000.0", 2000),
        (None, None, 1, "100", 100),
        (5001, 5001, 1, "0.25", 0),
    ]


def test_volume_tiers_bill_every_unit_by_the_last_ones_tier() -> None:
    """So that one unit more can cost less."""
    price = Volume(metric="requests", tiers=TIERS)
    assert asked(price, 5000) == [(1, 5000, 5000, "2500.0", 2500), (None, None, 1, "100", 100)]
    assert asked(price, 5001) == [(1, 5001, 5001, "1250.25", 1250)]


def test_a_fee_is_asked_once_whatever_is_used() -> None:
    """It is no price of a quantity."""
    assert asked(Flat(amount=4900), 0) == asked(Flat(amount=4900), 10**9) == [(None, None, 1, "4900", 4900)]


def test_a_negative_quantity_is_no_quantity() -> None:
    """The ledger never holds one."""
    with pytest.raises(ValueError, match="a quantity is not negative, got -1"):
        explain(PerUnit(metric="requests", amount=1), -1)


amounts = st.one_of(st.integers(0, 99_999_999), st.decimals(0, 99_999_999, places=12).map(lambda number: f"{number:f}"))


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    """Draw the tiers of a price."""
    ends = sorted(draw(st.sets(st.integers(1, 10**15), max_size=4)))
    return tuple(Tier(up_to=end, amount=draw(amounts), flat=draw(st.integers(0, 10**6))) for end in (*ends, None))


prices: st.SearchStrategy[Price] = st.one_of(
    amounts.map(lambda amount: PerUnit(metric="requests", amount=amount)),
    st.builds(
        lambda size, amount: Package(metric="requests", size=size, amount=amount), st.integers(2, 10**9), amounts
    ),
    tiers().map(lambda drawn: Graduated(metric="requests", tiers=drawn)),
    tiers().map(lambda drawn: Volume(metric="requests", tiers=drawn)),
)


@given(prices, st.integers(0, 10**15))
def test_the_lines_of_a_price_are_exact_and_hold_every_unit_once(price: Price, quantity: int) -> None:
    """Nothing of 15 digits of units and 20 of an amount is lost; rounding moves a line by half a unit at most."""
    check([plan(price)], METRICS)
    lines = explain(terms(plan(price))[name_of(price)], quantity)
    held = [line for line in lines if line.first is not None and line.last is not None]
    assert sum((line.last or 0) - (line.first or 0) + 1 for line in held) == quantity
    assert all(abs(line.exact - line.amount) <= Decimal("0.5") for line in lines)
    assert all(_is_exact(line) for line in lines)


def _is_exact(line: Line) -> bool:
    numerator, denominator = line.unit_amount.as_integer_ratio()
    exact = line.exact.as_integer_ratio()
    return exact[0] * denominator == line.quantity * numerator * exact[1]


@given(prices)
def test_every_price_travels_as_json(price: Price) -> None:
    """As it was declared."""
    assert decode(encode([plan(price)])) == (plan(price),)


def test_what_a_subscription_asks_is_what_its_prices_ask_with_their_fees() -> None:
    """A fee whatever was used; a metric that was not used at all reaches the first tier, and nothing is unpriced."""
    prices = (Flat(amount=4900), PerUnit(metric="requests", amount="1.5"), Volume(metric="messages", tiers=TIERS))
    assert asked_for(prices, {"requests": 3, "messages": 2000, "users": 9}) == 4900 + 5 + (1000 + 100)
    assert asked_for(prices, {}) == 4900
    assert asked_for((), {"requests": 3}) == 0


STEPS = (Tier(up_to=40, amount=5), Tier(up_to=90, amount=3, flat=10), Tier(up_to=None, amount="0.5"))


@pytest.mark.parametrize(
    "price",
    [
        PerUnit(metric="requests", amount="0.3"),
        Package(metric="requests", size=25, amount=70),
        Graduated(metric="requests", tiers=STEPS),
        Volume(metric="requests", tiers=STEPS),
    ],
    ids=lambda price: str(type(price).__name__),
)
@given(quantity=st.integers(0, 120), money=st.integers(-1, 120))
def test_the_units_until_so_much_more_is_asked_are_the_least(price: Price, quantity: int, money: int) -> None:
    """Found by halves as by trying one after the other, also where more units cost less."""
    goal = asked_for((price,), {"requests": quantity}) + max(1, money)
    tried = (units for units in range(1, 900) if asked_for((price,), {"requests": quantity + units}) >= goal)
    assert units_until(price, quantity, money) == next(tried)


def test_what_costs_nothing_more_is_never_reached() -> None:
    """However much is used."""
    assert units_until(PerUnit(metric="requests", amount=0), 5, 1) is None
    assert units_until(Flat(amount=4900), 1, 1) is None


def test_the_limits_of_a_customer_are_those_of_the_plans_that_it_is_subscribed_to() -> None:
    """Each with the name of its plan."""
    daily, spend = Limit("requests", 5, per="day"), Spend(100)
    prices = (PerUnit(metric="requests", amount=1),)
    plans = [
        Plan(name=name, title=name, currency="usd", prices=prices, limits=limits)
        for name, limits in {"small": (daily, spend), "large": (spend,), "free": ()}.items()
    ]
    assert limits_of(plans, ("small", "free", "gone")) == [("small", daily), ("small", spend)]
    assert limits_of(plans, ()) == []

"""Prices: what a plan asks for what the metrics count. Pure; how they get to Stripe is none of its business.

A plan is declared beside the metrics, in ``app.py``. Every amount is in the currency's smallest unit (cents for
``usd``, whole yen for ``jpy``), as Stripe's ``unit_amount`` and ``unit_amount_decimal`` are: an ``int``, or a decimal
string where a unit costs less than that. ``"0.04"`` is four hundredths of a cent, 0.0004 dollars. A ``float`` is
refused: it is no exact amount.

A price is for what the metric's meter counts: of a metric with ``scale=3``, for a thousandth.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Final, assert_never

import msgspec

from metering.model.limits import Limit, Spend

Amount = int | str
"""In the currency's smallest unit; a string is a decimal number, such as ``"0.0004"``."""


class _Declared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is written in ``app.py`` and travels as JSON."""


class Tier(_Declared, frozen=True, kw_only=True):
    """The units up to ``up_to``, inclusive, that the tier before it leaves; the last tier is open and has no ``up_to``.

    Each costs ``amount``; ``flat`` is asked once as soon as the tier is reached, and is whole.
    """

    amount: Amount
    up_to: int | None = None  # left out of the JSON where it is None, since CDK drops every null from a template
    flat: Amount = 0


class _Metered(_Declared, frozen=True, kw_only=True):
    """A price for what a meter counts in an interval.

    ``metric`` is a metric's name, or ``<name>_<value>`` for one that has meters of its own for values. ``title`` is
    what invoices call it; the metric's name in words if left out.
    """

    metric: str
    title: str = ""


class PerUnit(_Metered, frozen=True, kw_only=True, tag="per_unit"):
    """Asks ``amount`` for each unit."""

    amount: Amount


class Package(_Metered, frozen=True, kw_only=True, tag="package"):
    """Asks ``amount`` for each ``size`` units that are begun: with ``size=1000``, 1,001 units cost two packages."""

    size: int
    amount: Amount


class Graduated(_Metered, frozen=True, kw_only=True, tag="graduated"):
    """Asks for each unit what the tier says in which it lies."""

    tiers: tuple[Tier, ...]


class Volume(_Metered, frozen=True, kw_only=True, tag="volume"):
    """Asks for every unit what the tier says in which the last one lies."""

    tiers: tuple[Tier, ...]


class Flat(_Declared, frozen=True, kw_only=True, tag="flat"):
    """Asks a whole ``amount`` for each interval, in advance, whatever is used.

    ``included`` says how many units of a metric it pays for. They are the first of the interval, and the metric's own
    price begins after them.
    """

    amount: Amount
    title: str = "Base fee"
    name: str = "base_fee"
    included: dict[str, int] = msgspec.field(default_factory=dict)


Price = PerUnit | Package | Graduated | Volume | Flat
"""Every kind of price. A new kind is a class above, cases below, and its spelling in ``metering/stripe/prices.py``."""


class Plan(_Declared, frozen=True, kw_only=True):
    """What a customer subscribes to: prices in one currency (ISO 4217, in lower case), asked for each ``interval``.

    ``limits`` is how much of what it may use, or spend.
    """

    name: str
    title: str
    currency: str
    prices: tuple[Price, ...]
    interval: str = "month"
    limits: tuple[Limit | Spend, ...] = ()

    def with_limits(self, more: Iterable[Limit | Spend]) -> "Plan":
        """Return the plan with these limits beside its own."""
        return msgspec.structs.replace(self, limits=(*self.limits, *more))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of how a price comes about; amounts are in the currency's smallest unit.

    ``first`` and ``last`` bound the units that the line is about, counted from 1; both are None for a fixed amount.
    ``quantity`` is how many are paid for: units, or packages. ``exact`` is quantity x unit amount, ``amount`` what is
    asked: rounded half up, line by line, as Stripe does.
    """

    first: int | None
    last: int | None
    quantity: int
    unit_amount: Decimal
    exact: Decimal
    amount: int


def limits_of(plans: Iterable[Plan], subscribed: Collection[str]) -> list[tuple[str, Limit | Spend]]:
    """Return the limits that are declared in the plans a customer is subscribed to, each with its plan's name."""
    return [(plan.name, limit) for plan in plans if plan.name in subscribed for limit in plan.limits]


def limited_metrics(plans: Iterable[Plan]) -> frozenset[str]:
    """Return the metrics whose usage may bring somebody to a declared limit: also by what it costs."""
    found: set[str] = set()
    for plan in plans:
        priced = {price.metric for price in plan.prices if not isinstance(price, Flat)}
        for limit in plan.limits:
            found |= priced if isinstance(limit, Spend) else {limit.metric}
    return frozenset(found)


def name_of(price: Price) -> str:
    """Return the name by which a plan tells its prices apart."""
    return price.name if isinstance(price, Flat) else price.metric


def title_of(price: Price) -> str:
    """Return what invoices call a price."""
    return price.title or name_of(price).replace("_", " ").capitalize()


def terms(plan: Plan) -> dict[str, Price]:
    """Return what each price of a checked plan says by itself, by its name, in one spelling of each amount.

    Included units become a first tier that costs nothing, which is how Stripe expresses them: there, a fee and a
    metered price know nothing of each other.
    """
    included = {
        metric: units for price in plan.prices if isinstance(price, Flat) for metric, units in price.included.items()
    }
    return {name_of(price): _in_one_spelling(_after(price, included.get(name_of(price), 0))) for price in plan.prices}


def _after(price: Price, units: int) -> Price:
    """Let a price begin after some units that are paid for already."""
    if not units or not isinstance(price, PerUnit | Graduated):
        return price
    own = price.tiers if isinstance(price, Graduated) else (Tier(up_to=None, amount=price.amount),)
    begun = (
        Tier(up_to=None if tier.up_to is None else tier.up_to + units, amount=tier.amount, flat=tier.flat)
        for tier in own
    )
    return Graduated(metric=price.metric, title=price.title, tiers=(Tier(up_to=units, amount=0), *begun))


def _in_one_spelling(price: Price) -> Price:
    match price:
        case PerUnit() | Package():
            return msgspec.structs.replace(price, amount=written(decimal(price.amount)))
        case Flat():
            return msgspec.structs.replace(price, amount=written(decimal(price.amount)), included={})
        case Graduated() | Volume():
            tiers = tuple(
                Tier(up_to=tier.up_to, amount=written(decimal(tier.amount)), flat=written(decimal(tier.flat)))
                for tier in price.tiers
            )
            return msgspec.structs.replace(price, tiers=tiers)
        case _:
            assert_never(price)


def decimal(amount: Amount) -> Decimal:
    """Return a checked amount as a number."""
    return Decimal(amount)


def written(amount: Decimal) -> str:
    """Return an amount as digits, without an exponent or zeros that say nothing."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def explain(price: Price, quantity: int) -> list[Line]:
    """Return, line by line, what one of :func:`terms` asks for what an interval holds.

    The total is the sum of the lines' amounts. A fee is asked once, whatever the quantity. Of tiers, those are shown
    that hold units; the fixed amount of a tier is a line of its own. With no units at all, the first tier is the one
    that is reached.
    """
    if quantity < 0:
        raise ValueError(f"a quantity is not negative, got {quantity}")
    match price:
        case Flat():
            return [_line(None, None, 1, decimal(price.amount))]
        case PerUnit():
            return [_line(1, quantity, quantity, decimal(price.amount))]
        case Package():
            return [_line(1, quantity, -(-quantity // price.size), decimal(price.amount))]
        case Graduated():
            return [*_graduated(price.tiers, quantity)]
        case Volume():
            tier = next(tier for tier in price.tiers if tier.up_to is None or quantity <= tier.up_to)
            return [_line(1, quantity, quantity, decimal(tier.amount)), *_flat(tier)]
        case _:
            assert_never(price)


def asked_for(prices: Iterable[Price], used: Mapping[str, int]) -> int:
    """Return what a subscription's prices ask for what was used, by metric: fees too, each price by itself."""
    return sum(
        line.amount
        for price in prices
        for line in explain(price, 1 if isinstance(price, Flat) else used.get(price.metric, 0))
    )


MOST_UNITS: Final = 10**15
"""More than anybody uses in an interval."""


def units_until(price: Price, quantity: int, money: int) -> int | None:
    """Return the least number of units beyond a quantity that cost so much more than it does, one at least.

    None if no number does. Of all kinds but :class:`Volume` more units never cost less, and of that none within a tier.
    """

    def costs(units: int) -> bool:
        return asked_for((price,), {name_of(price): quantity + units}) >= goal

    goal = asked_for((price,), {name_of(price): quantity}) + max(1, money)
    ends = [tier.up_to for tier in price.tiers if tier.up_to is not None] if isinstance(price, Volume) else []
    first = 1
    for end in (*(end - quantity for end in ends), MOST_UNITS):
        if end >= first and costs(end):
            return bisect_left(range(end), True, lo=first, key=costs)  # noqa: FBT003 - what is looked for
        first = max(first, end + 1)
    return None


def _graduated(tiers: Sequence[Tier], quantity: int) -> Iterator[Line]:
    before = 0
    for tier in tiers:
        last = quantity if tier.up_to is None else min(quantity, tier.up_to)
        yield _line(before + 1, last, last - before, decimal(tier.amount))
        yield from _flat(tier)
        before = last
        if last == quantity:
            return


def _flat(tier: Tier) -> Iterator[Line]:
    if decimal(tier.flat):
        yield _line(None, None, 1, decimal(tier.flat))


def _line(first: int | None, last: int | None, quantity: int, unit_amount: Decimal) -> Line:
    with localcontext(prec=60):  # 15 digits of quantity, 8 + 12 of an amount: nothing is lost
        exact = quantity * unit_amount
        amount = int(exact.to_integral_value(ROUND_HALF_UP))
    return Line(first, last, quantity, unit_amount, exact, amount)


def encode(plans: Sequence[Plan]) -> str:
    """Return the plans as JSON."""
    return msgspec.json.encode(plans).decode()


def decode(text: str) -> tuple[Plan, ...]:
    """Read what :func:`encode` wrote; raise msgspec.DecodeError for anything else."""
    return msgspec.json.decode(text, type=tuple[Plan, ...])


def in_words(price: Price) -> str:
    """Say what one of :func:`terms` asks, in the currency's smallest unit."""
    match price:
        case PerUnit():
            return f"{written(decimal(price.amount))} per unit"
        case Package():
            return f"{written(decimal(price.amount))} per started {price.size:,}"
        case Flat():
            return f"{written(decimal(price.amount))} flat"
        case Graduated():
            return f"graduated: {_tiers_in_words(price.tiers)}"
        case Volume():
            return f"volume: {_tiers_in_words(price.tiers)}"
        case _:
            assert_never(price)


def _tiers_in_words(tiers: Sequence[Tier]) -> str:
    said = []
    for tier in tiers:
        reach = "beyond" if tier.up_to is None else f"up to {tier.up_to:,}"
        flat = f" + {written(decimal(tier.flat))} flat" if decimal(tier.flat) else ""
        said.append(f"{reach} {written(decimal(tier.amount))}{flat}")
    return ", ".join(said)


_DECIMALS: Final = dict.fromkeys(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"), 0
) | dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 3)
"""Currencies whose smallest unit is no hundredth (Stripe's documentation, "Supported currencies")."""


def decimals_of(currency: str) -> int:
    """Return how many decimals stand behind the point where an amount of the smallest unit is written as people do."""
    return _DECIMALS.get(currency, 2)


def in_money(amount: Amount, currency: str) -> str:
    """Write an amount of the smallest unit as people do, ``49.00 USD``; decimals beyond are kept."""
    decimals = decimals_of(currency)
    exact = Decimal(amount).scaleb(-decimals)
    whole, _, fraction = written(abs(exact)).partition(".")
    point = "." if decimals or fraction else ""
    return f"{'-' * (exact < 0)}{int(whole):,}{point}{fraction.ljust(decimals, '0')} {currency.upper()}"

"""Prices: what a plan asks for what the metrics count. Pure; how they get to Stripe is none of its business.

A plan is declared beside the metrics, in ``app.py``. Every amount is in the currency's smallest unit (cents for
``usd``, whole yen for ``jpy``), as Stripe's ``unit_amount`` and ``unit_amount_decimal`` are: an ``int``, or a decimal
string where a unit costs less than that. ``"0.04"`` is four hundredths of a cent, 0.0004 dollars. A ``float`` is
refused: it is no exact amount.

A price is for what the metric's meter counts: of a metric with ``scale=3``, for a thousandth.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Final, assert_never, get_args

import msgspec

from metering.model.metrics import Metric, meters

INTERVALS: Final = ("day", "week", "month", "year")
MOST_DECIMALS: Final = 12
"""Stripe API reference, "Create a price": ``unit_amount_decimal`` has "at most 12 decimal places"."""

LARGEST_AMOUNT: Final = 99_999_999
"""Stripe's documentation, "Supported currencies": an amount has up to eight digits."""

LARGEST_QUANTITY: Final = 10**15
"""Up to where a tier can reach and how large a package can be: Stripe's meters take 15 digits."""

MOST_PRICES: Final = 20
"""Stripe API reference, "Create a subscription": ``items`` are up to 20."""

LONGEST_NAME: Final = 32
LONGEST_TITLE: Final = 100

Amount = int | str
"""In the currency's smallest unit; a string is a decimal number, such as ``"0.0004"``."""

_DECIMAL: Final = re.compile(r"\d{1,8}(\.\d{1,12})?", re.ASCII)
_NAME: Final = re.compile(rf"[a-z][a-z0-9_]{{0,{LONGEST_NAME - 1}}}")


class PriceError(ValueError):
    """A plan that cannot be billed; the message says what to write instead."""


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
"""Every kind of price. A new kind is a class above, cases below, and its spelling in ``stripe_prices.py``."""


class Plan(_Declared, frozen=True, kw_only=True):
    """What a customer subscribes to: prices in one currency (ISO 4217, in lower case), asked for each ``interval``."""

    name: str
    title: str
    currency: str
    prices: tuple[Price, ...]
    interval: str = "month"


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


def check(plans: Sequence[Plan], metrics: Sequence[Metric]) -> None:
    """Raise PriceError for the first plan that cannot be billed with these metrics."""
    known = meters(metrics)
    seen: set[str] = set()
    for plan in plans:
        if not _NAME.fullmatch(plan.name):
            raise PriceError(f"a plan's name is {_NAME_RULE}, got {plan.name!r}")
        if plan.name in seen:
            raise PriceError(f"the plan {plan.name!r} is declared twice: give one of them another name")
        seen.add(plan.name)
        _check_plan(plan, known)


_NAME_RULE: Final = f"up to {LONGEST_NAME} lower-case letters, digits and '_', beginning with a letter"


def _check_plan(plan: Plan, known: Sequence[str]) -> None:
    where = f"the plan {plan.name!r}"
    _check_title(plan.title, where)
    if not re.fullmatch(r"[a-z]{3}", plan.currency):
        close = plan.currency.strip().lower()
        instead = f": write {close!r}" if re.fullmatch(r"[a-z]{3}", close) else ", such as 'usd'"
        raise PriceError(f"{where}: a currency is three lower-case letters, got {plan.currency!r}{instead}")
    if plan.interval not in INTERVALS:
        raise PriceError(f"{where}: an interval is {_one_of(plan.interval, INTERVALS)}, got {plan.interval!r}")
    if not plan.prices:
        raise PriceError(f"{where} has no price: write for example PerUnit(metric={known[0]!r}, amount='0.04')")
    if len(plan.prices) > MOST_PRICES:
        raise PriceError(f"{where} has {len(plan.prices)} prices: a subscription at Stripe takes {MOST_PRICES}")
    seen: set[str] = set()
    for price in plan.prices:
        _check_name(price, known, where)
        name = name_of(price)
        if name in seen:
            kind = "fees named" if isinstance(price, Flat) else "prices for"
            raise PriceError(f"{where} has two {kind} {name!r}: leave one out, or make it another plan's")
        seen.add(name)
        _check_price(price, f"{where}: {name!r}")
    _check_included(plan, known, where)


def _check_name(price: Price, known: Sequence[str], where: str) -> None:
    if not isinstance(price, get_args(Price)):
        raise PriceError(f"{where}: a price is one of {[kind.__name__ for kind in get_args(Price)]}, got {price!r}")
    name = name_of(price)
    if not isinstance(price, Flat):
        if name not in known:
            raise PriceError(f"{where} has a price for {name!r}, which is no metric: write {_one_of(name, known)}")
    elif not _NAME.fullmatch(name):
        raise PriceError(f"{where}: a fee's name is {_NAME_RULE}, got {name!r}")
    elif name in known:
        raise PriceError(f"{where}: a fee cannot have the name of the metric {name!r}: give it another")


def _check_price(price: Price, where: str) -> None:
    if price.title:
        _check_title(price.title, where)
    match price:
        case PerUnit():
            _check_amount(price.amount, where)
        case Package():
            _check_amount(price.amount, where)
            if not _is_whole(price.size) or not 1 < price.size <= LARGEST_QUANTITY:
                raise PriceError(f"{where}: a package's size is a whole number of units from 2 on, got {price.size!r}")
        case Flat():
            _check_amount(price.amount, where, whole=True)
        case Graduated() | Volume():
            _check_tiers(price.tiers, where)
        case _:
            assert_never(price)


def _check_tiers(tiers: Sequence[Tier], where: str) -> None:
    if not tiers or tiers[-1].up_to is not None:
        raise PriceError(f"{where}: the last tier must be open, or nobody knows what lies beyond: leave its up_to out")
    before = 0
    for number, tier in enumerate(tiers, 1):
        _check_amount(tier.amount, f"{where}, tier {number}")
        _check_amount(tier.flat, f"{where}, tier {number}, flat", whole=True)
        if tier.up_to is None:
            if number < len(tiers):
                raise PriceError(f"{where}: tier {number} is open, so that no later one is ever reached: put it last")
        elif not _is_whole(tier.up_to) or not before < tier.up_to <= LARGEST_QUANTITY:
            raise PriceError(f"{where}: tiers rise from 1 on, got one up to {tier.up_to!r} after one up to {before}")
        else:
            before = tier.up_to


def _check_included(plan: Plan, known: Sequence[str], where: str) -> None:
    prices = {name_of(price): price for price in plan.prices}
    seen: set[str] = set()
    for fee in (price for price in plan.prices if isinstance(price, Flat)):
        for metric, units in fee.included.items():
            price = prices.get(metric)
            if metric not in known:
                raise PriceError(f"{where} includes {metric!r}, which is no metric: write {_one_of(metric, known)}")
            if price is None:
                raise PriceError(
                    f"{where} includes {metric!r} but has no price for more of it: add one, "
                    f"such as PerUnit(metric={metric!r}, amount=0)"
                )
            if not isinstance(price, PerUnit | Graduated):
                raise PriceError(
                    f"{where}: included units are a first tier that costs nothing, which a {type(price).__name__} "
                    f"cannot have at Stripe: make the price of {metric!r} a PerUnit or a Graduated"
                )
            if metric in seen:
                raise PriceError(f"{where} includes {metric!r} in two fees: leave it to one of them")
            if not _is_whole(units) or not 0 < units <= LARGEST_QUANTITY:
                raise PriceError(f"{where}: included is a whole number of units from 1 on, got {units!r} of {metric!r}")
            seen.add(metric)


def _check_amount(amount: object, where: str, *, whole: bool = False) -> None:
    if isinstance(amount, float):
        raise PriceError(f"{where}: an amount is never a float: write {written(Decimal(repr(amount)))!r}, as a string")
    if not (_is_whole(amount) or isinstance(amount, str)):
        raise PriceError(f"{where}: an amount is an int or a decimal string, got {amount!r}")
    if not _DECIMAL.fullmatch(str(amount)):
        raise PriceError(
            f"{where}: an amount is 0 to {LARGEST_AMOUNT} of the currency's smallest unit, with up to {MOST_DECIMALS} "
            f"decimals, got {amount!r}"
        )
    if whole and Decimal(str(amount)) % 1:
        raise PriceError(f"{where}: a fixed amount is whole, in the currency's smallest unit, got {amount!r}")


def _check_title(title: str, where: str) -> None:
    if not (0 < len(title) <= LONGEST_TITLE and title.isprintable() and title.strip() == title):
        raise PriceError(f"{where}: a title is 1 to {LONGEST_TITLE} printable characters, got {title[:60]!r}")


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _one_of(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1, 0.4)
    return repr(close[0]) if close else f"one of {list(known)}"


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

"""Which plans can be billed: what cannot is refused when the app is synthesised, with what to write instead. Pure."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, assert_never, get_args

from metering.model import limit_checks
from metering.model.hints import one_of
from metering.model.metrics import Metric, meters
from metering.model.prices import Flat, Graduated, Package, PerUnit, Plan, Price, Tier, Volume, name_of, written
from metering.model.subjects import is_name

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


_DECIMAL: Final = re.compile(r"\d{1,8}(\.\d{1,12})?", re.ASCII)
_NAME: Final = re.compile(rf"[a-z][a-z0-9_]{{0,{LONGEST_NAME - 1}}}")


class PriceError(ValueError):
    """A plan that cannot be billed; the message says what to write instead."""


def check(plans: Sequence[Plan], metrics: Sequence[Metric]) -> None:
    """Raise PriceError for the first plan that cannot be billed with these metrics, LimitError for such limits."""
    known = meters(metrics)
    seen: set[str] = set()
    for plan in plans:
        if not _NAME.fullmatch(plan.name):
            raise PriceError(f"a plan's name is {_NAME_RULE}, got {plan.name!r}")
        if plan.name in seen:
            raise PriceError(f"the plan {plan.name!r} is declared twice: give one of them another name")
        seen.add(plan.name)
        _check_plan(plan, known)
        limit_checks.check(plan, metrics)


_NAME_RULE: Final = f"up to {LONGEST_NAME} lower-case letters, digits and '_', beginning with a letter"


def _check_plan(plan: Plan, known: Sequence[str]) -> None:
    where = f"the plan {plan.name!r}"
    _check_title(plan.title, where)
    if not re.fullmatch(r"[a-z]{3}", plan.currency):
        close = plan.currency.strip().lower()
        instead = f": write {close!r}" if re.fullmatch(r"[a-z]{3}", close) else ", such as 'usd'"
        raise PriceError(f"{where}: a currency is three lower-case letters, got {plan.currency!r}{instead}")
    if plan.interval not in INTERVALS:
        raise PriceError(f"{where}: an interval is {one_of(plan.interval, INTERVALS)}, got {plan.interval!r}")
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
            raise PriceError(f"{where} has a price for {name!r}, which is no metric: write {one_of(name, known)}")
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
                raise PriceError(f"{where} includes {metric!r}, which is no metric: write {one_of(metric, known)}")
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
    if not is_name(title, LONGEST_TITLE):
        raise PriceError(f"{where}: a title is 1 to {LONGEST_TITLE} printable characters, got {title[:60]!r}")


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)

"""What one look at what is going on just now shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from infra.operate.access import reason_as_json
from metering.model.limits import Reason
from metering.model.periods import Hour
from metering.model.prices import written

_CENTS: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Busy:
    """A customer, or a key, and what it used in the hour so far.

    ``customer`` is empty for a key that has none; then ``reason`` says why it is not billed, if somebody said so.
    ``per_second`` is of the look's ``rate_of``. Amounts are of the smallest unit of ``currency``, None where no plan of
    the customer's is known. ``reasons`` are why a customer's keys are not open.
    """

    name: str
    customer: str
    quantities: Mapping[str, int]
    per_second: float
    reason: str = ""
    keys: int = 1
    plan: str = ""
    currency: str = ""
    cost: Decimal | None = None
    per_hour: Decimal | None = None
    reasons: tuple[Reason, ...] = ()
    up_to: tuple[str, ...] = ()
    """The metrics of distinct values that may be fewer: several keys may have brought the same ones."""
    costs_up_to: bool = False
    """Whether one of them has a price, so that it may cost less."""

    def as_json(self, kind: str) -> dict[str, Any]:
        """Return it as ``metering top --json`` prints it; ``kind`` is "customer" or "key"."""
        shown: dict[str, Any] = {kind: self.name}
        if kind == "key":
            shown |= {"customer": self.customer or None}
            shown |= {"not_billed": self.reason} if self.reason else {}
        shown |= {"per_second": self.per_second, "quantities": dict(self.quantities)}
        if kind == "customer":
            shown |= {
                "up_to": list(self.up_to),
                "keys": self.keys,
                "plan": self.plan or None,
                "currency": self.currency or None,
            }
            for name, amount in (("cost", self.cost), ("per_hour", self.per_hour)):
                shown[name] = None if amount is None else in_units(amount)
            shown["costs_up_to"] = self.costs_up_to
            shown["reasons"] = [reason_as_json(reason) for reason in self.reasons]
        return shown


@dataclass(frozen=True, slots=True)
class Look:
    """What one look shows. ``customers`` and ``keys`` are the busiest; ``unmapped`` every key that nobody holds.

    ``since`` is from when on the rates are taken: the look before, or the hour's begin.
    """

    hour: Hour
    at: datetime
    since: datetime
    is_first: bool
    rate_of: str
    per_second: float
    customers: Sequence[Busy]
    keys: Sequence[Busy]
    unmapped: Sequence[Busy]
    set_aside: int
    rejected: int
    unbilled: int
    notes: Sequence[str]

    @property
    def money(self) -> dict[str, tuple[Decimal, Decimal]]:
        """What the customers shown cost so far, and an hour of it, by currency."""
        amounts: dict[str, tuple[Decimal, Decimal]] = {}
        for busy in self.customers:
            if busy.cost is not None and busy.per_hour is not None:
                cost, per_hour = amounts.get(busy.currency, (Decimal(0), Decimal(0)))
                amounts[busy.currency] = cost + busy.cost, per_hour + busy.per_hour
        return amounts

    def is_up_to(self, currency: str) -> bool:
        """Say whether what is paid in a currency may be less."""
        return any(busy.costs_up_to for busy in self.customers if busy.currency == currency)

    def as_json(self) -> dict[str, Any]:
        """Return it as ``metering top --json`` prints it; amounts are decimals of the currency's smallest unit."""
        return {
            "hour": str(self.hour),
            "as_of": _moment(self.at),
            "rates_since": _moment(self.since),
            "rates_from": "the hour's begin" if self.is_first else "the last look",
            "rate_of": self.rate_of,
            "per_second": self.per_second,
            "money": {
                currency: {"cost": in_units(cost), "per_hour": in_units(per_hour), "up_to": self.is_up_to(currency)}
                for currency, (cost, per_hour) in self.money.items()
            },
            "customers": [one.as_json("customer") for one in self.customers],
            "keys": [one.as_json("key") for one in self.keys],
            "unmapped": [one.as_json("key") for one in self.unmapped],
            "set_aside_batches": self.set_aside,
            "rejected_hours": self.rejected,
            "unbilled_hours": self.unbilled,
            "notes": list(self.notes),
        }


def in_units(amount: Decimal) -> str:
    """Write an amount of the smallest unit, with two decimals of it."""
    return written(amount.quantize(_CENTS))


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

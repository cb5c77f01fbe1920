"""How Stripe spells a price: as the parameters that make it, and back from what it shows. No I/O.

The sources are Stripe's API reference, "Create a price" and "The Price object".
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, assert_never

from metering.model.prices import Flat, Graduated, Package, PerUnit, Price, Tier, Volume, in_words, written

DEPLOYMENT: Final = "metering_deployment"
PLAN: Final = "metering_plan"
PRICE: Final = "metering_price"
FINGERPRINT: Final = "metering_fingerprint"
"""The metadata by which products and prices are known to be ours."""

OPEN: Final = "inf"


@dataclass(frozen=True, slots=True)
class Offer:
    """All that a price at Stripe says and can never be changed; ``meter`` is the id of its meter, empty for a fee."""

    price: Price
    currency: str
    interval: str
    meter: str = ""

    def __str__(self) -> str:
        return f"{in_words(self.price)} ({self.currency}, each {self.interval})"

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of what the offer says: two offers have the same if they bill the same."""
        said = [_amounts(self.price), self.currency, self.interval, self.meter]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def parameters(self) -> dict[str, Any]:
        """Return what makes a price of it; amounts are strings, since the SDK writes a Decimal with its exponent."""
        recurring = {"interval": self.interval}
        if self.meter:
            recurring |= {"usage_type": "metered", "meter": self.meter}
        return {"currency": self.currency, "recurring": recurring} | _amounts(self.price)


def _amounts(price: Price) -> dict[str, Any]:
    match price:
        case Flat() | PerUnit():
            return {"billing_scheme": "per_unit", "unit_amount_decimal": str(price.amount)}
        case Package():
            return {
                "billing_scheme": "per_unit",
                "unit_amount_decimal": str(price.amount),
                "transform_quantity": {"divide_by": price.size, "round": "up"},
            }
        case Graduated():
            return {"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": _tiers(price.tiers)}
        case Volume():
            return {"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": _tiers(price.tiers)}
        case _:
            assert_never(price)


def _tiers(tiers: Sequence[Tier]) -> list[dict[str, Any]]:
    return [
        {"up_to": tier.up_to or OPEN, "unit_amount_decimal": str(tier.amount)}
        | ({"flat_amount_decimal": str(tier.flat)} if str(tier.flat) != "0" else {})
        for tier in tiers
    ]


def offer_of(shown: Any, name: str) -> Offer | None:
    """Read a price as Stripe shows it, with ``tiers`` expanded; None if it is like nothing that can be declared.

    ``name`` is what the plan calls it.
    """
    recurring = shown.recurring
    if recurring is None or recurring.interval_count != 1:
        return None
    metered = recurring.usage_type == "metered"
    found = _metered(shown, name) if metered else _fee(shown, name)
    if found is None:
        return None
    return Offer(found, shown.currency, recurring.interval, recurring.meter if metered else "")


def _fee(shown: Any, name: str) -> Price | None:
    if shown.billing_scheme != "per_unit" or shown.transform_quantity:
        return None
    return Flat(name=name, amount=_written(shown.unit_amount_decimal))


def _metered(shown: Any, name: str) -> Price | None:
    if shown.billing_scheme == "tiered":
        tiers = tuple(
            Tier(up_to=tier.up_to, amount=_written(tier.unit_amount_decimal), flat=_written(tier.flat_amount_decimal))
            for tier in shown.tiers
        )
        return Volume(metric=name, tiers=tiers) if shown.tiers_mode == "volume" else Graduated(metric=name, tiers=tiers)
    amount = _written(shown.unit_amount_decimal)
    package = shown.transform_quantity
    if package is None:
        return PerUnit(metric=name, amount=amount)
    return Package(metric=name, size=package.divide_by, amount=amount) if package.round == "up" else None


def _written(amount: Decimal | str | None) -> str:
    return written(Decimal(amount or 0))


def metadata_of(thing: Any) -> dict[str, str]:
    """Return the metadata of a thing at Stripe."""
    return thing.metadata.to_dict() if thing.metadata else {}

"""What a price is, and what a quantity costs by it: plain data and exact decimal arithmetic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any

from infra.local.stripe.meter import Quantity

EXACT = Context(prec=80)  # 15 digits of usage times 24 digits of an amount, with room


@dataclass(frozen=True, slots=True)
class Tier:
    """One step of a tiered price, up to and including `up_to` units; None has no end. Amounts in the smallest unit."""

    up_to: int | None
    unit_amount: Decimal | None
    flat_amount: Decimal | None

    def as_json(self) -> dict[str, Any]:
        """Give the tier as a price shows it when asked to expand `tiers`."""
        return {
            "flat_amount": whole(self.flat_amount),
            "flat_amount_decimal": written(self.flat_amount),
            "unit_amount": whole(self.unit_amount),
            "unit_amount_decimal": written(self.unit_amount),
            "up_to": self.up_to,
        }


@dataclass(frozen=True, slots=True)
class Package:
    """How a quantity is divided before it is priced: `transform_quantity`."""

    divide_by: int
    round: str  # "up" or "down"

    def count(self, quantity: Quantity) -> Decimal:
        """Give the number of packages in a quantity."""
        rounding = ROUND_CEILING if self.round == "up" else ROUND_FLOOR
        return EXACT.divide(Decimal(quantity), Decimal(self.divide_by)).to_integral_value(rounding)


@dataclass(frozen=True, slots=True)
class Recurring:
    """How often a price is billed, and for what: a licence in advance, or the usage of a meter in arrears."""

    interval: str
    interval_count: int
    meter: str | None
    usage_type: str

    def as_json(self) -> dict[str, Any]:
        """Give the price's `recurring`."""
        return {
            "interval": self.interval,
            "interval_count": self.interval_count,
            "meter": self.meter,
            "usage_type": self.usage_type,
        }


@dataclass(frozen=True, slots=True)
class Charge:
    """What one line of an invoice costs. `amount` is in the smallest currency unit."""

    text: str
    quantity: Quantity
    unit_amount: Decimal
    amount: int


@dataclass(slots=True)
class Price:
    """A recurring price; its amounts never change (docs.stripe.com/api/prices/object)."""

    id: str
    created: int
    currency: str
    product: str
    name: str  # the product's
    recurring: Recurring
    billing_scheme: str
    unit_amount: Decimal | None
    tiers: Sequence[Tier]
    tiers_mode: str | None
    package: Package | None
    tax_behavior: str
    active: bool = True
    lookup_key: str | None = None
    nickname: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def metered(self) -> bool:
        """Whether a meter says the quantity, at the period's end."""
        return self.recurring.usage_type == "metered"

    def charges(self, quantity: Quantity, share: Fraction = Fraction(1)) -> Iterator[Charge]:
        """Price a quantity: one charge per line, each rounded half up, `share` being the part of a whole period.

        Graduated tiers make a charge for each tier that is reached; a flat amount is a charge of its own, of quantity
        0 (docs.stripe.com/products-prices/pricing-models). That the first tier is reached by no usage at all, so that
        its flat amount is always due, and the 0, could not be confirmed (? the_first_flat_fee_is_always_due).
        """
        if self.billing_scheme == "per_unit":
            priced = quantity if self.package is None else self.package.count(quantity)
            yield _charge("", quantity, self.unit_amount or Decimal(0), Decimal(priced), share)
            return
        below = 0
        for number, tier in enumerate(self.tiers, start=1):
            inside = tier.up_to is None or quantity <= tier.up_to
            if self.tiers_mode == "graduated":
                upper = quantity if tier.up_to is None else min(quantity, tier.up_to)
                units = upper - below
            else:
                units = quantity
            if self.tiers_mode == "graduated" or inside:
                label = f" (Tier {number})"
                yield _charge(label, units, tier.unit_amount or Decimal(0), Decimal(units), share)
                if tier.flat_amount:
                    yield _charge(f"{label[:-1]} flat fee)", 0, tier.flat_amount, Decimal(1), share)
            if inside:
                return
            below = tier.up_to or 0

    def as_json(self, *, tiers: bool = False) -> dict[str, Any]:
        """Give the price object; its tiers are there only where `tiers` was expanded."""
        shown = {"tiers": [tier.as_json() for tier in self.tiers] or None} if tiers else {}
        package = self.package and {"divide_by": self.package.divide_by, "round": self.package.round}
        return {
            "id": self.id,
            "object": "price",
            "active": self.active,
            "billing_scheme": self.billing_scheme,
            "created": self.created,
            "currency": self.currency,
            "custom_unit_amount": None,
            "livemode": False,
            "lookup_key": self.lookup_key,
            "metadata": dict(self.metadata),
            "nickname": self.nickname,
            "product": self.product,
            "recurring": self.recurring.as_json(),
            "tax_behavior": self.tax_behavior,
            **shown,
            "tiers_mode": self.tiers_mode,
            "transform_quantity": package,
            "type": "recurring",
            "unit_amount": whole(self.unit_amount),
            "unit_amount_decimal": written(self.unit_amount),
        }


def whole(exact: Decimal | None) -> int | None:
    """Give an amount where an integer can hold it: Stripe leaves `unit_amount` null where it has decimals."""
    return None if exact is None or exact != exact.to_integral_value() else int(exact)


def written(exact: Decimal | None) -> str | None:
    """Write an amount without an exponent and without trailing zeros."""
    if exact is None:
        return None
    shown = f"{exact:f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def _charge(text: str, quantity: Quantity, unit_amount: Decimal, units: Decimal, share: Fraction) -> Charge:
    """Multiply and round half up (docs.stripe.com/billing/subscriptions/usage-based, "Rounding")."""
    exact = EXACT.multiply(EXACT.multiply(units, unit_amount), Decimal(share.numerator))
    amount = EXACT.divide(exact, Decimal(share.denominator)).quantize(Decimal(1), ROUND_HALF_UP, EXACT)
    return Charge(text, quantity, unit_amount, int(amount))

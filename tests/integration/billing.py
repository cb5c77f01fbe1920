"""A world whose Stripe has the world's time, subscriptions of a day each, and their invoices."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import stripe as stripe_sdk

from metering.model.amounts import Amounts
from metering.model.periods import GRACE, Hour, due_before
from metering.model.subjects import customer, key
from metering.model.usage_row import Change, UsageRow
from metering.stores.marks import Mark, new_mark
from tests.integration.world import HOUR, World

PERIOD_END = HOUR.end - timedelta(hours=1) + timedelta(days=1)
"""A subscription of a day that begins with the world's hour ends here; its draft is finalised an hour later."""

FINALISED = PERIOD_END + timedelta(hours=1, minutes=20)
"""The first invoice is final, and all its hours are closed."""


@dataclass
class Billing:
    """One world with one clock, and the customer acme, who holds key1."""

    world: World
    batches: int = 0
    prices: dict[str, str] = field(default_factory=dict)

    def at(self, moment: datetime) -> None:
        """Let it be a moment, here and at Stripe."""
        self.world.now = moment
        self.world.stripe.advance(moment.timestamp() - self.world.stripe.now)

    def jump(self, moment: datetime) -> None:
        """Let it be a moment, with all hours before it closed but for what is marked."""
        self.at(moment)
        self.world.ledger.progress.advance_cursor(due_before(moment))

    def use(self, number: int, hour: Hour = HOUR, name: str = "key1") -> None:
        """Count requests of an hour, late if it is due."""
        self.batches += 1
        self.world.counters.count(hour, name, Amounts({"requests": number}), f"{self.batches:012d}".encode())
        if hour.is_due(self.world.now):
            self.world.counters.marks.mark_late(hour, key(name), new_mark())

    def client(self) -> stripe_sdk.StripeClient:
        """Return Stripe's own client."""
        return stripe_sdk.StripeClient("sk_test_local", base_addresses={"api": self.world.stripe.url})

    def price(self, *, tiers: Sequence[dict[str, Any]] = ()) -> str:
        """Return a price of one cent a request, or by tiers, billed daily."""
        client = self.client()
        name = "tiered" if tiers else "flat"
        if name not in self.prices:
            meters = client.v1.billing.meters.list().data
            meter = next(one.id for one in meters if one.event_name == "Metering_requests")
            wanted: Any = {
                "currency": "usd",
                "product": client.v1.products.create({"name": "Requests"}).id,
                "recurring": {"interval": "day", "usage_type": "metered", "meter": meter},
                **({"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": tiers} if tiers else {}),
                **({} if tiers else {"unit_amount": 1}),
            }
            self.prices[name] = client.v1.prices.create(wanted).id
        return self.prices[name]

    def subscribe(self, stripe_customer: str = "cus_acme", **price: Any) -> str:
        """Subscribe a Stripe customer; Stripe's day begins now."""
        wanted: Any = {"customer": stripe_customer, "items": [{"price": self.price(**price)}]}
        return self.client().v1.subscriptions.create(wanted).id

    def settle(self, rounds: int = 8) -> None:
        """Let ticks and looks follow each other until nothing asks for more, or a subscription is missing."""
        for _ in range(rounds):
            self.world.run()
            before = self.marks()
            self.world.check()
            if not self.world.counters.marks.of_kind(Mark.LATE) and self.marks() in (0, before):
                break
        self.world.run()

    def marks(self) -> int:
        """Return how many hours are still to be checked."""
        counters = self.world.counters
        return len(counters.marks.of_kind(Mark.CHECK))

    def invoiced(self, stripe_customer: str = "cus_acme") -> list[int]:
        """Return how many requests each finalised invoice bills, oldest first."""
        found = self.client().v1.invoices.list({"customer": stripe_customer, "limit": 100}).data
        return [_quantity(one) for one in reversed(found) if one.status != "draft"]

    def still_open(self, stripe_customer: str = "cus_acme") -> int:
        """Return how many requests the running invoice and drafts would bill now."""
        client = self.client().v1
        drafts: Any = client.invoices.list({"customer": stripe_customer, "status": "draft"}).data
        [subscription] = client.subscriptions.list({"customer": stripe_customer}).data
        running = client.invoices.create_preview({"subscription": subscription.id})
        return sum(map(_quantity, [*drafts, running]))

    def row(self, hour: Hour, name: str = "acme") -> UsageRow:
        """Return a customer's row."""
        return self.world.ledger.rows.at(hour, [customer(name)])[customer(name)]

    def carries(self, name: str = "acme") -> list[tuple[Hour, int]]:
        """Return what was carried, by the hour it stands beside."""
        found = self.world.changes.between(name, Hour(0), Hour.parse("2030-01-01T00"))
        return [(hour, change.amount) for hour, change in found if change.carry]

    def adjust(self, amount: int, hour: Hour = HOUR, name: str = "acme") -> None:
        """Write an operator's adjustment."""
        self.batches += 1
        self.world.changes.add(name, hour, Change(f"a{self.batches}", "requests", amount, "a mistake", "operator", 0))


def subscribed(world: World) -> Billing:
    """Return acme, subscribed since the world's hour, with 5 requests in it that are posted."""
    made = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    made.subscribe()
    made.use(5)
    made.at(due(HOUR))
    world.run()
    return made


def _quantity(invoice: Any) -> int:
    return sum(line.quantity for line in invoice.lines.data)


def due(hour: Hour) -> datetime:
    """Return when an hour may be closed."""
    return hour.end + GRACE

"""What a customer is shown of the invoices that Stripe has issued, and of how it stands with them."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stripe

import show_usage
from infra.local.stripe.faults import Fault
from infra.operate.catalog import Catalog
from infra.operate.customers import Customers
from infra.operate.subscribing import Subscriber, Wishes
from metering.model.metrics import Count
from metering.model.prices import Flat, PerUnit, Plan
from metering.portal.asking import BREAK_S, KEPT_S, REFUSED_S
from metering.portal.money_answers import PastInvoicesAnswer
from metering.stripe.issued import MOST_LOOKED_AT, MOST_SHOWN, shown_of
from tests.doubles.clock import Clock
from tests.integration.portal import Portal, opened
from tests.integration.world import HOUR, World

PLAN = Plan(
    name="standard",
    title="Standard",
    currency="jpy",
    prices=(Flat(amount=4900), PerUnit(metric="requests", amount="1.5")),
)
LOGIN = "https://billing.stripe.com/p/login/test_7sI3cw"


@pytest.fixture
def clock() -> Clock:
    """One clock for the world and Stripe."""
    return Clock(HOUR.start + timedelta(minutes=40))


@pytest.fixture
def stripe_time(clock: Clock) -> Clock:
    """The world's."""
    return clock


class Payer:
    """Acme, which pays by invoice, and what it is shown."""

    def __init__(self, world: World, portal: Portal) -> None:
        self.world, self.portal, self.passed = world, portal, 0.0
        parts = show_usage._parts()
        parts.past_invoices.clock = parts.charges.agreements.clock = lambda: self.passed

    def subscribe(self, name: str = "acme") -> None:
        """Subscribe somebody to the plan, whose fee is invoiced at once."""
        catalog = Catalog(self.world.meters(), ("requests",), (PLAN,))
        catalog.apply(lambda _: None)
        subscriber = Subscriber(self.world.meters(), catalog, Customers(self.world.ledger, self.world.counters))
        who = self.world.ledger.holders.customers([name])[name]
        subscriber.subscribe(who, "standard", Wishes(email="billing@acme.example"), now=self.world.now)

    def later(self, **wanted: float) -> None:
        """Let time pass for the world, for Stripe and for the function."""
        self.world.now += timedelta(**wanted)
        self.passed += timedelta(**wanted).total_seconds()

    def shown(self) -> dict[str, Any]:
        """Return what acme is shown."""
        answer = self.portal.get("/v1/invoices")
        assert answer.status == 200, answer.body
        return dict(answer.json())

    def sdk(self) -> stripe.StripeClient:
        """Return a client of somebody else in the account."""
        return stripe.StripeClient("sk_test_local", base_addresses={"api": self.world.stripe.url})

    def at_stripe(self) -> str:
        """Return acme's id there."""
        return self.world.ledger.holders.customers(["acme"])["acme"].stripe_customer

    def calls(self) -> int:
        """Return how many calls were made to Stripe so far."""
        return sum(self.world.stripe.calls.values())


@pytest.fixture
def payer(world: World, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Payer]:
    """A customer that has just been subscribed."""
    metrics = (Count(name="requests"),)
    world.bill(*metrics)
    world.customer("acme", "key1")
    with opened(
        world, template, monkeypatch, tmp_path, metrics=metrics, plans=(PLAN,), stripe_portal_login=LOGIN
    ) as portal:
        made = Payer(world, portal)
        made.subscribe()
        yield made


def test_an_invoice_is_shown_from_its_issue_on(payer: Payer) -> None:
    """Not as a draft; with its number, its amounts, and where it can be looked at and paid."""
    payer.later(days=30, minutes=10)
    assert {one.status for one in payer.sdk().v1.invoices.list().data} == {"draft", "open"}
    shown = payer.shown()
    (invoice,) = shown["invoices"]
    assert invoice.pop("page_url").startswith("https://invoice.stripe.com/i/acct_local/test_")
    assert invoice.pop("pdf_url").startswith("https://pay.stripe.com/invoice/acct_local/test_")
    assert invoice.pop("number").endswith("-0001")
    assert invoice == {
        "id": "in_00000000000001",
        "from": "2026-11-22T05:40:00Z",
        "to": "2026-11-22T05:40:00Z",
        "state": "past_due",
        "currency": "jpy",
        "decimals": 0,
        "total": 4900,
        "due": 4900,
        "due_at": "2026-12-22T05:40:00Z",
        "attempts": 0,
        "next_attempt_at": None,
    }
    assert (shown["customer"], shown["more"]) == ("acme", False)
    assert shown["payment"] == {"state": "past_due", "manage_url": LOGIN}
    assert shown["as_of"] == "2026-12-22T05:50:00Z"


def test_the_document_describes_each_field_of_an_issued_invoice(payer: Payer) -> None:
    """No more and no less than what is answered."""
    payer.later(hours=2)
    shown = payer.shown()
    assert PastInvoicesAnswer.model_validate(shown, strict=True).model_dump(by_alias=True) == shown


def test_what_is_not_paid_in_time_is_past_due_and_what_is_void_is_not_owed(payer: Payer) -> None:
    """The newest first; one that was given up is still due."""
    payer.later(days=30, hours=3)
    client = payer.sdk()
    first = client.v1.invoices.list({"customer": payer.at_stripe()}).data[-1].id
    payer.later(days=1)
    shown = payer.shown()
    assert [one["state"] for one in shown["invoices"]] == ["open", "past_due"]
    assert shown["payment"]["state"] == "past_due"
    client.v1.invoices.mark_uncollectible(first)
    payer.later(seconds=KEPT_S)
    shown = payer.shown()
    assert [(one["state"], one["due"]) for one in shown["invoices"]] == [("open", 4900), ("uncollectible", 4900)]
    client.v1.invoices.void_invoice(first)
    payer.later(seconds=KEPT_S)
    shown = payer.shown()
    assert [(one["state"], one["due"]) for one in shown["invoices"]] == [("open", 4900), ("void", 0)]
    assert shown["payment"]["state"] == "open"


def test_so_many_are_shown_and_it_is_said_that_there_are_more(payer: Payer) -> None:
    """I10: two calls, however long somebody has been a customer."""
    for _ in range(MOST_SHOWN + 2):
        payer.later(days=31)
    payer.later(hours=2)
    before = payer.calls()
    shown = payer.shown()
    assert (len(shown["invoices"]), shown["more"]) == (MOST_SHOWN, True)
    assert payer.calls() == before + 2
    payer.shown()
    assert payer.calls() == before + 2


def test_invoices_of_other_business_are_not_shown(payer: Payer) -> None:
    """I8: in the same account, to the same Stripe customer; who has nothing else there is told so."""
    client = payer.sdk()
    product = client.v1.products.create({"name": "Consulting"})
    price = client.v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": 10**6, "recurring": {"interval": "month"}}
    )
    payer.world.customer("globex", "key2", stripe_customer="cus_globex")
    other: Any = {"collection_method": "send_invoice", "days_until_due": 30, "items": [{"price": price.id}]}
    for customer in (payer.at_stripe(), "cus_globex"):
        client.v1.customers.update(customer, {"email": "a@b.example"})
        client.v1.subscriptions.create(other | {"customer": customer})
    payer.later(hours=2)
    assert [one["total"] for one in payer.shown()["invoices"]] == [4900]
    assert payer.portal.get("/v1/invoices", token=payer.portal.token("globex")).status == 404


def test_other_business_hides_no_invoice_of_ours_however_much_there_is(payer: Payer) -> None:
    """What it has of open invoices is said in full: others' are not even read (I6, I8)."""
    client = payer.sdk()
    product = client.v1.products.create({"name": "Consulting"})
    price = client.v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": 10**6, "recurring": {"interval": "day"}}
    )
    other: Any = {"collection_method": "send_invoice", "days_until_due": 30, "items": [{"price": price.id}]}
    client.v1.subscriptions.create(other | {"customer": payer.at_stripe()})
    for _ in range(60):
        payer.later(days=1)
    shown = payer.shown()
    assert [one["state"] for one in shown["invoices"]] == ["open", "past_due"]
    assert (shown["more"], shown["payment"]["state"]) == (False, "past_due")


def test_invoices_of_several_subscriptions_stand_in_order_of_time(payer: Payer) -> None:
    """Of the newest few, each a call; where there were more, that is said (I10)."""
    client = payer.sdk()
    for _ in range(MOST_LOOKED_AT):
        payer.later(days=1)
        client.v1.subscriptions.cancel(client.v1.subscriptions.list({"customer": payer.at_stripe()}).data[0].id)
        payer.subscribe()
    payer.later(hours=2)
    before = payer.calls()
    shown = payer.shown()
    assert payer.calls() == before + 1 + MOST_LOOKED_AT
    assert shown["more"]
    begun = [one["from"] for one in shown["invoices"]]
    assert begun == sorted(begun, reverse=True)
    assert len(set(begun)) >= MOST_LOOKED_AT


@pytest.mark.parametrize(
    ("attempts", "again", "subscription", "state"),
    [
        (0, None, "active", "open"),
        (1, None, "active", "open"),
        (1, None, "past_due", "past_due"),
        (1, None, "canceled", "past_due"),
        (1, 1_800_000_000, "active", "past_due"),
        (2, None, "active", "past_due"),
    ],
)
def test_a_charge_that_is_under_way_is_not_told_as_one_that_failed(
    attempts: int, again: int | None, subscription: str, state: str
) -> None:
    """A debit of a bank account takes days, in which nothing is past due."""
    said: dict[str, Any] = {"status": "open", "attempt_count": attempts, "next_payment_attempt": again}
    said |= {"due_date": None, "id": "in_1", "number": "A-1", "period_start": 0, "period_end": 0, "currency": "jpy"}
    said |= {"total": 1, "amount_remaining": 1, "hosted_invoice_url": None, "invoice_pdf": None}
    assert shown_of(SimpleNamespace(**said), HOUR.start, subscription)["state"] == state


def test_who_is_subscribed_no_more_still_has_its_invoices(payer: Payer) -> None:
    """Which it may have to pay yet; who was nobody's customer has none."""
    payer.later(hours=2)
    client = payer.sdk()
    client.v1.subscriptions.cancel(client.v1.subscriptions.list({"customer": payer.at_stripe()}).data[0].id)
    assert len(payer.shown()["invoices"]) >= 1
    payer.world.customer("poor", "key2")
    for name in ("poor", "nobody"):
        answer = payer.portal.get("/v1/invoices", token=payer.portal.token(name))
        assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")


def test_while_stripe_is_in_trouble_what_it_said_is_shown_with_its_age(payer: Payer) -> None:
    """I6: whoever has no answer yet is to try again, and one call in ten seconds is made, for whatever it is asked."""
    payer.world.customer("globex", "key2", stripe_customer="cus_globex")
    payer.later(hours=2)
    payer.shown()
    payer.later(seconds=KEPT_S)
    payer.world.stripe.set_faults([Fault.ERROR_BEFORE] * 9, route="GET /v1/subscriptions")
    before = payer.calls()
    assert payer.shown()["as_of"] == "2026-11-22T07:40:00Z"
    answer = payer.portal.get("/v1/invoices", token=payer.portal.token("globex"))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
    assert payer.portal.get("/v1/invoice", token=payer.portal.token("globex")).status == 503
    assert payer.calls() == before + 1
    payer.world.stripe.set_faults([])
    payer.later(seconds=REFUSED_S + BREAK_S)
    assert payer.shown()["as_of"] == "2026-11-22T07:41:40Z"


def test_an_invoices_address_is_kept_nowhere(payer: Payer, caplog: pytest.LogCaptureFixture) -> None:
    """I8: whoever has it sees the invoice. No cache keeps it, no log has it, and nothing else that is answered does."""
    payer.later(hours=2)
    with caplog.at_level(logging.DEBUG):
        answer = payer.portal.get("/v1/invoices")
    assert answer.headers["Cache-Control"] == "no-store"
    assert all("stripe.com/i/" not in str(record.__dict__) for record in caplog.records)
    again = payer.portal.get("/v1/invoices", if_none_match=answer.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert payer.portal.get("/v1/invoices", token="").status == 401

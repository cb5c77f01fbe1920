"""What a customer is shown of its running invoice: the prices that it really pays, fresh usage, a forecast."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import show_usage
from infra.local.stripe.faults import Fault
from infra.operate.catalog import Catalog
from infra.operate.customers import Customers
from infra.operate.subscribing import Subscriber, Wishes
from metering.model.metrics import Count, Sum
from metering.model.periods import Hour
from metering.model.prices import Flat, Package, PerUnit, Plan, Tier, Volume
from metering.model.usage_row import Change
from metering.portal.asking import BREAK_S, KEPT_S, REFUSED_S
from metering.portal.forecast import BASIS
from metering.portal.history import KEPT_S as HISTORY_KEPT_S
from metering.portal.history import AddingUpError
from metering.portal.money_answers import InvoiceAnswer, PricesAnswer
from tests.doubles.clock import Clock
from tests.integration.portal import Portal, opened
from tests.integration.world import HOUR, World

METRICS = (
    Count(name="requests", title="API calls", unit="calls"),
    Sum(name="bytes", of="response_length"),
    Sum(name="units", of="response_length"),
)
PLAN = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(
        Flat(amount=4900, included={"requests": 2}),
        PerUnit(metric="requests", amount="1.5"),
        Package(metric="bytes", size=100, amount=3),
        Volume(metric="units", tiers=(Tier(up_to=10, amount=2, flat=7), Tier(amount=1))),
    ),
)
DEARER = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(PerUnit(metric="requests", amount=1000), *PLAN.prices[2:]),
)


@pytest.fixture
def clock() -> Clock:
    """One clock for the world and Stripe, in the world's hour."""
    return Clock(HOUR.start + timedelta(minutes=40))


@pytest.fixture
def stripe_time(clock: Clock) -> Clock:
    """The world's."""
    return clock


@dataclass
class Seller:
    """A deployment that sells to acme, and what acme is shown. ``passed`` is what the function's process counts."""

    world: World
    portal: Portal
    passed: float = 0

    def at(self, moment: datetime) -> None:
        """Let it be this moment, for all."""
        self.passed += (moment - self.world.now).total_seconds()
        self.world.now = moment

    def use(self, times: int) -> None:
        """Let requests of ten bytes be counted now."""
        at = str(int(self.world.now.timestamp() * 1000))
        self.world.record(*(self.world.line(time=at) for _ in range(times)))

    def catalog(self, plan: Plan = PLAN) -> Catalog:
        """Return the catalog of a plan."""
        return Catalog(self.world.meters(), ("requests", "bytes", "units"), (plan,))

    def subscribe(self) -> None:
        """Subscribe acme."""
        subscriber = Subscriber(self.world.meters(), self.catalog(), Customers(self.world.ledger, self.world.counters))
        wishes = Wishes(email="billing@acme.example")
        subscriber.subscribe(
            self.world.ledger.holders.customers(["acme"])["acme"], "standard", wishes, now=self.world.now
        )

    def invoice(self) -> dict[str, Any]:
        """Return what acme is shown."""
        answer = self.portal.get("/v1/invoice")
        assert answer.status == 200, answer.body
        return dict(answer.json())

    def calls(self) -> int:
        """Return how many calls were made to Stripe so far."""
        return sum(self.world.stripe.calls.values())


@pytest.fixture
def seller(world: World, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Seller]:
    """A customer that is subscribed."""
    world.bill(*METRICS)
    world.customer("acme", "key1")
    with opened(world, template, monkeypatch, tmp_path, metrics=METRICS, plans=(PLAN,)) as portal:
        made = Seller(world, portal)
        charges = show_usage._parts().charges
        charges.agreements.clock = charges.history.clock = lambda: made.passed
        made.catalog().apply(lambda _: None)
        made.subscribe()
        yield made


def _by_price(lines: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    return {line["price"]: (line["quantity"], line["amount"]) for line in lines}


def test_the_price_comes_about_step_by_step(seller: Seller) -> None:
    """By usage that is not at Stripe yet, and each step so that a person can redo the sum."""
    seller.use(5)
    shown = seller.invoice()
    assert (shown["customer"], shown["name"], shown["plans"]) == ("acme", "Acme", ["standard"])
    assert (shown["currency"], shown["decimals"]) == ("usd", 2)
    assert shown["period"] == {"from": "2026-11-22T05", "to": "2026-12-22T05"}
    assert _by_price(shown["so_far"]["lines"]) == {
        "base_fee": (1, 4900),
        "requests": (5, 5),
        "bytes": (50, 3),
        "units": (50, 50),
    }
    assert shown["so_far"]["total"] == 4958
    requests = next(line for line in shown["so_far"]["lines"] if line["price"] == "requests")
    assert requests == {
        "price": "requests",
        "title": "Standard: Requests",
        "metric": "requests",
        "kind": "graduated",  # what is included became a first tier
        "quantity": 5,
        "scale": 0,
        "amount": 5,
        "in_advance": False,
        "in_words": "graduated: up to 2 0, beyond 1.5",
        "terms": {
            "kind": "graduated",
            "interval": "month",
            "tiers": [{"up_to": 2, "amount": "0", "flat": "0"}, {"up_to": None, "amount": "1.5", "flat": "0"}],
        },
        "steps": [
            {"first": 1, "last": 2, "quantity": 2, "unit_amount": "0", "exact": "0", "amount": 0},
            {"first": 3, "last": 5, "quantity": 3, "unit_amount": "1.5", "exact": "4.5", "amount": 5},
        ],
    }
    fee = next(line for line in shown["so_far"]["lines"] if line["price"] == "base_fee")
    assert (fee["metric"], fee["kind"], fee["steps"][0]["first"]) == (None, "flat", None)
    assert fee["in_advance"] is True
    assert shown["preview"]["total"] == 4907  # the fee, and the volume price's fixed amount
    assert shown["preview"]["as_of"] == "2026-11-22T05:40:00Z"


def test_what_each_price_asks_is_told_to_programs(seller: Seller) -> None:
    """As it is at Stripe, where what a fee includes is the first tier of another price."""
    assert {line["price"]: line["terms"] for line in seller.invoice()["so_far"]["lines"]} == {
        "base_fee": {"kind": "flat", "interval": "month", "amount": "4900", "included": {}},
        "requests": {
            "kind": "graduated",
            "interval": "month",
            "tiers": [{"up_to": 2, "amount": "0", "flat": "0"}, {"up_to": None, "amount": "1.5", "flat": "0"}],
        },
        "bytes": {"kind": "package", "interval": "month", "amount": "3", "size": 100},
        "units": {
            "kind": "volume",
            "interval": "month",
            "tiers": [{"up_to": 10, "amount": "2", "flat": "7"}, {"up_to": None, "amount": "1", "flat": "0"}],
        },
    }


def test_the_document_describes_each_field_of_an_invoice(seller: Seller) -> None:
    """No more and no less than what is answered."""
    shown = seller.invoice()
    assert InvoiceAnswer.model_validate(shown, strict=True).model_dump(by_alias=True) == shown


def test_stripes_preview_ends_where_ours_is(seller: Seller) -> None:
    """I4: once everything is closed and posted, both ask the same."""
    seller.use(5)
    seller.at(HOUR.end + timedelta(minutes=10))
    seller.world.run()
    shown = seller.invoice()
    assert shown["preview"]["total"] == shown["so_far"]["total"] == 4958


def test_an_old_price_goes_on_to_be_paid(seller: Seller) -> None:
    """What is declared now is for those who subscribe now."""
    seller.catalog(DEARER).apply(lambda _: None)
    seller.use(5)
    assert _by_price(seller.invoice()["so_far"]["lines"])["requests"] == (5, 5)


def test_the_amount_moves_with_each_call_and_stripe_is_asked_once_a_minute(seller: Seller) -> None:
    """The ledger's closed hours are not read again either."""
    seller.use(5)
    seller.invoice()
    before = seller.calls()
    seller.use(10)
    assert _by_price(seller.invoice()["so_far"]["lines"])["requests"] == (15, 20)
    assert seller.calls() == before
    seller.passed += KEPT_S
    seller.invoice()
    assert seller.calls() == before + 2  # the subscription and its preview; the prices are known for ever


def test_an_hour_that_gets_closed_meanwhile_stays_in_the_sum(seller: Seller) -> None:
    """From one second to the next it comes out of the ledger instead of the counters; and late ones are added."""
    seller.use(5)
    assert _by_price(seller.invoice()["so_far"]["lines"])["requests"][0] == 5
    seller.at(HOUR.end + timedelta(minutes=10))
    seller.passed = 30
    assert _by_price(seller.invoice()["so_far"]["lines"])["requests"][0] == 5
    seller.world.close()
    assert _by_price(seller.invoice()["so_far"]["lines"])["requests"][0] == 5
    seller.world.record(seller.world.line())  # of the closed hour
    assert _by_price(seller.invoice()["so_far"]["lines"])["requests"][0] == 6
    seller.world.close()
    assert _by_price(seller.invoice()["so_far"]["lines"])["requests"][0] == 6


def test_the_forecast_goes_on_as_the_last_day_went(seller: Seller) -> None:
    """Five requests in the first ten hours of 720 are 360 in all; a fee does not grow."""
    seller.use(5)
    seller.at(HOUR.start + timedelta(hours=10))
    forecast = seller.invoice()["forecast"]
    assert forecast["basis"] == BASIS
    assert _by_price(forecast["lines"])["requests"] == (360, 537)
    assert _by_price(forecast["lines"])["base_fee"] == (1, 4900)
    assert forecast["total"] == sum(line["amount"] for line in forecast["lines"])


def test_the_forecast_of_a_period_that_has_just_begun_goes_by_an_hour(seller: Seller) -> None:
    """Not by a minute that was busy."""
    seller.at(HOUR.start + timedelta(minutes=40))
    seller.use(5)
    shown = seller.invoice()
    assert _by_price(shown["forecast"]["lines"])["requests"][0] == 5 + 5 * (720 * 60 - 40) // 60


def test_a_forecast_by_little_says_how_far_off_it_may_be(seller: Seller) -> None:
    """Forty busy minutes may be all of a day, or go on; after a tenth of the period nothing more is said."""
    seller.use(5)
    early = seller.invoice()
    assert early["forecast"]["low"] == early["so_far"]["total"] == 4958
    assert early["forecast"]["high"] == early["forecast"]["total"] > 4958
    seller.at(HOUR.start + timedelta(hours=72))
    late = seller.invoice()["forecast"]
    assert (late["low"], late["high"]) == (None, None)


def test_a_bill_says_what_was_put_right(seller: Seller) -> None:
    """I5: that it was so, and by how much; why is the operator's own business, whose words are for operators."""
    seller.use(5)
    seller.at(HOUR.end + timedelta(minutes=10))
    seller.world.close()
    change = Change(id="c", metric="requests", amount=-2, reason="Ann broke it", who="arn:aws:iam::1:user/ann", at=0)
    seller.world.changes.add("acme", HOUR, change)
    seller.world.close()
    answer = seller.portal.get("/v1/invoice")
    assert answer.json()["corrections"] == [
        {"metric": "requests", "hour": "2026-11-22T05", "kind": "adjustment", "quantity": -2, "scale": 0}
    ]
    assert b"Ann" not in answer.body
    assert b"user/ann" not in answer.body
    forecast = _by_price(answer.json()["forecast"]["lines"])["requests"][0]
    assert forecast == 3 + 5 * (720 * 60 - 70) // 70, "what was counted goes on, the correction does not"
    seller.passed += HISTORY_KEPT_S
    assert len(seller.invoice()["corrections"]) == 1


def test_who_is_not_subscribed_has_no_invoice(seller: Seller) -> None:
    """Whether Stripe knows the customer or not."""
    seller.world.customer("poor", "key2")
    seller.world.customer("free", "key3", stripe_customer="cus_free")
    for name in ("poor", "free", "nobody"):
        answer = seller.portal.get("/v1/invoice", token=seller.portal.token(name))
        assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")


def test_while_stripe_does_not_answer_the_client_is_to_try_again(seller: Seller) -> None:
    """Nothing of what Stripe said is passed on; it is asked once, without the SDK's own attempts."""
    before = seller.calls()
    seller.world.stripe.set_faults([Fault.ERROR_BEFORE], route="GET /v1/subscriptions")
    answer = seller.portal.get("/v1/invoice")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
    assert seller.calls() == before + 1
    assert seller.portal.get("/v1/invoice").status == 503
    assert seller.calls() == before + 1
    seller.passed += REFUSED_S
    assert seller.portal.get("/v1/invoice").status == 200


def test_stripe_in_trouble_is_left_alone_by_all_customers(seller: Seller) -> None:
    """I6: one call in ten seconds and process, whoever asks; then others are served again."""
    seller.world.customer("globex", "key2", stripe_customer="cus_globex")
    seller.world.stripe.set_faults([Fault.ERROR_BEFORE], route="GET /v1/subscriptions")
    before = seller.calls()
    statuses = [seller.portal.get("/v1/invoice", token=seller.portal.token(name)).status for name in ("acme", "globex")]
    assert (statuses, seller.calls()) == ([503, 503], before + 1)
    seller.passed += BREAK_S
    assert seller.portal.get("/v1/invoice", token=seller.portal.token("globex")).status == 404
    assert seller.calls() == before + 2


def test_known_terms_are_shown_with_their_age_while_stripe_has_trouble(seller: Seller) -> None:
    """And usage that is fresh: only Stripe's own preview is old."""
    seller.use(5)
    seller.invoice()
    seller.at(seller.world.now + timedelta(seconds=KEPT_S))
    seller.world.stripe.set_faults([Fault.ERROR_BEFORE] * 9, route="GET /v1/subscriptions")
    seller.use(5)
    before = seller.calls()
    for _ in range(4):
        shown = seller.invoice()
        assert _by_price(shown["so_far"]["lines"])["requests"][0] == 10
        assert shown["preview"]["as_of"] == "2026-11-22T05:40:00Z"
    assert seller.calls() == before + 1


def test_who_is_not_subscribed_costs_stripe_a_call_in_half_a_minute(seller: Seller) -> None:
    """I10: however often it is asked for."""
    seller.world.customer("free", "key3", stripe_customer="cus_free")
    token, before = seller.portal.token("free"), seller.calls()
    assert {seller.portal.get("/v1/invoice", token=token).status for _ in range(20)} == {404}
    assert seller.calls() == before + 1
    seller.passed += REFUSED_S
    assert seller.portal.get("/v1/invoice", token=token).status == 404
    assert seller.calls() == before + 2


def test_a_long_period_is_added_up_piece_by_piece(seller: Seller) -> None:
    """I10: no request reads more of it than one answer may be about; what is known stays, and what is late is added."""
    history = show_usage._parts().charges.history
    history.piece = 100
    seller.use(5)
    seller.at(HOUR.end + timedelta(minutes=10))
    seller.world.close()
    seller.at(HOUR.end + timedelta(hours=250))
    seller.use(3)
    for known in (100, 200):
        answer = seller.portal.get("/v1/invoice")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert f"{known} of its 252 hours so far are known" in answer.json()["detail"]
    assert _by_price(seller.invoice()["so_far"]["lines"])["requests"][0] == 8
    seller.portal.calls.clear()
    seller.world.record(seller.world.line())  # of the closed hour
    assert _by_price(seller.invoice()["so_far"]["lines"])["requests"][0] == 9
    seller.world.close()
    for _ in range(3):
        seller.passed += HISTORY_KEPT_S
        assert _by_price(seller.invoice()["so_far"]["lines"])["requests"][0] == 9


def test_what_no_record_can_change_any_more_is_kept_as_one_sum(seller: Seller) -> None:
    """I10: a year by hour of fifty customers would not fit into the function."""
    seller.use(5)
    seller.at(HOUR.end + timedelta(minutes=10))
    seller.world.close()
    history = show_usage._parts().charges.history
    history.piece = 48
    later = HOUR.end + timedelta(days=70)
    seller.world.ledger.progress.advance_cursor(Hour.containing(later))
    while True:
        try:
            by_hour = history.of("acme", HOUR, Hour(HOUR.number + 365 * 24), later)
        except AddingUpError:
            continue
        break
    assert by_hour == {HOUR: {"requests": 5, "bytes": 50, "units": 50}} | {hour: {} for hour in by_hour if hour != HOUR}
    assert len(by_hour) < 10


def test_metrics_have_the_words_that_are_declared_for_customers(seller: Seller) -> None:
    """And none where none are; what is measured has its unit in any case."""
    shown = seller.portal.get("/v1/prices").json()["metrics"]
    assert [(one["name"], one["title"], one["unit"]) for one in shown] == [
        ("requests", "API calls", "calls"),
        ("bytes", None, "bytes"),
        ("units", None, "bytes"),
    ]


def test_prices_are_shown_as_declared(seller: Seller) -> None:
    """With the currency's decimals and the interval written out."""
    shown = seller.portal.get("/v1/prices").json()
    assert PricesAnswer.model_validate(shown, strict=True).model_dump() == shown
    (plan,) = shown["plans"]
    assert {name: plan[name] for name in plan if name != "prices"} == {
        "name": "standard",
        "title": "Standard",
        "currency": "usd",
        "decimals": 2,
        "interval": "month",
    }
    assert plan["prices"] == [
        {
            "type": "flat",
            "amount": 4900,
            "included": {"requests": 2},
            "terms": {"kind": "flat", "interval": "month", "amount": "4900", "included": {"requests": 2}},
        },
        {
            "type": "per_unit",
            "metric": "requests",
            "amount": "1.5",
            "terms": {"kind": "per_unit", "interval": "month", "amount": "1.5"},
        },
        {
            "type": "package",
            "metric": "bytes",
            "size": 100,
            "amount": 3,
            "terms": {"kind": "package", "interval": "month", "amount": "3", "size": 100},
        },
        {
            "type": "volume",
            "metric": "units",
            "tiers": [{"amount": 2, "up_to": 10, "flat": 7}, {"amount": 1}],
            "terms": {
                "kind": "volume",
                "interval": "month",
                "tiers": [{"up_to": 10, "amount": "2", "flat": "7"}, {"up_to": None, "amount": "1", "flat": "0"}],
            },
        },
    ]

"""Why nobody pays for what Stripe has: by a subscription's moments, its state and its prices (I9)."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
import stripe

from metering.model.periods import Hour
from metering.model.unbilled import Agreed, WhyUnbilled, why_unbilled
from metering.stripe.agreed import agreed
from metering.stripe.invoices import StripeReader
from metering.stripe.meters import Meter, StripeMeters
from metering.stripe.reading import Reads

HOUR = Hour.parse("2026-11-22T05")
LATER = HOUR.start + timedelta(days=3)


def at(minute: int, *, hours: int = 0) -> int:
    """Return a moment of the hour, in seconds since 1970."""
    return int((HOUR.start + timedelta(minutes=minute, hours=hours)).timestamp())


START = at(0, hours=-48)
RUNNING = Agreed("active", START, prices={"requests": START})


def why(*subscriptions: Agreed, metric: str = "requests", now: datetime = LATER) -> WhyUnbilled | None:
    """Ask for the hour."""
    return why_unbilled(metric, HOUR, subscriptions, now)


def varied(**changes: Any) -> Agreed:
    """Return the running subscription with some fields changed."""
    return msgspec.structs.replace(RUNNING, **changes)


def test_what_a_subscription_bills_needs_no_reason() -> None:
    """Whatever else the customer has, or had."""
    assert why(RUNNING) is None
    assert why(varied(end=at(0, hours=-1)), RUNNING, varied(prices={})) is None


@pytest.mark.parametrize("status", ["active", "past_due"])
def test_who_pays_late_is_billed(status: str) -> None:
    """An invoice is made all the same."""
    assert why(varied(status=status)) is None


@pytest.mark.parametrize(
    ("subscription", "reason"),
    [
        (varied(prices={}), "no price in subscription"),
        (varied(prices={"requests": at(0, hours=2)}), "no price in subscription"),
        (varied(status="canceled", end=at(0, hours=-24)), "subscription ended"),
        (varied(start=at(0, hours=2)), "before subscription"),
        (varied(status="incomplete"), "subscription incomplete"),
        (varied(status="incomplete_expired"), "no subscription"),
        (varied(status="unpaid"), "subscription unpaid"),
        (varied(status="paused"), "subscription paused"),
        (varied(collects=False), "subscription paused"),
        (varied(status="trialing", trial_start=START, trial_end=at(0, hours=24)), "on trial"),
    ],
)
def test_each_way_in_which_nobody_pays_has_its_reason(subscription: Agreed, reason: str) -> None:
    """A metric that was added later, a subscription that is over, or one whose invoices nobody collects."""
    assert why(subscription) == reason


def test_without_any_subscription_that_is_the_reason() -> None:
    """As of a customer that never had one."""
    assert why() == "no subscription"


@pytest.mark.parametrize(("minute", "reason"), [(0, "subscription ended"), (35, "subscription ended"), (59, None)])
def test_an_hours_usage_counts_with_its_last_ten_minutes(minute: int, reason: str | None) -> None:
    """Its events are dated there: a subscription that ended before has none of them, one that ended after may."""
    ended = varied(status="canceled", end=at(minute))
    assert why(ended, now=HOUR.end) == reason
    assert why(ended, now=LATER) == "subscription ended"  # by then its last invoice would have it


def test_a_subscription_that_begins_within_the_hour_bills_all_of_it() -> None:
    """For the same reason."""
    assert why(varied(start=at(49), prices={"requests": at(49)})) is None
    assert why(varied(start=at(51), prices={"requests": at(51)})) == "before subscription"


def test_an_ended_subscription_has_two_hours_for_its_last_invoice() -> None:
    """It is a draft for one of them."""
    ended = varied(status="canceled", end=at(0, hours=5))
    end = HOUR.start + timedelta(hours=5)
    assert why(ended, now=end + timedelta(minutes=119)) is None
    assert why(ended, now=end + timedelta(minutes=120)) == "subscription ended"


def test_between_two_subscriptions_the_first_has_ended() -> None:
    """What came before any is never billed, and asks for nothing; what comes in a gap should have been stopped."""
    former = varied(status="canceled", end=at(0, hours=-2))
    latter = varied(start=at(0, hours=2), prices={"requests": at(0, hours=2)})
    assert why(latter, former) == "subscription ended"
    assert [one for one in WhyUnbilled if one.is_agreed] == ["on trial", "before subscription"]


def test_another_subscription_without_the_price_says_so_before_one_that_ended() -> None:
    """Somebody can still be asked to pay."""
    assert why(varied(prices={}), varied(status="canceled", end=at(0, hours=-2))) == "no price in subscription"


# --- as Stripe shows subscriptions -----------------------------------------------------------------------------------


def shown(**changes: Any) -> Any:
    """Return a subscription as Stripe shows it, cut to what is read."""
    item = {"created": START, "price": {"recurring": {"meter": "mtr_1"}}}
    values: dict[str, Any] = {
        "status": "active", "created": START, "start_date": START, "ended_at": None, "trial_start": None,
        "trial_end": None, "pause_collection": None, "items": {"object": "list", "data": [item]},
    }  # fmt: skip
    return stripe.Subscription.construct_from(values | changes, "sk_test")


def read(*subscriptions: Any) -> tuple[Agreed, ...]:
    """Read what a customer's list shows."""
    reader = StripeReader(StripeMeters(lambda _: "sk_test", "Metering", ""), Reads(0))
    reader._by_metric = {"requests": Meter("mtr_1", "Metering_requests", "hour", "sum")}
    reader._subscriptions["cus_1"] = [*subscriptions]
    return agreed(reader, "cus_1")


def test_a_subscription_is_read_with_its_moments_and_state() -> None:
    """Its end is when it ended, not when somebody asked for that."""
    assert read(shown()) == (RUNNING,)
    assert read(shown(canceled_at=at(0), cancel_at_period_end=True)) == (RUNNING,)
    (ended,) = read(shown(status="canceled", canceled_at=at(0), ended_at=at(30)))
    assert (ended.status, ended.end) == ("canceled", at(30))
    (paused,) = read(shown(pause_collection={"behavior": "void", "resumes_at": None}))
    assert not paused.collects
    (trial,) = read(shown(status="trialing", trial_start=START, trial_end=at(0)))
    assert (trial.trial_start, trial.trial_end) == (START, at(0))


def test_a_price_counts_from_when_it_was_added() -> None:
    """With the subscription, then from its start, however far back that was dated; or later, then from there."""

    def priced(created: int, meter: str | None = "mtr_1") -> dict[str, Any]:
        recurring = {"meter": meter} if meter else None
        return {"created": created, "price": {"recurring": recurring}}

    def prices(*items: dict[str, Any]) -> dict[str, int]:
        data = {"object": "list", "data": [*items]}
        (one,) = read(shown(created=at(0), items=data))
        return one.prices

    assert prices(priced(at(0))) == {"requests": START}
    assert prices(priced(at(0, hours=3))) == {"requests": at(0, hours=3)}
    assert prices(priced(at(0, hours=3)), priced(at(0))) == {"requests": START}
    assert prices(priced(at(0), meter="mtr_other"), priced(at(0), meter=None)) == {}

"""What Stripe's refusals mean, by their codes and their words, through the SDK. The answers are made by hand."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from metering.model.usage_row import Posting
from metering.stripe.answers import DUPLICATE, NO_METER, UNKNOWN_CUSTOMER, Refusal
from metering.stripe.client import MeterMissingError, StripeBusyError, StripeRejectedError, Transport
from metering.stripe.meters import StripeMeters

POSTING = Posting("1.acme.requests.2026-11-22T05.r1", "cus_acme", 3, 1_795_327_190, 0)
Answering = Callable[..., None]


@pytest.fixture
def meters() -> StripeMeters:
    """Meters at a Stripe that is not there."""
    return StripeMeters(lambda _: "sk_test_local", "Metering", "https://stripe.invalid")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """What lets each call be answered with an error."""

    def answering(status: int, headers: dict[str, str] | None = None, **error: str) -> None:
        body = json.dumps({"error": {"type": "invalid_request_error", **error}})
        monkeypatch.setattr(Transport, "request", lambda *_, **__: (body, status, headers or {}))

    return answering


def test_a_repeated_identifier_is_known_by_v1s_words_and_by_v2s_code(meters: StripeMeters, answer: Answering) -> None:
    """I4: Stripe has the total, whichever attempt brought it."""
    answer(400, message=f"An event already exists with identifier {POSTING.identifier}.")
    meters.post("requests", POSTING)
    answer(400, message="worded in another way some day", code="duplicate_meter_event")
    meters.post("requests", POSTING)
    answer(400, message="something else")
    with pytest.raises(StripeRejectedError, match="something else"):
        meters.post("requests", POSTING)


@pytest.mark.parametrize(
    "error",
    [
        {"message": 'No active meter found for event name "Metering_requests".'},
        {"message": "worded in another way some day", "code": "no_meter"},
        {"message": "worded in another way some day", "code": "archived_meter"},
    ],
)
def test_a_meter_that_is_not_there_is_known_by_words_and_codes(
    meters: StripeMeters, answer: Answering, error: dict[str, str]
) -> None:
    """The total waits for it; it is not rejected."""
    answer(400, **error)
    with pytest.raises(MeterMissingError):
        meters.post("requests", POSTING)


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (UNKNOWN_CUSTOMER, {"message": "No such customer: 'cus_acme'", "code": "resource_missing", "param": "id"}),
        (UNKNOWN_CUSTOMER, {"message": "worded in another way", "code": "resource_missing", "param": "customer"}),
        (UNKNOWN_CUSTOMER, {"message": "worded in another way", "code": "meter_event_customer_not_found"}),
        (None, {"message": "No such price: 'price_1'", "code": "resource_missing", "param": "id"}),
        (None, {"message": "This customer cannot be billed now."}),
    ],
)
def test_an_unknown_customer_is_told_from_what_else_is_missing(
    meters: StripeMeters, answer: Answering, refusal: Refusal | None, error: dict[str, str]
) -> None:
    """By the code with the parameter's name, or by the words."""
    answer(404, **error)
    with pytest.raises(StripeRejectedError) as raised:
        meters.post("requests", POSTING)
    assert [one for one in (DUPLICATE, NO_METER, UNKNOWN_CUSTOMER) if raised.value.means(one)] == (
        [refusal] if refusal else []
    )


REASON = "Stripe-Rate-Limited-Reason"


@pytest.mark.parametrize(
    ("status", "about", "alone"),
    [
        (429, {"code": "lock_timeout"}, True),
        (409, {"code": "too_many_concurrent_requests"}, True),
        (429, {}, True),
        (429, {REASON: "global-rate"}, False),
        (429, {"code": "rate_limit"}, False),
    ],
)
def test_a_call_at_work_for_the_same_customer_is_told_from_a_limit(
    meters: StripeMeters, answer: Answering, status: int, about: dict[str, str], *, alone: bool
) -> None:
    """I6: one concerns this customer and meter, the other the whole account; ``about`` is a code or a header."""
    headers = {name: about[name] for name in about if name == REASON}
    answer(status, headers, message="too many", **{name: about[name] for name in about if name != REASON})
    for send in (lambda: meters.post("requests", POSTING), lambda: _stream(meters)):
        with pytest.raises(StripeBusyError) as raised:
            send()
        assert raised.value.alone is alone


def _stream(meters: StripeMeters) -> Any:
    def send(client: Any) -> Any:
        return client.v2.billing.meter_event_stream.create({"events": []}, {"max_network_retries": 0})

    return meters.call(send)

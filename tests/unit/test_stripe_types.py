"""The referee of our requests can fail: what Stripe's own types do not have is found, in v1 and in v2."""

from typing import Any

import pytest
from stripe import StripeClient
from stripe.params import CustomerListParams, PriceCreateParams, SubscriptionCreateParams
from stripe.params.billing import MeterCreateParams, MeterEventCreateParams
from stripe.params.v2.billing import MeterEventStreamCreateParams
from stripe.params.v2.core import EventDestinationCreateParams
from stripe.v2.billing import MeterEventSession

from tests.doubles.stripe_types import WrongParameterError, differences, typed_calls

EVENT = {"event_name": "calls", "payload": {"value": "1"}}


@pytest.mark.parametrize(
    ("value", "wanted", "found"),
    [
        (EVENT, MeterEventCreateParams, []),
        (EVENT | {"expand": ["a"], "timestamp": 3}, MeterEventCreateParams, []),
        (EVENT | {"count": 1}, MeterEventCreateParams, [".count: Stripe's type has no such field"]),
        (EVENT | {"max_network_retries": 1}, MeterEventCreateParams, None),
        ({"event_name": "calls"}, MeterEventCreateParams, [".payload: missing"]),
        (EVENT | {"payload": {"value": 1}}, MeterEventCreateParams, [".payload.value: 1 is no str"]),
        (EVENT | {"timestamp": True}, MeterEventCreateParams, [".timestamp: True is no int"]),
        ({"events": [EVENT]}, MeterEventStreamCreateParams, []),
        (
            {"events": [EVENT, EVENT | {"timestamp": 3}]},
            MeterEventStreamCreateParams,
            [".events[1].timestamp: 3 is no str"],
        ),
        ({"events": EVENT}, MeterEventStreamCreateParams, [f".events: {EVENT} is no list"]),
        (
            {"display_name": "a", "event_name": "a", "default_aggregation": {"formula": "max"}},
            MeterCreateParams,
            [".default_aggregation.formula: 'max' is none of 'count', 'last', 'sum'"],
        ),
        ({"currency": "usd", "unit_amount_decimal": "0.04", "tiers": [{"up_to": "inf"}]}, PriceCreateParams, []),
        ({"currency": "usd", "unit_amount_decimal": "4E-2"}, PriceCreateParams, None),
        (
            {"currency": "usd", "tiers": [{"up_to": "ever"}]},
            PriceCreateParams,
            [".tiers[0].up_to: 'ever' is none of 'inf'"],
        ),
        ({"customer": "cus_a", "items": [{"price": "p"}], "metadata": {"a": "b"}}, SubscriptionCreateParams, []),
        ({"customer": "cus_a", "items": [{"price": 1}]}, SubscriptionCreateParams, [".items[0].price: 1 is no str"]),
        (
            {"name": "a", "type": "webhook", "event_payload": "thin", "enabled_events": ["v1.invoice.paid"]},
            EventDestinationCreateParams,
            [".type: 'webhook' is none of 'amazon_eventbridge', 'azure_event_grid', 'webhook_endpoint'"],
        ),
        ({"limit": 3}, CustomerListParams, []),
        ({}, None, []),
        ({"limit": 3}, None, [": no parameters are wanted"]),
    ],
)
def test_what_stripes_types_do_not_have_is_found(value: Any, wanted: Any, found: list[str] | None) -> None:
    """With the place and what was got; None where something is found, in whichever words."""
    differs = differences(value, wanted, "")
    assert differs if found is None else differs == found


SESSION = {
    "id": "mes_1",
    "object": "v2.billing.meter_event_session",
    "authentication_token": "a",
    "created": "2026-11-22T05:00:00.000Z",
    "expires_at": "2026-11-22T05:15:00.000Z",
    "livemode": False,
}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"livemode": "no"}, [".livemode: 'no' is no bool"]),
        ({"token": "a"}, [".token: Stripe's type has no such field"]),
        ({"object": "session"}, [".object: 'session' is none of 'v2.billing.meter_event_session'"]),
    ],
)
def test_an_answer_that_is_not_as_stripes_types_is_found(changes: dict[str, Any], found: list[str]) -> None:
    """With the place and what was got."""
    assert differences(SESSION | changes, MeterEventSession, "") == found


def test_a_call_with_a_wrong_parameter_is_not_made() -> None:
    """Neither of v1 nor of v2; nobody listens at that address."""
    client = StripeClient(
        "sk_test_a", base_addresses={"api": "http://127.0.0.1:9", "meter_events": "http://127.0.0.1:9"}
    )
    wrong: Any = {"events": [{"event_name": "calls"}]}
    many: Any = {"limit": "ten"}
    with typed_calls() as calls:
        with pytest.raises(WrongParameterError, match=r"MeterEventStreamService.create .*payload: missing"):
            client.v2.billing.meter_event_stream.create(wrong)
        with pytest.raises(WrongParameterError, match=r"CustomerService.list .* 'ten' is no int"):
            client.v1.customers.list(many)
    assert calls == []

"""The connection to Stripe, by commands."""

import json
from typing import Any

import boto3
import pytest
import stripe as stripe_sdk

from metering.stripe import client as stripe_client
from tests.doubles.outputs import outputs
from tests.integration.cli.command_line import KEY, CloudFormation, Metering, Result, put_secret, secret
from tests.integration.world import World


def test_connecting_puts_the_key_and_makes_the_meters_that_are_missing(
    deployed: World, cloudformation: CloudFormation, metering: Metering
) -> None:
    """I8: the key comes on stdin and is not printed."""
    cloudformation.add("Other", **outputs(deployment="Other", stripe_api_base=deployed.stripe.url).written())
    result = metering("stripe", "connect", "--stack", "Other", stdin=f"{KEY}\n")
    assert result == Result(0, "the key is in the secret\nmeter Other_requests made\nmeter Other_bytes made\n", "")
    assert json.loads(secret() or "") == {"api_key": KEY}
    made = deployed.meters().meters()["Other_requests"]
    assert (made.window, made.formula) == ("hour", "sum")


def test_connecting_again_changes_nothing(deployed: World, metering: Metering) -> None:
    """I4: no meter is made twice."""
    connected = {
        "connected": True,
        "meters": [
            {"meter": "Metering_requests", "metric": "requests", "made": False},
            {"meter": "Metering_bytes", "metric": "bytes", "made": False},
        ],
    }
    before = deployed.meters().meters()
    for _ in range(2):
        result = metering("stripe", "connect", "--json", stdin=KEY)
        assert result.json() == connected
        assert KEY not in result.out
    assert deployed.meters().meters() == before


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("before", ["rk_test_put_by_hand", json.dumps({"api_key": "rk_test_k3yvalue"})])
def test_connecting_replaces_the_key_alone(metering: Metering, before: str) -> None:
    """I8: also one that somebody put by hand; the signing secret beside it stays."""
    secrets: Any = boto3.client("secretsmanager")
    secrets.put_secret_value(SecretId="stripe-secret", SecretString=before)
    assert metering("stripe", "connect", stdin=KEY).code == 0
    assert json.loads(secret() or "") == {"api_key": KEY}
    put_secret(api_key="rk_test_k3yvalue", webhook_secret="whsec_k3yvalue")
    result = metering("stripe", "connect", stdin=KEY)
    assert "k3yvalue" not in result.out + result.err
    assert json.loads(secret() or "") == {"api_key": KEY, "webhook_secret": "whsec_k3yvalue"}


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(
    "key",
    ["", "\n", "pk_test_k3yvalue", "k3yvalue", "sk_", "sk_test k3yvalue", "sk_tést_k3yvalue", "sk_a\nsk_k3yvalue"],
)
def test_what_is_no_stripe_key_is_refused(metering: Metering, key: str) -> None:
    """I8: without repeating it, and before Stripe is asked."""
    result = metering("stripe", "connect", stdin=key)
    assert result == Result(
        1, "", "error: a Stripe key is written rk_... (restricted) or sk_...; what was given is none\n"
    )
    assert secret() is None


@pytest.mark.usefixtures("deployed")
def test_bytes_that_are_no_text_are_no_stripe_key(metering: Metering) -> None:
    """I8: never a traceback."""
    result = metering("stripe", "connect", stdin=b"sk_\xff\xfe")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: a Stripe key is written ")


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("option", [(), ("--json",)])
def test_a_key_that_stripe_does_not_take_is_not_kept(metering: Metering, option: tuple[str, ...]) -> None:
    """I8: Stripe's own words do not hold it either."""
    result = metering("stripe", "connect", *option, stdin="rk_test_k3yvalue_that_stripe_does_not_know")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert result.err == "error: Stripe does not take the key: run 'metering stripe connect' with a valid one\n"
    assert "k3yvalue" not in result.err
    assert secret() is None


@pytest.mark.parametrize("wrong", [("day", "sum"), ("hour", "count")])
def test_a_meter_that_would_bill_wrongly_is_named_and_nothing_is_changed(
    deployed: World, cloudformation: CloudFormation, metering: Metering, wrong: tuple[Any, Any]
) -> None:
    """I4: a meter cannot be changed, and one with a longer window would keep one hour of a day only."""
    window, formula = wrong
    cloudformation.add("Other", **outputs(deployment="Other", stripe_api_base=deployed.stripe.url).written())
    stripe_sdk.StripeClient(KEY, base_addresses={"api": deployed.stripe.url}).v1.billing.meters.create(
        {
            "display_name": "by hand",
            "event_name": "Other_bytes",
            "default_aggregation": {"formula": formula},
            "event_time_window": window,
        }
    )
    assert metering("stripe", "connect", "--stack", "Other", stdin=KEY) == Result(
        1,
        "",
        f"error: the meter Other_bytes exists with the window '{window}' and the formula '{formula}'; "
        "wanted are the window 'hour' and the formula "
        "'sum'. A meter cannot be changed: deactivate it at Stripe, or deploy under another name. "
        "Nothing was changed\n",
    )
    assert secret() is None
    assert "Other_requests" not in deployed.meters().meters()


def test_a_stripe_that_cannot_be_reached_is_said_in_a_sentence(
    metering: Metering, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept."""
    cloudformation.add("Metering", **outputs(stripe_api_base="http://127.0.0.1:1").written())
    boto3.client("secretsmanager").create_secret(Name="stripe-secret")
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    result = metering("stripe", "connect", stdin=KEY)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "APIConnectionError" in result.err
    assert secret() is None

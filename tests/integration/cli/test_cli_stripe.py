"""The connection to Stripe, by commands."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import stripe as stripe_sdk

from infra.local.stripe.destinations import Destination
from infra.local.stripe.faults import Fault
from infra.local.stripe.server import LocalStripe
from infra.operate import notifications, rights
from infra.operate.deployment import Deployment
from metering.stripe import client as stripe_client
from metering.stripe.meters import StripeMeters
from tests.doubles.outputs import outputs
from tests.integration.cli.command_line import KEY, CloudFormation, Metering, Result, put_secret, secret
from tests.integration.world import World

FUNCTIONS, OPERATORS = "rk_test_functions", "rk_test_operators_k3yvalue"
ADDRESS = "https://api.example.com/v1/notifications"
EVENTS = ["v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"]
OF_SUBSCRIPTIONS = [
    f"v1.customer.subscription.{what}" for what in ("created", "updated", "deleted", "paused", "resumed")
]


@pytest.fixture
def stripe() -> Iterator[LocalStripe]:
    """The local Stripe, with the two keys that a deployment is to have."""
    keys = {FUNCTIONS: rights.FUNCTIONS, OPERATORS: rights.OPERATORS}
    with LocalStripe(api_keys=[KEY], restricted_keys=keys) as server:
        yield server


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
    assert result == Result(1, "", "error: Stripe gives no answer: try again later; status.stripe.com says more\n")
    assert secret() is None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.ERROR_BEFORE, "Stripe answers with an error (500)"),
        (Fault.RATE_LIMITED, "Stripe wants fewer calls (429)"),
    ],
)
def test_stripes_trouble_is_said_in_words(
    deployed: World, metering: Metering, monkeypatch: pytest.MonkeyPatch, fault: Fault, said: str
) -> None:
    """With what to do; the name of an SDK's class says nothing to whom it concerns."""
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    deployed.stripe.set_faults({fault: 1.0}, route=None)
    assert metering("stripe", "connect", stdin=KEY) == Result(
        1, "", f"error: {said}: try again later; status.stripe.com says more\n"
    )


# --- two keys --------------------------------------------------------------------------------------------------------


def other(deployed: World, cloudformation: CloudFormation) -> None:
    """Add a stack whose meters are not at Stripe."""
    told = outputs(deployment="Other", stripe_api_base=deployed.stripe.url, notifications_url=ADDRESS)
    cloudformation.add("Other", **told.written())
    boto3.client("secretsmanager").create_secret(Name="signing-secret")


def everything(result: Result) -> str:
    """Return all that a user sees."""
    return result.out + result.err


def test_the_operators_key_makes_meters_and_is_not_kept(
    deployed: World, cloudformation: CloudFormation, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: the functions' key is in the secret, and could not."""
    other(deployed, cloudformation)
    refused = metering("stripe", "connect", "--stack", "Other", stdin=FUNCTIONS)
    assert refused.code == 1
    assert "the key is in the secret, but may not make the meter Other_requests" in refused.err
    monkeypatch.setenv("STRIPE_OPERATOR_KEY", OPERATORS)
    made = metering("stripe", "connect", "--stack", "Other", stdin=FUNCTIONS)
    assert made.out == "the key is in the secret\nmeter Other_requests made\nmeter Other_bytes made\n"
    assert json.loads(secret() or "") == {"api_key": FUNCTIONS}
    assert OPERATORS not in everything(made)


@pytest.mark.parametrize("command", [("stripe", "plan"), ("stripe", "apply"), ("customers", "subscribe", "acme", "p")])
def test_a_command_that_changes_something_at_stripe_says_how_to_give_a_key(
    deployed: World, cloudformation: CloudFormation, metering: Metering, command: tuple[str, ...]
) -> None:
    """The functions' lacks the right; the operator's comes by the environment, or is typed."""
    other(deployed, cloudformation)
    plan = {
        "name": "p",
        "title": "P",
        "currency": "usd",
        "prices": [{"type": "per_unit", "metric": "requests", "amount": 1}],
    }
    declared = {"metrics": [{"type": "count", "name": "requests"}], "plans": [plan]}
    cloudformation.templates["Other"] = {"Metadata": {"Metering": declared}}
    deployed.customer("acme", "key1")
    put_secret(api_key=FUNCTIONS)
    if command[0] == "customers":
        metering("stripe", "apply", "--stack", "Other", "--operator-key", stdin=OPERATORS)
    refused = metering(*command, "--stack", "Other")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("error: the Stripe key lacks a right: ")
    assert refused.err.endswith("another key: --operator-key, STRIPE_OPERATOR_KEY\n")
    done = metering(*command, "--stack", "Other", "--operator-key", stdin=f"{OPERATORS}\n")
    assert "lacks a right" not in everything(done)
    assert OPERATORS not in everything(done)
    assert json.loads(secret() or "") == {"api_key": FUNCTIONS}


@pytest.mark.usefixtures("deployed")
def test_what_is_no_operators_key_is_refused(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """I8: without repeating it."""
    typed = metering("stripe", "apply", "--operator-key", stdin="k3yvalue")
    assert typed.err == "error: a Stripe key is written rk_... (restricted) or sk_...; what was given is none\n"
    monkeypatch.setenv("STRIPE_OPERATOR_KEY", "k3yvalue")
    told = metering("stripe", "apply")
    assert told.err == "error: a Stripe key is written rk_... (restricted) or sk_...; STRIPE_OPERATOR_KEY is none\n"


@pytest.mark.parametrize(
    "keys",
    [
        ("rk_live_k3yvalue", FUNCTIONS, "live mode, the functions' of a sandbox"),
        (OPERATORS, "rk_live_k3yvalue", "a sandbox, the functions' of live mode"),
    ],
)
@pytest.mark.parametrize("command", [("stripe", "apply"), ("stripe", "webhook"), ("customers", "portal", "acme")])
def test_two_keys_are_of_one_mode(
    deployed: World, metering: Metering, keys: tuple[str, str, str], command: tuple[str, ...]
) -> None:
    """I8: what would be made in a sandbox is not where usage is posted, and the other way round."""
    operators, functions, modes = keys
    deployed.customer("acme", "key1")
    put_secret(api_key=functions)
    calls = deployed.stripe.calls
    refused = metering(*command, "--operator-key", stdin=operators)
    assert (refused.code, refused.err) == (1, f"error: the operator's key is of {modes}: give two of one mode\n")
    assert deployed.stripe.calls == calls
    assert "k3yvalue" not in everything(refused)


def test_connecting_with_an_operators_key_of_the_other_mode_changes_nothing(
    deployed: World, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that is given counts, not the one that it replaces."""
    put_secret(api_key=FUNCTIONS)
    calls = deployed.stripe.calls
    monkeypatch.setenv("STRIPE_OPERATOR_KEY", OPERATORS)
    refused = metering("stripe", "connect", stdin="rk_live_k3yvalue")
    assert "the operator's key is of a sandbox, the functions' of live mode" in refused.err
    assert json.loads(secret() or "") == {"api_key": FUNCTIONS}
    assert deployed.stripe.calls == calls


@pytest.mark.parametrize("command", [("stripe", "apply"), ("stripe", "webhook")])
def test_an_operators_key_that_stripe_does_not_take_is_named(
    deployed: World, cloudformation: CloudFormation, metering: Metering, command: tuple[str, ...]
) -> None:
    """It is not the one in the secret that is to be replaced; and nothing was done."""
    other(deployed, cloudformation)
    cloudformation.templates["Other"] = {"Metadata": {"Metering": {"metrics": [], "plans": []}}}
    put_secret(api_key=FUNCTIONS)
    refused = metering(*command, "--stack", "Other", "--operator-key", stdin="rk_test_k3yvalue")
    assert (refused.code, refused.err) == (
        1,
        "error: Stripe does not take the operator's key: give a valid one by --operator-key or STRIPE_OPERATOR_KEY\n",
    )


def test_a_command_that_needs_no_operators_key_does_not_look_at_it(
    deployed: World, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown nowhere, either."""
    deployed.customer("acme", "key1")
    monkeypatch.setenv("STRIPE_OPERATOR_KEY", "k3yvalue")
    assert metering("customers", "list").code == 0
    deployment = Deployment(boto3.client, outputs(), operator_key=OPERATORS)
    assert OPERATORS not in repr(deployment)


# --- Stripe's notifications ------------------------------------------------------------------------------------------


def signing_secret() -> str:
    """Return what is in the secret of its own; nothing if there is no value."""
    secrets: Any = boto3.client("secretsmanager")
    try:
        return str(secrets.get_secret_value(SecretId="signing-secret")["SecretString"])
    except secrets.exceptions.ResourceNotFoundException:
        return ""


def destinations(world: World) -> list[tuple[str | None, list[str], str]]:
    """Return the address, the events and the payload style of each event destination at Stripe."""
    client = stripe_sdk.StripeClient(KEY, base_addresses={"api": world.stripe.url})
    listed = client.v2.core.event_destinations.list({"include": ["webhook_endpoint.url"]}).auto_paging_iter()
    return [(to.webhook_endpoint.url, to.enabled_events, to.event_payload) for to in listed if to.webhook_endpoint]


def test_the_event_destination_is_made_once_with_its_secret(
    deployed: World, cloudformation: CloudFormation, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: the secret goes from Stripe to its place, and is not printed; what stood beside the key is taken away."""
    other(deployed, cloudformation)
    put_secret(api_key=FUNCTIONS, webhook_secret="whsec_older")
    monkeypatch.setenv("STRIPE_OPERATOR_KEY", OPERATORS)
    made = metering("stripe", "webhook", "--stack", "Other")
    assert (made.code, made.err) == (0, "")
    assert made.out.splitlines() == [
        f"the address for Stripe's notifications: {ADDRESS}",
        "event destination ed_test_00000000000001 made",
        "the signing secret is in its secret",
    ]
    assert signing_secret().startswith("whsec_")
    assert signing_secret() not in made.out
    assert json.loads(secret() or "") == {"api_key": FUNCTIONS}
    before = signing_secret()
    again = metering("stripe", "webhook", "--stack", "Other", "--json")
    assert again.json() == {"url": ADDRESS, "secret_put": False, "destination": "ed_test_00000000000001"}
    assert destinations(deployed) == [(ADDRESS, EVENTS, "thin")]
    assert signing_secret() == before


def test_a_destination_is_found_among_many(deployed: World, cloudformation: CloudFormation, metering: Metering) -> None:
    """Whoever else has some in the account."""
    other(deployed, cloudformation)
    put_secret(api_key=KEY)
    client = stripe_sdk.StripeClient(KEY, base_addresses={"api": deployed.stripe.url})
    for number in range(45):
        hook: Any = {
            "name": "another",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": EVENTS,
            "webhook_endpoint": {"url": ADDRESS if number == 44 else f"https://example.com/{number}"},
        }
        client.v2.core.event_destinations.create(hook)
    lost = metering("stripe", "webhook", "--stack", "Other")
    assert lost.code == 1
    assert "no signing secret is here. Stripe shows a signing secret only once: roll it there" in lost.err
    assert len(destinations(deployed)) == 45
    given = metering("stripe", "webhook", "--stack", "Other", stdin="whsec_rolled")
    assert given.out.endswith("the signing secret is in its secret\n")
    assert signing_secret() == "whsec_rolled"
    assert metering("stripe", "webhook", "--stack", "Other").code == 0


def test_a_destination_that_lacks_events_is_sent_them_too(
    deployed: World, cloudformation: CloudFormation, metering: Metering
) -> None:
    """As an older one after limits were declared; whatever else it is sent stays, and so does its signing secret."""
    other(deployed, cloudformation)
    put_secret(api_key=KEY)
    assert metering("stripe", "webhook", "--stack", "Other").code == 0
    assert destinations(deployed) == [(ADDRESS, EVENTS, "thin")]
    before = signing_secret()
    limited = outputs(
        deployment="Other", stripe_api_base=deployed.stripe.url, notifications_url=ADDRESS, access_table="access"
    )
    cloudformation.add("Other", **limited.written())
    told = metering("stripe", "webhook", "--stack", "Other")
    assert told.out.splitlines() == [
        f"the address for Stripe's notifications: {ADDRESS}",
        "event destination ed_test_00000000000001 exists",
        f"it is sent {', '.join(OF_SUBSCRIPTIONS)} now, too",
    ]
    assert destinations(deployed) == [(ADDRESS, [*EVENTS, *OF_SUBSCRIPTIONS], "thin")]
    assert "now, too" not in metering("stripe", "webhook", "--stack", "Other").out
    assert signing_secret() == before


def test_a_destination_that_would_not_do_is_told(
    deployed: World, cloudformation: CloudFormation, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent something else, which nothing can change but a hand."""
    other(deployed, cloudformation)
    put_secret(api_key=KEY)
    wrong: Any = {
        "name": "by hand",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": EVENTS,
        "webhook_endpoint": {"url": ADDRESS},
    }
    stripe_sdk.StripeClient(KEY, base_addresses={"api": deployed.stripe.url}).v2.core.event_destinations.create(wrong)
    shown = Destination.as_json
    monkeypatch.setattr(Destination, "as_json", lambda *how: {**shown(*how), "event_payload": "snapshot"})
    told = metering("stripe", "webhook", "--stack", "Other")
    assert told.code == 1
    assert "wanted are thin payloads of v1.billing.meter.error_report_triggered, v1.billing.meter.no_meter" in told.err


@pytest.mark.parametrize("key", [FUNCTIONS, ""])
def test_without_the_right_it_is_said_what_to_click(
    deployed: World, cloudformation: CloudFormation, metering: Metering, key: str
) -> None:
    """As it always could be done; or without a key at all."""
    other(deployed, cloudformation)
    put_secret(**({"api_key": key} if key else {}))
    told = metering("stripe", "webhook", "--stack", "Other")
    assert told.code == 0
    address, why, how = told.out.splitlines()
    assert address.endswith(ADDRESS)
    assert why.startswith("no event destination is made: the ")
    assert "Create new destination" in how
    assert metering("stripe", "webhook", "--stack", "Other", "--json").json() == {"url": ADDRESS, "secret_put": False}
    assert destinations(deployed) == []


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_two_commands_at_once_name_the_destination_that_is_one_too_many(
    deployed: World, cloudformation: CloudFormation, metering: Metering, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The other one is made after ours has looked, or after it has made its own; the elder's signing secret stays."""
    other(deployed, cloudformation)
    put_secret(api_key=KEY)
    meanwhile, looks = {"theirs": 1, "ours": 2}[first], 0
    secrets: list[str] = []
    client = stripe_sdk.StripeClient(KEY, base_addresses={"api": deployed.stripe.url})
    look = notifications.destinations_of

    def looking(stripe: StripeMeters, url: str) -> Any:
        nonlocal looks
        looks += 1
        found = look(stripe, url) if looks == 1 else []
        if looks == meanwhile:
            hook: Any = {
                "name": "theirs",
                "type": "webhook_endpoint",
                "event_payload": "thin",
                "enabled_events": EVENTS,
                "webhook_endpoint": {"url": url},
                "include": ["webhook_endpoint.signing_secret"],
            }
            made: Any = client.v2.core.event_destinations.create(hook)
            secrets.append(made.webhook_endpoint.signing_secret)
        return found if looks == 1 else look(stripe, url)

    monkeypatch.setattr(notifications, "destinations_of", looking)
    told = metering("stripe", "webhook", "--stack", "Other")
    two = (
        "2 event destinations have this address: delete ed_test_00000000000002 in Stripe's dashboard, and keep "
        "ed_test_00000000000001. If notifications are refused then, roll its signing secret there and give it to "
        "'metering stripe webhook'"
    )
    assert (told.code, told.err) == (1, f"error: {two}\n")
    assert bool(signing_secret()) == (first == "ours")
    assert signing_secret() not in secrets
    assert metering("stripe", "webhook", "--stack", "Other").err == told.err
    client.v2.core.event_destinations.delete("ed_test_00000000000002")
    if first == "ours":
        assert metering("stripe", "webhook", "--stack", "Other").code == 0


@pytest.mark.parametrize("key", [KEY, FUNCTIONS])
def test_a_signing_secret_beside_the_key_gets_a_place_of_its_own(
    deployed: World, cloudformation: CloudFormation, metering: Metering, key: str
) -> None:
    """I8: where it was, every function can read it; also with a key that may not see event destinations."""
    other(deployed, cloudformation)
    put_secret(api_key=key, webhook_secret="whsec_k3yvalue")
    hook: Any = {
        "name": "by hand",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": EVENTS,
        "webhook_endpoint": {"url": ADDRESS},
    }
    stripe_sdk.StripeClient(KEY, base_addresses={"api": deployed.stripe.url}).v2.core.event_destinations.create(hook)
    parted = metering("stripe", "webhook", "--stack", "Other")
    assert parted.code == 0
    assert parted.out.endswith("the signing secret is in its own secret now, and no longer beside the key\n")
    assert signing_secret() == "whsec_k3yvalue"
    assert json.loads(secret() or "") == {"api_key": key}
    assert "k3yvalue" not in everything(parted)
    assert "its own secret now" not in metering("stripe", "webhook", "--stack", "Other").out


def test_a_signing_secret_of_its_own_outlives_the_one_beside_the_key(
    deployed: World, cloudformation: CloudFormation, metering: Metering
) -> None:
    """The newer one stays."""
    other(deployed, cloudformation)
    put_secret(api_key=KEY)
    assert metering("stripe", "webhook", "--stack", "Other").code == 0
    own = signing_secret()
    put_secret(api_key=KEY, webhook_secret="whsec_older")
    assert metering("stripe", "webhook", "--stack", "Other", "--json").json()["secret_put"]
    assert (signing_secret(), json.loads(secret() or "")) == (own, {"api_key": KEY})


def test_what_is_no_signing_secret_is_refused(
    deployed: World, cloudformation: CloudFormation, metering: Metering
) -> None:
    """I8: without repeating it."""
    other(deployed, cloudformation)
    told = metering("stripe", "webhook", "--stack", "Other", stdin="sk_k3yvalue")
    assert (told.code, told.err) == (1, "error: a signing secret is written whsec_...; what was given is none\n")
    assert signing_secret() == ""

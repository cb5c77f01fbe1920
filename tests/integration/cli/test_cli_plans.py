"""What is sold at Stripe, who is subscribed to it, and what it costs, by commands."""

import json

import pytest
import stripe as stripe_sdk

from infra.local.stripe.faults import Fault
from infra.outputs import METADATA, VERSION
from metering.model import metrics
from metering.model.limits import OPERATOR
from metering.model.prices import Flat, Package, PerUnit, Plan, encode
from metering.stores.limits import Held, LimitItems
from tests.integration.cli.command_line import KEY, CloudFormation, Metering, Result
from tests.integration.world import World


@pytest.fixture
def selling(
    deployed: World, cloudformation: CloudFormation, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> World:
    """The deployment with a plan, connected, and with a customer."""
    plan = Plan(
        name="standard",
        title="Standard",
        currency="usd",
        prices=(
            Flat(amount=4900, included={"requests": 2}),
            PerUnit(metric="requests", amount="0.04"),
            Package(metric="bytes", size=1000, amount=3),
        ),
    )
    declared = {
        "metrics": json.loads(metrics.encode(deployed.metrics)),
        "plans": json.loads(encode([plan])),
        "access_log": {"api": "rest"},
    }
    cloudformation.templates["Metering"] = {"Metadata": {METADATA: declared}}
    assert metering("stripe", "connect", stdin=KEY).code == 0
    monkeypatch.setattr("infra.cli.customers.now", deployed.clock)
    deployed.customer("acme", "key1")
    return deployed


def test_a_plan_gets_to_stripe(selling: World, metering: Metering) -> None:
    """Shown before it is made, and made once."""
    lines = [
        "+ make product standard.base_fee: Standard: Base fee",
        "+ make price standard.base_fee: 4900 flat (usd, each month)",
        "+ make product standard.requests: Standard: Requests",
        "+ make price standard.requests: graduated: up to 2 0, beyond 0.04 (usd, each month)",
        "+ make product standard.bytes: Standard: Bytes",
        "+ make price standard.bytes: 3 per started 1,000 (usd, each month)",
    ]
    when = f"as deployed 2026-11-21T03:15Z by {VERSION}; what has changed in app.py since counts once it is deployed\n"
    for command, said in (("plan", when), ("apply", "")):
        assert metering("stripe", command) == Result(0, "\n".join(lines) + "\n", said)
    assert metering("stripe", "plan") == Result(0, "Stripe is as declared\n", when)
    assert metering("stripe", "plan", "--json").json() == {"steps": [], "in_the_way": [], "unpriced": []}
    assert metering("stripe", "apply") == Result(0, "nothing to change\n", "")
    assert metering("stripe", "apply", "--json").json() == {"done": []}
    assert len(selling.meters().meters()) == 2


def test_a_plan_says_what_is_in_its_way_and_what_nobody_pays_for(
    selling: World, cloudformation: CloudFormation, metering: Metering
) -> None:
    """Nothing is made then."""
    plans = cloudformation.templates["Metering"]["Metadata"][METADATA]["plans"]
    plans[0]["prices"].pop()
    client = stripe_sdk.StripeClient(KEY, base_addresses={"api": selling.stripe.url})
    client.v1.products.create({"id": "Metering-standard-requests", "name": "theirs"})
    out = metering("stripe", "plan").out
    assert "note: no plan has a price for bytes\n" in out
    assert "in the way: the product Metering-standard-requests at Stripe is none of ours: " in out
    result = metering("stripe", "apply")
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith("give its plan or price another name. Nothing was changed\n")


@pytest.mark.usefixtures("selling")
def test_a_deployment_without_plans_in_its_template_says_what_to_do(
    metering: Metering, cloudformation: CloudFormation
) -> None:
    """Rather than archive all that is at Stripe; and so does one whose plans are written in another way."""
    declared = cloudformation.templates["Metering"]["Metadata"][METADATA]
    declared["plans"][0]["colour"] = "red"
    assert metering("stripe", "apply") == Result(
        1, "", "error: the stack 'Metering' was deployed by another version: deploy it again\n"
    )
    del declared["plans"]
    assert metering("stripe", "apply") == Result(
        1, "", "error: the stack 'Metering' was deployed by an older version: deploy it again\n"
    )


@pytest.mark.usefixtures("selling")
def test_a_customer_is_subscribed_and_its_invoice_shown(metering: Metering) -> None:
    """Without a word to Stripe's dashboard."""
    assert metering("customers", "subscribe", "acme", "standard").err == (
        "error: Stripe does not have standard.base_fee, standard.requests, standard.bytes as app.py declares it: "
        "run 'metering stripe apply' first\n"
    )
    assert (
        "acme has no Stripe customer yet, so that nothing is invoiced: subscribe it" in metering("invoice", "acme").err
    )
    metering("stripe", "apply")
    subscribe = ("customers", "subscribe", "acme", "standard", "--email", "billing@acme.example")
    subscribed = metering(*subscribe, "--json").json()
    assert {**subscribed, "changed": []} == {
        "customer": "acme",
        "plan": "standard",
        "stripe_customer": "cus_00000000000001",
        "subscription": "sub_00000000000001",
        "begins": "2026-11-22T05",
        "changed": [],
        "notes": [],
        "checkout_url": "",
        "ends": None,
    }
    assert metering(*subscribe) == Result(0, "nothing to change: acme is subscribed to standard\n", "")


@pytest.mark.usefixtures("selling")
def test_a_plan_is_changed_with_the_period(cloudformation: CloudFormation, metering: Metering) -> None:
    """It says what becomes of it; said again before the period ends, it changes nothing."""
    basic = Plan(name="basic", title="Basic", currency="usd", prices=(PerUnit(metric="requests", amount=2),))
    cloudformation.templates["Metering"]["Metadata"][METADATA]["plans"] += json.loads(encode([basic]))
    metering("stripe", "apply")
    metering("customers", "subscribe", "acme", "standard", "--email", "billing@acme.example")
    change = ("customers", "subscribe", "acme", "basic", "--change")
    told = metering(*change)
    assert "sub_00000000000001 to standard ends with its period, at 2026-12-22T05, and basic comes next" in told.out
    assert "note: acme stays on standard until 2026-12-22T05." in told.out
    assert metering(*change, "--json").json()["ends"] == "sub_00000000000001"
    assert "nothing to change" not in metering(*change).out
    both = metering(*change, "--subscription", "sub_1")
    assert (both.code, "exclude each other" in both.err) == (2, True)


def test_where_there_are_limits_a_subscription_is_known_to_them_at_once(
    selling: World, cloudformation: CloudFormation, metering: Metering
) -> None:
    """And a Stripe customer that is given by hand; what Stripe fails at is a note, since all else is done."""
    cloudformation.stacks["us-east-1", "Metering"]["AccessTable"] = "access"
    metering("stripe", "apply")
    items = LimitItems(selling.ledger.client, selling.ledger.table)
    subscribe = ("customers", "subscribe", "acme", "standard", "--email", "billing@acme.example")
    assert metering(*subscribe, "--json").json()["notes"] == []
    known = items.subscribed("acme")
    assert known is not None
    assert (known.status, known.plans, len(known.prices)) == ("active", ("standard",), 3)
    selling.stripe.add_customer("cus_globex")
    added = metering("customers", "add", "globex", "--name", "Globex", "--stripe-customer", "cus_globex")
    known = items.subscribed("globex")
    assert known is not None
    assert (added.code, added.err, known.status, known.stripe_customer) == (0, "", "", "cus_globex")
    selling.stripe.set_faults({Fault.ERROR_BEFORE: 1.0}, route="GET /v1/prices/:id")
    again = metering(*subscribe)
    known_for_a_day = "the limits of acme go by what was known of its subscription, for a day at most"
    assert again.out.splitlines()[1:] == [f"note: {known_for_a_day}: Stripe answers with an error (500)"]
    result = metering("invoice", "acme")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("acme, standard, 2026-11-22T05:00Z to 2026-12-22T05:00Z (UTC)\n")
    of_another = "base_fee is for 2026-12-22T05:00Z to 2027-01-22T05:00Z"  # the one line of another period
    assert result.out.splitlines()[-2:] == [of_another, "total 49.00 USD"]
    document = metering("invoice", "acme", "--json").json()
    assert document["total"] == 4900
    assert document["lines"][0] | {"description": ""} == {
        "price": "base_fee",
        "description": "",
        "quantity": 1,
        "unit_amount": "4900",
        "package": None,
        "amount": 4900,
        "period": {"from": "2026-12-22T05:00Z", "to": "2027-01-22T05:00Z"},
    }


def test_where_nothing_can_be_charged_a_link_is_printed(selling: World, metering: Metering) -> None:
    """To Stripe's Checkout; once the customer has given a payment method, the same again subscribes it."""
    metering("stripe", "apply")
    asked = metering("customers", "subscribe", "acme", "standard", "--return-url", "https://acme.example")
    note, link = asked.out.splitlines()[-2:]
    assert note.startswith("note: acme is not subscribed yet: the plan has a fee, and Stripe has no payment method")
    assert link == "https://checkout.stripe.com/c/pay/cs_test_00000000000001"
    selling.stripe.complete_checkout(link.rpartition("/")[2])
    done = metering("customers", "subscribe", "acme", "standard", "--json").json()
    assert (done["subscription"], done["checkout_url"]) == ("sub_00000000000001", "")


@pytest.mark.usefixtures("selling")
@pytest.mark.parametrize("command", [("invoice", "nobody"), ("customers", "subscribe", "nobody", "standard")])
def test_what_needs_a_customer_says_that_there_is_none(metering: Metering, command: tuple[str, ...]) -> None:
    """With how to see those that there are."""
    assert metering(*command).err == "error: there is no customer 'nobody': 'metering customers list' shows them\n"


def test_customers_are_listed_by_what_is_asked_for(selling: World, metering: Metering) -> None:
    """On a plan, on none, suspended; so many, after one; and how many there are."""
    assert metering("stripe", "apply").code == 0
    for number in range(1, 4):
        selling.customer(f"c{number}", stripe_customer=f"cus_{number}")
    assert metering("customers", "subscribe", "c2", "standard", "--email", "billing@c2.example").code == 0
    LimitItems(selling.ledger.client, "ledger").hold("c3", OPERATOR, Held(0, "suspended by the operator"))

    def ids(*options: str) -> list[str]:
        return [customer["id"] for customer in metering("customers", "list", *options, "--json").json()]

    assert ids("--plan", "standard") == ["c2"]
    assert ids("--no-subscription") == ["acme", "c1", "c3"]
    assert ids("--suspended") == ["c3"]
    assert ids("--suspended", "--no-subscription", "--after", "c3") == []
    assert ids("--after", "acme", "--most", "2") == ["c1", "c2"]
    assert metering("customers", "list", "--most", "2").err == "2 customers shown; there are more: --after c1\n"
    assert metering("customers", "list").err == "4 customers\n"
    refused = metering("customers", "list", "--plan", "standart").err
    assert refused == "error: there is no plan 'standart': app.py declares standard\n"
    assert metering("customers", "list", "--plan", "standard", "--no-subscription").code == 2

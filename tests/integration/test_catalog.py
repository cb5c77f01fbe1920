"""Meters, products and prices at the local Stripe: what is made of a declaration, and what is left alone."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import stripe as stripe_sdk

from infra.local.stripe.faults import Fault
from infra.local.stripe.server import LocalStripe
from infra.operate.catalog import Catalog, Step
from infra.operate.deployment import OperatorError
from metering.model.prices import Flat, Graduated, Package, PerUnit, Plan, Price, Tier, Volume, terms
from metering.stripe.client import StripeUnavailableError
from metering.stripe.meters import StripeMeters
from metering.stripe.prices import Offer

KEY = "sk_test_local"
METERS = ("requests", "messages", "response_bytes", "users")
TIERS = (Tier(up_to=1000, amount=0), Tier(up_to=None, amount="0.5", flat=100))
PRICES: tuple[Price, ...] = (
    Flat(amount=4900, included={"requests": 10_000}),
    PerUnit(metric="requests", amount="0.0000004"),
    Graduated(metric="messages", tiers=TIERS),
    Volume(metric="users", tiers=TIERS),
    Package(metric="response_bytes", size=1_000_000, amount="1.5"),
)
STANDARD = Plan(name="standard", title="Standard", currency="usd", prices=PRICES)


@pytest.fixture
def stripe() -> Iterator[LocalStripe]:
    """An account with nothing in it."""
    with LocalStripe(api_keys=[KEY]) as server:
        yield server


def catalog(stripe: LocalStripe, *plans: Plan, deployment: str = "Metering", key: str = KEY) -> Catalog:
    """Return a deployment's catalog."""
    return Catalog(StripeMeters(lambda _fresh: key, deployment, stripe.url), METERS, plans)


def sdk(stripe: LocalStripe) -> stripe_sdk.StripeClient:
    """Return a client of somebody else."""
    return stripe_sdk.StripeClient(KEY, base_addresses={"api": stripe.url})


def apply(made: Catalog) -> list[str]:
    """Apply a catalog and return what was done, in words without ids."""
    steps: list[Step] = []
    assert made.apply(steps.append) == steps
    return [f"{step.action} {step.kind} {step.name.split()[0]}" for step in steps]


def plan(*prices: Price, **changes: Any) -> Plan:
    """Return the plan with other prices."""
    return Plan(**{"name": "standard", "title": "Standard", "currency": "usd", "prices": prices} | changes)


def everything(stripe: LocalStripe) -> list[dict[str, Any]]:
    """Return all that the account holds, but for when it was updated."""
    client = sdk(stripe)
    found: list[Any] = [
        *client.v1.billing.meters.list({"limit": 100}).auto_paging_iter(),
        *client.v1.products.list({"limit": 100}).auto_paging_iter(),
        *client.v1.prices.list({"limit": 100, "expand": ["data.tiers"]}).auto_paging_iter(),
    ]
    return [{name: value for name, value in each.to_dict().items() if name != "updated"} for each in found]


def active_prices(stripe: LocalStripe, product: str) -> list[stripe_sdk.Price]:
    """Return a product's prices that can be subscribed to."""
    return sdk(stripe).v1.prices.list({"product": product, "active": True, "expand": ["data.tiers"]}).data


def test_what_is_declared_is_made_once(stripe: LocalStripe) -> None:
    """Meters, then a product and a price for each price of the plan; a second run finds nothing to do."""
    made = catalog(stripe, STANDARD)
    difference = made.difference()
    assert [str(step) for step in difference.steps[3:10]] == [
        "+ make meter Metering_users",
        "+ make product standard.base_fee: Standard: Base fee",
        "+ make price standard.base_fee: 4900 flat (usd, each month)",
        "+ make product standard.requests: Standard: Requests",
        "+ make price standard.requests: graduated: up to 10,000 0, beyond 0.0000004 (usd, each month)",
        "+ make product standard.messages: Standard: Messages",
        "+ make price standard.messages: graduated: up to 1,000 0, beyond 0.5 + 100 flat (usd, each month)",
    ]
    assert everything(stripe) == []
    assert len(apply(made)) == 14
    assert made.difference().as_json() == {"steps": [], "in_the_way": [], "unpriced": []}
    before = everything(stripe)
    assert apply(made) == []
    assert everything(stripe) == before
    (price,) = active_prices(stripe, "Metering-standard-response_bytes")
    assert price.unit_amount_decimal == 1.5
    assert price.to_dict()["transform_quantity"] == {"divide_by": 1_000_000, "round": "up"}
    assert price.to_dict()["metadata"] == {
        "metering_deployment": "Metering",
        "metering_plan": "standard",
        "metering_price": "response_bytes",
        "metering_fingerprint": str(price.lookup_key).rpartition("-")[2],
    }


def test_a_plan_of_any_size_is_read_by_two_lists_of_prices(stripe: LocalStripe) -> None:
    """Stripe takes 25 reads of them a second: two for each product would be too many from a dozen on."""
    made = catalog(stripe, *(plan(Flat(name="fee", amount=100), name=f"plan_{n}") for n in range(13)))
    assert len(apply(made)) == 4 + 2 * 13
    prices = "GET /v1/prices"
    before = stripe.calls[prices]
    assert made.difference().steps == []
    assert stripe.calls[prices] - before == 2


def test_a_price_is_replaced_and_the_old_one_archived(stripe: LocalStripe) -> None:
    """Nothing of the old one changes but that nobody can subscribe to it any more."""
    apply(catalog(stripe, plan(PerUnit(metric="requests", amount=1))))
    (old,) = active_prices(stripe, "Metering-standard-requests")
    changed = catalog(stripe, plan(PerUnit(metric="requests", amount="1.5")))
    assert [str(step) for step in changed.difference().steps] == [
        "~ replace price standard.requests: 1 per unit (usd, each month) -> 1.5 per unit (usd, each month)",
        f"- archive price standard.requests {old.id}: 1 per unit (usd, each month)",
    ]
    assert apply(changed) == ["replace price standard.requests", "archive price standard.requests"]
    (new,) = active_prices(stripe, "Metering-standard-requests")
    assert new.unit_amount_decimal == 1.5
    after = sdk(stripe).v1.prices.retrieve(old.id, {"expand": ["tiers"]}).to_dict()
    assert after == old.to_dict() | {"active": False}


@pytest.mark.parametrize(
    "other",
    [
        plan(PerUnit(metric="requests", amount=1), currency="eur"),
        plan(PerUnit(metric="requests", amount=1), interval="year"),
        plan(Package(metric="requests", size=2, amount=1)),
        plan(Volume(metric="requests", tiers=TIERS)),
        plan(PerUnit(metric="requests", amount=1), Flat(amount=1, included={"requests": 5})),
    ],
    ids=["currency", "interval", "package", "volume", "included"],
)
def test_whatever_a_price_says_replaces_it(stripe: LocalStripe, other: Plan) -> None:
    """And going back takes the first one into use again, so that its subscriptions are on the current price."""
    first = catalog(stripe, plan(PerUnit(metric="requests", amount=1)))
    apply(first)
    (old,) = active_prices(stripe, "Metering-standard-requests")
    assert {"replace price standard.requests", "archive price standard.requests"} <= {*apply(catalog(stripe, other))}
    (new,) = active_prices(stripe, "Metering-standard-requests")
    assert new.id != old.id
    done = apply(first)
    assert done[:2] == ["activate price standard.requests", "archive price standard.requests"]
    assert [price.id for price in active_prices(stripe, "Metering-standard-requests")] == [old.id]


def test_another_spelling_or_title_replaces_no_price(stripe: LocalStripe) -> None:
    """A title is what invoices call it: the product is renamed."""
    apply(catalog(stripe, plan(PerUnit(metric="requests", amount="1.50"))))
    renamed = catalog(stripe, plan(PerUnit(metric="requests", amount="01.5", title="API calls"), title="Basic"))
    assert [str(step) for step in renamed.difference().steps] == [
        "~ rename product standard.requests: Standard: Requests -> Basic: API calls"
    ]
    assert apply(renamed) == ["rename product standard.requests"]
    assert apply(renamed) == []


def test_a_price_that_lost_its_lookup_key_is_replaced(stripe: LocalStripe) -> None:
    """Subscribing would not find it."""
    made = catalog(stripe, plan(PerUnit(metric="requests", amount=1)))
    apply(made)
    (price,) = active_prices(stripe, "Metering-standard-requests")
    sdk(stripe).v1.prices.update(price.id, {"lookup_key": "standard"})
    assert apply(made) == ["replace price standard.requests", "archive price standard.requests"]
    assert made.current_prices(made.plans[0]).keys() == {"requests"}
    assert apply(made) == []


def test_a_price_whose_meter_was_made_anew_is_replaced(stripe: LocalStripe) -> None:
    """It would bill what the old meter holds: nothing any more."""
    made = catalog(stripe, STANDARD)
    apply(made)
    meters = {meter.event_name: meter.id for meter in sdk(stripe).v1.billing.meters.list({"limit": 100}).data}
    sdk(stripe).v1.billing.meters.deactivate(meters["Metering_users"])
    assert apply(made) == [
        "make meter Metering_users",
        "replace price standard.users",
        "archive price standard.users",
    ]


def test_a_plan_that_is_declared_no_more_is_archived(stripe: LocalStripe) -> None:
    """Its products and prices; the meters go on. Declared again, they are back."""
    apply(catalog(stripe, STANDARD))
    assert sorted(apply(catalog(stripe))) == sorted(
        f"archive {kind} standard.{name}" for name in ("base_fee", *METERS) for kind in ("price", "product")
    )
    client = sdk(stripe)
    assert client.v1.products.list({"active": True}).data == client.v1.prices.list({"active": True}).data == []
    assert apply(catalog(stripe)) == []
    assert len(client.v1.billing.meters.list({"status": "active"}).data) == 4
    back = apply(catalog(stripe, STANDARD))
    assert sorted(back) == sorted(
        f"activate {kind} standard.{name}" for name in ("base_fee", *METERS) for kind in ("price", "product")
    )


def test_what_others_made_is_never_touched(stripe: LocalStripe) -> None:
    """Foreign meters, products and prices, those of another deployment, and a foreign price on a product of ours."""
    client = sdk(stripe)
    client.v1.billing.meters.create(
        {"display_name": "theirs", "event_name": "requests", "default_aggregation": {"formula": "count"}}
    )
    product = client.v1.products.create({"name": "Standard", "metadata": {"metering_plan": "standard"}})
    recurring: Any = {"interval": "month"}
    client.v1.prices.create({"product": product.id, "currency": "usd", "unit_amount": 1, "recurring": recurring})
    apply(catalog(stripe, STANDARD, deployment="Metering-standard"))
    apply(catalog(stripe, STANDARD))
    client.v1.prices.create(
        {"product": "Metering-standard-users", "currency": "usd", "unit_amount": 7, "recurring": recurring}
    )
    foreign = [each for each in everything(stripe) if not _is_of(each, "Metering")]
    assert len(foreign) == 4 + 14
    apply(catalog(stripe, plan(*PRICES[1:3])))
    apply(catalog(stripe))
    assert [each for each in everything(stripe) if not _is_of(each, "Metering")] == foreign


def _is_of(each: dict[str, Any], deployment: str) -> bool:
    if each["object"] == "billing.meter":
        return bool(each["event_name"] in [f"{deployment}_{metric}" for metric in METERS])
    return bool(each["metadata"].get("metering_deployment") == deployment)


def test_a_meter_that_would_bill_wrongly_is_refused_with_the_way_out(stripe: LocalStripe) -> None:
    """And nothing is made."""
    sdk(stripe).v1.billing.meters.create(
        {
            "display_name": "by hand",
            "event_name": "Metering_requests",
            "default_aggregation": {"formula": "sum"},
            "event_time_window": "day",
        }
    )
    before = everything(stripe)
    made = catalog(stripe, STANDARD)
    assert len(made.difference().in_the_way) == 1
    with pytest.raises(OperatorError, match=r"window 'day' .*: deactivate it at Stripe, or .*\. Nothing was changed"):
        apply(made)
    assert everything(stripe) == before


def test_a_product_of_others_under_our_id_is_refused(stripe: LocalStripe) -> None:
    """Nobody knows what it is for."""
    sdk(stripe).v1.products.create({"id": "Metering-standard-users", "name": "theirs"})
    with pytest.raises(OperatorError, match="the product Metering-standard-users at Stripe is none of ours"):
        apply(catalog(stripe, STANDARD))
    assert len(everything(stripe)) == 1


def test_a_fingerprint_stays_what_it_is() -> None:
    """Prices that are at Stripe are found by it: another spelling of the same would lose them."""
    price = terms(plan(Package(metric="requests", size=1000, amount="1.50")))["requests"]
    assert Offer(price, "usd", "month", "mtr_1").fingerprint == "2a71e71bfad4"


def test_a_metric_without_a_price_is_named(stripe: LocalStripe) -> None:
    """It is counted and posted, and nobody pays for it."""
    assert catalog(stripe, plan(*PRICES[2:])).difference().unpriced == ["requests"]


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.ERROR_AFTER, Fault.RESET_AFTER])
def test_interrupted_anywhere_and_run_again_it_ends_the_same(
    stripe: LocalStripe, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes something fails in turn, and the run with it."""
    monkeypatch.setattr("metering.stripe.client.RETRIES", 0)
    steps = [
        *("POST /v1/billing/meters", "POST /v1/products", "POST /v1/prices"),
        *("POST /v1/products/:id", "POST /v1/prices/:id"),
    ]
    changed = plan(*(price for price in PRICES if not isinstance(price, Volume)), title="Basic")
    changed = plan(*changed.prices[:-1], Package(metric="response_bytes", size=5, amount=1), title="Basic")
    for wanted in (STANDARD, changed):
        for route in steps:
            stripe.set_faults([fault], route=route)
            with pytest.raises(StripeUnavailableError) if _changes(stripe, wanted, route) else _nothing():
                apply(catalog(stripe, wanted))
            stripe.clear_faults()
        apply(catalog(stripe, wanted))
        assert catalog(stripe, wanted).difference().steps == []
    prices = [each for each in everything(stripe) if each["object"] == "price"]
    assert len(prices) == len({each["lookup_key"] for each in prices}) == 6
    assert len([each for each in prices if each["active"]]) == 4


def _changes(stripe: LocalStripe, wanted: Plan, route: str) -> bool:
    """Say whether applying a plan calls a route first, or after calls that do not fail."""
    kind = {"meters": "meter", "products": "product", "prices": "price"}[route.removesuffix("/:id").rpartition("/")[2]]
    actions = ("rename", "activate", "archive") if route.endswith("/:id") else ("make", "replace")
    return any(
        (step.kind, step.action in actions) == (kind, True) for step in catalog(stripe, wanted).difference().steps
    )


class _nothing:  # noqa: N801 - reads as a verb beside pytest.raises
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_two_runs_at_once_make_everything_once(stripe: LocalStripe) -> None:
    """Whoever is slower finds it done."""
    with ThreadPoolExecutor(4) as pool:
        done: Sequence[list[str]] = list(pool.map(lambda _: apply(catalog(stripe, STANDARD)), range(4)))
    assert catalog(stripe, STANDARD).difference().steps == []
    held = everything(stripe)
    assert [sum(each["object"] == kind for each in held) for kind in ("billing.meter", "product", "price")] == [4, 5, 5]
    assert sorted(step for steps in done for step in steps) == sorted({step for steps in done for step in steps})

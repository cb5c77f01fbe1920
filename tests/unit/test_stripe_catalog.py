"""Products and prices of the local Stripe, and what a quantity costs by them, driven with the official SDK."""

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any, cast

import pytest
from stripe import InvalidRequestError, RequestsClient, StripeClient

from infra.local.stripe.price import Package, Price, Recurring, Tier
from infra.local.stripe.server import LocalStripe

NOW = 1_795_327_800  # 2026-11-22T06:10:00Z


@pytest.fixture
def client() -> Iterator[StripeClient]:
    """A client of an account with a meter and a product."""
    with LocalStripe(now=lambda: NOW) as stripe, closing(RequestsClient()) as http_client:
        client = StripeClient(stripe.api_key, base_addresses={"api": stripe.url}, http_client=http_client)
        client.v1.billing.meters.create(
            {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
        )
        client.v1.products.create({"id": "prod_calls", "name": "Calls", "metadata": {"metric": "calls"}})
        yield client


def create_price(client: StripeClient, **more: Any) -> Any:
    """Create a monthly metered price."""
    meter = client.v1.billing.meters.list().data[0].id
    params: Any = {"currency": "usd", "product": "prod_calls"}
    params["recurring"] = {"interval": "month", "usage_type": "metered", "meter": meter}
    return client.v1.prices.create(params | more)


def test_a_product_is_changed_and_archived(client: StripeClient) -> None:
    """Metadata is merged; an archived product is listed as inactive."""
    client.v1.products.update("prod_calls", {"metadata": {"by": "us"}, "active": False, "description": "API calls"})
    product = client.v1.products.retrieve("prod_calls")
    assert (product.active, product.description) == (False, "API calls")
    assert product.metadata.to_dict() == {"metric": "calls", "by": "us"}
    assert [each.id for each in client.v1.products.list({"active": False})] == ["prod_calls"]
    assert list(client.v1.products.list({"active": True})) == []
    with pytest.raises(InvalidRequestError, match="Product already exists"):
        client.v1.products.create({"id": "prod_calls", "name": "Again"})


def test_an_amount_is_an_integer_or_a_decimal(client: StripeClient) -> None:
    """`unit_amount` is null where it has decimals, `unit_amount_decimal` is always there."""
    fine, plain = create_price(client, unit_amount_decimal=Decimal("0.0400")), create_price(client, unit_amount=200)
    assert (fine.unit_amount, fine.unit_amount_decimal) == (None, Decimal("0.04"))
    assert (plain.unit_amount, plain.unit_amount_decimal) == (200, Decimal(200))


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({}, "Missing required param: unit_amount"),
        ({"unit_amount": 1, "unit_amount_decimal": Decimal(1)}, "only specify one"),
        ({"unit_amount": -1}, "greater than or equal to 0"),
        ({"unit_amount_decimal": Decimal("0.0000000000001")}, "12 decimal places"),
        ({"unit_amount": 1, "tiers_mode": "volume"}, "billing_scheme=tiered"),
        ({"billing_scheme": "tiered", "tiers_mode": "volume"}, "billing_scheme=tiered"),
        ({"billing_scheme": "tiered", "tiers": [{"up_to": "inf", "unit_amount": 1}]}, "tiers_mode"),
        ({"unit_amount": 1, "recurring": {"interval": "month", "usage_type": "metered"}}, "backed by a meter"),
        ({"unit_amount": 1, "recurring": {"interval": "month", "meter": "mtr_x"}}, "usage_type is metered"),
        ({"unit_amount": 1, "recurring": {"interval": "month", "interval_count": 37}}, "interval_count"),
        ({"unit_amount": 1, "product": "prod_none"}, "No such product"),
        ({"unit_amount": 1, "surprise": "1"}, "unknown parameter: surprise"),
        ({"unit_amount": 1, "transform_quantity": {"divide_by": 0, "round": "up"}}, "at least 1"),
    ],
)
def test_a_price_that_cannot_be_is_refused(client: StripeClient, params: dict[str, Any], complaint: str) -> None:
    """With what is wrong."""
    with pytest.raises(InvalidRequestError, match=complaint):
        create_price(client, **params)


@pytest.mark.parametrize(
    ("tiers", "complaint"),
    [
        ([{"up_to": 10, "unit_amount": 1}], "up_to=inf"),
        ([{"up_to": "inf", "unit_amount": 1}, {"up_to": "inf", "unit_amount": 1}], "up_to=inf"),
        ([{"up_to": 10, "unit_amount": 1}, {"up_to": 10, "unit_amount": 1}, {"up_to": "inf"}], "greater than 10"),
        ([{"up_to": "inf"}], "at least one"),
    ],
)
def test_tiers_ascend_to_infinity(client: StripeClient, tiers: list[Any], complaint: str) -> None:
    """Each with an amount."""
    with pytest.raises(InvalidRequestError, match=complaint):
        create_price(client, billing_scheme="tiered", tiers_mode="graduated", tiers=tiers)


def test_tiers_are_shown_where_they_are_expanded(client: StripeClient) -> None:
    """Not otherwise, as at Stripe."""
    tiers = [{"up_to": 10, "flat_amount": 500}, {"up_to": "inf", "unit_amount_decimal": "0.5"}]
    price = create_price(client, billing_scheme="tiered", tiers_mode="graduated", tiers=tiers)
    assert "tiers" not in price.to_dict()
    for shown in (
        client.v1.prices.retrieve(price.id, {"expand": ["tiers"]}),
        client.v1.prices.list({"expand": ["data.tiers"]}).data[0],
    ):
        assert shown.tiers is not None
        assert [(tier.up_to, tier.flat_amount, tier.unit_amount_decimal) for tier in shown.tiers] == [
            (10, 500, None),
            (None, None, Decimal("0.5")),
        ]
    with pytest.raises(InvalidRequestError, match="cannot be expanded"):
        client.v1.prices.retrieve(price.id, {"expand": ["tears"]})


def test_a_lookup_key_is_transferred_on_demand(client: StripeClient) -> None:
    """It belongs to one price; amounts do not change."""
    first = create_price(client, unit_amount=1, lookup_key="calls")
    with pytest.raises(InvalidRequestError, match="already uses that lookup key"):
        create_price(client, unit_amount=2, lookup_key="calls")
    second = create_price(client, unit_amount=2, lookup_key="calls", transfer_lookup_key=True)
    client.v1.prices.update(first.id, {"active": False, "nickname": "old"})
    assert [price.id for price in client.v1.prices.list({"lookup_keys": ["calls"]})] == [second.id]
    assert [price.id for price in client.v1.prices.list({"active": True, "product": "prod_calls"})] == [second.id]
    assert client.v1.prices.retrieve(first.id).lookup_key is None
    with pytest.raises(InvalidRequestError, match="unknown parameter: unit_amount"):
        client.v1.prices.update(first.id, cast("Any", {"unit_amount": 3}))


def price(
    unit: str = "0", *, tiers: tuple[Tier, ...] = (), mode: str | None = None, package: Package | None = None
) -> Price:
    """Make a price to reckon with."""
    return Price(
        id="price_1",
        created=NOW,
        currency="usd",
        product="prod_calls",
        name="Calls",
        recurring=Recurring("month", 1, "mtr_1", "metered"),
        billing_scheme="tiered" if tiers else "per_unit",
        unit_amount=None if tiers else Decimal(unit),
        tiers=tiers,
        tiers_mode=mode,
        package=package,
        tax_behavior="unspecified",
    )


TIERS = (
    Tier(1_000, Decimal(0), Decimal(2_500)),
    Tier(5_000, Decimal("0.5"), None),
    Tier(None, Decimal("0.1"), Decimal(100)),
)


@pytest.mark.parametrize(
    ("quantity", "charges"),
    [
        (0, [(0, 0), (0, 2_500)]),
        (1_000, [(1_000, 0), (0, 2_500)]),
        (1_001, [(1_000, 0), (0, 2_500), (1, 1)]),
        (5_004, [(1_000, 0), (0, 2_500), (4_000, 2_000), (4, 0), (0, 100)]),
    ],
)
def test_a_graduated_price_charges_each_tier_that_is_reached(quantity: int, charges: list[tuple[int, int]]) -> None:
    """By line (quantity, amount): half a cent is rounded up, 0.4 down, a flat amount is a line of its own."""
    found = price(tiers=TIERS, mode="graduated").charges(quantity)
    assert [(charge.quantity, charge.amount) for charge in found] == charges


@pytest.mark.parametrize(
    ("quantity", "charges"),
    [(1_000, [(1_000, 0), (0, 2_500)]), (5_000, [(5_000, 2_500)]), (6_000, [(6_000, 600), (0, 100)])],
)
def test_a_volume_price_charges_all_by_one_tier(quantity: int, charges: list[tuple[int, int]]) -> None:
    """The one that the whole quantity falls into."""
    found = price(tiers=TIERS, mode="volume").charges(quantity)
    assert [(charge.quantity, charge.amount) for charge in found] == charges


@pytest.mark.parametrize(("rounding", "amount"), [("up", 600), ("down", 400)])
def test_a_package_is_priced_per_started_or_per_full_one(rounding: str, amount: int) -> None:
    """2,001 calls in packages of 1,000; the line keeps the quantity itself."""
    [charge] = price("200", package=Package(1_000, rounding)).charges(2_001)
    assert (charge.quantity, charge.amount) == (2_001, amount)


def test_the_arithmetic_is_exact() -> None:
    """Fifteen digits times twelve places."""
    [charge] = price("0.000000000001").charges(999_999_999_999_999)
    assert charge.amount == 1_000
    [charge] = price("0.1").charges(999_999_999_999_995)
    assert charge.amount == 100_000_000_000_000

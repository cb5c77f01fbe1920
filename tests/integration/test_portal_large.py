"""Every figure of the customers' API of a customer who uses 10^12 of each metric in an hour: exact, in any currency."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.operate.catalog import Catalog
from infra.operate.customers import Customers
from infra.operate.subscribing import Subscriber, Wishes
from metering.model.limits import Limit, Notify, Spend, Stop
from metering.model.metrics import Max, Sum
from metering.model.prices import Flat, Graduated, Package, PerUnit, Plan, Tier, Volume
from metering.model.subscribed import Subscribed
from metering.portal.answers import LimitsAnswer, UsageAnswer
from metering.portal.money_answers import InvoiceAnswer
from metering.portal.tokens import Right
from metering.stores import aws as clients
from metering.stores.limits import LimitItems
from tests.doubles.aws import Client, Nobody
from tests.doubles.clock import Clock
from tests.integration.portal import Portal, opened
from tests.integration.world import HOUR, World

MOST = 10**12
METRICS = (
    Sum(name="bytes", of="response_length", by="resource"),
    Sum(name="units", of="response_length", scale=0),
    Sum(name="tokens", of="authorizer.tokens", scale=3),
    Max(name="peak", of="authorizer.tokens", scale=3),
)
LIMITS = (Limit("tokens", 10**15, at=(Notify(80), Stop(100))), Spend(10**15, at=(Notify(50),), customer_may_stop=True))
TIERS = (Tier(up_to=10, amount=2, flat=7), Tier(amount="0.000000000001"))


@pytest.fixture
def clock() -> Clock:
    """One clock for the world and Stripe."""
    return Clock(HOUR.start + timedelta(minutes=40))


@pytest.fixture
def stripe_time(clock: Clock) -> Clock:
    """The world's."""
    return clock


@pytest.fixture(params=["usd", "jpy", "kwd"])
def portal(
    request: pytest.FixtureRequest,
    world: World,
    limits_template: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Portal]:
    """A customer that has used as much as one record may hold, by two keys in this hour, and is subscribed."""
    prices = (
        Flat(amount=99_999_999),
        Graduated(metric="bytes", tiers=TIERS),
        Volume(metric="units", tiers=TIERS),
        PerUnit(metric="tokens", amount="99999999.999999999999"),
        Package(metric="peak", size=7, amount="0.5"),
    )
    plan = Plan(name="standard", title="Standard", currency=request.param, prices=prices, limits=LIMITS)
    world.bill(*METRICS)
    world.customer("acme", "key1", "key2")
    functions = Client("lambda", Nobody())
    functions.before.append(lambda *_: {"StatusCode": 202})
    monkeypatch.setattr(clients, "functions", cache(lambda: functions))
    with opened(world, limits_template, monkeypatch, tmp_path, metrics=METRICS, plans=(plan,), limits=True) as made:
        catalog = Catalog(world.meters(), ("bytes", "units", "tokens", "peak"), (plan,))
        catalog.apply(lambda _: None)
        who = world.ledger.holders.customers(["acme"])["acme"]
        subscriber = Subscriber(world.meters(), catalog, Customers(world.ledger, world.counters))
        subscriber.subscribe(who, "standard", Wishes(email="billing@acme.example"), now=world.now)
        begin, end = int(HOUR.start.timestamp()), int((HOUR.start + timedelta(days=30)).timestamp())
        subscribed = Subscribed(
            begin,
            "cus_acme",
            "active",
            begin,
            plans=("standard",),
            currency=request.param,
            interval="month",
            anchor=begin,
            begin=begin,
            end=end,
            prices=tuple(msgspec.json.encode(price).decode() for price in prices),
        )
        LimitItems(world.ledger.client, world.ledger.table).subscribe("acme", subscribed)
        at = str(int(world.now.timestamp() * 1000))
        amounts = {"response_length": str(MOST), "authorizer.tokens": "1000000000.000"}
        world.record(*(world.line(time=at, key=key, **amounts) for key in ("key1", "key2")))
        yield made


def test_usage_is_exact(portal: Portal) -> None:
    """By each period and dimension, as JSON and in a file for spreadsheets."""
    for by in ("hour", "day", "month"):
        for dimension in ("", "key", "resource"):
            shown = portal.get("/v1/usage", {"from": "2026-11-22", "by": by, "dimension": dimension}).json()
            UsageAnswer.model_validate(shown, strict=True)
            used: dict[str, int] = {}
            for line in shown["usage"]:
                used[line["metric"]] = used.get(line["metric"], 0) + line["quantity"]
            assert used == {"bytes": 2 * MOST, "units": 2 * MOST, "tokens": 2 * MOST, "peak": MOST}
    text = portal.get("/v1/usage", {"format": "csv"}).body.decode()
    assert {row["metric"]: row["quantity_decimal"] for row in csv.DictReader(io.StringIO(text))} == {
        "bytes": "2000000000000",
        "units": "2000000000000",
        "tokens": "2000000000.000",
        "peak": "1000000000.000",
    }


def test_what_it_costs_is_exact(portal: Portal) -> None:
    """So far, as a forecast with its range, and by Stripe, once it has all of it."""
    shown = portal.get("/v1/invoice").json()
    InvoiceAnswer.model_validate(shown, strict=True)
    amounts = {line["price"]: line["amount"] for line in shown["so_far"]["lines"]}
    assert amounts == {
        "base_fee": 99_999_999,
        "bytes": 27 + 2,
        "units": 2,
        "tokens": 199_999_999_999_999_999_998,
        "peak": 71_428_571_429,
    }
    forecast = shown["forecast"]
    left = 30 * 24 * 3600 - 40 * 60
    assert {line["price"]: line["quantity"] for line in forecast["lines"]} == {
        "base_fee": 1,
        "bytes": 2 * MOST + 2 * MOST * left // 3600,
        "units": 2 * MOST + 2 * MOST * left // 3600,
        "tokens": 2 * MOST + 2 * MOST * left // 3600,
        "peak": MOST + MOST * left // 3600,
    }
    assert forecast["low"] == shown["so_far"]["total"] < forecast["total"] <= forecast["high"]


def test_limits_and_budgets_are_exact(portal: Portal) -> None:
    """Money and quantities; a budget may be as large as any amount."""
    assert portal.get("/v1/prices").status == portal.get("/v1/invoices").status == 200
    shown = portal.get("/v1/limits").json()
    LimitsAnswer.model_validate(shown, strict=True)
    tokens = next(one for one in shown["limits"] if one["metric"] == "tokens")
    assert (tokens["used"], tokens["remaining"]) == (2 * MOST, 10**15 - 2 * MOST)
    spend = next(one for one in shown["limits"] if one["metric"] == "spend")
    assert spend["used"] == 200_000_000_071_528_571_457
    token = portal.token(may=[Right.BUDGET])
    body = json.dumps({"notify": 10**14, "stop": 10**15 - 1})
    headers = {"content-type": "application/json"}
    answer = portal.call("PUT", "/v1/budget", token=token, headers=headers, body=body)
    assert (answer.status, answer.json()["stop"]) == (200, 10**15 - 1), answer.body

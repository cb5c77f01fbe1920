"""The API against its own OpenAPI document, by schemathesis: generated requests, in this process."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from metering.model.limits import Limit, Notify, Spend, Stop
from metering.model.metrics import Count, Sum
from metering.model.prices import Flat, Graduated, Package, PerUnit, Plan, Price, Tier, Volume
from metering.model.subscribed import Subscribed
from metering.portal.api import QUERIES
from metering.portal.tokens import Right, Use
from metering.stores import aws as clients
from metering.stores.limits import LimitItems
from tests.doubles.aws import Client, Nobody
from tests.integration.portal import IAM, Portal, opened
from tests.integration.world import World

LIMITS = (Limit("requests", 1, at=(Notify(80), Stop(100))), Spend(100, customer_may_stop=True))
METRICS = (Count(name="requests", by="resource"), Sum(name="bytes", of="response_length"))
TIERS = (Tier(up_to=10, amount=2, flat=7), Tier(amount="0.5"))
PRICES: tuple[Price, ...] = (
    Flat(amount=4900, included={"requests": 2}),
    PerUnit(metric="requests", amount="1.5"),
    Graduated(metric="requests", tiers=TIERS),
    Volume(metric="bytes", tiers=TIERS),
    Package(metric="bytes", size=100, amount=3),
)
PLANS = (Plan(name="every_kind", title="Of every kind", currency="usd", prices=PRICES, limits=LIMITS),)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
OPERATIONS = (
    "GET /v1/usage",
    "GET /v1/invoice",
    "GET /v1/invoices",
    "GET /v1/prices",
    "GET /v1/limits",
    "PUT /v1/budget",
    "POST /v1/links",
    "POST /v1/session",
)

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@pytest.fixture
def portal(
    world: World, limits_template: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Portal]:
    """The API of a deployment with some usage."""
    world.customer("acme", "key1")
    world.record(world.line(), world.line())
    items = LimitItems(world.ledger.client, world.ledger.table)
    items.subscribe("acme", Subscribed(1, "cus_acme", "active", 1, plans=("every_kind",), currency="usd"))
    monkeypatch.setattr(clients, "functions", cache(lambda: Client("lambda", Nobody())))
    functions: Any = clients.functions()
    functions.before.append(lambda *_: {"StatusCode": 202})
    with opened(world, limits_template, monkeypatch, tmp_path, metrics=METRICS, plans=PLANS, limits=True) as made:
        yield made


def served(portal: Portal) -> Wsgi:
    """Return the API as a WSGI application, which is what schemathesis calls; every caller has a right to call."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        headers = {name[5:].replace("_", "-"): text for name, text in environ.items() if name.startswith("HTTP_")}
        if environ.get("CONTENT_TYPE"):
            headers["content-type"] = environ["CONTENT_TYPE"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode(errors="replace")
        query: dict[str, str] = {}
        for name, text in parse_qsl(environ["QUERY_STRING"], keep_blank_values=True):
            query[name] = f"{query[name]},{text}" if name in query else text  # as API Gateway joins them
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        got = portal.call(method, path, query, token="", headers=headers, body=body or None, authorizer=IAM)
        start(f"{got.status} {HTTPStatus(got.status).phrase}", list(got.headers.items()))
        return [got.body]

    return answer


def test_the_document_describes_every_path(portal: Portal) -> None:
    """In OpenAPI 3.1, with how a caller is known."""
    found = portal.get("/v1/openapi.json", token="").json()
    assert found["openapi"] == "3.1.0"
    assert found["servers"] == [{"url": "https://a1b2c3.execute-api.us-east-1.amazonaws.com"}]
    operations = {
        f"{method.upper()} {path}": one for path, methods in found["paths"].items() for method, one in methods.items()
    }
    assert sorted(operations) == sorted((*OPERATIONS, "GET /v1/openapi.json"))
    assert operations["GET /v1/usage"]["security"] == [{"portalToken": []}]
    assert operations["POST /v1/session"]["security"] == [{"linkToken": []}]
    assert operations["POST /v1/links"]["security"] == [{"aws": []}]
    names = [one["name"] for one in operations["GET /v1/usage"]["parameters"]]
    assert names == ["from", "to", "by", "metric", "dimension", "format"]
    told = {name[4:]: [one["name"] for one in operations[name].get("parameters", [])] for name in operations}
    assert {path: names for path, names in told.items() if names} == {path: [*one] for path, one in QUERIES.items()}
    assert all("400" in operation["responses"] for operation in operations.values())


def test_the_document_describes_what_a_price_asks(portal: Portal) -> None:
    """By its kind, in every answer that tells of prices; and the unit of what is measured."""
    found = portal.get("/v1/openapi.json", token="").json()["components"]["schemas"]
    kinds = {
        "flat": "#/components/schemas/FlatTerms",
        "graduated": "#/components/schemas/TieredTerms",
        "package": "#/components/schemas/PackageTerms",
        "per_unit": "#/components/schemas/PerUnitTerms",
        "volume": "#/components/schemas/TieredTerms",
    }
    for answer in ("InvoiceLine", "PriceAnswer"):
        assert "terms" in found[answer]["required"]
        assert found[answer]["properties"]["terms"]["discriminator"] == {"propertyName": "kind", "mapping": kinds}
    assert found["PlanAnswer"]["properties"]["prices"]["items"] == {"$ref": "#/components/schemas/PriceAnswer"}
    assert sorted(found["PackageTerms"]["required"]) == ["amount", "interval", "kind", "size"]
    assert sorted(found["TierTerms"]["required"]) == ["amount", "flat", "up_to"]
    assert "unit" in found["MetricAnswer"]["required"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_whatever_is_asked_is_answered_as_the_document_says(
    portal: Portal, operation: str, mode: GenerationMode
) -> None:
    """No request makes it fail, no answer is of another form, and what the document rules out is refused."""
    schema = schemathesis.openapi.from_wsgi("/v1/openapi.json", served(portal))
    operations = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    found = next(one for one in operations if one.label == operation)
    if mode is GenerationMode.NEGATIVE and not (found.query or found.body):
        return  # nothing that could be wrong

    @given(case=found.as_strategy(generation_mode=mode))
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def ask(case: Any) -> None:
        assume(set(case.query or {}) <= {parameter.name for parameter in found.query})  # no document rules out more
        use = Use.LINK if operation == "POST /v1/session" else Use.SESSION
        case.call_and_validate(
            checks=CHECKS, headers={"Authorization": f"Bearer {portal.token(use=use, may=[Right.BUDGET])}"}
        )

    ask()

"""What the customers' API says of itself: its OpenAPI document, and what is declared."""

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.event_handler.openapi.models import HTTPBase, HTTPBearer, Server

from metering.model.metrics import Count, Max, Metric, Sum, meters_of, unit_of
from metering.model.prices import Plan, decimals_of
from metering.portal.answers import LinkAnswer, Problem, SessionAnswer, UsageAnswer
from metering.portal.bounds import Bounds
from metering.portal.charges import terms_of
from metering.portal.reading import BY_KEY


def may_answer(answer: Any, *statuses: HTTPStatus, media: str = "application/json") -> Any:
    """Return an operation's answers for the OpenAPI document; ``statuses`` are problems."""
    good = HTTPStatus.CREATED if answer in (LinkAnswer, SessionAnswer) else HTTPStatus.OK
    content: dict[str, Any] = {media: {"model": answer}}
    if answer is UsageAnswer:
        content["text/csv"] = {"schema": {"type": "string"}}
    return {int(good): {"description": good.phrase, "content": content}} | {
        int(status): {"description": status.phrase, "content": {"application/problem+json": {"model": Problem}}}
        for status in statuses
    }


def declared(declared_plans: Sequence[Plan], declared_metrics: Sequence[Metric]) -> str:
    """Return the plans and metrics as they are declared."""
    plans = [
        {
            "name": plan.name,
            "title": plan.title,
            "currency": plan.currency,
            "decimals": decimals_of(plan.currency),
            "interval": plan.interval,
            "prices": [msgspec.to_builtins(price) | {"terms": terms_of(price, plan.interval)} for price in plan.prices],
        }
        for plan in declared_plans
    ]
    metrics = [
        {
            "name": name,
            "kind": str(metric.__struct_config__.tag),
            "scale": metric.scale if isinstance(metric, Sum | Max) else 0,
            "unit": unit_of(metric),
            "dimension": metric.by if isinstance(metric, Count | Sum) and metric.by and not metric.meters else None,
        }
        for metric in declared_metrics
        for name in meters_of(metric).values()
    ]
    bounds = Bounds(declared_metrics)
    limits = {"hours": bounds.most_hours(), "hours_by_key": bounds.most_hours(dimension=BY_KEY)}
    return msgspec.json.encode({"plans": plans, "metrics": metrics, "limits": limits}).decode()


@lru_cache(maxsize=8)  # a wildcard domain has any number of names
def document(app: APIGatewayHttpResolver, url: str) -> str:
    """Return the OpenAPI document of the API at an address."""
    written = app.get_openapi_json_schema(
        title="Usage",
        version="1",
        openapi_version="3.1.0",
        description="What a customer used, and what it costs.",
        servers=[Server(url=url)],
        security_schemes={
            "portalToken": HTTPBearer(bearerFormat="JWT", description="What POST /v1/session answers."),
            "linkToken": HTTPBearer(bearerFormat="JWT", description="What stands behind '#' in a link."),
            "aws": HTTPBase(scheme="aws4-hmac-sha256", description="AWS Signature Version 4, for the operator."),
        },
    )
    document = msgspec.json.decode(written)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # what Powertools would answer itself is a 400 here
    return msgspec.json.encode(document).decode()

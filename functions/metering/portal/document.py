"""What the customers' API says of itself: its OpenAPI document, and what is declared."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.event_handler.openapi.models import HTTPBase, HTTPBearer, Server

from metering.model.metrics import Count, Max, Metric, Sum, titles_of, unit_of
from metering.model.prices import Plan, decimals_of
from metering.portal.answers import LinkAnswer, Problem, SessionAnswer, UsageAnswer
from metering.portal.bounds import Bounds
from metering.portal.charges import terms_of

PORTAL_TOKEN: Final[list[dict[str, list[str]]]] = [{"portalToken": []}]
"""What an operation says that wants a session's token."""


def may_answer(answer: Any, *statuses: HTTPStatus, media: str = "application/json") -> Any:
    """Return an operation's answers for the OpenAPI document; ``statuses`` are problems, as is any wrong parameter."""
    good = HTTPStatus.CREATED if answer in (LinkAnswer, SessionAnswer) else HTTPStatus.OK
    content: dict[str, Any] = {media: {"model": answer}}
    if answer is UsageAnswer:
        content["text/csv"] = {"schema": {"type": "string"}}
    return {int(good): {"description": good.phrase, "content": content}} | {
        int(status): {"description": status.phrase, "content": {"application/problem+json": {"model": Problem}}}
        for status in sorted({HTTPStatus.BAD_REQUEST, *statuses})
    }


def declared(plans: Sequence[Plan], metrics: Sequence[Metric], keys: Collection[str] | None) -> str:
    """Return the plans and metrics as they are declared, and what a customer with these keys may ask for at once."""
    shown_plans = [
        {
            "name": plan.name,
            "title": plan.title,
            "currency": plan.currency,
            "decimals": decimals_of(plan.currency),
            "interval": plan.interval,
            "prices": [msgspec.to_builtins(price) | {"terms": terms_of(price, plan.interval)} for price in plan.prices],
        }
        for plan in plans
    ]
    shown_metrics = [
        {
            "name": name,
            "kind": str(metric.__struct_config__.tag),
            "scale": metric.scale if isinstance(metric, Sum | Max) else 0,
            "title": title,
            "unit": unit_of(metric),
            "dimension": metric.by if isinstance(metric, Count | Sum) and metric.by and not metric.meters else None,
        }
        for metric in metrics
        for name, title in titles_of(metric).items()
    ]
    bounds = Bounds(metrics)
    limits = {"hours": bounds.sure_hours(), "hours_by_key": bounds.sure_hours(keys, by_key=True)}
    return msgspec.json.encode({"plans": shown_plans, "metrics": shown_metrics, "limits": limits}).decode()


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

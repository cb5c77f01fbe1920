"""What a REST API's own stack takes of limits: a slow lane, and answers that say why a call is refused."""

import json
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway

from metering.layout import LANE_NAME, LANE_TAG

REFUSALS: Final = {
    apigateway.ResponseType.INVALID_API_KEY: (
        403,
        "Forbidden",
        "This API key is not known here, or closed for now: by a limit, an unpaid invoice or the operator.",
    ),
    apigateway.ResponseType.THROTTLED: (
        429,
        "Too Many Requests",
        "Slow down: more is sent than this API key may send in a second, which may be less than usual near a limit.",
    ),
    apigateway.ResponseType.QUOTA_EXCEEDED: (
        429,
        "Too Many Requests",
        "The quota of this API key's usage plan is used up.",
    ),
}
"""What API Gateway says itself, with its status and in words (API Gateway Developer Guide, "Gateway response types").

That a key in no plan of the stage is answered as an invalid one is not documented, and was not seen on AWS yet.
"""

PROBLEM: Final = "'application/problem+json'"
"""As a header: API Gateway takes the template of ``application/json`` whatever a caller accepts."""


def slow_lane(api: apigateway.RestApi, deployment: str, *, rate: float, burst: int) -> apigateway.UsagePlan:
    """Return the plan into which slowed keys are moved, known by its tag, or by its name where tags are lost.

    In the API's own stack, so that the metering stack, which it needs, does not need it: that would be a circle.
    """
    if not (rate > 0 and burst >= 1):
        raise ValueError(
            f"a slow lane lets something through: rate must be above 0 and burst 1 or more, got {rate!r} "
            f"and {burst!r}. Stop(…) lets nothing through"
        )
    stage = api.deployment_stage
    lane = apigateway.UsagePlan(
        api,
        "SlowLane",
        name=f"{deployment}-{LANE_NAME}-{api.node.id}",
        description="Where metering moves the keys of customers who are slowed. Put none into it yourself.",
        throttle=apigateway.ThrottleSettings(rate_limit=rate, burst_limit=burst),
        api_stages=[apigateway.UsagePlanPerApiStage(api=api, stage=stage)],
    )
    cdk.Tags.of(lane).add(LANE_TAG, deployment)
    return lane


def explain_refusals(api: apigateway.RestApi, link: str) -> None:
    """Answer refused calls with a problem (RFC 9457) whose type is the ``link``, where people find out more."""
    for kind, (status, title, detail) in REFUSALS.items():
        problem = {"type": link, "title": title, "status": status, "detail": detail}
        wait = {"Retry-After": "'1'"} if kind.response_type == "THROTTLED" else {}
        api.add_gateway_response(
            f"Refusal{status}{kind.response_type.title().replace('_', '')}",
            type=kind,
            response_headers={"Content-Type": PROBLEM, **wait},
            templates={"application/json": json.dumps(problem)},
        )

"""What you bill for, and what is deployed: the file to edit."""

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from infra.stack import (
    STRIPE,
    AccessLog,
    Api,
    Count,
    Flat,
    Graduated,
    Limit,
    MeteringStack,
    Notify,
    Package,
    PerUnit,
    Plan,
    Road,
    SampleApi,
    SampleHttpApi,
    Spend,
    Stop,
    Sum,
    Tier,
    Unique,
)

METRICS = (
    Count(name="requests", by="resource"),
    Sum(name="response_bytes", of="response_length"),
    Sum(name="messages", of="authorizer.messages"),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)

# What a customer pays for it, in cents: 49 dollars a month with 1,000 messages, and what goes beyond.
PLANS = (
    Plan(
        name="standard",
        title="Standard",
        currency="usd",
        prices=(
            Flat(amount=4900, included={"messages": 1_000}),
            Graduated(
                metric="requests",
                tiers=(
                    Tier(up_to=10_000, amount=0),
                    Tier(up_to=1_000_000, amount="0.04"),
                    Tier(amount="0.02"),
                ),
            ),
            PerUnit(metric="messages", amount="0.5"),
            Package(metric="response_bytes", size=1_000_000, amount=2),
            PerUnit(metric="users", amount=25),
        ),
    ),
)

# With the context's limits=sample, how much a customer of any plan may use and spend in its period; in cents.
LIMITS = (
    Limit("requests", 200, at=(Notify(80), Stop(100))),
    Spend(20_000, at=(Notify(50), Notify(100)), customer_may_stop=True),
)


def build(app: cdk.App) -> cdk.App:
    """Add the stacks to ``app``, and the checks that fail its synthesis.

    The context may set ``road`` (``subscription`` or ``firehose``), ``api`` (``rest``, or ``http`` for the sample of an
    HTTP API with metrics and plans of its own, which takes tokens of ``issuer``), ``limits`` (``none``, or ``sample``
    for those above, of which ``alerts_from`` is an address that sends e-mail), ``log_role`` (``true`` makes the
    account's role by which API Gateway writes REST APIs' logs), ``local`` (``true`` bundles the functions for this
    machine, for the emulator) and ``stripe_api_base``. Raises ValueError for another road or API.
    """
    is_http = _chosen(app, "api", [Api.REST.value, Api.HTTP.value]) == Api.HTTP.value
    limits = LIMITS if _chosen(app, "limits", ["none", "sample"]) == "sample" else ()
    plans = SampleHttpApi.PLANS if is_http else PLANS
    metering = MeteringStack(
        app,
        "Metering",
        description="Usage metering: access logs to counters to Stripe.",
        metrics=SampleHttpApi.METRICS if is_http else METRICS,
        plans=[plan.with_limits(limits) for plan in plans],
        access_log=SampleHttpApi.ACCESS_LOG if is_http else AccessLog(),
        road=Road(_chosen(app, "road", [road.value for road in Road])),
        stripe_api_base=app.node.try_get_context("stripe_api_base") or STRIPE,
        alerts_from=app.node.try_get_context("alerts_from") or "",
        local=app.node.try_get_context("local") == "true",
    )
    if is_http:
        issuer = app.node.try_get_context("issuer")
        SampleHttpApi(app, "SampleHttpApi", metering=metering, **{"issuer": issuer} if issuer else {})
    else:
        SampleApi(app, "SampleApi", metering=metering, log_role=app.node.try_get_context("log_role") == "true")
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


def _chosen(app: cdk.App, name: str, choices: list[str]) -> str:
    """Return what the context says, or the first of the choices."""
    value = str(app.node.try_get_context(name) or choices[0])
    if value not in choices:
        raise ValueError(f"the context value {name} must be one of {choices}, got {value!r}")
    return value


if __name__ == "__main__":
    build(cdk.App()).synth()

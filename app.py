"""What you bill for, and what is deployed: the file to edit."""

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from infra.stack import (
    STRIPE,
    Count,
    Flat,
    Graduated,
    MeteringStack,
    Package,
    PerUnit,
    Plan,
    Road,
    SampleApi,
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


def build(app: cdk.App) -> cdk.App:
    """Add the stacks to ``app``, and the checks that fail its synthesis.

    The context may set ``road`` (``subscription`` or ``firehose``), ``local`` (``true`` bundles the functions for this
    machine, for the emulator) and ``stripe_api_base``. Raises ValueError for a road that there is not.
    """
    metering = MeteringStack(
        app,
        "Metering",
        description="Usage metering: access logs to counters to Stripe.",
        metrics=METRICS,
        plans=PLANS,
        road=_road(app.node.try_get_context("road") or Road.SUBSCRIPTION.value),
        stripe_api_base=app.node.try_get_context("stripe_api_base") or STRIPE,
        local=app.node.try_get_context("local") == "true",
    )
    SampleApi(app, "SampleApi", metering=metering)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


def _road(name: str) -> Road:
    roads = [road.value for road in Road]
    if name not in roads:
        raise ValueError(f"the context value road must be one of {roads}, got {name!r}")
    return Road(name)


if __name__ == "__main__":
    build(cdk.App()).synth()

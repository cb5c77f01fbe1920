"""What you bill for, and what is deployed: the file to edit."""

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from infra.sample_api import SampleApi
from infra.stack import STRIPE, MeteringStack
from metering.metrics import Count, Sum

METRICS = (
    Count(name="requests"),
    Sum(name="response_bytes", of="response_length"),
)


def build(app: cdk.App) -> cdk.App:
    """Add the stacks to ``app``, and the checks that fail its synthesis.

    The context may set ``local`` (``true`` bundles the functions for this machine, for the emulator) and
    ``stripe_api_base``.
    """
    metering = MeteringStack(
        app,
        "Metering",
        description="Usage metering: access logs to counters to Stripe.",
        metrics=METRICS,
        stripe_api_base=app.node.try_get_context("stripe_api_base") or STRIPE,
        local=app.node.try_get_context("local") == "true",
    )
    SampleApi(app, "SampleApi", metering=metering)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


if __name__ == "__main__":
    build(cdk.App()).synth()

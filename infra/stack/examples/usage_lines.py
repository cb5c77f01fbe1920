"""Usage that no gateway sees, reported by your own code: a worker logs one line for each job, and that is billed.

Whoever can write into the worker's log can bill anyone, so its role alone may.
"""

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from cdk_nag import AwsSolutionsChecks

from infra.stack import USAGE_LINES, MeteringStack, Sum

METRICS = (Sum(name="words", of=USAGE_LINES, deduplicate=True),)

WORKER = """
import json
from datetime import UTC, datetime

def handler(job, context):
    words = len(job["text"].split())
    now = datetime.now(UTC).isoformat()
    print(json.dumps({"usage": {"id": job["id"], "time": now, "customer": job["customer"], "words": words}}))
    return {"words": words}
"""
"""A job that runs again logs its id again, which ``deduplicate`` counts once. The job's text is never logged."""


class Worker(cdk.Stack):
    """A function that counts the words of a job; who starts it says whose job it is."""

    def __init__(self, scope: cdk.App, construct_id: str, *, metering: MeteringStack) -> None:
        super().__init__(scope, construct_id)
        log = logs.LogGroup(self, "Log", retention=logs.RetentionDays.THREE_MONTHS)
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log.grant_write(role)
        lambda_.Function(
            self,
            "CountWords",
            code=lambda_.Code.from_inline(WORKER.lstrip()),
            handler="index.handler",
            runtime=lambda_.Runtime.PYTHON_3_14,
            role=role,
            log_group=log,
        )
        # This is all that metering asks of your own code's log.
        metering.meter_usage_lines(log)


def build(app: cdk.App) -> cdk.App:
    """Add the stacks to ``app``, and the checks that fail its synthesis."""
    metering = MeteringStack(app, "Metering", metrics=METRICS)
    Worker(app, "Worker", metering=metering)
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


if __name__ == "__main__":
    build(cdk.App()).synth()

"""A deployment as an operator reaches it: the stack's outputs, and the tables, functions and secret they name."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, InvalidRegionError

from metering.claims import Claims
from metering.counters import Counters
from metering.ledger import Ledger
from metering.metrics import Metric, decode
from metering.set_aside import SetAside
from metering.stripe_meters import FORMULA, NO_KEY, WINDOW, StripeMeters, StripeNotConnectedError
from metering.uniques import Uniques

LAMBDA_TIMEOUT: Final = 300
"""Seconds that a function may run; a command that invokes one waits a little longer."""

METADATA: Final = "Metering"
"""Where the template's metadata hold what ``app.py`` declares, for which an output would be too small."""

FAILED_BATCHES: Final = "aws/lambda/async/"
"""Where Lambda puts an event whose every attempt failed (Lambda Developer Guide, "Capturing records of Lambda
asynchronous invocations"): ``aws/lambda/async/<function>/YYYY/MM/DD/…``."""

_CONFIG: Final = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=32,
)


class OperatorError(Exception):
    """What a command cannot do, as one sentence that says what to do next."""


@dataclass(frozen=True)
class Deployment:
    """A deployed metering stack, by its name and outputs; ``client`` makes boto3 clients for where it is."""

    client: Callable[..., Any]
    outputs: Mapping[str, str]
    stack: str = "Metering"

    @classmethod
    def find(cls, stack: str, session: boto3.Session, *, endpoint_url: str | None = None) -> "Deployment":
        """Find a stack in the session's account and Region, or at an endpoint.

        Raises OperatorError if there is no such stack, or it is none of ours.
        """
        client: Callable[..., Any] = partial(session.client, endpoint_url=endpoint_url, config=_CONFIG)
        try:
            found = client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            raise OperatorError(
                f"there is no stack {stack!r} in {session.region_name}: deploy it with 'cdk deploy {stack}', "
                "or name another with --stack, --region or --profile"
            ) from error
        except InvalidRegionError:
            raise
        except ValueError as error:  # botocore's answer to an endpoint that is no URL
            raise OperatorError(f"{error}: set AWS_ENDPOINT_URL to a URL, or to nothing") from error
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
        if not {"CountersTable", "LedgerTable"} <= outputs.keys():
            raise OperatorError(f"the stack {stack!r} is no metering stack: name yours with --stack")
        return cls(client, outputs, stack)

    @cached_property
    def counters(self) -> Counters:
        """The Counters table."""
        return Counters(self.client("dynamodb"), self.outputs["CountersTable"])

    @cached_property
    def uniques(self) -> Uniques:
        """In which hours a customer's distinct values count."""
        return Uniques(Claims(self.client("dynamodb"), self.outputs["CountersTable"]), self.ledger)

    @cached_property
    def set_aside(self) -> SetAside:
        """The bucket, as far as it holds what was set aside."""
        return SetAside(self.client("s3"), self.outputs["Bucket"])

    @cached_property
    def ledger(self) -> Ledger:
        """The Ledger table."""
        return Ledger(self.client("dynamodb"), self.outputs["LedgerTable"])

    @cached_property
    def declared(self) -> dict[str, Any]:
        """What ``app.py`` declared when the stack was deployed, from its template; OperatorError if that is too old."""
        found = self.client("cloudformation").get_template(StackName=self.stack)["TemplateBody"]
        template = json.loads(found) if isinstance(found, str) else found
        if METADATA not in template.get("Metadata", {}):
            raise OperatorError(f"the stack {self.stack!r} was deployed by an older version: deploy it again")
        return dict(template["Metadata"][METADATA])

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        """The metrics as ``app.py`` declares them."""
        return decode(json.dumps(self.declared["metrics"]))

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics that the deployment bills."""
        return self.outputs["Metrics"].split(",")

    def stripe(self, api_key: str | None = None) -> StripeMeters:
        """Return the deployment's meters at Stripe, with this key or the secret's."""
        return StripeMeters(
            (lambda _fresh: api_key) if api_key else (lambda _fresh: self._stripe_key()),
            self.outputs["Deployment"],
            self.outputs["StripeApiBase"],
        )

    def put_stripe_key(self, api_key: str) -> None:
        """Put the restricted key in the secret."""
        secrets = self.client("secretsmanager")
        secrets.put_secret_value(SecretId=self.outputs["StripeSecret"], SecretString=api_key)

    def invoke(self, function: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """Run the function that an output names, wait for it, and return its answer; OperatorError if it failed."""
        config = _CONFIG.merge(Config(read_timeout=LAMBDA_TIMEOUT + 20, retries={"total_max_attempts": 1}))
        name = self.outputs[function]
        lambda_client = self.client("lambda", config=config)
        answer = lambda_client.invoke(FunctionName=name, Payload=json.dumps(event).encode())
        payload = json.loads(answer["Payload"].read() or b"null")
        lambda_client.close()
        if "FunctionError" in answer:
            message = payload.get("errorMessage", payload) if isinstance(payload, dict) else payload
            raise OperatorError(f"the function {name} failed: {message}; its log group says more")
        return dict(payload)

    def close(self) -> dict[str, Any]:
        """Run ``close_periods`` now and return what it did."""
        return self.invoke("ClosePeriodsFunction", {})

    def _stripe_key(self) -> str:
        secrets = self.client("secretsmanager")
        try:
            return str(secrets.get_secret_value(SecretId=self.outputs["StripeSecret"])["SecretString"])
        except secrets.exceptions.ResourceNotFoundException as error:
            raise StripeNotConnectedError(NO_KEY) from error


def connect(deployment: Deployment, api_key: str) -> list[dict[str, Any]]:
    """Put a Stripe key in the secret and make the meters that are missing; return each meter and whether it was made.

    Nothing is changed if Stripe does not take the key, or a meter of ours exists that would bill wrongly.
    """
    stripe = deployment.stripe(api_key)
    there = stripe.meters()
    names = {metric: stripe.event_name(metric) for metric in deployment.metrics}
    wrong = [
        f"the meter {name} exists with the window {meter.window or 'none'!r} and the formula {meter.formula!r}"
        for name in names.values()
        if (meter := there.get(name)) and (meter.window, meter.formula) != (WINDOW, FORMULA)
    ]
    if wrong:
        raise OperatorError(
            f"{'; '.join(wrong)}; wanted are the window {WINDOW!r} and the formula {FORMULA!r}. A meter cannot be "
            "changed: deactivate it at Stripe, or deploy under another name. Nothing was changed"
        )
    deployment.put_stripe_key(api_key)
    missing = [metric for metric, name in names.items() if name not in there]
    for metric in missing:
        stripe.create_meter(metric)
    return [{"meter": name, "metric": metric, "made": metric in missing} for metric, name in names.items()]

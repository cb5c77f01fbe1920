"""A deployment as an operator reaches it: the stack's outputs, and the tables, functions and secret they name."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import ClientError, InvalidRegionError

from infra.operate.versions import first_up
from infra.outputs import LAMBDA_TIMEOUT, METADATA, Outputs
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Metric, decode
from metering.model.prices import Plan
from metering.model.prices import decode as decode_plans
from metering.model.read_allotment import ReadAllotment
from metering.stores.attribution import Attribution, Uniques
from metering.stores.changes import Changes
from metering.stores.claims import Claims
from metering.stores.connections import Connections
from metering.stores.counters import Counters
from metering.stores.lean_calls import call_leanly
from metering.stores.ledger import Ledger
from metering.stores.read_budget import ReadBudget
from metering.stores.set_aside import SetAside
from metering.stores.switch import PostingSwitch
from metering.stripe.client import (
    API_KEY,
    NO_KEY,
    WEBHOOK_SECRET,
    StripeNotConnectedError,
    is_sandbox_key,
    secret_values,
)
from metering.stripe.meters import StripeMeters

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

_CONFIG: Final = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=32,
)


OPERATOR_KEY: Final = "STRIPE_OPERATOR_KEY"
"""The environment variable of a Stripe key with the operator's rights, for stacks on AWS alone."""

_OPERATORS_NOT_TAKEN: Final = (
    f"Stripe does not take the operator's key: give a valid one by --operator-key or {OPERATOR_KEY}"
)


class OperatorError(Exception):
    """What a command cannot do, as one sentence that says what to do next; more lines are more arguments."""

    def __str__(self) -> str:
        """Return all lines."""
        return "\n".join(self.args)


LONGEST_REASON: Final = 200


def check_reason(reason: str) -> None:
    """Raise OperatorError unless somebody who reads a decision, perhaps the customer, is told why, in one line."""
    if not (len(reason) <= LONGEST_REASON and reason.isprintable() and reason.strip()):
        raise OperatorError(f"a reason is 1 to {LONGEST_REASON} printable characters, got {reason[:60]!r}")


@dataclass
class Deployment:
    """A deployed metering stack, by its name and outputs; ``client`` makes boto3 clients for where it is.

    ``embedded_at`` is the address of the embedded AWS, if it is deployed there, whose gateway is ``clock_back``;
    ``deployed_at`` when it was last deployed, if that is known; ``operator_key`` a Stripe key with the right to change
    things there, which is kept nowhere else.
    """

    client: Callable[..., Any]
    outputs: Outputs
    stack: str = "Metering"
    embedded_at: str | None = None
    clock_back: timedelta = timedelta(0)
    deployed_at: datetime | None = None
    operator_key: str = field(default="", repr=False)
    _known_key: str = field(default="", init=False, repr=False)
    _reading_key: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    @classmethod
    def find(
        cls,
        stack: str,
        session: boto3.Session,
        *,
        embedded_at: str | None = None,
        clock_back: timedelta = timedelta(0),
    ) -> "Deployment":
        """Find a stack in the session's account and Region, or in the embedded AWS at an address.

        Raises OperatorError if there is no such stack, it is none of ours, or it lacks an output.
        """
        client: Callable[..., Any] = partial(session.client, endpoint_url=embedded_at, config=_CONFIG)
        try:
            described = client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            raise OperatorError(
                f"there is no stack {stack!r} in {session.region_name}: deploy it with 'uv run cdk deploy {stack}', "
                "or name another with --stack, --region or --profile"
            ) from error
        except InvalidRegionError:
            raise
        except ValueError as error:  # botocore's answer to an endpoint that is no URL
            raise OperatorError(f"{error}: set AWS_ENDPOINT_URL to a URL, or to nothing") from error
        deployed_at = described.get("LastUpdatedTime") or described.get("CreationTime")
        return cls(client, _outputs(stack, described), stack, embedded_at, clock_back, deployed_at)

    def gateway_clock(self, now: datetime) -> datetime:
        """Return what the gateway's clock shows, by which a request has its hour: what begins with a request now.

        That of the embedded AWS is set back, while its functions close and post by the right time.
        """
        return now - self.clock_back

    def reachable(self, url: str) -> str:
        """Return where an address of an API's is reached; the embedded AWS serves each under a path of its own."""
        if self.embedded_at is None:
            return url
        address = urlsplit(url)
        api = (address.hostname or "").partition(".")[0]
        return f"{self.embedded_at}/_aws/execute-api/{api}/$default{address.path}"

    @cached_property
    def _tables(self) -> "DynamoDBClient":
        """The client of the tables: a report makes thousands of calls."""
        return call_leanly(self.client("dynamodb"))

    @cached_property
    def counters(self) -> Counters:
        """The Counters table."""
        return Counters(self._tables, self.outputs.counters_table)

    @cached_property
    def uniques(self) -> Uniques:
        """In which hours a customer's distinct values count."""
        return Uniques(Claims(self._tables, self.outputs.counters_table), self.ledger.holders)

    @cached_property
    def attribution(self) -> Attribution:
        """Who used what."""
        return Attribution(self.counters, self.uniques)

    @cached_property
    def set_aside(self) -> SetAside:
        """The bucket, as far as it holds what was set aside."""
        return SetAside(self.client("s3"), self.outputs.bucket)

    @cached_property
    def ledger(self) -> Ledger:
        """The Ledger table."""
        return Ledger(self._tables, self.outputs.ledger_table)

    @cached_property
    def connections(self) -> Connections:
        """The stages and log groups that somebody else deployed."""
        return Connections(self._tables, self.outputs.ledger_table)

    @cached_property
    def read_budget(self) -> ReadBudget:
        """What is left of the reads that Stripe allots."""
        allotment = ReadAllotment(int(self.outputs.stripe_reads_a_month))
        return ReadBudget(self._tables, self.outputs.ledger_table, allotment)

    @cached_property
    def declared(self) -> dict[str, Any]:
        """What ``app.py`` declared when the stack was deployed, from its template; OperatorError if that is too old."""
        found = self.client("cloudformation").get_template(StackName=self.stack)["TemplateBody"]
        template = json.loads(found) if isinstance(found, str) else found
        if METADATA not in template.get("Metadata", {}):
            raise OperatorError(f"the stack {self.stack!r} was deployed by an older version: deploy it again")
        return dict(template["Metadata"][METADATA])

    @property
    def access_log(self) -> AccessLog:
        """Which kind of API writes the access log, and who is billed; OperatorError if an older version deployed it."""
        written = self._declared("access_log")
        return AccessLog(Api(written["api"]), written.get("caller"))  # a template has no value for None

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        """The metrics as ``app.py`` declares them; OperatorError if another version deployed the stack."""
        try:
            return decode(json.dumps(self.declared["metrics"]))
        except msgspec.ValidationError as error:
            raise OperatorError(self._of_another_version()) from error

    @property
    def declared_plans(self) -> tuple[Plan, ...]:
        """The plans as ``app.py`` declares them; OperatorError if another version deployed the stack."""
        try:
            return decode_plans(json.dumps(self._declared("plans")))
        except msgspec.ValidationError as error:
            raise OperatorError(self._of_another_version()) from error

    def _of_another_version(self) -> str:
        do = first_up(self.outputs) or "deploy it again"
        return f"the stack {self.stack!r} was deployed by another version: {do}"

    def _declared(self, name: str) -> Any:
        if name not in self.declared:
            raise OperatorError(f"the stack {self.stack!r} was deployed by an older version: deploy it again")
        return self.declared[name]

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics that the deployment bills."""
        return self.outputs.metrics.split(",")

    def stripe(self, api_key: str | None = None) -> StripeMeters:
        """Return the deployment's meters at Stripe, with this key or the secret's."""
        return StripeMeters(
            (lambda _fresh: api_key) if api_key else (lambda fresh: self._stripe_key(fresh=fresh)),
            self.outputs.deployment,
            self.outputs.stripe_api_base,
        )

    def operators_stripe(self, functions_key: str = "") -> StripeMeters:
        """Return the deployment's meters at Stripe for who changes something there: with the operator's key, if any.

        Raises OperatorError if that is none, or of another mode than the functions' key: what is made in a sandbox is
        not there in live mode. The functions' is the one in the secret, if there is one, or the one that is given.
        """
        if not self.operator_key:
            return self.stripe(functions_key or None)
        checked_key(self.operator_key, OPERATOR_KEY)
        functions = functions_key or self._secret_values().get(API_KEY)
        modes = [_mode(key) for key in (self.operator_key, functions) if key]
        if len({*modes}) > 1:
            raise OperatorError(
                f"the operator's key is of {modes[0]}, the functions' of {modes[1]}: give two of one mode"
            )
        return replace(self.stripe(self.operator_key), not_taken=_OPERATORS_NOT_TAKEN)

    def put_stripe_key(self, api_key: str) -> None:
        """Put the restricted key in the secret."""
        self._put_secret(self._secret_values() | {API_KEY: api_key})
        self._known_key = api_key

    def has_signing_secret(self) -> bool:
        """Say whether there is a signing secret of Stripe's notifications, also beside the key, as it once was."""
        return bool(self._signing_secret() or self._secret_values().get(WEBHOOK_SECRET))

    def put_signing_secret(self, secret: str) -> None:
        """Put the signing secret of Stripe's notifications in its own, and take it from beside the key, if it is there.

        In this order, so that at no moment there is none.
        """
        self.client("secretsmanager").put_secret_value(SecretId=self.outputs.signing_secret, SecretString=secret)
        self._clear_former_signing_secret()

    def part_signing_secret(self) -> bool:
        """Take the signing secret from beside the key, where every function can read it; say whether it was there.

        It is put in its own first, unless there is one.
        """
        former = self._secret_values().get(WEBHOOK_SECRET)
        if former and not self._signing_secret():
            self.put_signing_secret(former)
        elif former:
            self._clear_former_signing_secret()
        return bool(former)

    def _clear_former_signing_secret(self) -> None:
        values = self._secret_values()
        if WEBHOOK_SECRET in values:
            self._put_secret({name: value for name, value in values.items() if name != WEBHOOK_SECRET})

    def _signing_secret(self) -> str:
        secrets = self.client("secretsmanager")
        try:
            own = secrets.get_secret_value(SecretId=self.outputs.signing_secret)["SecretString"]
        except secrets.exceptions.ResourceNotFoundException:
            return ""
        return str(own).strip()

    def _put_secret(self, values: Mapping[str, str]) -> None:
        text = json.dumps(values)
        self.client("secretsmanager").put_secret_value(SecretId=self.outputs.stripe_secret, SecretString=text)

    def _secret_values(self) -> dict[str, str]:
        secrets = self.client("secretsmanager")
        try:
            written = secrets.get_secret_value(SecretId=self.outputs.stripe_secret)["SecretString"]
        except secrets.exceptions.ResourceNotFoundException:
            return {}
        return secret_values(written)

    def invoke(self, function: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """Run a function, wait for it, and return its answer; OperatorError if it failed."""
        config = _CONFIG.merge(Config(read_timeout=LAMBDA_TIMEOUT + 20, retries={"total_max_attempts": 1}))
        lambda_client = self.client("lambda", config=config)
        answer = lambda_client.invoke(FunctionName=function, Payload=json.dumps(event).encode())
        payload = json.loads(answer["Payload"].read() or b"null")
        lambda_client.close()
        if "FunctionError" in answer:
            message = payload.get("errorMessage", payload) if isinstance(payload, dict) else payload
            raise OperatorError(f"the function {function} failed: {message}; its log group says more")
        return dict(payload)

    @cached_property
    def changes(self) -> Changes:
        """What stands beside the counters."""
        return Changes(self._tables, self.outputs.ledger_table, self.counters)

    @cached_property
    def switch(self) -> PostingSwitch:
        """What turns posting on."""
        return PostingSwitch(self._tables, self.outputs.ledger_table)

    def who(self) -> str:
        """Return the ARN of whoever calls, for the ledger."""
        return str(self.client("sts").get_caller_identity()["Arn"])

    def close(self) -> dict[str, Any]:
        """Close what is due now and post what is pending; return what was done."""
        closed = self.invoke(self.outputs.close_periods_function, {"post": False})
        return closed | self.post()

    def post(self) -> dict[str, Any]:
        """Post what is pending; wait for what a worker of the schedule is posting at the same time."""
        together: dict[str, Any] = self.invoke(self.outputs.post_usage_function, {})
        deadline = time.monotonic() + LAMBDA_TIMEOUT
        while together["leased"] and time.monotonic() < deadline:
            time.sleep(1)
            more = self.invoke(self.outputs.post_usage_function, {"shards": together["leased"]})
            for what in ("posted", "rejected", "held", "pending"):
                more[what] += together[what]
            together = more | {"reasons": dict(Counter(together["reasons"]) + Counter(more["reasons"]))}
        return together

    def _stripe_key(self, *, fresh: bool) -> str:
        """Return the key in the secret, which is read once; afresh if Stripe did not take what was read."""
        with self._reading_key:  # many threads ask for it at once
            if fresh or not self._known_key:
                self._known_key = self._secret_values().get(API_KEY, "")
            if not self._known_key:
                raise StripeNotConnectedError(NO_KEY)
            return self._known_key


def checked_key(key: str, name: str) -> str:
    """Return a Stripe key; raise OperatorError, which does not repeat it, for what is none."""
    if not re.fullmatch(r"[rs]k_[A-Za-z0-9_]+", key):
        raise OperatorError(f"a Stripe key is written rk_... (restricted) or sk_...; {name} is none")
    return key


def _mode(key: str) -> str:
    return "a sandbox" if is_sandbox_key(key) else "live mode"


def _outputs(stack: str, described: Mapping[str, Any]) -> Outputs:
    """Return the outputs of a stack as CloudFormation describes it; OperatorError if it is no such stack."""
    told = {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])}
    outputs = Outputs.read(told)
    if not outputs.is_metering:
        raise OperatorError(f"the stack {stack!r} is no metering stack: name yours with --stack")
    return outputs

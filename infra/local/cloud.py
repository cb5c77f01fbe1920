"""The whole deployment on this machine: embedded AWS, local Stripe, both stacks, and a gateway that logs."""

import base64
import fcntl
import gzip
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

import boto3
from rich.console import Console

from infra.local.aws.emulator import REPOSITORY, Emulator
from infra.local.aws.gateway import Gateway
from infra.local.aws.json_web_tokens import Issuer
from infra.local.stripe.server import LocalStripe
from infra.operate.catalog import Catalog
from infra.operate.connecting_stripe import connect
from infra.operate.deployment import Deployment, OperatorError
from infra.outputs import Outputs
from metering.model.log_format import Api

CLOCK_BACK: Final = timedelta(hours=2)
"""How far the gateway's clock is set back, so that the hour of each request is over and can be closed at once."""

_ANNOUNCEMENT: Final = REPOSITORY / ".metering" / "local.json"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a local cloud is, as ``metering local --json`` prints it."""

    aws_endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str
    api_url: str
    access_log_group: str
    stripe_api_base: str
    stripe_api_key: str
    clock_back_s: int = 0  # a version that is still running announced none

    def deployment(self, stack: str) -> Deployment:
        """Return the deployment there."""
        session = boto3.Session(
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=self.region,
        )
        back = timedelta(seconds=self.clock_back_s)
        return Deployment.find(stack, session, embedded_at=self.aws_endpoint_url, clock_back=back)


class Phases:
    """What a person waits for; ``elapsed_s`` says how long each phase took, by its name."""

    def __init__(self, say: Console) -> None:
        self._say = say
        self.elapsed_s: dict[str, float] = {}

    @contextmanager
    def time(self, doing: str, name: str) -> Iterator[None]:
        """Say what is being done while it is, and note how long it took."""
        with self.note(doing, name), self._say.status(doing):
            yield

    @contextmanager
    def note(self, doing: str, name: str) -> Iterator[None]:
        """Note how long something took that says itself what it does."""
        began = time.monotonic()
        yield
        self.elapsed_s[name] = round(time.monotonic() - began, 2)
        self._say.print(f"{doing}: {self.elapsed_s[name]:.1f} s", highlight=False)


@dataclass
class LocalCloud:
    """A running local cloud: the metering stack's outputs, the sample's, and the phases so far.

    ``issuer`` gives the tokens that an HTTP API asks for; a REST API asks for keys. The gateway's clock is ``back``;
    ``context`` is what the CDK app was given.
    """

    emulator: Emulator
    stripe: LocalStripe
    gateway: Gateway
    outputs: Outputs
    sample: Mapping[str, str]
    phases: Phases
    issuer: Issuer | None = None
    back: timedelta = CLOCK_BACK
    context: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> Address:
        """Where everything is."""
        return Address(
            aws_endpoint_url=self.emulator.endpoint_url,
            region=self.emulator.region,
            access_key_id=self.emulator.access_key_id,
            secret_access_key=self.emulator.secret_access_key,
            api_url=self.gateway.url,
            access_log_group=self.outputs.access_log_group,
            stripe_api_base=self.stripe.url,
            stripe_api_key=self.stripe.api_key,
            clock_back_s=int(self.back.total_seconds()),
        )

    @cached_property
    def deployment(self) -> Deployment:
        """The metering stack."""
        return self.address.deployment("Metering")

    def connect_stripe(self) -> None:
        """Put the local Stripe's key in the secret, and make the meters, products and prices."""
        connect(self.deployment, self.stripe.api_key)
        Catalog.of(self.deployment).apply(lambda _: None)

    def probe_subscriber(self) -> None:
        """Send ``record_usage`` the probe that CloudWatch Logs sends to a new subscription's function.

        The emulator sends none, and unpacks the zip anew for each delivery that meets no idle worker.
        """
        probe = {"messageType": "CONTROL_MESSAGE", "logGroup": "", "logStream": "", "logEvents": []}
        data = base64.b64encode(gzip.compress(json.dumps(probe).encode())).decode()
        self.deployment.invoke(self.outputs.record_usage_function, {"awslogs": {"data": data}})

    def add_api_key(self, name: str, *, plan: str) -> tuple[str, str]:
        """Make an API key on one of the sample's plans ("Standard", "Trial"); return its id and its value."""
        apigateway = self.emulator.client("apigateway")
        made = apigateway.create_api_key(name=name, enabled=True)
        plan_id = self.sample[f"{plan}Plan"]
        apigateway.create_usage_plan_key(usagePlanId=plan_id, keyId=made["id"], keyType="API_KEY")
        apigateway.close()
        return made["id"], made["value"]

    def let_send(self, address: str) -> None:
        """Have SES send e-mail from an address, and to all: a new account's sends to verified addresses alone."""
        ses = self.emulator.client("sesv2")
        ses.create_email_identity(EmailIdentity=address)
        account = {"MailType": "TRANSACTIONAL", "WebsiteURL": "https://example.com", "ProductionAccessEnabled": True}
        ses.put_account_details(**account)
        ses.close()

    def announce(self) -> None:
        """Let commands find this cloud with ``--local``; only :func:`alone`."""
        _announce(asdict(self.address))


@contextmanager
def alone() -> Iterator[None]:
    """Be the one cloud of this folder that commands find; raise OperatorError, before anything is begun, if one is.

    The lock ends with the process, however that ends.
    """
    _ANNOUNCEMENT.parent.mkdir(exist_ok=True)
    with _ANNOUNCEMENT.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            its = _read_announcement().get("pid", "")
            raise OperatorError(
                f"another 'metering local' or 'demo --page' runs from this folder, as process {its}: use it with "
                f"--local, or stop it first by Ctrl-C where it runs, or by 'kill {its}'"
            ) from None
        _announce({})
        try:
            yield
        finally:
            _ANNOUNCEMENT.unlink(missing_ok=True)


def _announce(address: Mapping[str, Any]) -> None:
    _ANNOUNCEMENT.write_text(json.dumps({"pid": os.getpid(), **address}))


@contextmanager
def start(
    *,
    road: str = "subscription",
    api: str = "rest",
    alerts_from: str | None = None,
    back: timedelta = CLOCK_BACK,
    say: Console,
) -> Iterator[LocalCloud]:
    """Start everything, deploy the app's stacks, and connect them to the local Stripe; stop it all at the end.

    ``road`` is the value of an :class:`infra.stack.ingest.Road`, ``api`` that of an
    :class:`metering.model.log_format.Api`. With ``alerts_from`` the sample's limits are deployed, too, whose e-mail
    comes from there. The gateway's clock is ``back``. ``say`` is told each phase and how long it took.
    """
    phases = Phases(say)
    with ExitStack() as running:
        with phases.time("starting the embedded AWS and Stripe", "start"):
            stripe = running.enter_context(LocalStripe())
            emulator = running.enter_context(Emulator())
            issuer = running.enter_context(Issuer()) if api == Api.HTTP.value else None
        with phases.time("deploying with the CDK", "deploy"):
            context = {"local": "true", "road": road, "api": api, "stripe_api_base": stripe.url, "log_role": "true"}
            if issuer:
                context["issuer"] = issuer.url
            if alerts_from:
                context |= {"limits": "sample", "alerts_from": alerts_from}
            told = emulator.deploy({}, context=context)
            outputs, sample = Outputs.read(told["Metering"]), told["SampleHttpApi" if issuer else "SampleApi"]
        with phases.time("connecting to Stripe", "connect"):
            if not issuer:
                _put_access_log(emulator, outputs, sample)
            gateway = running.enter_context(
                Gateway(
                    emulator,
                    api_id=sample["ApiId"],
                    stage=sample["StageName"],
                    clock=lambda: time.time() - back.total_seconds(),
                )
            )
            cloud = LocalCloud(emulator, stripe, gateway, outputs, sample, phases, issuer, back, context)
            cloud.connect_stripe()
            cloud.probe_subscriber()
        yield cloud


def _put_access_log(emulator: Emulator, outputs: Outputs, sample: Mapping[str, str]) -> None:
    """Give the REST sample's stage the access log that its deployed template has.

    The emulator's CloudFormation leaves a REST stage's ``AccessLogSetting`` out, and its API Gateway keeps it.
    """
    cloudformation, apigateway = emulator.client("cloudformation"), emulator.client("apigateway")
    body = cloudformation.get_template(StackName="SampleApi")["TemplateBody"]
    template = json.loads(body) if isinstance(body, str) else body
    resources = template["Resources"].values()
    (stage,) = [resource for resource in resources if resource["Type"] == "AWS::ApiGateway::Stage"]
    pages = cloudformation.get_paginator("list_exports").paginate()
    exports = {export["Name"]: export["Value"] for page in pages for export in page["Exports"]}
    here = f"{emulator.region}:{emulator.account_id}"
    settings = {
        "format": _resolved(stage["Properties"]["AccessLogSetting"]["Format"], exports),
        "destinationArn": f"arn:aws:firehose:{here}:deliverystream/{outputs.delivery_stream}"
        if outputs.delivery_stream
        else f"arn:aws:logs:{here}:log-group:{outputs.access_log_group}",
    }
    apigateway.update_stage(
        restApiId=sample["ApiId"],
        stageName=sample["StageName"],
        patchOperations=[
            {"op": "replace", "path": f"/accessLogSettings/{name}", "value": value} for name, value in settings.items()
        ],
    )
    cloudformation.close()
    apigateway.close()


def _resolved(value: Any, exports: Mapping[str, str]) -> Any:
    """Return what CloudFormation makes of a value, by those of its functions that a stage's format is written with."""
    match value:
        case {"Fn::Join": [between, parts]}:
            return between.join(_resolved(part, exports) for part in parts)
        case {"Fn::Select": [number, parts]}:
            return _resolved(parts, exports)[int(number)]
        case {"Fn::Split": [mark, text]}:
            return _resolved(text, exports).split(mark)
        case {"Fn::ImportValue": name}:
            return exports[name]
        case _:
            return value


def running() -> Address:
    """Return where the running ``metering local`` is; raise OperatorError if there is none."""
    announced = _read_announcement()
    if not _alive(announced):
        raise OperatorError("no 'metering local' is running from this folder: start one in another terminal")
    if "aws_endpoint_url" not in announced:
        raise OperatorError(f"'metering local' is still starting, as process {announced['pid']}: wait for its 'ready'")
    return Address(**{name: announced[name] for name in Address.__dataclass_fields__ if name in announced})


def _read_announcement() -> dict[str, Any]:
    try:
        return dict(json.loads(_ANNOUNCEMENT.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _alive(announced: Mapping[str, Any]) -> bool:
    if "pid" not in announced:
        return False
    try:
        os.kill(announced["pid"], 0)
    except (ProcessLookupError, PermissionError):  # gone, or its id is somebody else's now
        return False
    return True

"""Where the live tests deploy: the account of the environment, or the embedded AWS."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import boto3
from botocore.config import Config

from infra.local import npm
from infra.local.aws.emulator import Emulator
from infra.local.aws.gateway import Gateway
from infra.local.aws.json_web_tokens import Issuer
from infra.local.aws.websocket import SocketGateway
from infra.operate.deployment import Deployment

SUBJECT: Final = "live-subject"

Told = Mapping[str, str]
"""The outputs of the stack of the APIs."""


class Cloud(Protocol):
    """An account in a Region, with what is done there in one way and here in another."""

    account_id: str
    region: str
    is_aws: bool
    session: boto3.Session

    @property
    def partition(self) -> str:
        """How ARNs begin in the Region."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What the CDK CLI runs with."""

    @property
    def context(self) -> Mapping[str, str]:
        """What the app is told besides."""

    patience_s: float
    """For how long something is waited for that should come soon."""

    def client(self, service: str, config: Config | None = None) -> Any:
        """Return a client of a service."""

    def deployment(self, stack: str) -> Deployment:
        """Return a metering stack as an operator reaches it."""

    def use(self, told: Told) -> None:
        """Take note of a deployment: of addresses, and of what this cloud's CloudFormation leaves out."""

    def address(self, api: str, stage: str) -> str:
        """Return where an API's stage takes requests, without a slash at the end."""

    def socket(self, api: str, stage: str) -> str:
        """Return where a WebSocket API's stage takes connections."""

    def token(self, told: Told) -> str:
        """Return a JSON Web Token that the HTTP API takes."""

    def written(self) -> None:
        """Return once the lines of every request so far are on their way."""


@dataclass
class OnAws:
    """AWS, by the credentials and the Region of the environment."""

    session: boto3.Session
    account_id: str
    region: str
    environment: Mapping[str, str] = field(repr=False)  # it holds what the shell holds
    is_aws: bool = True
    context: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = 900.0  # "usually less than three minutes" is said of a log's lines, an hour of new metrics

    @property
    def partition(self) -> str:
        """How ARNs begin in the Region."""
        return self.session.get_partition_for_region(self.region)

    def client(self, service: str, config: Config | None = None) -> Any:
        """Return a client of a service."""
        made: Any = self.session.client(service, config=config)  # type: ignore[call-overload]
        return made

    def deployment(self, stack: str) -> Deployment:
        """Return a metering stack as an operator reaches it."""
        return Deployment.find(stack, self.session)

    def use(self, told: Told) -> None:
        """Take note of nothing: CloudFormation leaves nothing out."""

    def address(self, api: str, stage: str) -> str:
        """Return where an API's stage takes requests."""
        return f"https://{api}.execute-api.{self.region}.{self._suffix}/{stage}"

    def socket(self, api: str, stage: str) -> str:
        """Return where a WebSocket API's stage takes connections."""
        return f"wss://{api}.execute-api.{self.region}.{self._suffix}/{stage}"

    def token(self, told: Told) -> str:
        """Sign a user of the deployed pool in."""
        pool, password = told["Pool"], f"Aa1!{secrets.token_urlsafe(24)}"
        cognito = self.client("cognito-idp")
        existing = cognito.list_users(UserPoolId=pool, Filter=f'username = "{SUBJECT}"')["Users"]
        if not existing:
            cognito.admin_create_user(UserPoolId=pool, Username=SUBJECT, MessageAction="SUPPRESS")
        cognito.admin_set_user_password(UserPoolId=pool, Username=SUBJECT, Password=password, Permanent=True)
        answer = cognito.admin_initiate_auth(
            UserPoolId=pool,
            ClientId=told["PoolClient"],
            AuthFlow="ADMIN_USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": SUBJECT, "PASSWORD": password},
        )
        return str(answer["AuthenticationResult"]["IdToken"])

    def written(self) -> None:
        """Return at once: API Gateway tells nobody when it writes."""

    @property
    def _suffix(self) -> str:
        return "amazonaws.com.cn" if self.partition == "aws-cn" else "amazonaws.com"


@dataclass
class Embedded:
    """The embedded AWS, with a gateway in front of each stage that is called, since the emulator writes no lines."""

    emulator: Emulator
    issuer: Issuer
    session: boto3.Session
    running: ExitStack
    account_id: str = Emulator.account_id
    region: str = Emulator.region
    is_aws: bool = False
    partition: str = "aws"
    patience_s: float = 120.0
    _gateways: MutableMapping[tuple[str, str], Gateway] = field(default_factory=dict)
    _sockets: MutableMapping[tuple[str, str], SocketGateway] = field(default_factory=dict)

    @property
    def environment(self) -> Mapping[str, str]:
        """What the CDK CLI runs with."""
        return self.emulator.environment()

    @property
    def context(self) -> Mapping[str, str]:
        """What the app is told besides."""
        return {"local": "true", "issuer": self.issuer.url}

    def client(self, service: str, config: Config | None = None) -> Any:
        """Return a client of a service."""
        own = Config(proxies={}, max_pool_connections=50)
        made: Any = self.session.client(  # type: ignore[call-overload]
            service, endpoint_url=self.emulator.endpoint_url, config=own.merge(config) if config else own
        )
        return made

    def deployment(self, stack: str) -> Deployment:
        """Return a metering stack as an operator reaches it."""
        return Deployment.find(stack, self.session, embedded_at=self.emulator.endpoint_url)

    def use(self, told: Told) -> None:
        """Give each stage the access log that its template has; the emulator's CloudFormation leaves it out."""
        self._gateways.clear()
        self._sockets.clear()
        rest, http = self.client("apigateway"), self.client("apigatewayv2")
        for stage in ("Metered", "Plain"):
            settings = {"destinationArn": told[f"{stage}Destination"], "format": told[f"{stage}Format"]}
            operations = [
                {"op": "replace", "path": f"/accessLogSettings/{name}", "value": value}
                for name, value in settings.items()
            ]
            rest.update_stage(restApiId=told["RestId"], stageName=stage.lower(), patchOperations=operations)
        for api in ("Http", "Socket"):
            arn = f"arn:{self.partition}:logs:{self.region}:{self.account_id}:log-group:{told[f'{api}Log']}"
            http.update_stage(
                ApiId=told[f"{api}Id"],
                StageName="live",
                AccessLogSettings={"DestinationArn": arn, "Format": told[f"{api}Format"]},
            )

    def address(self, api: str, stage: str) -> str:
        """Return where a gateway takes requests for an API's stage."""
        if (api, stage) not in self._gateways:
            self._gateways[api, stage] = self.running.enter_context(Gateway(self.emulator, api_id=api, stage=stage))
        return self._gateways[api, stage].url

    def socket(self, api: str, stage: str) -> str:
        """Return where a gateway takes connections to an API's stage."""
        if (api, stage) not in self._sockets:
            gateway = SocketGateway(self.emulator, api_id=api, stage=stage)
            self._sockets[api, stage] = self.running.enter_context(gateway)
        return self._sockets[api, stage].socket

    def token(self, told: Told) -> str:  # noqa: ARG002  its issuer is here
        """Return a token of the issuer on this machine."""
        return self.issuer.token(SUBJECT, aud="live")

    def written(self) -> None:
        """Return once the gateways have put their lines."""
        for gateway in self._gateways.values():
            gateway.flush()
        for socket in self._sockets.values():
            socket.flush()


@contextmanager
def embedded() -> Iterator[Cloud]:
    """Start the embedded AWS."""
    with Emulator() as emulator, Issuer() as issuer, ExitStack() as running:
        session = boto3.Session(
            aws_access_key_id=emulator.access_key_id,
            aws_secret_access_key=emulator.secret_access_key,
            region_name=emulator.region,
        )
        yield Embedded(emulator, issuer, session, running)


class NoAccountError(Exception):
    """The environment names no account that could be deployed to; the message says what is missing."""


@contextmanager
def on_aws() -> Iterator[Cloud]:
    """Find AWS by the environment; NoAccountError if it has no credentials or no Region."""
    session = boto3.Session()
    if session.get_credentials() is None:
        raise NoAccountError("there are no AWS credentials in the environment")
    if session.region_name is None:
        raise NoAccountError("the environment names no Region: set AWS_REGION")
    identity = session.client("sts").get_caller_identity()
    region = {"AWS_REGION": session.region_name, "AWS_DEFAULT_REGION": session.region_name}
    environment = {**os.environ, **region, "PATH": npm.path()}
    yield OnAws(session, identity["Account"], session.region_name, environment)


def outputs(described: Mapping[str, Any]) -> dict[str, str]:
    """Return a stack's outputs, as DescribeStacks has them."""
    return {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])}


def fields(line: str) -> dict[str, Any]:
    """Return the fields of a line of an access log."""
    found: dict[str, Any] = json.loads(line, strict=False)
    return found

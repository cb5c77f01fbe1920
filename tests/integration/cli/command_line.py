"""What a user sees of a command, and a CloudFormation that knows the stacks that a test names."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import boto3

KEY = "sk_test_local"
CREATED = "2026-11-21T03:15:20.500Z"

AS_IT_WAS: dict[str, Any] = {
    "name": None,
    "customer": "acme",
    "excluded": None,
    "replaced": False,
    "valid_until": None,
    "access": "open",
    "reasons": [],
}
"""What is told of a key of acme's beside its id and hours, where nobody did anything to it."""

ON_A_DEPLOYMENT: dict[str, tuple[str, ...]] = {
    "customers add": ("acme", "--name", "Acme"),
    "customers list": (),
    "customers show": ("acme",),
    "customers remove": ("acme",),
    "customers import": (__file__,),
    "customers subscribe": ("acme", "standard"),
    "customers portal": ("acme",),
    "customers rotate-key": ("acme",),
    "customers suspend": ("acme",),
    "customers resume": ("acme",),
    "customers link": ("acme",),
    "customers alerts": ("acme",),
    "portal rotate-key": (),
    "limits set": ("acme", "requests", "--stop", "5", "--reason", "a runaway client"),
    "limits raise": ("acme", "requests", "--to", "5", "--reason", "a launch"),
    "limits clear": ("acme", "requests"),
    "limits list": (),
    "limits show": ("acme",),
    "limits measure": ("--url", "https://api.example.com/items"),
    "limits would": (),
    "top": ("--once",),
    "doctor": (),
    "connect": ("a1b2c3d4e5", "prod"),
    "connections": (),
    "connect-log": ("/app/jobs",),
    "disconnect": ("orders",),
    "restore": ("restored",),
    "keys list": (),
    "keys create": ("acme", "--plan", "Standard"),
    "keys name": ("key1", "CI"),
    "keys exclude": ("key1", "--reason", "health check"),
    "keys forget": ("key1",),
    "usage": (),
    "unbilled accept": ("acme", "--reason", "a gift"),
    "close": (),
    "recount": ("--all", "--hour", "2026-11-22T04"),
    "request": ("JKJaXmPLvHcESHA=", "--at", "2026-11-22T04:17:30Z"),
    "set-aside list": (),
    "set-aside show": ("0" * 24,),
    "set-aside redrive": ("--all",),
    "set-aside dismiss": ("0" * 24, "--reason", "not ours"),
    "stripe connect": (),
    "stripe plan": (),
    "stripe apply": (),
    "stripe webhook": (),
    "invoice": ("acme",),
    "posting on": (),
    "posting off": (),
    "posting status": (),
    "adjust": ("acme", "requests", "2026-11-22T04", "--to", "1", "--reason", "a mistake"),
    "adjustments list": (),
    "adjustments undo": ("acme", "requests", "2026-11-22T04", "0" * 16, "--reason", "a mistake"),
    "held list": (),
    "held carry": ("acme", "in_1", "requests", "--reason", "it was used"),
    "held leave": ("acme", "in_1", "requests", "--reason", "a package"),
    "rejected list": (),
    "rejected retry": ("--all",),
    "reconcile": (),
}
"""Each command that acts on a deployment, with what it needs."""


@dataclass(frozen=True)
class Result:
    """What a user sees of a command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return the one document on stdout of a command that succeeded."""
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)


Metering = Callable[..., Result]
"""Runs a command line."""


class CloudFormation(ThreadingHTTPServer):
    """A CloudFormation that knows stacks' outputs and templates, at an address of its own.

    moto's needs packages for every service that a template can name.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), DescribeStacks)
        self.stacks: dict[tuple[str, str], dict[str, str]] = {}
        self.templates: dict[str, dict[str, Any]] = {}

    def add(self, name: str, **outputs: str) -> None:
        """Make a stack in us-east-1."""
        self.stacks["us-east-1", name] = outputs


class DescribeStacks(BaseHTTPRequestHandler):
    """Answers as the Query API does (AWS CloudFormation API Reference, "DescribeStacks", "GetTemplate")."""

    def do_POST(self) -> None:
        """Answer a call: the Region is in its signature."""
        assert isinstance(self.server, CloudFormation)
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode(), keep_blank_values=True)
        region, name = self.headers["Authorization"].split("/")[2], asked["StackName"][0]
        told = self.server.stacks.get((region, name))
        if told is None:
            words = f"Stack with id {name} does not exist"
            status, body = 400, f"<ErrorResponse><Error><Code>ValidationError</Code><Message>{words}</Message></Error>"
            body += "</ErrorResponse>"
        elif asked["Action"] == ["GetTemplate"]:
            template = escape(json.dumps(self.server.templates.get(name, {})))
            status, body = 200, f"<GetTemplateResponse><GetTemplateResult><TemplateBody>{template}</TemplateBody>"
            body += "</GetTemplateResult></GetTemplateResponse>"
        else:
            members = "".join(
                f"<member><OutputKey>{key}</OutputKey><OutputValue>{value}</OutputValue></member>"
                for key, value in told.items()
            )
            status, body = 200, "<DescribeStacksResponse><DescribeStacksResult><Stacks><member>"
            body += f"<StackName>{name}</StackName><CreationTime>{CREATED}</CreationTime><Outputs>{members}</Outputs>"
            body += "</member></Stacks></DescribeStacksResult></DescribeStacksResponse>"
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def secret() -> str | None:
    """Return what is in the deployment's secret."""
    secrets: Any = boto3.client("secretsmanager")
    try:
        return str(secrets.get_secret_value(SecretId="stripe-secret")["SecretString"])
    except secrets.exceptions.ResourceNotFoundException:
        return None


def put_secret(**values: str) -> None:
    """Put values in the deployment's secret."""
    secrets: Any = boto3.client("secretsmanager")
    secrets.put_secret_value(SecretId="stripe-secret", SecretString=json.dumps(values))

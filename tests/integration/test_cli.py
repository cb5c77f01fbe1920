"""The command line as operators use it: arguments in; stdout, stderr and an exit code out."""

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import boto3
import msgspec
import pytest
import stripe as stripe_sdk
from botocore.exceptions import ClientError

from infra.cli import main as cli
from infra.local import cloud
from infra.operate.deployment import Deployment, OperatorError
from infra.outputs import METADATA
from metering.counting import payloads, redriving
from metering.model import metrics
from metering.model.prices import Flat, Package, PerUnit, Plan, encode
from metering.model.subjects import customer
from metering.stores.rows import shard_of
from metering.stripe import client as stripe_client
from tests.integration.lambdas import Clock, begin
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, World, envelope

KEY = "sk_test_local"

COMMANDS: list[tuple[str, ...]] = [
    ("demo",),
    ("local",),
    ("customers",),
    ("customers", "add"),
    ("customers", "list"),
    ("customers", "show"),
    ("customers", "import"),
    ("customers", "subscribe"),
    ("customers", "rotate-key"),
    ("customers", "suspend"),
    ("customers", "resume"),
    ("customers", "link"),
    ("portal",),
    ("portal", "rotate-key"),
    ("top",),
    ("doctor",),
    ("restore",),
    ("keys",),
    ("keys", "exclude"),
    ("usage",),
    ("close",),
    ("recount",),
    ("set-aside",),
    ("set-aside", "list"),
    ("set-aside", "show"),
    ("set-aside", "redrive"),
    ("stripe",),
    ("stripe", "connect"),
    ("stripe", "plan"),
    ("stripe", "apply"),
    ("stripe", "webhook"),
    ("invoice",),
    ("posting",),
    ("posting", "on"),
    ("posting", "off"),
    ("posting", "status"),
    ("adjust",),
    ("rejected",),
    ("rejected", "list"),
    ("rejected", "retry"),
    ("reconcile",),
]
WORKING = [
    ("customers", "add", "acme", "--name", "Acme"),
    ("customers", "list"),
    ("customers", "show", "acme"),
    ("customers", "subscribe", "acme", "standard"),
    ("customers", "rotate-key", "acme"),
    ("customers", "suspend", "acme"),
    ("customers", "resume", "acme"),
    ("customers", "link", "acme"),
    ("portal", "rotate-key"),
    ("top", "--once"),
    ("doctor",),
    ("restore", "restored"),
    ("keys", "exclude", "key1", "--reason", "health check"),
    ("usage",),
    ("close",),
    ("recount", "--all", "--hour", "2026-11-22T04"),
    ("set-aside", "list"),
    ("set-aside", "show", "0" * 24),
    ("set-aside", "redrive", "--all"),
    ("stripe", "connect"),
    ("stripe", "plan"),
    ("stripe", "apply"),
    ("stripe", "webhook"),
    ("invoice", "acme"),
    ("posting", "on"),
    ("posting", "off"),
    ("posting", "status"),
    ("adjust", "acme", "requests", "2026-11-22T04", "--to", "1", "--reason", "a mistake"),
    ("rejected", "list"),
    ("rejected", "retry", "--all"),
    ("reconcile",),
]
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


@pytest.fixture
def metering(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Metering:
    """Run a command line in an AWS environment that only the test sets."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "METERING_STACK", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def run(*arguments: str, stdin: str | bytes = "") -> Result:
        typed = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "argv", ["metering", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        assert "Traceback" not in said.err + said.out
        assert "\x1b" not in said.err + said.out, "colours are for a terminal"
        return Result(code, said.out, said.err)

    return run


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
        outputs = self.server.stacks.get((region, name))
        if outputs is None:
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
                for key, value in outputs.items()
            )
            status, body = 200, "<DescribeStacksResponse><DescribeStacksResult><Stacks><member>"
            body += f"<StackName>{name}</StackName><Outputs>{members}</Outputs>"
            body += "</member></Stacks></DescribeStacksResult></DescribeStacksResponse>"
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def cloudformation(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudFormation]:
    """An account with no stack."""
    del aws
    with CloudFormation() as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


@pytest.fixture
def deployed(world: World, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world as a stack with outputs; commands see the world's time."""
    outputs = {
        "CountersTable": "counters",
        "LedgerTable": "ledger",
        "StripeSecret": "stripe-secret",
        "StripeApiBase": world.stripe.url,
        "Deployment": "Metering",
        "Metrics": "requests,bytes",
        "ClosePeriodsFunction": "close-periods",
        "PostUsageFunction": "post-usage",
        "RecordUsageFunction": "record-usage",
        "Bucket": "bucket",
    }
    cloudformation.add("Metering", **outputs)
    boto3.client("secretsmanager").create_secret(Name="stripe-secret")
    monkeypatch.setattr("infra.cli.usage.now", world.clock)
    return world


def secret() -> str | None:
    """Return what is in the deployment's secret."""
    secrets: Any = boto3.client("secretsmanager")
    try:
        return str(secrets.get_secret_value(SecretId="stripe-secret")["SecretString"])
    except secrets.exceptions.ResourceNotFoundException:
        return None


# --- help and wrong use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(metering: Metering, command: tuple[str, ...], option: str) -> None:
    """On stdout, with how it is used; it needs no AWS environment."""
    result = metering(*command, option)
    assert (result.code, result.err) == (0, "")
    assert re.search(r"Usage: \S+ " + " ".join(command), result.out)


@pytest.mark.parametrize("command", WORKING, ids=" ".join)
def test_every_command_says_where_it_acts(metering: Metering, command: tuple[str, ...]) -> None:
    """One set of options for all."""
    words = [word for word in command if (*command[: command.index(word)], word) in COMMANDS]
    out = metering(*words, "--help").out
    for option in ("--json", "--stack", "--region", "--profile", "--local"):
        assert option in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("customers", "nonsense"),
        ("customers", "add"),
        ("customers", "add", "acme"),
        ("customers", "add", "acme", "--name", "Acme", "--from", "yesterday"),
        ("customers", "add", "acme", "--name", "Acme", "--from", "2026-13-01"),
        ("customers", "show"),
        ("customers", "subscribe", "acme"),
        ("customers", "subscribe", "acme", "standard", "--due", "0"),
        ("invoice",),
        ("customers", "import"),
        ("customers", "import", "no-such-file.csv"),
        ("customers", "import", "tests"),
        ("keys", "exclude", "key1"),
        ("usage", "--by", "week"),
        ("usage", "--from", "2026-11-22T05:30"),
        ("usage", "--from", "2026-11-22", "--to", "2026-11-22"),
        ("usage", "--from", "2026-11-23", "--to", "2026-11-22"),
        ("usage", "one", "two"),
        ("close", "--nonsense"),
        ("posting", "on", "--since", "yesterday"),
        ("adjust", "acme", "requests", "2026-11-22T05", "--reason", "neither"),
        ("adjust", "acme", "requests", "2026-11-22T05", "--to", "1", "--by", "1", "--reason", "both"),
        ("adjust", "acme", "requests", "2026-11-22T05", "--to", "1"),
        ("adjust", "acme", "requests", "05:30", "--to", "1", "--reason", "no hour"),
        ("rejected", "retry"),
        ("rejected", "retry", "acme", "--all"),
        ("reconcile", "one", "two"),
        ("demo", "--requests", "0"),
    ],
    ids=" ".join,
)
def test_wrong_use_exits_with_2(metering: Metering, arguments: tuple[str, ...]) -> None:
    """With a word on stderr and nothing on stdout, before AWS is asked anything."""
    result = metering(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Usage: " in result.err


def test_a_wrong_hour_is_told_how_one_is_written(metering: Metering) -> None:
    """UTC, whole hours or days."""
    err = " ".join(re.sub(r"[│╭╮╰╯─]", " ", metering("usage", "--from", "22.11.2026").err).split())
    assert "an hour is written 2026-11-22T05, a day 2026-11-22 (UTC); got '22.11.2026'" in err


# --- where there is no deployment ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cloudformation")
@pytest.mark.parametrize("command", WORKING, ids=" ".join)
def test_an_unknown_stack_is_said_in_a_sentence(metering: Metering, command: tuple[str, ...]) -> None:
    """With the next step; also under --json, where stdout stays empty."""
    for arguments in (command, (*command, "--json")):
        assert metering(*arguments, "--stack", "Nowhere", stdin=KEY) == Result(
            1,
            "",
            "error: there is no stack 'Nowhere' in us-east-1: deploy it with 'cdk deploy Nowhere', "
            "or name another with --stack, --region or --profile\n",
        )


@pytest.mark.usefixtures("cloudformation")
def test_an_empty_stack_name_is_an_unknown_stack(metering: Metering) -> None:
    """As an unset variable in a script gives it."""
    assert metering("usage", "--stack", "").err.startswith("error: there is no stack '' in us-east-1: ")


@pytest.mark.usefixtures("deployed")
def test_a_stack_is_looked_for_in_the_region_that_is_named(metering: Metering) -> None:
    """The deployment is in us-east-1."""
    result = metering("usage", "--region", "eu-central-1")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: there is no stack 'Metering' in eu-central-1: ")


@pytest.mark.usefixtures("deployed")
def test_a_stack_is_named_by_the_environment(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the option is stronger."""
    monkeypatch.setenv("METERING_STACK", "Elsewhere")
    assert metering("usage").err.startswith("error: there is no stack 'Elsewhere' ")
    assert metering("usage", "--stack", "Metering").code == 0


def test_a_stack_of_another_kind_is_said_in_a_sentence(metering: Metering, cloudformation: CloudFormation) -> None:
    """Nothing is done to it."""
    cloudformation.add("SampleApi", ApiId="a1b2c3")
    assert metering("usage", "--stack", "SampleApi") == Result(
        1, "", "error: the stack 'SampleApi' is no metering stack: name yours with --stack\n"
    )


@pytest.mark.usefixtures("aws")
def test_missing_credentials_are_said_in_a_sentence(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next step."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert metering("usage") == Result(
        1, "", "error: no AWS credentials are found: sign in with 'aws sso login' or 'aws configure', or use --local\n"
    )


@pytest.mark.usefixtures("aws")
def test_half_of_the_credentials_is_said_in_a_sentence(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable is set, the other is not."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    result = metering("usage")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert result.err.startswith("error: AWS cannot be asked: Partial credentials found")


@pytest.mark.usefixtures("aws")
def test_a_missing_region_is_said_in_a_sentence(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next step."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert metering("usage") == Result(1, "", "error: no AWS Region is set: give --region, or set AWS_DEFAULT_REGION\n")


@pytest.mark.usefixtures("aws")
def test_an_impossible_region_is_said_in_a_sentence(metering: Metering) -> None:
    """It could not be a host's name."""
    result = metering("usage", "--region", "us east 1")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "'us east 1'" in result.err


@pytest.mark.usefixtures("aws")
def test_an_unknown_profile_is_said_in_a_sentence(metering: Metering) -> None:
    """With the next step."""
    assert metering("usage", "--profile", "nobody") == Result(
        1, "", "error: The config profile (nobody) could not be found: give another --profile\n"
    )


@pytest.mark.usefixtures("aws")
def test_an_unreachable_endpoint_is_said_in_a_sentence(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on port 1."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _seconds: None)
    result = metering("usage")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        'error: AWS cannot be reached: Could not connect to the endpoint URL: "http://127.0.0.1:1/": '
        "look at the network, the Region and AWS_ENDPOINT_URL\n"
    )


@pytest.mark.usefixtures("aws")
def test_an_endpoint_that_is_no_url_is_said_in_a_sentence(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next step."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert metering("usage") == Result(
        1, "", "error: Invalid endpoint: nonsense: set AWS_ENDPOINT_URL to a URL, or to nothing\n"
    )


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("ExpiredToken", ": sign in again, or give another --profile\n"),
        ("AccessDenied", "the words of AWS\n"),
    ],
)
def test_what_aws_refuses_is_said_in_its_words(
    metering: Metering, monkeypatch: pytest.MonkeyPatch, code: str, ending: str
) -> None:
    """With the next step where it is known."""

    def refuse(*_: Any, **__: Any) -> Deployment:
        raise ClientError({"Error": {"Code": code, "Message": "the words of AWS"}}, "DescribeStacks")

    monkeypatch.setattr(Deployment, "find", refuse)
    result = metering("usage")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"error: AWS answered {code} to DescribeStacks: the words of AWS")
    assert result.err.endswith(ending)


@pytest.mark.parametrize("command", WORKING, ids=" ".join)
def test_local_without_a_running_local_says_so(
    metering: Metering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """With the next step."""
    monkeypatch.setattr(cloud, "_ANNOUNCEMENT", tmp_path / "local.json")
    assert metering(*command, "--local", stdin=KEY) == Result(
        1, "", "error: no 'metering local' is running from this folder: start one in another terminal\n"
    )


def test_ctrl_c_ends_without_a_word(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shell's code for it."""

    def interrupt(*_: Any, **__: Any) -> Deployment:
        raise KeyboardInterrupt

    monkeypatch.setattr(Deployment, "find", interrupt)
    assert metering("usage").code == 130


# --- customers and keys ----------------------------------------------------------------------------------------------


def test_a_customer_is_added_listed_and_shown(deployed: World, metering: Metering) -> None:
    """I5: what was written is what is read."""
    assert metering(
        "customers", "add", "acme", "--name", "Acme", "--stripe-customer", "cus_1", "--key", "key1", "--key", "key2"
    ) == Result(0, "customer acme added\nkey key1 belongs to acme\nkey key2 belongs to acme\n", "")
    assert deployed.ledger.holders.owner("cus_1") == "acme"
    assert metering("customers", "list", "--json").json() == [
        {"id": "acme", "name": "Acme", "stripe_customer": "cus_1"}
    ]
    assert metering("customers", "show", "acme", "--json").json() == {
        "id": "acme",
        "name": "Acme",
        "stripe_customer": "cus_1",
        "keys": [{"key": "key1", "from": None, "to": None}, {"key": "key2", "from": None, "to": None}],
    }


@pytest.mark.usefixtures("deployed")
def test_adding_the_same_again_says_that_nothing_changes(metering: Metering) -> None:
    """I2."""
    command = ("customers", "add", "acme", "--name", "Acme", "--key", "key1")
    assert metering(*command, "--json").json() == {
        "changed": ["customer acme added", "key key1 belongs to acme"],
        "hours_to_close_again": 0,
    }
    assert metering(*command) == Result(0, "nothing to change\n", "")
    assert metering(*command, "--json").json() == {"changed": [], "hours_to_close_again": 0}


@pytest.mark.usefixtures("deployed")
def test_a_key_that_changes_hands_is_shown_with_its_hours(metering: Metering) -> None:
    """I5: for both customers."""
    metering("customers", "add", "acme", "--name", "Acme", "--key", "key1")
    refused = metering("customers", "add", "globex", "--name", "Globex", "--key", "key1")
    assert refused == Result(
        1, "", "error: the key key1 belongs to the customer 'acme': say with --from HOUR when it changes hands\n"
    )
    metering("customers", "add", "globex", "--name", "Globex", "--key", "key1", "--from", "2026-11-22T05")
    assert metering("customers", "show", "acme", "--json").json()["keys"] == [
        {"key": "key1", "from": None, "to": "2026-11-22T05"}
    ]
    shown = metering("customers", "show", "globex").out.splitlines()
    assert shown[0] == "globex: Globex, Stripe customer none yet"
    assert [line.split() for line in shown[1:]] == [["key", "from", "to"], ["key1", "2026-11-22T05", "now"]]


def test_what_is_closed_again_is_counted(deployed: World, metering: Metering) -> None:
    """I1: usage from before a key had a customer."""
    deployed.record(deployed.line())
    deployed.after_grace()
    deployed.run()
    result = metering("customers", "add", "acme", "--name", "Acme", "--key", "key1")
    assert result.out.splitlines()[-1] == "1 closed hours are closed again at the next tick, or by 'metering close'"


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("name", ["Acme [red]", "[/nothing]", ":star: Inc.", "Ünïcode 株式会社"])
def test_any_name_is_shown_as_it_is(metering: Metering, name: str) -> None:
    """A name is no markup."""
    metering("customers", "add", "acme", "--name", name)
    assert name in metering("customers", "show", "acme").out
    assert name in metering("customers", "list").out


@pytest.mark.usefixtures("deployed")
def test_a_row_is_one_line_for_a_pipe(metering: Metering) -> None:
    """However long its ids are."""
    name, key = "n" * 200, "k" * 64
    metering("customers", "add", "c" * 40, "--name", name, "--stripe-customer", "cus_" + "s" * 60, "--key", key)
    assert metering("customers", "list").out.splitlines()[1].split() == ["c" * 40, name, "cus_" + "s" * 60]
    assert metering("customers", "show", "c" * 40).out.splitlines()[2].split()[0] == key


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("command", ["customers show", "usage"])
@pytest.mark.parametrize("name", ["nobody", "a b", "x" * 41, ""])
def test_an_unknown_customer_is_said_in_a_sentence(metering: Metering, command: str, name: str) -> None:
    """Also one whose id no customer could have."""
    assert metering(*command.split(), name) == Result(
        1, "", f"error: there is no customer {name!r}: 'metering customers list' shows them\n"
    )


@pytest.mark.usefixtures("deployed")
def test_an_empty_list_is_no_error(metering: Metering) -> None:
    """The word for people goes to stderr."""
    assert metering("customers", "list") == Result(0, "", "nothing there\n")
    assert metering("customers", "list", "--json") == Result(0, "[]\n", "")
    assert metering("usage", "--json") == Result(0, "[]\n", "")


@pytest.mark.usefixtures("deployed")
def test_a_key_is_excluded(metering: Metering) -> None:
    """I1: nobody is billed for our own health checks."""
    command = ("keys", "exclude", "key1", "--reason", "health check")
    assert metering(*command) == Result(0, "key key1 is not billed\n", "")
    assert metering(*command, "--json").json() == {"changed": [], "hours_to_close_again": 0}
    assert metering("keys", "exclude", "a b", "--reason", "x") == Result(
        1, "", "error: an API key's id is 1 to 64 letters, digits, '_' or '-', got 'a b'\n"
    )


@pytest.mark.usefixtures("deployed")
def test_a_file_of_customers_is_imported(metering: Metering, tmp_path: Path) -> None:
    """Twice, which changes nothing more."""
    file = tmp_path / "customers.csv"
    file.write_text("id,name,stripe_customer,keys\nacme,Acme,cus_1,key1 key2\nglobex,Globex,,\n")
    assert metering("customers", "import", str(file)).out.splitlines() == [
        "customer acme added",
        "key key1 belongs to acme",
        "key key2 belongs to acme",
        "customer globex added",
    ]
    again = metering("customers", "import", str(file), "--json").json()
    assert again == {"changed": [], "hours_to_close_again": 0}


def test_a_file_with_a_bad_line_is_not_imported_at_all(deployed: World, metering: Metering, tmp_path: Path) -> None:
    """I5: each bad line is named; the good ones wait."""
    metering("customers", "add", "umbrella", "--name", "Umbrella", "--key", "taken")
    file = tmp_path / "customers.csv"
    file.write_text("id,name,stripe_customer,keys\nacme,Acme,,key1\na b,Bad,,\nglobex,Globex\nhooli,Hooli,,taken\n")
    assert metering("customers", "import", str(file), "--json") == Result(
        1,
        "",
        f"error: nothing was imported from {file}:\n"
        "  line 3: a customer's id is 1 to 40 letters, digits, '_' or '-', got 'a b'\n"
        "  line 4: 4 columns are wanted\n"
        "  line 5: the key taken belongs to the customer 'umbrella': say with --from HOUR when it changes hands\n",
    )
    assert list(deployed.ledger.holders.customer_ids()) == ["umbrella"]


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("content", ["id,name\xff".encode("latin-1"), "id,name".encode("utf-16")])
def test_a_file_that_is_no_utf8_is_said_in_a_sentence(metering: Metering, tmp_path: Path, content: bytes) -> None:
    """As some spreadsheets write it."""
    file = tmp_path / "customers.csv"
    file.write_bytes(content)
    assert metering("customers", "import", str(file)) == Result(
        1, "", f"error: {file} must be a CSV file in UTF-8, got something else\n"
    )


# --- usage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def used(deployed: World) -> World:
    """Two customers and a key of nobody in a closed hour, and one request more in the hour that is open."""
    deployed.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    deployed.customer("globex", "key3")
    deployed.record(deployed.line(), deployed.line(key="key2"), deployed.line(key="key3"), deployed.line(key="key9"))
    deployed.after_grace()
    deployed.run()
    deployed.record(deployed.line(time=str(int((HOUR.end + timedelta(minutes=5)).timestamp() * 1000))))
    return deployed


def lines(result: Result, metric: str = "requests") -> list[tuple[Any, ...]]:
    """Return the lines of a metric, each as (period, customer, key, quantity, state)."""
    found = result.json()
    assert all(list(line) == ["period", "customer", "key", "metric", "quantity", "state"] for line in found)
    return [
        (line["period"], line["customer"], line["key"], line["quantity"], line["state"])
        for line in found
        if line["metric"] == metric
    ]


@pytest.mark.usefixtures("used")
def test_usage_is_shown_by_hour_and_key_with_its_state(metering: Metering) -> None:
    """I5: also of the open hour, and of a key that belongs to nobody, whose customer is null."""
    assert lines(metering("usage", "--json")) == [
        ("2026-11-22T05", None, "key9", 1, "HELD"),
        ("2026-11-22T05", "acme", "key1", 1, "POSTED"),
        ("2026-11-22T05", "acme", "key2", 1, "POSTED"),
        ("2026-11-22T05", "globex", "key3", 1, "HELD"),
        ("2026-11-22T06", "acme", "key1", 1, "OPEN"),
    ]
    assert lines(metering("usage", "--json"), "bytes")[1] == ("2026-11-22T05", "acme", "key1", 10, "POSTED")


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(("by", "period"), [("day", "2026-11-22"), ("month", "2026-11")])
def test_usage_is_added_up_by_longer_periods(metering: Metering, by: str, period: str) -> None:
    """I5: the least settled state stands for the whole."""
    assert lines(metering("usage", "--by", by, "--json")) == [
        (period, None, "key9", 1, "HELD"),
        (period, "acme", "key1", 2, "OPEN"),
        (period, "acme", "key2", 1, "POSTED"),
        (period, "globex", "key3", 1, "HELD"),
    ]


@pytest.mark.usefixtures("used")
def test_usage_of_one_customer_and_of_some_hours(metering: Metering) -> None:
    """From the first hour up to the last, exclusive; a day means its first hour."""
    assert lines(metering("usage", "acme", "--to", "2026-11-22T06", "--json")) == [
        ("2026-11-22T05", "acme", "key1", 1, "POSTED"),
        ("2026-11-22T05", "acme", "key2", 1, "POSTED"),
    ]
    assert lines(metering("usage", "acme", "--from", "2026-11-22T06", "--json")) == [
        ("2026-11-22T06", "acme", "key1", 1, "OPEN")
    ]
    assert len(lines(metering("usage", "--from", "2026-11-22", "--to", "2026-11-23", "--json"))) == 5
    assert metering("usage", "--from", "2026-11-23", "--to", "2027-11-23", "--json").json() == []


def test_usage_of_a_customer_shows_nothing_of_who_has_its_key_now(used: World, metering: Metering) -> None:
    """I6: a customer's report is the customer's own."""
    used.customer("globex", "key1", since=HOUR)
    used.run()
    assert lines(metering("usage", "acme", "--json")) == [("2026-11-22T05", "acme", "key2", 1, "POSTED")]
    assert lines(metering("usage", "globex", "--json")) == [
        ("2026-11-22T05", "globex", "key1", 1, "HELD"),
        ("2026-11-22T05", "globex", "key3", 1, "HELD"),
        ("2026-11-22T06", "globex", "key1", 1, "OPEN"),
    ]


def test_a_late_record_is_not_shown_as_posted(used: World, metering: Metering) -> None:
    """I5: it is counted, and not in the ledger until the hour is closed again."""
    used.record(used.line())
    shown = lines(metering("usage", "acme", "--to", "2026-11-22T06", "--json"))
    assert shown == [("2026-11-22T05", "acme", "key1", 2, "OPEN"), ("2026-11-22T05", "acme", "key2", 1, "OPEN")]
    used.run()
    shown = lines(metering("usage", "acme", "--to", "2026-11-22T06", "--json"))
    assert [state for *_, state in shown] == ["POSTED", "POSTED"]


def test_usage_outlives_its_counters_in_the_ledger(used: World, metering: Metering) -> None:
    """I5: 62 days later there is no key any more but for what belongs to no customer."""
    used.now = HOUR.end + timedelta(days=63)
    assert lines(metering("usage", "--from", "2026-11-22", "--to", "2026-11-23", "--json")) == [
        ("2026-11-22T05", None, "key9", 1, "HELD"),
        ("2026-11-22T05", "acme", None, 2, "POSTED"),
        ("2026-11-22T05", "globex", None, 1, "HELD"),
    ]
    assert lines(metering("usage", "acme", "--from", "2026-11-22", "--to", "2026-11-23", "--json")) == [
        ("2026-11-22T05", "acme", None, 2, "POSTED")
    ]


@pytest.mark.usefixtures("used")
def test_usage_is_shown_as_a_table(metering: Metering) -> None:
    """For people, with thousands apart."""
    table = [line.split() for line in metering("usage", "--by", "month").out.splitlines()]
    assert table[0] == ["period", "customer", "key", "metric", "quantity", "state"]
    assert ["2026-11", "(none)", "key9", "requests", "1", "HELD"] in table
    assert ["2026-11", "acme", "key1", "requests", "2", "OPEN"] in table


# --- closing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def function(
    deployed: World, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[tuple[str, Any]]]:
    """What was invoked: the handlers themselves, in the world's time, with a key in the secret."""
    invoked: list[tuple[str, Any]] = []
    with begin(deployed, template, monkeypatch) as functions:
        monkeypatch.setenv("STRIPE_SECRET", "stripe-secret")
        put_secret(api_key=KEY)

        def invoke(_deployment: Deployment, name: str, sent: Any) -> dict[str, Any]:
            invoked.append((name, sent))
            monkeypatch.setattr(Clock, "at", deployed.now)
            with redirect_stdout(io.StringIO()):  # the function's own
                if name == "ClosePeriodsFunction":
                    return dict(json.loads(json.dumps(functions.close(sent))))
                assert name == "PostUsageFunction"
                return dict(json.loads(json.dumps(functions.post(*sent.get("shards", ())))))

        monkeypatch.setattr(Deployment, "invoke", invoke)
        yield invoked


def put_secret(**values: str) -> None:
    """Put values in the deployment's secret."""
    secrets: Any = boto3.client("secretsmanager")
    secrets.put_secret_value(SecretId="stripe-secret", SecretString=json.dumps(values))


def test_close_says_what_it_did(deployed: World, function: list[tuple[str, Any]], metering: Metering) -> None:
    """I4: it closes as the schedule would, and posts by itself; the next tick notes that nothing is left to post."""
    deployed.customer("acme", "key1", stripe_customer="cus_acme")
    deployed.record(deployed.line(), deployed.line(key="key9"))
    deployed.after_grace()
    assert metering("close") == Result(
        0,
        "       1  hours written into the ledger\n"
        "       0  hours closed\n"
        "       0  late marks dealt with\n"
        "       2  totals that Stripe accepted\n"
        "       0  totals that are still to be posted\n"
        "       0  totals that Stripe rejected\n"
        "       0  totals held, for want of a Stripe customer or as too old\n"
        "       1  rows written for keys that belong to no customer\n"
        "       1  due hours that the next run closes, if nothing of them is pending then\n",
        "",
    )
    assert function == [("ClosePeriodsFunction", {"post": False}), ("PostUsageFunction", {})]
    assert deployed.at_stripe("cus_acme") == 1
    deployed.now += timedelta(minutes=5)
    again = metering("close", "--json").json()
    assert (again["closed"], again["behind"], again["posted"]) == (["2026-11-22T05"], 0, 0)


@pytest.mark.usefixtures("function")
def test_close_says_why_something_waits(deployed: World, metering: Metering) -> None:
    """I4: with the reason, and what to do."""
    deployed.customer("acme", "key1", stripe_customer="cus_acme")
    deployed.record(deployed.line())
    deployed.after_grace()
    put_secret(api_key="")
    reason = "the secret holds no Stripe key: run 'metering stripe connect'"
    assert metering("close").out.splitlines()[-1] == f"       1  wait because: {reason}"
    assert metering("close", "--json").json() == {
        "written": [],
        "closed": [],
        "closed_again": 0,
        "behind": 1,
        "unmapped": 0,
        "posting": True,
        "workers": 0,
        "posted": 0,
        "rejected": 0,
        "held": 0,
        "pending": 1,
        "reasons": {reason: 1},
        "leased": [],
    }


@pytest.mark.usefixtures("function")
def test_close_posts_nothing_while_posting_is_off(deployed: World, metering: Metering) -> None:
    """I4: it closes all the same."""
    deployed.customer("acme", "key1", stripe_customer="cus_acme")
    deployed.record(deployed.line())
    deployed.after_grace()
    deployed.switch.turn(msgspec.structs.replace(deployed.switch.read(), on=False))
    did = metering("close", "--json").json()
    assert (did["posting"], did["closed"], did["posted"], did["pending"]) == (False, ["2026-11-22T05"], 0, 0)
    assert deployed.in_ledger("customer#acme")["requests"] == (1, "PENDING")


def test_close_waits_for_a_worker_of_the_schedule(
    deployed: World, function: list[tuple[str, Any]], metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: what somebody else posts from is asked for again, until it is free, and added up."""
    deployed.customer("acme", "key1", stripe_customer="cus_acme")
    deployed.record(deployed.line())
    deployed.after_grace()
    theirs = shard_of(customer("acme"))
    deployed.switch.lease([theirs], "other", now=deployed.now, until=deployed.now + timedelta(minutes=4))
    monkeypatch.setattr("infra.operate.deployment.time.sleep", lambda _: deployed.switch.release([theirs], "other"))
    did = metering("close", "--json").json()
    assert (did["posted"], did["pending"], did["leased"]) == (2, 0, [])
    assert function[1:] == [("PostUsageFunction", {}), ("PostUsageFunction", {"shards": [theirs]})]


# --- what was set aside ----------------------------------------------------------------------------------------------


@pytest.fixture
def recording(deployed: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world with record_usage invoked in it instead of in Lambda."""

    def invoke(_deployment: Deployment, name: str, sent: Any) -> dict[str, Any]:
        assert name == "RecordUsageFunction"
        if "redrive" in sent:
            return redriving.redrive(deployed.recorder(), sent["redrive"])
        recorded = deployed.recorder().record(payloads.subscription(sent).batch(ACCESS_LOG_GROUP))
        return {"read": recorded.read, "billed": recorded.billed, "set_aside": recorded.set_aside}

    monkeypatch.setattr(Deployment, "invoke", invoke)
    return deployed


def future(world: World) -> str:
    """Return a line that can be read an hour later."""
    return world.line(time=str(int((HOUR.end + timedelta(minutes=1)).timestamp() * 1000)))


def test_what_is_set_aside_is_listed_shown_and_redriven(recording: World, metering: Metering) -> None:
    """I1, I2: a line that can be read by now is counted once, and what still cannot be is left with its reason."""
    recording.record(recording.line(), future(recording), "nonsense")
    (entry,) = metering("set-aside", "list", "--json").json()
    assert (entry["kind"], entry["source"], entry["left"], entry["doubtful"]) == ("lines", "access log", 2, 0)
    assert set(entry["reasons"].values()) == {1}
    recording.now = HOUR.next().start + timedelta(minutes=30)
    for _ in range(2):
        result = metering("set-aside", "redrive", entry["batch"], "--json")
        assert (result.code, json.loads(result.out)[0]["left"]) == (1, 1)
    assert recording.counted(HOUR.next()) == {"key1": {"requests": 1, "bytes": 10}}
    shown = metering("set-aside", "show", entry["batch"], "--json").json()
    assert [(line["state"], line["message"]) for line in shown if line["message"] == "nonsense"] == [
        ("set aside", "nonsense")
    ]
    assert sorted(line["state"] for line in shown) == ["counted", "set aside"]
    (left,) = metering("set-aside", "list", "--json").json()
    assert (left["left"], left["counted"], left["reasons"]) == (1, 1, {"not JSON": 1})


def test_a_redrive_of_everything_says_what_it_did(recording: World, metering: Metering) -> None:
    """And has nothing left to do the second time."""
    recording.record(future(recording))
    (entry,) = metering("set-aside", "list", "--json").json()
    recording.now = HOUR.next().start + timedelta(minutes=30)
    assert metering("set-aside", "redrive", "--all") == Result(0, f"{entry['batch']}: 1 counted, 0 left\n", "")
    assert metering("set-aside", "list", "--json").json() == []
    assert metering("set-aside", "list") == Result(0, "", "nothing there\n")


def test_a_batch_that_failed_for_good_is_listed_and_delivered_again(recording: World, metering: Metering) -> None:
    """I1: its counters refuse what they have (I2), and the record of the failure is deleted once it is counted."""
    sent = envelope(recording.line(), recording.line())
    recording.recorder().record(payloads.subscription(sent).batch(ACCESS_LOG_GROUP))
    name = "aws/lambda/async/record-usage/2026/11/22/failed"
    body = json.dumps({"version": "1.0", "requestPayload": sent}).encode()
    recording.set_aside.client.put_object(Bucket="bucket", Key=name, Body=body)
    (entry,) = metering("set-aside", "list", "--json").json()
    assert (entry["batch"], entry["kind"]) == (name, "failed")
    assert metering("set-aside", "redrive", name).code == 0
    assert recording.counted() == {"key1": {"requests": 2, "bytes": 20}}
    assert metering("set-aside", "list", "--json").json() == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("show", "nonsense"), "nothing is set aside of a batch 'nonsense'"),
        (("redrive", "0" * 24), "nothing is set aside of a batch"),
        (("redrive", "aws/lambda/async/gone"), "there is no failed batch 'aws/lambda/async/gone'"),
    ],
)
@pytest.mark.usefixtures("recording")
def test_an_unknown_batch_is_said_in_a_sentence(metering: Metering, arguments: tuple[str, ...], why: str) -> None:
    """With where their names are."""
    result = metering("set-aside", *arguments)
    assert (result.code, result.out) == (1, "")
    assert why in result.err
    assert "'metering set-aside list' names them" in result.err


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("arguments", [(), ("0" * 24, "--all")])
def test_a_redrive_names_batches_or_all(metering: Metering, arguments: tuple[str, ...]) -> None:
    """Not both, not none."""
    assert metering("set-aside", "redrive", *arguments).code == 2


@dataclass
class FakeLambda:
    """Lambda's client, which answers as told."""

    answer: dict[str, Any]

    def invoke(self, **_: Any) -> dict[str, Any]:
        """Answer."""
        return self.answer

    def close(self) -> None:
        """Keep nothing open."""


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"errorMessage": "Task timed out after 300.00 seconds"}', "Task timed out after 300.00 seconds"),
        (b'"no object"', "no object"),
        (b"", "None"),
    ],
)
def test_a_function_that_fails_is_said_in_a_sentence(payload: bytes, said: str) -> None:
    """With the next step."""
    fake = FakeLambda({"FunctionError": "Unhandled", "Payload": io.BytesIO(payload)})
    deployment = Deployment(lambda _name, **_: fake, {"ClosePeriodsFunction": "close-periods"})
    with pytest.raises(OperatorError) as caught:
        deployment.close()
    assert str(caught.value) == f"the function close-periods failed: {said}; its log group says more"


def test_what_a_function_answers_is_returned() -> None:
    """As it is."""
    fake = FakeLambda({"StatusCode": 200, "Payload": io.BytesIO(b'{"posted": 1}')})
    deployment = Deployment(lambda _name, **_: fake, {"ClosePeriodsFunction": "close-periods"})
    assert deployment.invoke("ClosePeriodsFunction", {}) == {"posted": 1}


@pytest.mark.usefixtures("deployed")
def test_closing_where_the_function_is_gone_is_said_in_a_sentence(metering: Metering) -> None:
    """Somebody deleted it by hand."""
    result = metering("close")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert result.err.startswith("error: AWS answered ResourceNotFoundException to Invoke: ")


# --- Stripe ----------------------------------------------------------------------------------------------------------


def test_connecting_puts_the_key_and_makes_the_meters_that_are_missing(
    deployed: World, cloudformation: CloudFormation, metering: Metering
) -> None:
    """I8: the key comes on stdin and is not printed."""
    outputs = {"Deployment": "Other", "Metrics": "requests,bytes", "StripeApiBase": deployed.stripe.url}
    tables = {"CountersTable": "counters", "LedgerTable": "ledger"}
    cloudformation.add("Other", StripeSecret="stripe-secret", **tables, **outputs)
    result = metering("stripe", "connect", "--stack", "Other", stdin=f"{KEY}\n")
    assert result == Result(0, "the key is in the secret\nmeter Other_requests made\nmeter Other_bytes made\n", "")
    assert json.loads(secret() or "") == {"api_key": KEY}
    made = deployed.meters().meters()["Other_requests"]
    assert (made.window, made.formula) == ("hour", "sum")


def test_connecting_again_changes_nothing(deployed: World, metering: Metering) -> None:
    """I4: no meter is made twice."""
    connected = {
        "connected": True,
        "meters": [
            {"meter": "Metering_requests", "metric": "requests", "made": False},
            {"meter": "Metering_bytes", "metric": "bytes", "made": False},
        ],
    }
    before = deployed.meters().meters()
    for _ in range(2):
        result = metering("stripe", "connect", "--json", stdin=KEY)
        assert result.json() == connected
        assert KEY not in result.out
    assert deployed.meters().meters() == before


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("before", ["rk_test_put_by_hand", json.dumps({"api_key": "rk_test_k3yvalue"})])
def test_connecting_replaces_the_key_alone(metering: Metering, before: str) -> None:
    """I8: also one that somebody put by hand; the signing secret beside it stays."""
    secrets: Any = boto3.client("secretsmanager")
    secrets.put_secret_value(SecretId="stripe-secret", SecretString=before)
    assert metering("stripe", "connect", stdin=KEY).code == 0
    assert json.loads(secret() or "") == {"api_key": KEY}
    put_secret(api_key="rk_test_k3yvalue", webhook_secret="whsec_k3yvalue")
    result = metering("stripe", "connect", stdin=KEY)
    assert "k3yvalue" not in result.out + result.err
    assert json.loads(secret() or "") == {"api_key": KEY, "webhook_secret": "whsec_k3yvalue"}


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(
    "key",
    ["", "\n", "pk_test_k3yvalue", "k3yvalue", "sk_", "sk_test k3yvalue", "sk_tést_k3yvalue", "sk_a\nsk_k3yvalue"],
)
def test_what_is_no_stripe_key_is_refused(metering: Metering, key: str) -> None:
    """I8: without repeating it, and before Stripe is asked."""
    result = metering("stripe", "connect", stdin=key)
    assert result == Result(
        1, "", "error: a Stripe key is written rk_... (restricted) or sk_...; what was given is none\n"
    )
    assert secret() is None


@pytest.mark.usefixtures("deployed")
def test_bytes_that_are_no_text_are_no_stripe_key(metering: Metering) -> None:
    """I8: never a traceback."""
    result = metering("stripe", "connect", stdin=b"sk_\xff\xfe")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: a Stripe key is written ")


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("option", [(), ("--json",)])
def test_a_key_that_stripe_does_not_take_is_not_kept(metering: Metering, option: tuple[str, ...]) -> None:
    """I8: Stripe's own words do not hold it either."""
    result = metering("stripe", "connect", *option, stdin="rk_test_k3yvalue_that_stripe_does_not_know")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert result.err == "error: Stripe does not take the key: run 'metering stripe connect' with a valid one\n"
    assert "k3yvalue" not in result.err
    assert secret() is None


@pytest.mark.parametrize("wrong", [("day", "sum"), ("hour", "count")])
def test_a_meter_that_would_bill_wrongly_is_named_and_nothing_is_changed(
    deployed: World, cloudformation: CloudFormation, metering: Metering, wrong: tuple[Any, Any]
) -> None:
    """I4: a meter cannot be changed, and one with a longer window would keep one hour of a day only."""
    window, formula = wrong
    cloudformation.add(
        "Other",
        CountersTable="counters",
        LedgerTable="ledger",
        StripeSecret="stripe-secret",
        StripeApiBase=deployed.stripe.url,
        Deployment="Other",
        Metrics="requests,bytes",
    )
    stripe_sdk.StripeClient(KEY, base_addresses={"api": deployed.stripe.url}).v1.billing.meters.create(
        {
            "display_name": "by hand",
            "event_name": "Other_bytes",
            "default_aggregation": {"formula": formula},
            "event_time_window": window,
        }
    )
    assert metering("stripe", "connect", "--stack", "Other", stdin=KEY) == Result(
        1,
        "",
        f"error: the meter Other_bytes exists with the window '{window}' and the formula '{formula}'; "
        "wanted are the window 'hour' and the formula "
        "'sum'. A meter cannot be changed: deactivate it at Stripe, or deploy under another name. "
        "Nothing was changed\n",
    )
    assert secret() is None
    assert "Other_requests" not in deployed.meters().meters()


def test_a_stripe_that_cannot_be_reached_is_said_in_a_sentence(
    metering: Metering, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept."""
    outputs = {"Deployment": "Metering", "Metrics": "requests", "StripeApiBase": "http://127.0.0.1:1"}
    tables = {"CountersTable": "counters", "LedgerTable": "ledger"}
    cloudformation.add("Metering", StripeSecret="stripe-secret", **tables, **outputs)
    boto3.client("secretsmanager").create_secret(Name="stripe-secret")
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    result = metering("stripe", "connect", stdin=KEY)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "APIConnectionError" in result.err
    assert secret() is None


# --- plans and invoices ----------------------------------------------------------------------------------------------


@pytest.fixture
def selling(
    deployed: World, cloudformation: CloudFormation, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> World:
    """The deployment with a plan, connected, and with a customer."""
    plan = Plan(
        name="standard",
        title="Standard",
        currency="usd",
        prices=(
            Flat(amount=4900, included={"requests": 2}),
            PerUnit(metric="requests", amount="0.04"),
            Package(metric="bytes", size=1000, amount=3),
        ),
    )
    declared = {"metrics": json.loads(metrics.encode(deployed.metrics)), "plans": json.loads(encode([plan]))}
    cloudformation.templates["Metering"] = {"Metadata": {METADATA: declared}}
    assert metering("stripe", "connect", stdin=KEY).code == 0
    monkeypatch.setattr("infra.cli.customers.now", deployed.clock)
    deployed.customer("acme", "key1")
    return deployed


def test_a_plan_gets_to_stripe(selling: World, metering: Metering) -> None:
    """Shown before it is made, and made once."""
    lines = [
        "+ make product standard.base_fee: Standard: Base fee",
        "+ make price standard.base_fee: 4900 flat (usd, each month)",
        "+ make product standard.requests: Standard: Requests",
        "+ make price standard.requests: graduated: up to 2 0, beyond 0.04 (usd, each month)",
        "+ make product standard.bytes: Standard: Bytes",
        "+ make price standard.bytes: 3 per started 1,000 (usd, each month)",
    ]
    for command in ("plan", "apply"):
        assert metering("stripe", command) == Result(0, "\n".join(lines) + "\n", "")
    assert metering("stripe", "plan") == Result(0, "Stripe is as declared\n", "")
    assert metering("stripe", "plan", "--json").json() == {"steps": [], "in_the_way": [], "unpriced": []}
    assert metering("stripe", "apply") == Result(0, "nothing to change\n", "")
    assert metering("stripe", "apply", "--json").json() == {"done": []}
    assert len(selling.meters().meters()) == 2


def test_a_plan_says_what_is_in_its_way_and_what_nobody_pays_for(
    selling: World, cloudformation: CloudFormation, metering: Metering
) -> None:
    """Nothing is made then."""
    plans = cloudformation.templates["Metering"]["Metadata"][METADATA]["plans"]
    plans[0]["prices"].pop()
    client = stripe_sdk.StripeClient(KEY, base_addresses={"api": selling.stripe.url})
    client.v1.products.create({"id": "Metering-standard-requests", "name": "theirs"})
    out = metering("stripe", "plan").out
    assert "note: no plan has a price for bytes\n" in out
    assert "in the way: the product Metering-standard-requests at Stripe is none of ours: " in out
    result = metering("stripe", "apply")
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith("give its plan or price another name. Nothing was changed\n")


@pytest.mark.usefixtures("selling")
def test_a_deployment_without_plans_in_its_template_says_what_to_do(
    metering: Metering, cloudformation: CloudFormation
) -> None:
    """Rather than archive all that is at Stripe; and so does one whose plans are written in another way."""
    declared = cloudformation.templates["Metering"]["Metadata"][METADATA]
    declared["plans"][0]["colour"] = "red"
    assert metering("stripe", "apply") == Result(
        1, "", "error: the stack 'Metering' was deployed by another version: deploy it again\n"
    )
    del declared["plans"]
    assert metering("stripe", "apply") == Result(
        1, "", "error: the stack 'Metering' was deployed by an older version: deploy it again\n"
    )


@pytest.mark.usefixtures("selling")
def test_a_customer_is_subscribed_and_its_invoice_shown(metering: Metering) -> None:
    """Without a word to Stripe's dashboard."""
    assert metering("customers", "subscribe", "acme", "standard").err == (
        "error: Stripe does not have standard.base_fee, standard.requests, standard.bytes as app.py declares it: "
        "run 'metering stripe apply' first\n"
    )
    assert (
        "acme has no Stripe customer yet, so that nothing is invoiced: subscribe it" in metering("invoice", "acme").err
    )
    metering("stripe", "apply")
    subscribed = metering("customers", "subscribe", "acme", "standard", "--json").json()
    assert {**subscribed, "changed": []} == {
        "customer": "acme",
        "plan": "standard",
        "stripe_customer": "cus_00000000000001",
        "subscription": "sub_00000000000001",
        "begins": "2026-11-22T05",
        "changed": [],
        "notes": [],
    }
    assert metering("customers", "subscribe", "acme", "standard") == Result(
        0, "nothing to change: acme is subscribed to standard\n", ""
    )
    result = metering("invoice", "acme")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("acme, standard, 2026-11-22T05:00Z to 2026-12-22T05:00Z (UTC)\n")
    assert result.out.endswith("total 49.00 USD\n")
    document = metering("invoice", "acme", "--json").json()
    assert document["total"] == 4900
    assert document["lines"][0] | {"description": ""} == {
        "price": "base_fee",
        "description": "",
        "quantity": 1,
        "unit_amount": "4900",
        "amount": 4900,
        "period": {"from": "2026-12-22T05:00Z", "to": "2027-01-22T05:00Z"},
    }


@pytest.mark.usefixtures("selling")
@pytest.mark.parametrize("command", [("invoice", "nobody"), ("customers", "subscribe", "nobody", "standard")])
def test_what_needs_a_customer_says_that_there_is_none(metering: Metering, command: tuple[str, ...]) -> None:
    """With how to see those that there are."""
    assert metering(*command).err == "error: there is no customer 'nobody': 'metering customers list' shows them\n"

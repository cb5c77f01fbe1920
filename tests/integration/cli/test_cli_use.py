"""The command line as operators use it: help, wrong use, and what is said where there is no deployment."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from botocore.exceptions import ClientError
from typer.core import TyperGroup

from infra.cli import main as cli
from infra.cli.shared import on_deployment
from infra.local import cloud
from infra.operate.deployment import Deployment, OperatorError
from tests.doubles.outputs import outputs
from tests.integration.cli.command_line import KEY, ON_A_DEPLOYMENT, CloudFormation, Metering, Result
from tests.integration.world import World


def everything(group: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Go through all groups and commands, which are those of typer's own click, by their words."""
    found = group or typer.main.get_command(cli.command_line())
    yield name, found
    if isinstance(found, TyperGroup):
        for word, child in found.commands.items():
            yield from everything(child, f"{name} {word}".strip())


# --- help and wrong use ----------------------------------------------------------------------------------------------


def test_every_group_and_command_has_help(metering: Metering) -> None:
    """On stdout, with how it is used; it needs no AWS environment."""
    for name, command in everything():
        result = metering(*name.split(), "--help")
        assert (result.code, result.err) == (0, ""), name
        assert f"Usage: metering {name}".strip() + " [OPTIONS]" in result.out
        assert command.help, name


@pytest.mark.parametrize("command", ["", "customers", "customers add"])
def test_help_has_a_short_name(metering: Metering, command: str) -> None:
    """For the program, a group and a command."""
    assert metering(*command.split(), "-h") == metering(*command.split(), "--help")


def test_every_command_that_acts_on_a_deployment_is_told_alike_where_it_is() -> None:
    """One way to register them, with one set of options; only what starts a cloud of its own does without."""
    other = typer.Typer(add_completion=False)
    on_deployment(other, "other")(lambda _connect: None)
    registered = typer.main.get_command(other)
    commands = {name: command for name, command in everything() if not isinstance(command, TyperGroup)}
    acting = {name for name, command in commands.items() if _code(command) is _code(registered)}
    assert acting == ON_A_DEPLOYMENT.keys()
    assert commands.keys() - acting == {"demo", "local"}
    where = {option for param in registered.params for option in param.opts}
    assert where == {"--stack", "--region", "--profile", "--local"}
    for command in commands.values():
        assert "--json" in {option for param in command.params for option in param.opts}


def _code(command: Any) -> Any:
    """Return what runs when a command does, below typer's own wrapping."""
    return inspect.unwrap(command.callback).__code__


def is_wrong_use(metering: Metering, *commands: tuple[str, ...]) -> None:
    """See that each exits with 2, a word on stderr and nothing on stdout, before AWS is asked anything."""
    for arguments in commands:
        result = metering(*arguments)
        assert (result.code, result.out) == (2, ""), arguments
        assert "Usage: metering" in result.err


def test_what_is_missing_or_unknown_is_wrong_use(metering: Metering) -> None:
    """Commands, arguments and options."""
    is_wrong_use(
        metering,
        ("nonsense",),
        ("customers", "nonsense"),
        ("customers", "add"),
        ("customers", "show"),
        ("customers", "subscribe", "acme"),
        ("customers", "import"),
        ("keys", "exclude", "key1"),
        ("invoice",),
        ("connect", "a1b2c3d4e5"),
        ("disconnect",),
        ("usage", "one", "two"),
        ("reconcile", "one", "two"),
        ("close", "--nonsense"),
        ("adjust", "acme", "requests", "2026-11-22T05", "--to", "1"),
    )


@pytest.mark.parametrize("prefix", ["rk_live_", "sk_live_", "rk_test_", "sk_test_", "whsec_"])
def test_a_key_in_a_wrong_place_is_not_repeated(metering: Metering, prefix: str) -> None:
    """I8: as a value of a flag that has none, as a command, or as what another option says."""
    key = prefix + "k3yvalue" * 12  # so long that a line could break it
    for arguments in (
        ("stripe", "plan", "--operator-key", key),
        ("stripe", key),
        (key,),
        ("customers", "list", f"--key={key}"),
        ("usage", "--from", key),
    ):
        result = metering(*arguments)
        assert (result.code, result.out) == (2, ""), arguments
        assert "3yv" not in result.err
        assert "Usage: metering" in result.err


@pytest.mark.usefixtures("cloudformation")
def test_a_key_is_in_no_error(metering: Metering) -> None:
    """I8: whoever wrote the sentence."""
    told = metering("customers", "list", "--stack", "sk_live_k3yvalue")
    assert "there is no stack 'sk_live_...' in us-east-1" in told.err
    assert "k3yvalue" not in told.err


def test_what_cannot_be_read_is_wrong_use(metering: Metering) -> None:
    """Hours, numbers, periods and files."""
    is_wrong_use(
        metering,
        ("customers", "add", "acme", "--name", "Acme", "--from", "yesterday"),
        ("customers", "add", "acme", "--name", "Acme", "--from", "2026-13-01"),
        ("customers", "subscribe", "acme", "standard", "--due", "0"),
        ("customers", "import", "no-such-file.csv"),
        ("customers", "import", "tests"),
        ("usage", "--by", "week"),
        ("usage", "--from", "2026-11-22T05:30"),
        ("posting", "on", "--since", "yesterday"),
        ("customers", "rotate-key", "acme", "--overlap", "a day"),
        ("recount", "acme", "--hour", "2026-11-22T05", "--ahead", "-1"),
        ("adjust", "acme", "requests", "05:30", "--to", "1", "--reason", "no hour"),
        ("demo", "--requests", "0"),
    )


def test_what_contradicts_itself_is_wrong_use(metering: Metering) -> None:
    """Too much is said, or too little, or the end comes before the begin."""
    is_wrong_use(
        metering,
        ("usage", "--from", "2026-11-22", "--to", "2026-11-22"),
        ("usage", "--from", "2026-11-23", "--to", "2026-11-22"),
        ("adjust", "acme", "requests", "2026-11-22T05", "--reason", "neither"),
        ("adjust", "acme", "requests", "2026-11-22T05", "--to", "1", "--by", "1", "--reason", "both"),
        ("rejected", "retry"),
        ("rejected", "retry", "acme", "--all"),
        ("demo", "--api", "http", "--road", "firehose"),
        ("demo", "--api", "http", "--road", "firehose", "--page"),
        ("customers", "rotate-key"),
        ("customers", "rotate-key", "--finish", "--key", "k"),
        ("customers", "rotate-key", "--finish", "--overlap", "1h"),
        ("recount",),
        ("recount", "acme"),
        ("recount", "acme", "--all", "--hour", "2026-11-22T05"),
        ("recount", "acme", "--hour", "2026-11-22T05", "--from", "2026-11-22T04"),
        ("recount", "acme", "--hour", "2026-11-22T05", "--to", "2026-11-22T09"),
        ("recount", "acme", "--from", "2026-11-22T05", "--to", "2026-11-22T05"),
    )


def test_wrong_use_is_one_sentence_and_how_it_is_used(metering: Metering) -> None:
    """As all other errors are, with what was got and what is wanted."""
    for arguments, sentence in (
        (
            ("usage", "--from", "22.11.2026"),
            "invalid value for '--from': an hour is written 2026-11-22T05, a day 2026-11-22 (UTC); got '22.11.2026'",
        ),
        (("usage", "--by", "fortnight"), "invalid value for '--by': 'fortnight' is not one of 'hour', 'day', 'month'"),
        (("usage", "--nons"), "no such option: --nons (Possible options: --json, --to)"),
        (("usage", "one", "two"), "got more than is wanted here: two"),
    ):
        assert metering(*arguments) == Result(
            2,
            "",
            f"error: {sentence}\nUsage: metering usage [OPTIONS] [CUSTOMER]\n'metering usage --help' says more\n",
        )
    assert metering("demo", "--requests", "0").err.startswith("error: invalid value for '--requests': wanted 1 or more")
    assert metering("demo", "--limits", "--page").err.startswith("error: --limits goes with --road and --json alone\n")


def test_a_value_that_cannot_be_read_is_told_in_no_librarys_words(metering: Metering) -> None:
    """Each option of a few words, of a number, or of an hour and alike."""
    read = [
        (name, param.opts[0], kind.is_choice)
        for name, command in everything()
        for param in command.params
        if param.opts[0].startswith("--")
        and ((kind := param.type_descriptor).is_choice or kind.annotation is int or kind.parameter_info.parser)
    ]
    assert len(read) > 30
    for name, option, is_choice in read:
        told = metering(*name.split(), option, "fortnight").err.splitlines()[0]
        assert told.startswith(f"error: invalid value for '{option}': "), name
        assert "'fortnight' is not one of '" in told if is_choice else told.endswith("got 'fortnight'"), name
        assert "Value error" not in told, name
    for number in ("9" * 5000, "1.5"):
        assert "wanted a whole number, got" in metering("demo", "--requests", number).err


# --- where there is no deployment ------------------------------------------------------------------------------------


def test_no_command_goes_on_without_its_deployment(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """None prints anything, or swallows why; also under --json, where stdout stays empty."""

    def refuse(*_: Any, **__: Any) -> Deployment:
        raise OperatorError("it is nowhere")

    monkeypatch.setattr(Deployment, "find", refuse)
    for name, needs in ON_A_DEPLOYMENT.items():
        for arguments in (needs, (*needs, "--json")):
            result = metering(*name.split(), *arguments, stdin=KEY)
            assert result == Result(1, "", "error: it is nowhere\n"), name


@pytest.mark.usefixtures("cloudformation")
@pytest.mark.parametrize("option", [(), ("--json",)])
def test_an_unknown_stack_is_said_in_a_sentence(metering: Metering, option: tuple[str, ...]) -> None:
    """With the next step; also under --json, where stdout stays empty."""
    assert metering("usage", *option, "--stack", "Nowhere") == Result(
        1,
        "",
        "error: there is no stack 'Nowhere' in us-east-1: deploy it with 'uv run cdk deploy Nowhere', "
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


def test_local_without_a_running_local_says_so(
    metering: Metering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the next step."""
    monkeypatch.setattr(cloud, "_ANNOUNCEMENT", tmp_path / "local.json")
    assert metering("usage", "--local") == Result(
        1, "", "error: no 'metering local' is running from this folder: start one in another terminal\n"
    )


@pytest.mark.parametrize("ending", [KeyboardInterrupt, EOFError, typer.Abort])
@pytest.mark.parametrize(
    ("command", "way_on"),
    [
        ("usage", "nothing was changed"),
        ("customers list", "nothing was changed"),
        ("close", "what was done stays, and the same command again goes on from there"),
    ],
)
def test_ctrl_c_says_how_one_goes_on(
    metering: Metering, monkeypatch: pytest.MonkeyPatch, ending: type[BaseException], command: str, way_on: str
) -> None:
    """With the shell's code for it; so does whoever answers a question by Ctrl-C or Ctrl-D."""

    def interrupt(*_: Any, **__: Any) -> Deployment:
        raise ending

    monkeypatch.setattr(Deployment, "find", interrupt)
    ended = metering(*command.split())
    told = "nothing was changed" if ending is typer.Abort else way_on  # what is asked, is asked first
    assert (ended.code, ended.out, ended.err.strip()) == (130, "", f"stopped: {told}")


def test_a_stack_that_lacks_an_output_is_said_in_a_sentence(
    deployed: World, metering: Metering, cloudformation: CloudFormation
) -> None:
    """By the command that needs it; the others work on."""
    told = outputs(stripe_api_base=deployed.stripe.url).written()
    cloudformation.add("Metering", **{name: value for name, value in told.items() if name != "PortalSecret"})
    assert metering("usage").code == 0
    assert metering("customers", "add", "acme", "--name", "Acme").code == 0
    assert metering("customers", "link", "acme") == Result(
        1, "", "error: the stack has no PortalSecret: another version deployed it. Deploy it again\n"
    )

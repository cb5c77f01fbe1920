"""The operator's command line: ``metering``."""

import json
import re
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import boto3
import typer
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's, which the built-in has nothing in common with
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)
from rich.console import Console
from rich.progress import track
from rich.table import Table

from infra import redrive, usage
from infra.customers import Change, Customers, Entry, read_csv
from infra.deployment import Deployment, OperatorError, connect
from metering.ledger import BEGINNING, Customer, Ledger
from metering.periods import Hour
from metering.stripe_meters import StripeRejectedError, StripeUnavailableError
from metering.subjects import CUSTOMER_ID_PATTERN

app = typer.Typer(
    help="Usage-based billing for APIs behind Amazon API Gateway: customers, usage, closing, Stripe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
customers_app = typer.Typer(help="The customers, their Stripe customers and their API keys.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys that are not billed.", no_args_is_help=True)
set_aside_app = typer.Typer(help="Usage that could not be counted, and the way back in.", no_args_is_help=True)
stripe_app = typer.Typer(help="The connection to Stripe.", no_args_is_help=True)
app.add_typer(customers_app, name="customers")
app.add_typer(keys_app, name="keys")
app.add_typer(stripe_app, name="stripe")
app.add_typer(set_aside_app, name="set-aside")

# What is printed are names that people chose: none of them is markup, an emoji code or to be coloured.
out: Final = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
err: Final = Console(stderr=True, soft_wrap=True, markup=False, emoji=False, highlight=False)

_NOT_SIGNED_IN: Final = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}

_WIDEST: Final = 1000

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Stack = Annotated[str, typer.Option(help="The metering stack's name.", envvar="METERING_STACK")]
Region = Annotated[str | None, typer.Option(help="The AWS Region; the AWS environment's if left out.")]
Profile = Annotated[str | None, typer.Option(help="The AWS profile; the AWS environment's if left out.")]
Road = Annotated[
    Literal["subscription", "firehose"], typer.Option(help="How the access log's lines reach the counters.")
]
Local = Annotated[bool, typer.Option("--local", help="Act on the running 'metering local' instead of AWS.")]


def _hour(text: str) -> Hour:
    """Read an option's hour: 2026-11-22T05 or a whole day, 2026-11-22; UTC."""
    try:
        return Hour.parse(text if "T" in text else f"{text}T00")
    except ValueError as error:
        raise typer.BadParameter(f"an hour is written 2026-11-22T05, a day 2026-11-22 (UTC); got {text!r}") from error


def _connect(stack: str, region: str | None, profile: str | None, local: bool) -> Deployment:
    """Find the deployment that a command's options name."""
    if local:
        from infra.local import cloud as local_cloud  # noqa: PLC0415 - its servers are for the local commands alone

        return local_cloud.running().deployment(stack)
    return Deployment.find(stack, boto3.Session(region_name=region, profile_name=profile))


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _now() -> datetime:
    return datetime.now(UTC)


# --- the embedded AWS ------------------------------------------------------------------------------------------------


@app.command()
def demo(
    requests: Annotated[int, typer.Option(help="How many HTTP requests to send.", min=1, max=100_000)] = 600,
    road: Road = "subscription",
    as_json: Json = False,
) -> None:
    """Run the whole way on this machine: real requests become a Stripe bill, and every step is compared.

    Needs no AWS account and no Stripe account. Exits with 1 if sent, counted, ledger and Stripe differ.
    """
    from infra.local import demo as local_demo  # noqa: PLC0415 - the CDK and the servers are for this command alone

    result = local_demo.run(requests=requests, road=road, say=err if as_json else out)
    if as_json:
        _print_json(result.as_json())
    if not result.equal:
        raise typer.Exit(1)


@app.command()
def local(road: Road = "subscription", as_json: Json = False) -> None:
    """Keep the embedded AWS and Stripe running with everything deployed, to try things on, until Ctrl-C.

    With --json the first line on stdout, once all is ready, is one JSON object that says where everything is.
    """
    from infra.local import cloud as local_cloud  # noqa: PLC0415 - its servers are for the local commands alone

    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell starts what it runs in the background deaf to Ctrl-C
        signal.signal(ending, _interrupt)
    with local_cloud.start(road=road, say=err) as cloud, cloud.announced():
        if as_json:
            sys.stdout.write(json.dumps(asdict(cloud.address)) + "\n")
            sys.stdout.flush()
        else:
            _table(("what", "where"), asdict(cloud.address).items())
        err.print("ready; commands reach it with --local; Ctrl-C stops it")
        with suppress(KeyboardInterrupt):
            signal.pause()


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


# --- customers and keys ----------------------------------------------------------------------------------------------


@customers_app.command("add")
def customers_add(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="Your own id for the customer.")],
    name: Annotated[str, typer.Option(help="The customer's name.")],
    stripe_customer: Annotated[str, typer.Option(help="The customer's id at Stripe, cus_...")] = "",
    key: Annotated[
        list[str] | None, typer.Option(help="The id of an API key (not its value); may be repeated.")
    ] = None,
    since: Annotated[
        Hour | None,
        typer.Option("--from", parser=_hour, metavar="HOUR", help="The hour from which on the keys change hands."),
    ] = None,
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """Add a customer, or its Stripe customer and keys; adding the same again changes nothing.

    Usage that a key had before it was given to anyone is billed to its first customer. A key that belongs to another
    customer is refused unless --from says when it changes hands.
    """
    deployment = _connect(stack, region, profile, local)
    entry = Entry(customer_id, name, stripe_customer, tuple(key or ()), since)
    change = Customers(deployment.ledger, deployment.counters).add(entry, now=_now())
    _say_change(change, as_json)


@customers_app.command("list")
def customers_list(
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """List the customers."""
    ledger = _connect(stack, region, profile, local).ledger
    found = sorted(ledger.customers(ledger.customer_ids()).values(), key=lambda one: one.id)
    if as_json:
        _print_json([asdict(one) for one in found])
        return
    _table(
        ("customer", "name", "Stripe customer"), [(one.id, one.name, one.stripe_customer or "none") for one in found]
    )


@customers_app.command("show")
def customers_show(
    customer_id: Annotated[str, typer.Argument(metavar="ID")],
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """Show a customer and the keys that it holds or has held."""
    ledger = _connect(stack, region, profile, local).ledger
    found = _customer(ledger, customer_id)
    keys = []
    for name, holding in sorted(ledger.holdings(ledger.keys_of(customer_id)).items()):
        ends = [holder.since for holder in holding.holders[1:]]
        for holder, end in zip(holding.holders, [*ends, None], strict=True):
            if holder.customer == customer_id:
                since = None if holder.since == BEGINNING else str(holder.since)
                keys.append({"key": name, "from": since, "to": str(end) if end else None})
    if as_json:
        _print_json({**asdict(found), "keys": keys})
        return
    out.print(f"{found.id}: {found.name}, Stripe customer {found.stripe_customer or 'none yet'}")
    rows = [(str(k["key"]), k["from"] or "the beginning", k["to"] or "now") for k in keys]
    _table(("key", "from", "to"), rows)


@customers_app.command("import")
def customers_import(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv", exists=True, dir_okay=False, help="Columns: id, name, stripe_customer, keys."
        ),
    ],
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """Add the customers of a CSV file; the whole file is checked before anything is written.

    The first line names the columns: id, name, stripe_customer (may be empty), keys (with spaces between them).
    """
    try:
        entries, problems = read_csv(file)
    except UnicodeDecodeError as error:
        raise OperatorError(f"{file} must be a CSV file in UTF-8, got something else") from error
    deployment = _connect(stack, region, profile, local)
    customers = Customers(deployment.ledger, deployment.counters)
    problems |= customers.check(entries, now=_now())
    bad = [f"line {line}: {problem}" for line, found in sorted(problems.items()) for problem in found]
    if bad:
        raise OperatorError(f"nothing was imported from {file}:\n  " + "\n  ".join(bad))
    whole = Change()
    for entry in _progress("importing", as_json)(entries.values(), len(entries)):
        change = customers.add(entry, now=_now())
        whole.said += change.said
        whole.marks += change.marks
    _say_change(whole, as_json)


@keys_app.command("exclude")
def keys_exclude(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The id of an API key (not its value).")],
    reason: Annotated[str, typer.Option(help="Why the key is not billed, for example 'health check'.")],
    since: Annotated[
        Hour | None,
        typer.Option("--from", parser=_hour, metavar="HOUR", help="The hour from which on it is not billed."),
    ] = None,
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """Say that nobody is billed for a key, such as that of your own health checks."""
    deployment = _connect(stack, region, profile, local)
    customers = Customers(deployment.ledger, deployment.counters)
    _say_change(customers.exclude(key, reason=reason, since=since, now=_now()), as_json)


# --- usage and closing -----------------------------------------------------------------------------------------------


@app.command("usage")
def usage_command(
    customer_id: Annotated[
        str | None, typer.Argument(metavar="[CUSTOMER]", help="One customer; all if left out.")
    ] = None,
    first: Annotated[
        Hour | None,
        typer.Option("--from", parser=_hour, metavar="HOUR", help="The first hour; 24 hours ago if left out."),
    ] = None,
    end: Annotated[
        Hour | None,
        typer.Option("--to", parser=_hour, metavar="HOUR", help="The hour to stop before; now if left out."),
    ] = None,
    by: Annotated[usage.By, typer.Option(help="Add up by this period (UTC).")] = usage.By.HOUR,
    by_dimension: Annotated[
        bool, typer.Option("--by-dimension", help="Split the metrics that have a dimension by its values.")
    ] = False,
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """Show what was used: counted so far (also in open hours), and its state in the ledger.

    States: OPEN (counted, its hour is not closed), PENDING (to be posted), POSTED (Stripe has it), HELD (kept: no
    customer, no Stripe customer, or too old), REJECTED (Stripe said no).
    """
    now = _now()
    end = end or Hour.containing(now).next()
    first = first or Hour.containing(now - timedelta(hours=24))
    if first >= end:
        raise typer.BadParameter(f"--from must be before --to, got {first} and {end}")
    deployment = _connect(stack, region, profile, local)
    if customer_id is not None:
        _customer(deployment.ledger, customer_id)
    report = usage.Report(deployment.counters, deployment.uniques, deployment.ledger, customer_id, by_dimension)
    lines = report.lines(first, end, by=by, now=now, progress=_progress("reading", as_json))
    if as_json:
        _print_json([_usage_json(line, split=by_dimension) for line in lines])
        return
    split = ("value",) if by_dimension else ()
    _table(
        ("period", "customer", "key", "metric", *split, "quantity", "state"),
        [
            (
                line.period,
                line.customer or "(none)",
                line.key or "-",
                line.metric,
                *([line.value] if by_dimension else []),
                f"{line.quantity:,}",
                line.state,
            )
            for line in lines
        ],
    )


def _usage_json(line: usage.Line, *, split: bool) -> dict[str, Any]:
    shown = {**asdict(line), "customer": line.customer or None, "key": line.key or None, "value": line.value or None}
    if not split:
        del shown["value"]
    return shown


@app.command()
def close(
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """Close what is due now, as the schedule would, and say what was done."""
    deployment = _connect(stack, region, profile, local)
    with err.status("closing what is due"):
        did = deployment.close()
    if as_json:
        _print_json(did)
        return
    for what, text in {
        "written": "hours written into the ledger",
        "closed": "hours closed",
        "closed_again": "late marks dealt with",
        "posted": "totals that Stripe accepted",
        "pending": "totals that are still to be posted",
        "rejected": "totals that Stripe rejected",
        "held": "totals held, for want of a Stripe customer or as too old",
        "unmapped": "rows written for keys that belong to no customer",
        "behind": "due hours that are not closed",
    }.items():
        value = did[what]
        out.print(f"{len(value) if isinstance(value, list) else value:>8}  {text}")
    for reason, count in did["reasons"].items():
        out.print(f"{count:>8}  wait because: {reason}")


# --- what was set aside ----------------------------------------------------------------------------------------------


@set_aside_app.command("list")
def set_aside_list(
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """List the batches of which something is not counted: lines set aside, and batches that failed for good."""
    deployment = _connect(stack, region, profile, local)
    with err.status("reading the bucket"):
        found = list(redrive.entries(deployment))
    if as_json:
        _print_json([asdict(entry) for entry in found])
        return
    _table(
        ("batch", "kind", "left", "doubtful", "from", "reasons"),
        [
            (
                one.batch,
                one.kind,
                f"{one.left:,}",
                f"{one.doubtful:,}",
                one.origin or "-",
                "; ".join(sorted(one.reasons)),
            )
            for one in found
        ],
    )


@set_aside_app.command("show")
def set_aside_show(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="A batch that 'set-aside list' names.")],
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """Show each line that a batch set aside, and why."""
    found = redrive.lines(_connect(stack, region, profile, local), batch)
    if as_json:
        _print_json([asdict(line) for line in found])
        return
    for line in found:
        out.print(f"{line.id}  {line.state}: {line.reason}\n    {line.message[:_WIDEST]}")


@set_aside_app.command("redrive")
def set_aside_redrive(
    batches: Annotated[
        list[str] | None, typer.Argument(metavar="[BATCH]...", help="Batches that 'set-aside list' names.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Redrive every batch that has something left.")] = False,
    doubtful: Annotated[
        bool,
        typer.Option(
            "--doubtful", help="Also count lines that an earlier delivery may have counted: look at them first."
        ),
    ] = False,
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """Count what was set aside, once its cause is mended; a line counts once, however often it is redriven.

    Exits with 1 if something is left that still cannot be counted.
    """
    if bool(batches) == everything:
        raise typer.BadParameter("name the batches to redrive, or give --all for every one")
    deployment = _connect(stack, region, profile, local)
    names = batches or [entry.batch for entry in redrive.entries(deployment)]
    done = [
        redrive.redrive(deployment, name, doubtful=doubtful)
        for name in _progress("redriving", as_json)(names, len(names))
    ]
    if as_json:
        _print_json(done)
    else:
        for one in done:
            out.print(f"{one['batch']}: {one['counted']} counted, {one['left']} left")
            for name, reason in one["reasons"].items():
                out.print(f"    {name}: {reason}")
    if any(one["left"] for one in done):
        raise typer.Exit(1)


# --- Stripe ----------------------------------------------------------------------------------------------------------


@stripe_app.command("connect")
def stripe_connect(
    as_json: Json = False,
    stack: Stack = "Metering",
    region: Region = None,
    profile: Profile = None,
    local: Local = False,
) -> None:
    """Put the restricted Stripe key in the secret, and make the meters that the metrics need.

    The key is asked for without echo, or read from stdin. It needs the rights to write meters and meter events.
    """
    deployment = _connect(stack, region, profile, local)
    meters = connect(deployment, _stripe_key())
    if as_json:
        _print_json({"connected": True, "meters": meters})
        return
    out.print("the key is in the secret")
    for meter in meters:
        out.print(f"meter {meter['meter']} {'made' if meter['made'] else 'exists'}")


def _stripe_key() -> str:
    if sys.stdin.isatty():
        key = str(typer.prompt("Stripe restricted key", hide_input=True, err=True))
    else:
        key = sys.stdin.buffer.read().decode(errors="replace")
    key = key.strip()
    if not re.fullmatch(r"[rs]k_[A-Za-z0-9_]+", key):
        raise OperatorError("a Stripe key is written rk_... (restricted) or sk_...; what was given is none")
    return key


# --- what the commands share -----------------------------------------------------------------------------------------


def _customer(ledger: Ledger, customer_id: str) -> Customer:
    well_formed = re.fullmatch(CUSTOMER_ID_PATTERN, customer_id)
    found = ledger.customers([customer_id]).get(customer_id) if well_formed else None
    if found is None:
        raise OperatorError(f"there is no customer {customer_id!r}: 'metering customers list' shows them")
    return found


def _say_change(change: Change, as_json: bool) -> None:
    if as_json:
        _print_json({"changed": change.said, "hours_to_close_again": change.marks})
        return
    for sentence in change.said or ["nothing to change"]:
        out.print(sentence)
    if change.marks:
        out.print(f"{change.marks} closed hours are closed again at the next tick, or by 'metering close'")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column == "quantity" else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    if table.row_count:
        if not out.is_terminal:
            out.width = _WIDEST  # a pipe gets each row on one line
        out.print(table)
    else:
        err.print("nothing there")


def _progress(doing: str, quiet: bool) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    """Return a way to go through things with a progress bar, on a terminal and where there is time to see it."""
    return lambda things, total: track(
        things, description=doing, total=total, console=err, disable=quiet or not err.is_terminal, transient=True
    )


def _fail(sentence: str) -> NoReturn:
    err.print(f"error: {sentence}", style="red")
    raise SystemExit(1)


def main() -> None:
    """Run the command line; an error is one sentence on stderr and exit code 1, wrong use is 2."""
    try:
        app()
    except (OperatorError, StripeUnavailableError, StripeRejectedError) as error:
        _fail(str(error))
    except NoCredentialsError:
        _fail("no AWS credentials are found: sign in with 'aws sso login' or 'aws configure', or use --local")
    except NoRegionError:
        _fail("no AWS Region is set: give --region, or set AWS_DEFAULT_REGION")
    except ProfileNotFound as error:
        _fail(f"{error}: give another --profile")
    except ClientError as error:
        said = error.response["Error"]
        sign_in = ": sign in again, or give another --profile" if said["Code"] in _NOT_SIGNED_IN else ""
        _fail(f"AWS answered {said['Code']} to {error.operation_name}: {said.get('Message', '')}{sign_in}")
    except (ConnectionError, HTTPClientError) as error:
        _fail(f"AWS cannot be reached: {error}: look at the network, the Region and AWS_ENDPOINT_URL")
    except BotoCoreError as error:
        _fail(f"AWS cannot be asked: {error}: look at the profile, the Region and the credentials")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # noqa: BLE001 - the process's outermost edge
        _fail(f"unexpected {type(error).__name__}: {error}. This is a defect of the program: please report it")


if __name__ == "__main__":
    main()

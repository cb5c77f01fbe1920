"""The embedded AWS and Stripe."""

import json
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer

from infra.cli.shared import Json, err, out, print_as_it_is, print_json, table

if TYPE_CHECKING:
    from infra.local.cloud import Address

app: Final = typer.Typer()

ALERTS_FROM: Final = "metering@example.com"
"""Where e-mail about the sample's limits comes from."""

Road = Annotated[
    Literal["subscription", "firehose"], typer.Option(help="How the access log's lines reach the counters.")
]
Api = Annotated[
    Literal["rest", "http"], typer.Option(help="Which sample to call: a REST API by keys, or an HTTP API by tokens.")
]


@app.command()
def demo(
    requests: Annotated[int, typer.Option(help="How many HTTP requests to send.", min=1, max=100_000)] = 600,
    road: Road = "subscription",
    api: Api = "rest",
    faults: Annotated[bool, typer.Option("--faults", help="Let DynamoDB and Stripe fail at random meanwhile.")] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Then keep traffic flowing, and print links to the customers' pages.")
    ] = False,
    limits: Annotated[
        bool, typer.Option("--limits", help="Show instead how a limit warns, stops and reopens, and how far it holds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the whole way on this machine: real requests become a Stripe bill, and every step is compared.

    Needs no AWS account and no Stripe account. Exits with 1 if sent, counted, ledger and Stripe differ, or
    the invoices do not ask what the usage costs by the declared prices.

    With --page it goes on until Ctrl-C, commands reach it with --local, and with --json the one line on stdout holds
    the links.

    With --limits a customer runs into a limit: it is warned at 80 %, stopped at the gateway, and passes again when the
    operator raises the limit; then it stops itself by a budget. Exits with 1 if any of it does not happen, or more
    calls came after the limit than were stated.
    """
    if limits:
        if page or faults or api == "http":
            raise typer.BadParameter("--limits goes with --road and --json alone")
        _limits(road, as_json)
        return
    if api == "http" and road == "firehose":
        raise typer.BadParameter("an HTTP API cannot write its access log to Firehose: leave --road out")
    if page:
        _until_stopped(requests, road, api, faults, as_json)
        return
    from infra.local.demo import steps as local_demo  # noqa: PLC0415 - the CDK and the servers are for this command alone

    result = local_demo.run(requests=requests, road=road, api=api, faults=faults, say=err if as_json else out)
    if as_json:
        print_json(result.as_json())
    if not result.equal:
        raise typer.Exit(1)


def _limits(road: str, as_json: bool) -> None:
    from infra.local.demo import limits as limits_demo  # noqa: PLC0415 - the CDK and the servers are for this command alone

    result = limits_demo.run(road=road, say=err if as_json else out)
    if as_json:
        print_json(result.as_json())
    if not result.equal:
        raise typer.Exit(1)


def _until_stopped(requests: int, road: str, api: str, faults: bool, as_json: bool) -> None:
    from infra.local.demo import live  # noqa: PLC0415 - the CDK and the servers are for this command alone

    def ready(links: Mapping[str, str]) -> None:
        if as_json:
            sys.stdout.write(json.dumps({"links": dict(links)}) + "\n")
            sys.stdout.flush()
        else:
            for name, link in links.items():
                out.print(f"{name}: {link}")
        err.print("traffic flows, and every 20 s the hour is closed and posted; Ctrl-C stops it")

    _heed_signals()
    with suppress(KeyboardInterrupt):
        result = live.run(
            requests=requests, road=road, api=api, faults=faults, say=err if as_json else out, ready=ready
        )
        if not result.equal:
            raise typer.Exit(1)


def try_it(address: "Address") -> list[str]:
    """Return lines for a shell that make a customer, a key and a call, and show what it costs."""
    closed = [
        "uv run metering close --local",
        "uv run metering invoice acme --local",
    ]
    return [
        "keys=$(mktemp -d)",
        'uv run metering customers add acme --name "Acme Ltd" --local',
        "uv run metering keys create acme --plan Standard --out $keys/acme --local",
        "uv run metering customers subscribe acme standard --email billing@acme.example --local",
        "uv run metering posting on --local",
        f'curl -H "x-api-key: $(cat $keys/acme)" -H "x-user: u1" {address.api_url}/items',
        "uv run metering usage acme --local",
        *(closed if address.clock_back_s else []),
    ]


def deploy_again(address: "Address", context: Mapping[str, str]) -> list[str]:
    """Return lines for a shell that deploy what app.py declares by now, and bring it to the local Stripe."""
    there = {
        "AWS_PROFILE": "",
        "AWS_ENDPOINT_URL": address.aws_endpoint_url,
        "AWS_REGION": address.region,
        "AWS_ACCESS_KEY_ID": address.access_key_id,
        "AWS_SECRET_ACCESS_KEY": address.secret_access_key,
    }
    given = (f"-c {name}={value}" for name, value in context.items())
    variables = (f"{name}={value}" for name, value in there.items())
    return [
        " ".join([*variables, "uv run cdk deploy Metering", *given]),
        "uv run metering stripe apply --local",
    ]


@app.command()
def local(
    road: Road = "subscription",
    limits: Annotated[
        bool, typer.Option("--limits", help="With the sample's limits; the gateway's clock is right then.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Keep the embedded AWS and Stripe running with everything deployed, to try things on, until Ctrl-C.

    The gateway's clock is two hours back, so that the hour of each request can be closed at once; with --limits it is
    right, since limits are about what is used now. A stage that is connected meanwhile ('metering connect --local')
    gets a gateway, whose address is printed: the embedded AWS writes no access log itself.

    With --json the first line on stdout, once all is ready, is one JSON object that says where everything is.
    """
    from infra.local import cloud as local_cloud  # noqa: PLC0415 - its servers are for the local commands alone
    from infra.local.fronts import LOOK_EVERY, Fronts  # noqa: PLC0415 - the same

    _heed_signals()
    alerts_from, back = (ALERTS_FROM, timedelta(0)) if limits else (None, local_cloud.CLOCK_BACK)
    started = local_cloud.start(road=road, alerts_from=alerts_from, back=back, say=err)
    with local_cloud.alone(), started as cloud, suppress(KeyboardInterrupt):
        cloud.announce()
        if limits:
            cloud.let_send(ALERTS_FROM)
        if as_json:
            sys.stdout.write(json.dumps(asdict(cloud.address)) + "\n")
            sys.stdout.flush()
        else:
            table(("what", "where"), ((name, str(one)) for name, one in asdict(cloud.address).items()))
            out.print()
            out.print("To try it, in another terminal and this folder; a call is counted some seconds later:")
            print_as_it_is("".join(f"{line}\n" for line in try_it(cloud.address)))
            out.print()
            out.print("After an edit of app.py, so that it is in force here:")
            print_as_it_is("".join(f"{line}\n" for line in deploy_again(cloud.address, cloud.context)))
            sys.stdout.flush()
        err.print("ready; commands reach it with --local; Ctrl-C stops it")
        with Fronts(cloud.emulator, back, say=err.print) as fronts:
            while True:
                fronts.be_of(cloud.deployment.connections.all())
                time.sleep(LOOK_EVERY)


def _heed_signals() -> None:
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell starts what it runs in the background deaf to Ctrl-C
        signal.signal(ending, _interrupt)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt

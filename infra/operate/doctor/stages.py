"""Checks of the stages that write the access log: those that are compared, any other that writes it, and their role."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from shlex import quote
from typing import Any, Final

from infra.operate.connections.apis import ApiThere, apis_there, stages_there
from infra.operate.connections.snippets import pasted
from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import DAY, Finding, Measured, broken, items, measured, ok, warning
from infra.operate.versions import are_behind, first_up
from infra.operate.words import count
from metering.model.connections import Connection, Step
from metering.model.log_format import API_KEY, Api
from metering.model.metrics import declared
from metering.model.stages import Stage, decode
from metering.settings import CheckCompletenessSettings
from metering.signals import NAMESPACE, Signal

MOST_NAMED: Final = 10

MOST_APIS: Final = 100
"""Of so many APIs that no compared stage is of the stages are looked at, by a call each."""

_ATTACH: Final = "as infra/stack/README.md says (Attach your own API), and deploy it"


@dataclass(frozen=True, slots=True)
class _Found:
    """A stage as it is, and what it writes where."""

    api: ApiThere
    name: str
    destination: str
    format: str

    def __str__(self) -> str:
        return f"the stage {self.name} of {self.api.name}"

    def is_one_of(self, stages: Sequence[Stage]) -> bool:
        """Say whether it is compared."""
        return any(self.name == stage.name and self.api.is_of(stage) for stage in stages)

    def is_that_of(self, connections: Iterable[Connection]) -> bool:
        """Say whether it is connected."""
        return any((self.api.id, self.name) == (one.api_id, one.stage) for one in connections)


def check_stages(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See that each stage that is compared with what is counted writes our format to us, and which others do.

    One call for each of their APIs and for at most :data:`MOST_APIS` others.
    """
    compared, connections = _compared(deployment), _connected(deployment)
    apis = [*apis_there(deployment)]
    others = [api for api in apis if not any(map(api.is_of, compared))]
    looked_at = [api for api in apis if api not in others] + others[:MOST_APIS]
    there = [stage for api in looked_at for stage in _stages(deployment, api)]
    ours = _destinations(deployment)
    writing = [stage for stage in there if stage.destination.removesuffix(":*").endswith(ours)]
    for stage in compared:
        yield from _missing(stage, [found for found in there if found.is_one_of([stage])], writing, connections)
    for found in writing:
        yield _written(deployment, found)
    # A WebSocket API's lines stand beside no number of CloudWatch's.
    comparable = [found for found in writing if found.api.kind is not Api.WEBSOCKET]
    alone = [str(found) for found in comparable if not found.is_one_of(compared)]
    if alone:
        yield warning(
            f"nothing is compared with the requests of {', '.join(alone)}: neither lines that it does not write nor "
            "lines that somebody else writes into the log would be noticed",
            "name it in app.py: metering.compare_with(api=..., stage=...), with its kind if it is another than that of "
            "access_log, and deploy the stack",
        )
    if not writing and not compared and connections:
        yield ok("no stage writes into the access log; those of connections write elsewhere")
    elif not writing and not compared:
        yield warning("no stage writes into the access log", f"attach your API, {_ATTACH}")
    if len(others) > MOST_APIS:
        yield warning(
            f"{len(others) - MOST_APIS} APIs of the Region were not looked at", "name yours by metering.compare_with"
        )


def pasted_names(deployment: Deployment) -> set[str]:
    """Return by which names stages write into the access log whose lines were pasted into their own templates.

    A call for each of at most :data:`MOST_APIS` APIs.
    """
    ours, apart = _destinations(deployment), deployment.access_log.variable != API_KEY
    stages = (stage for api in islice(apis_there(deployment), MOST_APIS) for stage in _stages(deployment, api))
    writing = (stage for stage in stages if stage.destination.removesuffix(":*").endswith(ours))
    return {log.connection for one in writing if (log := pasted(one.api.kind, one.format, keys_apart=apart))}


def check_billed(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """See that of the lines of the last day some are billed; if none is, name methods that ask callers for no API key.

    Then it takes a call for each API, and for each page of the resources of those that write to us.
    """
    where = {"service": deployment.outputs.deployment}
    wanted: list[Measured] = [
        (NAMESPACE, signal.value, "Sum", where) for signal in (Signal.RECORDS_BILLED, Signal.RECORDS_UNBILLED)
    ]
    billed, unbilled = measured(deployment, wanted, now, DAY)
    if billed or not unbilled:
        lines, are = count(round(billed), "line"), "is" if round(billed) == 1 else "are"
        yield ok(f"{lines} of the last day {are} billed, and {unbilled:,.0f} good ones are not")
        return
    keyless = [*islice(_without_key(deployment), MOST_NAMED + 1)]
    more = " and more" * (len(keyless) > MOST_NAMED)
    named = f"; no API key is asked for by {', '.join(keyless[:MOST_NAMED])}{more}" if keyless else ""
    yield warning(
        f"{unbilled:,.0f} good lines came in the last day, and none of them is billed{named}",
        "a line is billed if it names who calls, and its status is one that a metric bills: require an API key in each "
        "method (apiKeyRequired), or see what the stage's authorizer returns, and deploy it",
    )


def _without_key(deployment: Deployment) -> Iterator[str]:
    """Yield the methods of REST APIs whose stages write to us that require no API key, where keys say who is billed."""
    ours = () if deployment.access_log.caller else _destinations(deployment)
    keyed = [one for one in _connected(deployment) if one.log.variable == API_KEY]
    for api in apis_there(deployment) if ours or keyed else ():
        stages = _stages(deployment, api) if api.kind is Api.REST else ()
        if any(one.destination.removesuffix(":*").endswith(ours) or one.is_that_of(keyed) for one in stages):
            client = deployment.client("apigateway")
            for resource in items(client, "get_resources", "items", restApiId=api.id, embed=["methods"]):
                for name, method in sorted(resource.get("resourceMethods", {}).items()):
                    if name != "OPTIONS" and not method.get("apiKeyRequired"):
                        yield f"{name} {resource['path']} of {api.name}"


def check_log_role(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See that API Gateway has a role to write access logs by, which it needs but for HTTP APIs and Firehose."""
    ours = deployment.access_log.api.logs_by_role and not deployment.outputs.delivery_stream
    if not ours and not any(one.log.api.logs_by_role for one in _connected(deployment)):
        return
    role = deployment.client("apigateway").get_account().get("cloudwatchRoleArn")
    if role:
        yield ok(f"API Gateway writes access logs by the role {role.rpartition('/')[2]}")
    else:
        yield broken(
            "API Gateway has no role to write access logs by, so that no REST or WebSocket API of this Region can",
            "make one, as infra/stack/README.md says (Attach your own API)",
        )


def _compared(deployment: Deployment) -> tuple[Stage, ...]:
    """Return the stages that ``compare_with`` named, as the function that compares them is told of them."""
    name = deployment.outputs.check_completeness_function
    function = deployment.client("lambda").get_function_configuration(FunctionName=name)
    return decode(CheckCompletenessSettings.read(function["Environment"]["Variables"]).stages)


def _destinations(deployment: Deployment) -> tuple[str, ...]:
    stream = deployment.outputs.delivery_stream
    return f":log-group:{deployment.outputs.access_log_group}", *([f":deliverystream/{stream}"] if stream else [])


def _connected(deployment: Deployment) -> list[Connection]:
    """Return the connections of stages that are not over."""
    return [one for one in deployment.connections.all() if one.api and one.step is not Step.DISCONNECTED]


def _missing(
    stage: Stage, found: Sequence[_Found], writing: Sequence[_Found], connections: Sequence[Connection]
) -> Iterator[Finding]:
    """Say what is wrong with a stage that is compared and writes nothing to us."""
    if not found:
        yield broken(
            f"the stage {stage.name} of {stage.api} is to be compared, and is not there",
            "deploy it, or take it out of compare_with, and deploy the stack",
        )
    elif not any(one in writing for one in found) and any(one.is_that_of(connections) for one in found):
        yield warning(
            f"{found[0]} is connected, and its requests are compared with the access log, too, which it does not write",
            "take it out of compare_with, and deploy the stack: a connection is compared by itself",
        )
    elif not any(one in writing for one in found):
        where = found[0].destination
        yield broken(
            f"{found[0]} writes {f'its access log to {where}' if where else 'no access log'}: its requests are billed "
            "to nobody",
            f"give it destination and format, {_ATTACH}",
        )
    if len(found) > 1:
        yield warning(
            f"{len(found)} APIs of the Region are named {stage.api}, and their requests are counted together",
            "give yours a name of its own",
        )


def _written(deployment: Deployment, found: _Found) -> Finding:
    """Compare what a stage writes with our format, or with that of lines that were pasted into its own template."""
    own = deployment.access_log
    lines = pasted(found.api.kind, found.format, keys_apart=own.variable != API_KEY)
    log = lines or own
    wanted = log.format(deployment.outputs.nonces.partition(" ")[0], declared(deployment.declared_metrics))
    if found.api.kind is log.api and found.format.strip() == wanted:
        named = f" as {log.connection}" if lines else ""
        return ok(f"{found} writes our format{named}, and bills {log.prefix}{log.variable}")
    first, unlike = first_up(deployment.outputs), difference(found.format, wanted)
    if are_behind(deployment.outputs):
        return warning(f"{found} writes another format than these commands know{unlike}", first)
    other = (
        f"paste the lines anew that 'metering connect {found.api.id} {quote(found.name)} --print TOOL' shows"
        if lines or found.api.kind is not own.api
        else f"give {found} metering.access_log_format"
    )
    return broken(
        f"{found} writes another format than ours{unlike}",
        f"{f'{first}, then ' * bool(first)}{other}, and deploy it: until then its lines may be set aside",
    )


def _stages(deployment: Deployment, api: ApiThere) -> Iterator[_Found]:
    for name, stage in stages_there(deployment, api):
        rest, other = stage.get("accessLogSettings", {}), stage.get("AccessLogSettings", {})
        destination = rest.get("destinationArn") or other.get("DestinationArn", "")
        yield _Found(api, name, destination, rest.get("format") or other.get("Format", ""))


def difference(text: str, wanted: str) -> str:
    """Say in which fields a format differs from the one that is wanted."""
    there, ours = _fields(text), _fields(wanted)
    if not there:
        return ": it is no JSON object"
    lacking, extra = sorted(ours.keys() - there.keys()), sorted(there.keys() - ours.keys())
    other = sorted(name for name in ours.keys() & there.keys() if ours[name] != there[name])
    parts = {"lacks": lacking, "has also": extra, "has otherwise": other}
    said = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
    return f": it {'; it '.join(said)}" if said else ": its fields are in another order"


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}

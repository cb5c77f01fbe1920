"""Shapes of what leaves the tables: objects of the bucket, outputs, tokens, events, and lines of the access log."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any

import jwt
import msgspec
import pytest

from infra.outputs import Outputs
from metering.billing.rejections import tell_rejected
from metering.limits.telling import access_events, put_events
from metering.model.batches import Source
from metering.model.limits import Level, Reason, Spend
from metering.model.log_format import AccessLog, Api
from metering.model.prices import Plan
from metering.portal.tokens import Right, Use, issue
from metering.stores import aws
from metering.stores.limits import Gate
from metering.stores.set_aside import Dismissal, SetAside, SetAsideBatch, SetAsideLine
from tests.integration.limits import PLAN, Bus, Limited
from tests.integration.world import World

Shapes = dict[str, dict[str, str | None]]
"""By kinds of items, or names of structs: what each attribute or field is."""

NAMED_BY_LINES = ("redriven", "dismissed")
"""Objects of the bucket whose names are those of lines."""


def told_now(world: World, monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """Return the shapes of what the present code leaves outside of the tables."""
    return (
        objects(_set_aside(world)) | outputs(_every_output()) | _tokens(world) | _lines() | _events(world, monkeypatch)
    )


def told_then(kept: Mapping[str, Any]) -> Shapes:
    """Return the shapes of what a released version left outside of the tables, as its folder has it."""
    told = kept["told"]
    first = next(
        json.loads(line) for batch in kept["log"] for line in batch["lines"] if batch["source"] == "access log"
    )
    line = {name: value for name, value in first.items() if "." not in name}  # without what its metrics read
    return (
        objects(kept["bucket"])
        | outputs(told["outputs"])
        | token(told["token"]["session"])
        | events(event | {"Detail": json.loads(event["Detail"])} for event in told["events"])
        | {"line of the access log/": described(line)}
    )


def described(value: object, of: str = "") -> dict[str, str | None]:
    """Return what JSON holds, by where it stands: ``lines[].id``."""
    return dict(_described(value, of))


def _described(value: object, of: str) -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for name, member in value.items():
                yield from _described(member, f"{of}.{name}" if of else name)
        case list():
            yield of, "list"
            for member in value:
                if isinstance(member, dict):
                    yield from _described(member, f"{of}[]")
        case _:
            yield of, type(value).__name__


def objects(bucket: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the bucket's objects, by their names without the batch's."""
    shapes: Shapes = {}
    for name, document in bucket.items():
        folder, _, file = name.partition("/")
        kind = file.partition(".")[2].removesuffix("json").removesuffix(".")
        whole = {"*": next(iter(document.values()))} if kind in NAMED_BY_LINES else document
        shapes.setdefault(f"object {folder}/{kind}", {}).update(described(whole))
    return shapes


def outputs(told: Mapping[str, str]) -> Shapes:
    """Return the names of a stack's outputs."""
    return {"stack outputs/": dict.fromkeys(told, "str")}


def token(text: str) -> Shapes:
    """Return the shape of a portal token."""
    claims = jwt.decode(text, options={"verify_signature": False})
    return {"token header/": described(jwt.get_unverified_header(text)), "token claims/": described(claims)}


def events(told: Iterable[Mapping[str, Any]]) -> Shapes:
    """Return the shapes of events, by their sources and kinds."""
    shapes: Shapes = {}
    for event in told:
        shapes.setdefault(f"event {event['Source']}/{event['DetailType']}", {}).update(described(event["Detail"]))
    return shapes


def _set_aside(world: World) -> dict[str, Any]:
    """Write one of each object, and return them all."""
    kept: SetAside = world.set_aside
    wholly, partly = SetAsideLine("1", "{", "not JSON"), SetAsideLine("2", "{}", "too large", ("bytes",))
    batch = SetAsideBatch("00" * 12, Source.ACCESS_LOG, "access-log s", (wholly, partly), ("2026-11-22T05 key1",), 1)
    kept.keep(batch)
    kept.keep_doubtful(
        msgspec.structs.replace(batch, lines=(SetAsideLine("3", "[", "not JSON"),)), kept.of(batch.batch)
    )
    kept.note_redriven(batch.batch, {partly.name: ["bytes"]})
    kept.dismiss(batch.batch, {wholly.name: Dismissal("a test", "operator", "2026-11-22T05:31:00Z")})
    names = [one["Key"] for one in kept.client.list_objects_v2(Bucket=kept.bucket)["Contents"]]
    read = {name: kept.client.get_object(Bucket=kept.bucket, Key=name)["Body"].read() for name in names}
    return {name: json.loads(body) for name, body in read.items()}


def _every_output() -> dict[str, str]:
    return Outputs(**{field.name: "there" for field in fields(Outputs)}).written()


def _tokens(world: World) -> Shapes:
    text, _ = issue(
        "key-of-tests-" * 4,
        deployment="Metering",
        customer="acme",
        now=world.now,
        life=timedelta(hours=1),
        use=Use.SESSION,
        may=(Right.BUDGET,),
    )
    return token(text)


def _lines() -> Shapes:
    caller = {Api.REST: None, Api.HTTP: "authorizer.claims.sub", Api.WEBSOCKET: "authorizer.user"}
    lines = [described(json.loads(AccessLog(api, caller[api]).format("nonce"))) for api in Api]
    return {"line of the access log/": {name: kind for line in lines for name, kind in line.items()}}


def _events(world: World, monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """Let each kind of event be put: of a total that Stripe rejects, of limits in units and in money, of access."""
    limited = Limited()
    limited.plans = (
        Plan(name="pro", title="Pro", currency="usd", prices=PLAN.prices, limits=(*PLAN.limits, Spend(1))),
    )
    limited.customer()
    limited.use(100)
    limited.look()
    reasons = [Reason("limit:requests/day:2026-11-22T00", Level.STOPPED, 1)]
    for level in ("open", "slowed", "stopped"):
        gate = Gate(Level.STOPPED, changes=3, untold=(f"3:open:{level}",), keys=2)
        put_events(limited.bus, access_events("Metering", "acme", reasons, gate))
    bus = Bus()
    with monkeypatch.context() as patched:
        patched.setattr(aws, "events", lambda: bus)
        tell_rejected({"1.acme.requests.2026-11-22T05.r1": "No such customer"}, world.ledger.holders)
    return events([*limited.bus.put, *bus.put])

"""Whatever is stored keeps its shape: each field stands in a file, under the version that was the first to write it.

``tests/events/stored/shapes.json`` has the attributes of items, as a deployment in memory writes them here, the fields
of the structs of which JSON and attributes are made, and what leaves the tables: objects of the bucket, outputs,
tokens, events, and lines of the access log. A field that a version no longer writes is null there.
"""

import importlib
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import msgspec
import pytest

import metering.model
import metering.stores
from infra.operate import access_notes
from infra.operate.access_notes import AccessNotes, Rotation
from metering.model.log_format import AccessRecord
from metering.model.metrics import USAGE_LINES, Count, Max, Sum, Unique, encode
from metering.model.periods import Hour
from metering.stores.declarations import Declarations
from tests.doubles.released import STORED
from tests.integration.billing import FINALISED, Billing, due
from tests.integration.shapes_told import Shapes, told_now, told_then
from tests.integration.world import HOUR, World, moment

FILE: Final = STORED / "shapes.json"

CHANGED: Final = """
What is stored has another shape than tests/events/stored/shapes.json says, where + is new and - is gone:
{changes}
Deployments have items of every version before, and read them for years. Give a new field a default, and see that
what is stored without it goes on meaning what it meant; read on what is no longer written. Then add it to the file,
under the version that will be the first to write it (null for what it no longer writes), and tell the way back to
an older version in .github/CHANGELOG.md, where there is none."""


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


def test_what_is_stored_has_the_shape_of_the_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change is noted by whoever makes it, who reads what it means to deployments."""
    play(world)
    assert_same(items_in(world) | structs() | told_now(world, monkeypatch), written_in_file())


def test_a_change_is_explained() -> None:
    """With what to do about it."""
    with pytest.raises(AssertionError, match=r"\+ Change\.by: str\n\s*- Change\.at: int\n\s*Deployments have"):
        assert_same({"Change": {"who": "str", "by": "str"}}, {"Change": {"who": "str", "at": "int"}})


def test_what_a_later_version_added_may_be_missing() -> None:
    """A struct of which an older version has stored something is read without the new fields."""
    first, *later = versions().values()
    added = [
        f"{name}.{field}: {kind}"
        for version in later
        for name, fields in version.items()
        if name in first and "/" not in name
        for field, kind in fields.items()
        if kind is not None and " = " not in kind
    ]
    assert not added, f"without a default, what 1.0.0 stored cannot be read: {added}"


def test_the_file_has_what_the_first_version_wrote() -> None:
    """As its folder has it; outside of the tables it may have written more than that."""
    first = versions()["1.0.0"]
    kept = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (STORED / "1.0.0").iterdir()}
    items: Shapes = {}
    for table in ("counters", "ledger"):
        for item in kept[table]:
            items.setdefault(kind_of(table, item), {}).update(attributes(item))
    assert {kind: fields for kind, fields in first.items() if kind.startswith(("counters ", "ledger "))} == items
    for kind, fields in told_then(kept).items():
        assert fields.items() <= first[kind].items(), kind


def assert_same(present: Shapes, noted: Shapes) -> None:
    """Compare, and explain."""
    now, then = set(_lines(present)), set(_lines(noted))
    changes = [*(f"  + {line}" for line in sorted(now - then)), *(f"  - {line}" for line in sorted(then - now))]
    assert not changes, CHANGED.format(changes="\n".join(changes))


def _lines(shapes: Shapes) -> Iterator[str]:
    return (f"{name}.{field}: {kind}" for name, fields in shapes.items() for field, kind in fields.items())


def versions() -> dict[str, Shapes]:
    """Return what each version was the first to write, in their order."""
    read: dict[str, Shapes] = json.loads(FILE.read_text(encoding="utf-8"))
    return read


def written_in_file() -> Shapes:
    """Return the present shapes as the file has them: what was added, without what is gone."""
    merged: Shapes = {}
    for version in versions().values():
        for name, fields in version.items():
            merged[name] = merged.get(name, {}) | fields
    return {name: {field: kind for field, kind in fields.items() if kind} for name, fields in merged.items()}


# --- structs ---------------------------------------------------------------------------------------------------------


def structs() -> Shapes:
    """Return the fields of each struct of the model and the stores, and of what commands store."""
    modules = [access_notes]
    for room in (metering.model, metering.stores):
        modules += [
            importlib.import_module(f"{room.__name__}.{name}") for _, name, _ in pkgutil.iter_modules(room.__path__)
        ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__
    }
    return {
        cls.__name__: {field.encode_name: _said(field) for field in msgspec.structs.fields(cls)}
        for cls in sorted(found, key=lambda cls: cls.__name__)
        if not cls.__name__.startswith("_") and cls is not AccessRecord  # a line of the log, which nobody here stores
    }


def _said(field: msgspec.structs.FieldInfo) -> str:
    """Return a field's type, and what it is where it is missing."""
    kind = (
        field.type.__name__
        if isinstance(field.type, type) and not hasattr(field.type, "__args__")
        else repr(field.type)
    )
    kind = re.sub(r"(?:\w+\.)+(?=\w)|<enum '(\w+)'>", r"\1", kind)
    if field.default is not msgspec.NODEFAULT:
        return f"{kind} = {field.default!s}"
    return kind if field.required else f"{kind} = {field.default_factory()!s}"


# --- items -----------------------------------------------------------------------------------------------------------


def play(world: World) -> None:
    """Let a deployment write items of most kinds."""
    world.bill(
        Count(name="requests", by="resource"),
        Sum(name="bytes", of="response_length"),
        Unique(name="users", of="authorizer.user", opaque_id=True),
        Max(name="seats", of="authorizer.seats"),
        Sum(name="tokens", of=USAGE_LINES),
        Sum(name="jobs", of=USAGE_LINES, deduplicate=True),
    )
    billing = Billing(world)
    Declarations(world.ledger.client, world.ledger.table).note(encode(world.metrics), world.now)
    world.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    world.customer("auth0|5f7c8ec7c33c6c004bbafe82", "key3")
    world.ledger.holders.name_key("acme", "key1", "production")
    billing.subscribe()
    billing.at(world.now)
    used = {"authorizer.user": "ann", "authorizer.seats": "3"}
    world.record(world.line(**used), world.line(key="key2", **used), world.line(key="key3"), world.line(key="key4"))
    world.report(
        json.dumps({"usage": {"id": "1", "time": int(moment(HOUR)), "customer": "acme", "tokens": 1, "jobs": 1}})
    )
    world.counters.save_recorded_chunks("access-log/one", 1, world.now)
    billing.at(due(HOUR))
    billing.settle()
    billing.jump(FINALISED)
    billing.settle()
    world.record(world.line())
    billing.settle()
    billing.adjust(-1)
    now = Hour.containing(world.now)
    world.record(world.line(key="key1", time=moment(now, 0)))
    billing.at(due(now))
    world.close()
    billing.adjust(-1, now)
    notes = AccessNotes(world.ledger.client, world.ledger.table)
    notes.write(Rotation("acme", "key1", ("plan1",), "key8", 1))
    world.switch.lease([0], "worker", now=world.now, until=world.now + timedelta(minutes=5))


def items_in(world: World) -> Shapes:
    """Return the attributes of every kind of item that a deployment has."""
    shapes: Shapes = {}
    for table in ("counters", "ledger"):
        for item in world.counters.client.scan(TableName=table)["Items"]:
            shapes.setdefault(kind_of(table, item), {}).update(attributes(item))
    return shapes


def kind_of(table: str, item: dict[str, Any]) -> str:
    """Return where an item is, without names, hours and numbers: ``ledger customer/change``."""
    of, _, _ = item["pk"]["S"].partition("#")
    what, hash_sign, _ = item["sk"]["S"].partition("#")
    is_word = re.fullmatch("[a-z]+", what) and table == "ledger" and of not in ("list", "rotations")
    return f"{table} {of}/{what if is_word else ''}{'#' if is_word and hash_sign else ''}"


def attributes(item: dict[str, Any]) -> dict[str, str | None]:
    """Return an item's attributes with DynamoDB's types; an amount's without the metric."""
    return {
        re.sub(r"^([a-z]):.*", r"\1:", name): next(iter(value))
        for name, value in item.items()
        if name not in ("pk", "sk")
    }

"""A deployment that a released version left behind: its tables, its bucket, and what Stripe holds by then."""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from infra.operate.usage import Report
from metering.model.batches import EventBatch, Source, batch_of
from metering.model.metrics import decode
from metering.model.periods import Hour
from metering.model.usage_row import Change
from metering.portal.reading import By
from metering.stores.attribution import Uniques
from tests.doubles.released import STORED
from tests.integration.billing import Billing
from tests.integration.world import HOUR, World

VERSIONS: Final = sorted(path.name for path in STORED.iterdir() if path.is_dir())
"""The released versions of which it is kept what they wrote."""

_LOGS: Final = {Source.ACCESS_LOG: "access-log", Source.USAGE_LINES: "jobs"}


@dataclass
class Left(Billing):
    """What a version left, with the present code at work on it."""

    kept: Mapping[str, Any] = field(default_factory=dict)
    """What stands in the version's folder, by the files' names."""

    @property
    def told(self) -> dict[str, Any]:
        """What the version told others: its outputs, events and tokens."""
        told: dict[str, Any] = self.kept["told"]
        return told

    def deliveries(self) -> list[tuple[datetime, EventBatch]]:
        """Return every batch that the version was given, and when."""
        made = []
        for one in self.kept["log"]:
            source = Source(one["source"])
            batch = batch_of(one["ids"], one["lines"], source, f"{_LOGS[source]} stream")
            made.append((datetime.fromtimestamp(one["at"] / 1000, UTC), batch))
        return made

    def usage(self) -> list[dict[str, Any]]:
        """Return the lines of ``metering usage``, without what the version did not tell."""
        world = self.world
        report = Report(world.counters, Uniques(world.claims, world.ledger.holders), world.ledger, None, split=False)
        end = Hour.containing(world.now).next()
        lines = report.lines(HOUR, end, by=By.HOUR, now=world.now, progress=lambda all_hours, _: all_hours)
        known = self.kept["usage"][0].keys()
        return [{name: getattr(line, name) for name in known} for line in lines]

    def changes(self) -> list[Change]:
        """Return every adjustment and carry of acme's."""
        return [change for _, change in self.world.changes.between("acme", Hour(0), Hour.parse("2030-01-01T00"))]


def left_by(version: str, world: World) -> Left:
    """Put what a version left into a world's tables and bucket, and what it had posted into its Stripe."""
    kept = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (STORED / version).iterdir()}
    told = kept["told"]
    world.metrics = decode(msgspec.json.encode(told["metrics"]).decode())
    left = Left(world, kept=kept)
    left.at(HOUR.start)
    world.bill(*world.metrics)
    for stripe_customer in ("cus_acme", "cus_hashed"):
        world.stripe.add_customer(stripe_customer)
    left.subscribe()
    for event in kept["meter_events"]:
        left.at(datetime.fromtimestamp(event["created"], UTC))
        names = ("event_name", "identifier", "timestamp", "payload")
        left.client().v1.billing.meter_events.create({name: event[name] for name in names})  # type: ignore[arg-type]
    left.at(datetime.fromisoformat(told["now"]))
    for table in ("counters", "ledger"):
        for item in kept[table]:
            world.counters.client.put_item(TableName=table, Item=with_bytes(item))
    for name, document in kept["bucket"].items():
        world.set_aside.client.put_object(Bucket=world.set_aside.bucket, Key=name, Body=json.dumps(document).encode())
    return left


def sums(lines: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """Return how much there is of each metric by owner."""
    added: dict[tuple[str, str], int] = {}
    for line in lines:
        name = line["customer"] or line["key"], line["metric"]
        added[name] = added.get(name, 0) + line["quantity"]
    return added


def with_bytes(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item as DynamoDB has it, whose bytes JSON holds as Base64."""
    values = {name: dict(value) for name, value in item.items()}
    for value in values.values():
        if "B" in value:
            value["B"] = base64.b64decode(value["B"])
        if "BS" in value:
            value["BS"] = [base64.b64decode(one) for one in value["BS"]]
    return values

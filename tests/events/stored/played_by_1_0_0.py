# ruff: noqa: I001 - what is imported is that of 1.0.0, by which it is run as a program
# mypy: ignore-errors
"""A month of usage in miniature, played by version 1.0.0 itself: what it leaves stored, and what it says it counted.

``tests/doubles/released.py`` runs this on the code of 1.0.0, and keeps the result; no later code ever runs it. Clocks,
ids and names are given, so that each run leaves the same.
"""

import base64
import itertools
import json
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from infra.local.stripe.server import LocalStripe
from infra.operate.access_notes import AccessNotes, Rotation, Suspension
from infra.operate.customers import Customers, Entry
from infra.operate.usage import Report
from metering.billing.pacing import Pace
from metering.billing.rejections import tell_rejected
from metering.billing.sending import Sender
from metering.counting.redriving import redrive
from metering.model.batches import Source, batch_of
from metering.model.metrics import USAGE_LINES, Count, Max, Sum, Unique, encode
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import Change, rejected_later
from metering.portal.reading import By
from metering.portal.tokens import Use, issue
from metering.stores import aws as clients
from metering.stores.attribution import Uniques
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.set_aside import Dismissal, SetAside
from metering.stores.switch import Switch
from tests.doubles.aws import Account
from tests.doubles.clock import Clock
from tests.doubles.outputs import outputs
from tests.doubles.stripe import in_process
from tests.integration.billing import FINALISED, Billing, due
from tests.integration.world import HOUR, World, moment

HASHED = "auth0|5f7c8ec7c33c6c004bbafe82"
METRICS = (
    Count(name="requests", by="resource"),
    Sum(name="bytes", of="response_length"),
    Unique(name="users", of="authorizer.user", opaque_id=True),
    Max(name="seats", of="authorizer.seats"),
    Sum(name="tokens", of=USAGE_LINES),
    Sum(name="jobs", of=USAGE_LINES, deduplicate=True),
)
NOW = Hour.containing(FINALISED)
PORTAL_KEY = "portal-key-of-tests-" * 3


class Play:
    """A deployment, the lines that it was told, and how they came."""

    def __init__(self, stripe: LocalStripe, account: Account) -> None:
        tables, bucket = account.client("dynamodb"), account.client("s3")
        self.tables, self.bucket = account.services["dynamodb"], account.services["s3"]
        ledger = Ledger(tables, "ledger")
        clock = Clock(HOUR.start + timedelta(minutes=30))
        self.world = World(stripe, Counters(tables, "counters"), ledger, SetAside(bucket, "bucket"), clock)
        self.billing = Billing(self.world)
        self.delivered: list[dict[str, Any]] = []
        self.early = ""

    def deliver(self, *lines: str, source: Source = Source.ACCESS_LOG) -> str:
        """Deliver lines as a batch, and return the batch's name."""
        ids = [f"{len(self.delivered):050d}{number:06d}" for number, _ in enumerate(lines)]
        at = int(self.world.now.timestamp() * 1000)
        self.delivered.append({"source": source.value, "at": at, "ids": ids, "lines": list(lines)})
        return self.again(*lines, source=source)

    def again(self, *lines: str, source: Source = Source.ACCESS_LOG) -> str:
        """Deliver the last lines as they were delivered, and return the batch's name."""
        group = "access-log" if source is Source.ACCESS_LOG else "jobs"
        batch = batch_of(self.delivered[-1]["ids"], lines, source, f"{group} stream")
        self.world.recorder().record(batch)
        return batch.token.hex()

    def line(self, key: str, *, hour: Hour = HOUR, user: str = "-", seats: str = "-", **changes: str) -> str:
        """Return a line of the access log."""
        values = {"authorizer.user": user, "authorizer.seats": seats}
        return self.world.line(key=key, time=moment(hour), api_id="a1b2c3d4e5", stage="prod", **(values | changes))

    def report(self, name: str, hour: Hour = HOUR, **metrics: int) -> str:
        """Return a usage line of acme."""
        return json.dumps({"usage": {"id": name, "time": int(moment(hour)), "customer": "acme"} | metrics})


def begin(play: Play) -> None:
    """Customers of every kind, and meters."""
    world = play.world
    world.ledger.progress.advance_cursor(HOUR)
    world.switch.turn(Switch(on=True, since="2026-09-01T00", who="arn:aws:iam::123456789012:user/operator", at=1))
    world.bill(*METRICS)
    world.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    world.customer("globex", "key3")
    world.customer(HASHED, "key4", stripe_customer="cus_hashed")
    Customers(world.ledger, world.counters).add(
        Entry("initech", "Initech", "cus_gone", ("key6",), None), now=world.now
    )  # a Stripe customer that Stripe does not know
    customers = Customers(world.ledger, world.counters)
    customers.exclude("key7", reason="our own tests", since=None, now=world.now)
    play.billing.subscribe()


def first_hour(play: Play) -> None:
    """What is counted, set aside, redriven and dismissed; then closed and posted."""
    world = play.world
    play.deliver(
        play.line("key1", user="ann", seats="3"),
        play.line("key1", user="ann", resource="/orders", seats="7"),
        play.line("key2", user="ann", status="404"),
        play.line("key2", user="bob", seats="5"),
    )
    play.deliver(*(play.line(key, user="cid") for key in ("key3", "key4", "key5", "key6", "key7")))
    play.deliver(
        play.report("job-1", tokens=40, jobs=1), play.report("job-1", tokens=2, jobs=1), source=Source.USAGE_LINES
    )
    early = play.line("key1", hour=HOUR.next())
    play.early = play.deliver(early, play.line("key1", response_length="1e99"))
    dismissed = play.deliver(play.line("key2", hour=HOUR.next(), user="dan"))
    world.set_aside.dismiss(
        dismissed,
        {
            waiting.line.name: Dismissal(
                "a load test of ours", "arn:aws:iam::123456789012:user/operator", "2026-11-22T05:31:00Z"
            )
            for waiting in world.set_aside.of(dismissed).waiting
        },
    )
    lines = play.line("key2", hour=HOUR.next(), user="eve"), "{half a li", play.line("key1", response_length="90")
    play.deliver(*lines)
    world.now -= timedelta(hours=2)  # by another machine's clock the last one is of the future: it is doubtful
    play.again(*lines)
    world.now += timedelta(hours=2)
    play.billing.at(due(HOUR))
    world.run()


def next_day(play: Play) -> None:
    """The first invoice is final; a late record of it is carried, and everything else is under way."""
    world, billing = play.world, play.billing
    billing.jump(FINALISED)
    billing.settle()
    redrive(world.recorder(), {"batch": play.early})  # its hour has come, and is closed again
    play.deliver(play.line("key1", user="fay"))
    billing.settle()
    billing.at(NOW.start + timedelta(minutes=30))
    play.deliver(play.line("key1", hour=NOW, user="ann"), play.line("key4", hour=NOW), play.line("key3", hour=NOW))
    billing.at(due(NOW))
    world.run()
    after = NOW.next()
    billing.at(after.start + timedelta(minutes=30))
    play.deliver(
        play.line("key1", hour=after, user="gus"), play.line("key2", hour=after), play.line("key4", hour=after)
    )
    billing.at(due(after))
    world.close()  # and not posted
    died(world, after)
    rejected(world)
    world.changes.add(
        "acme", NOW, Change("0a1b2c3d4e5f6071", "requests", -1, "goodwill", "operator", int(world.now.timestamp()))
    )
    play.deliver(play.line("key2", hour=NOW, user="hal"))  # late, and its hour is not closed again yet
    moved = Entry("globex", "Globex", "", ("key2",), Hour.containing(world.now).next())
    Customers(world.ledger, world.counters).add(moved, now=world.now)
    notes = AccessNotes(world.ledger.client, world.ledger.table)
    notes.write(Rotation("acme", "key1", ("plan1",), "key8", int(world.now.timestamp()) + 3600))
    notes.remember(HASHED, Suspension("key4", ("plan1", "plan2")))
    world.switch.lease([3], "a-worker-that-died", now=world.now, until=world.now + timedelta(minutes=5))
    world.counters.save_recorded_chunks("access-log/2026/11/22/05/one.gz", 2, world.now)
    billing.at(after.next().start + timedelta(minutes=30))
    play.deliver(play.line("key1", hour=after.next(), user="ann", seats="4"))  # of an hour that is open


def died(world: World, hour: Hour) -> None:
    """Write a row's postings down, send one, and die before its answer is."""
    subject = customer(HASHED)
    row = world.ledger.rows.at(hour, [subject])[subject]
    until = world.now + timedelta(minutes=4)
    sender = Sender(world.ledger, world.counters, world.meters(), "1", world.clock, until, Pace(10_000))
    leaving, postings = sender.depart(row, "cus_hashed")
    world.ledger.rows.save(leaving)
    sender.send([*postings.items()][:1])


def rejected(world: World) -> None:
    """Stripe says later that it does not know whom it took usage for."""
    subject = customer("initech")
    row = world.ledger.rows.at(HOUR, [subject])[subject]
    words = {total.identifier: "No such customer: 'cus_gone'" for total in row.totals.values()}
    for known_as, why in words.items():
        row = rejected_later(row, known_as, why)
    world.ledger.rows.save(row)
    tell_rejected(words, world.ledger.holders)


def told(play: Play, bus: list[Any]) -> dict[str, Any]:
    """Return what is stored, what others hold, and what this version says it counted."""
    world = play.world
    report = Report(world.counters, Uniques(world.claims, world.ledger.holders), world.ledger, None, split=False)
    end = Hour.containing(world.now).next()
    lines = report.lines(HOUR, end, by=By.HOUR, now=world.now, progress=lambda all_hours, _: all_hours)
    token, _ = issue(
        PORTAL_KEY, deployment="Metering", customer="acme", now=world.now, life=timedelta(hours=8), use=Use.SESSION
    )
    return {
        "counters": sorted(play.tables.items("counters"), key=_place),
        "ledger": sorted(play.tables.items("ledger"), key=_place),
        "bucket": {name: json.loads(body) for name, body in sorted(play.bucket.objects().items())},
        "told": {
            "now": world.now.isoformat(),
            "metrics": json.loads(encode(METRICS)),
            "outputs": outputs().written(),
            "token": {"key": PORTAL_KEY, "session": token},
            "events": bus,
        },
        "log": play.delivered,
        "meter_events": sorted(
            map(asdict, world.stripe.events), key=lambda event: (event["created"], event["identifier"])
        ),
        "usage": [asdict(line) for line in lines],
    }


def _place(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


def _json(value: Any) -> Any:
    """Return what JSON has no form for."""
    return (
        base64.b64encode(value).decode()
        if isinstance(value, bytes)
        else sorted(value)
        if isinstance(value, set)
        else str(value)
    )


@contextmanager
def given() -> Iterator[list[Any]]:
    """Marks that are the same each time, a Stripe without HTTP, and a bus, which is returned."""
    numbers, bus = itertools.count(1), list[Any]()

    def put_events(*, Entries: list[Any]) -> dict[str, Any]:  # noqa: N803  as EventBridge names them
        bus.extend(Entries)
        return {"FailedEntryCount": 0}

    with (
        patch("uuid.uuid4", lambda: uuid.UUID(int=next(numbers))),
        patch.object(clients, "events", lambda: SimpleNamespace(put_events=put_events)),
        in_process(),
    ):
        yield bus


def main() -> None:
    """Play, and print what is left."""
    with given() as bus, LocalStripe(api_keys=["sk_test_local"], now=HOUR.start.timestamp) as stripe:
        play = Play(stripe, Account())
        begin(play)
        first_hour(play)
        next_day(play)
        json.dump(told(play, bus), sys.stdout, sort_keys=True, default=_json)


if __name__ == "__main__":
    main()

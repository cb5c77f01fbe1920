"""Plays schedules of the money side in a process of its own, and prints what came of them as one line of JSON.

    PYTHONHASHSEED=0 PYTHONPATH=.:functions python -m tests.faults.money_play --schedules 10000 --seed 1

A process of its own because of the hash seed: the order of sets decides who goes on, and a seed must always play the
same. `--trace` tells what happens. `--break` plays against code that is wrong in a known way. `--dynamodb` plays on
DynamoDB Local instead of in memory; then, and with `--no-lag`, the index shows everything at once.
"""

import argparse
import hashlib
import json
import logging
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import boto3
import msgspec

from metering.billing import closing, sending
from metering.model import usage_row
from metering.stores import marks
from metering.stores.aws import Item
from metering.stores.table import Table
from tests.faults.money_judge import Backing
from tests.faults.money_referee import Game
from tests.faults.money_schedule import Schedule, draw
from tests.faults.money_stage import World
from tests.faults.money_table import Tables

EVERY: Final = 500


class InMemory:
    """The two tables in memory; the index lags as the schedule says."""

    counters = "counters"
    ledger = "ledger"

    def __init__(self, world: World, schedule: Schedule) -> None:
        chance = random.Random(schedule.seed)
        self.client: Any = Tables(lambda: world.now, lambda: chance.random() * schedule.lag_s)

    def items(self, table: str) -> Iterable[Item]:
        """Return every item of a table."""
        return list(self.client.scan(table))


class OnDynamoDBLocal:
    """The two tables in DynamoDB Local, new for each schedule."""

    def __init__(self, port: int, definitions: Mapping[str, Any], seed: int) -> None:
        self.client = boto3.client(
            "dynamodb",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )
        self.counters, self.ledger = f"counters-{seed}", f"ledger-{seed}"
        for name, table in (("Counters", self.counters), ("Ledger", self.ledger)):
            self.client.create_table(TableName=table, **definitions[name])

    def items(self, table: str) -> Iterable[Item]:
        """Return every item of a table."""
        pages = self.client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        return [item for page in pages for item in page["Items"]]


def _without_waiting(row: usage_row.UsageRow, **how: Any) -> Any:
    """Let a newer total depart although an older posting has no answer yet."""
    free = {
        metric: msgspec.structs.replace(total, posting=None) if _is_older(total) else total
        for metric, total in row.totals.items()
    }
    return usage_row.departing(row.with_totals(free), **how)


def _is_older(total: usage_row.Total) -> bool:
    return total.posting is not None and not total.posting.identifier.endswith(f".r{total.revision}")


def _at_once(row: usage_row.UsageRow, metric: str, reason: str, *, epoch: str) -> usage_row.UsageRow:
    """Forget that a copy of a rejected posting can still land."""
    after = usage_row.rejected(row, metric, reason, epoch=epoch)
    return after.with_totals({metric: msgspec.structs.replace(after.totals[metric], not_before=0)})


def _unchecked(self: Table, item: Item, *, version: int) -> None:  # noqa: ARG001 - as the method is called
    self.put(item)


def _same_name(epoch: str, subject: Any, metric: str, hour: Any, revision: int) -> str:
    return f"{epoch}.{subject.id}.{metric}.{hour}.r{min(revision, 1)}"


def _clear_anyway(self: marks.Marks, marked: marks.Marked) -> None:
    """Delete a mark although it may have been renewed."""
    kind, hour, subject = marked.kind, marked.hour, marked.subject
    self.client.delete_item(TableName=self.table, Key=marks._mark_key(kind, hour, subject))


def _one_by_one(self: Table, *writes: Mapping[str, Any]) -> None:
    """Do a transaction's writes one after the other, whatever is there."""
    for write in writes:
        ((kind, what),) = write.items()
        if kind == "Put":
            self.put(what["Item"])
        elif kind == "Update":
            self.client.update_item(**what)


BREAKS: Final[Mapping[str, Callable[[], AbstractContextManager[Any]]]] = {
    "a newer total does not wait for the older one": lambda: patch.object(sending, "departing", _without_waiting),
    "a rejected total is posted again at once": lambda: patch.object(sending, "rejected", _at_once),
    "rows are written without condition": lambda: patch.object(Table, "put_as_read", _unchecked),
    "every revision has one name": lambda: patch.object(usage_row, "identifier", _same_name),
    "a renewed mark is cleared": lambda: patch.object(marks.Marks, "clear", _clear_anyway),
    "nobody asks for invoices to be checked": lambda: patch.object(
        closing.Closer, "_ask_to_check", lambda _self, _hour, _subjects: None
    ),
    "carries are made without condition": lambda: patch.object(Table, "transact", _one_by_one),
}
"""Each would bill wrongly; the referee has to notice."""


def play(schedule: Schedule, make_backing: Callable[[World, Schedule], Backing], *, trace: bool = False) -> Game:
    """Play a schedule; ``wrong`` of the game says what went wrong."""
    game = Game(schedule, make_backing)
    if trace:
        sys.stderr.write(f"{schedule}\n")
        game.trace = lambda sentence: sys.stderr.write(f"{sentence}\n")
    try:
        game.play()
    except Exception:  # noqa: BLE001 - a schedule that cannot be played is a finding as well
        game.wrong.append(traceback.format_exc())
    return game


def contents(backing: Backing) -> str:
    """Return a digest of what two tables hold, but for what is random by intention: the marks' names."""
    items = [
        json.dumps({**item, "mark": 0}, sort_keys=True, default=_binary)
        for table in (backing.counters, backing.ledger)
        for item in backing.items(table)
    ]
    return hashlib.sha256("\n".join(sorted(items)).encode()).hexdigest()


def _binary(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else sorted(value)


def main() -> None:
    """Print `wrong` by seed, how often which fault was met, and by seed what the tables hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedules", type=int, default=1)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--break", dest="breaks", choices=BREAKS)
    parser.add_argument("--until-wrong", action="store_true")
    parser.add_argument("--narrow", action="store_true", help="late batches for one hour, and nothing else")
    parser.add_argument("--no-lag", action="store_true")
    parser.add_argument("--dynamodb", type=int, help="the port of DynamoDB Local")
    parser.add_argument("--definitions", type=Path, help="a file with the tables' definitions")
    wanted = parser.parse_args()
    logging.disable(logging.CRITICAL)
    wrong: dict[int, list[str]] = {}
    held: dict[int, str] = {}
    met: Counter[str] = Counter()
    begun = time.monotonic()
    for number, seed in enumerate(range(wanted.seed, wanted.seed + wanted.schedules), 1):
        schedule = draw(seed, narrow=wanted.narrow)
        make_backing: Callable[[World, Schedule], Backing] = InMemory
        if wanted.no_lag or wanted.dynamodb:
            schedule = replace(schedule, lag_s=0.0)
        if wanted.dynamodb:
            definitions = json.loads(wanted.definitions.read_text())
            make_backing = lambda _, schedule: OnDynamoDBLocal(wanted.dynamodb, definitions, schedule.seed)  # noqa: B023, E731
        with BREAKS[wanted.breaks]() if wanted.breaks else nullcontext():
            game = play(schedule, make_backing, trace=wanted.trace)
        met += game.met
        held[seed] = contents(game.backing)
        if game.wrong:
            wrong[seed] = game.wrong
            if wanted.until_wrong:
                break
        if number % EVERY == 0:
            sys.stderr.write(f"{number} schedules in {time.monotonic() - begun:.0f} s, {len(wrong)} wrong\n")
    sys.stdout.write(json.dumps({"wrong": wrong, "met": met, "contents": held}) + "\n")


if __name__ == "__main__":
    main()

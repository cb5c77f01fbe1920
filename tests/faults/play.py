"""Plays schedules in a process of its own, and prints what came of them as one line of JSON.

    PYTHONHASHSEED=0 PYTHONPATH=.:functions python -m tests.faults.play money --schedules 10000 --seed 1

A process of its own because of the hash seed: the order of sets decides who goes on, and a seed must always play the
same. `--trace` tells what happens. `--break` plays against code that is wrong in a known way. `--dynamodb` plays on
DynamoDB Local instead of in memory; then, and with `--no-lag`, the index shows everything at once. With `--proxy` what
fails on the way there fails between boto3 and the engine, whose own retries are played so.
"""

import argparse
import hashlib
import json
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from infra.local.aws.faults import Proxy
from tests.faults import (
    counting_game,
    counting_schedule,
    limits_game,
    limits_schedule,
    money_game,
    money_schedule,
)
from tests.faults.breaks import BREAKS, HARMLESS, Break
from tests.faults.tables import Backing, InMemory, MakeBacking, OnDynamoDBLocal, met_by

EVERY: Final = 500

SIDES: Final[dict[str, tuple[ModuleType, ModuleType]]] = {
    "counting": (counting_schedule, counting_game),
    "money": (money_schedule, money_game),
    "limits": (limits_schedule, limits_game),
}
"""Of each side, what draws a schedule, and the game that plays it."""


def play(
    side: str, schedule: Any, make_backing: MakeBacking, *, broken: Break = nullcontext, trace: bool = False
) -> Any:
    """Play a schedule and return the game; ``wrong`` of it says what went wrong, ``met`` which faults were met."""
    game = SIDES[side][1].Game(schedule, make_backing)
    if trace:
        sys.stderr.write(f"{schedule}\n")
        game.stage.trace = lambda sentence: sys.stderr.write(f"{sentence}\n")
    try:
        with broken(), game.playing():
            game.play()
    except Exception:  # noqa: BLE001 - a schedule that cannot be played is a finding as well
        game.wrong.append(traceback.format_exc())
    return game


def contents(backing: Backing) -> str:
    """Return a digest of what two tables hold, but for what is random by intention: the marks' names."""
    items = [
        json.dumps({**_in_order(item), "mark": 0}, sort_keys=True, default=_binary)
        for table in (backing.counters, backing.ledger)
        for item in backing.items(table)
    ]
    return hashlib.sha256("\n".join(sorted(items)).encode()).hexdigest()


def _in_order(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item whose sets are in order: DynamoDB promises none."""
    return {name: {"BS": sorted(value["BS"])} if "BS" in value else value for name, value in item.items()}


def _binary(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else sorted(value)


@dataclass(frozen=True, slots=True)
class Place:
    """Where schedules are played: in memory, or on DynamoDB Local, perhaps through its proxy."""

    dynamodb: int | None
    definitions: Path | None
    proxy: Proxy | None

    def backing(self, world: Any, seed: int, lag_s: float) -> Backing:
        """Return the tables of a schedule."""
        if self.dynamodb is None or self.definitions is None:
            return InMemory(world, seed, lag_s)
        return OnDynamoDBLocal(self.dynamodb, self.proxy, json.loads(self.definitions.read_text()), seed)


def main() -> None:
    """Print `wrong` by seed, how often which fault was met, and by seed what the tables hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--schedules", type=int, default=1)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--break", dest="breaks")
    parser.add_argument("--until-wrong", action="store_true")
    parser.add_argument("--narrow", action="store_true", help="only what happens at once in one hour of one key")
    parser.add_argument("--big", action="store_true", help="only hours of many keys, of which few are a page")
    parser.add_argument("--eventful", action="store_true", help="only where something happens at Stripe meanwhile")
    parser.add_argument("--no-lag", action="store_true")
    parser.add_argument("--dynamodb", type=int, help="the port of DynamoDB Local")
    parser.add_argument("--proxy", action="store_true", help="let the network to it fail, rather than the calls")
    parser.add_argument("--definitions", type=Path, help="a file with the tables' definitions")
    wanted = parser.parse_args()
    logging.disable(logging.CRITICAL)
    breaks = {**BREAKS[wanted.side], **HARMLESS.get(wanted.side, {})}
    broken = breaks[wanted.breaks] if wanted.breaks else nullcontext
    wrong: dict[int, list[str]] = {}
    held: dict[int, str] = {}
    met: Counter[str] = Counter()
    begun = time.monotonic()
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(wanted.dynamodb)) if wanted.proxy else None
        place = Place(wanted.dynamodb, wanted.definitions, proxy)
        for number, seed in enumerate(range(wanted.seed, wanted.seed + wanted.schedules), 1):
            kind = {name: True for name in ("narrow", "big", "eventful") if getattr(wanted, name)}
            schedule = SIDES[wanted.side][0].draw(seed, **kind)
            if hasattr(schedule, "lag_s") and (wanted.no_lag or wanted.dynamodb):
                schedule = replace(schedule, lag_s=0.0)
            if proxy:
                schedule = replace(schedule, weather=replace(schedule.weather, table={}))
            game = play(wanted.side, schedule, place.backing, broken=broken, trace=wanted.trace)
            met += game.met
            held[seed] = contents(game.backing)
            if game.wrong:
                wrong[seed] = game.wrong
                if wanted.until_wrong:
                    break
            if number % EVERY == 0:
                sys.stderr.write(f"{number} schedules in {time.monotonic() - begun:.0f} s, {len(wrong)} wrong\n")
        met += met_by(proxy) if proxy else Counter()
    sys.stdout.write(json.dumps({"wrong": wrong, "met": met, "contents": held}) + "\n")


if __name__ == "__main__":
    main()

"""One run of closing, or of posting: what it takes, and which calls it makes, for each customer, key or total."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from metering.billing.closing import Closer
from metering.billing.posting import Poster
from metering.layout import SHARDS
from metering.model.periods import Hour
from metering.stores.attribution import Uniques
from metering.stores.changes import Changes
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stripe.pacing import Pace
from tests.benchmarks.place import LIMIT, Effort, Place, Watch, running_from
from tests.benchmarks.recorded_calls import Recorded, recorded

SAMPLED: Final = 1000
"""The calls of so many customers are recorded, if there are as many."""


def close(place: Place, now: datetime) -> Effort:
    """Do what close_periods does."""
    dynamodb = place.dynamodb()
    counters, ledger = Counters(dynamodb, "Counters"), Ledger(dynamodb, "Ledger")
    uniques = Uniques(Claims(dynamodb, "Counters"), ledger.holders)
    changes = Changes(dynamodb, "Ledger", counters)
    closer = Closer(counters, uniques, ledger, changes, running_from(now), now + timedelta(hours=9))
    watch = Watch()
    did = closer.close_due()
    for error in did.errors:
        raise error
    closer.settle(did, None)
    return watch.effort()


def post(place: Place, hour: Hour, shards: list[int], now: datetime, *, streamed: bool) -> tuple[int, Effort]:
    """Do what post_usage does with these shards; return how many totals were posted."""
    dynamodb = place.dynamodb()
    ledger, counters = Ledger(dynamodb, "Ledger"), Counters(dynamodb, "Counters")
    pace = Pace(LIMIT * len(shards) / SHARDS)
    clock, deadline = running_from(now), now + timedelta(hours=9)
    poster = Poster(ledger, counters, place.stripe(), "1", clock, deadline, pace, hour if streamed else None)
    watch = Watch()
    did = poster.post_pending(hour, shards)
    if did.pending or did.rejected:
        raise RuntimeError(f"not everything was posted: {did}")
    return did.posted, watch.effort()


def later(hour: Hour) -> datetime:
    """Return when an hour is closed."""
    return hour.end + timedelta(minutes=15)


def taken(unit: str, cpu_s: float, floor_cpu_s: float, count: float) -> dict[str, float]:
    """Return the CPU of ``count`` of something, and of its floor, for each."""
    return {
        f"cpu_ms_per_{unit}": round(1000 * cpu_s / count, 3),
        f"floor_cpu_ms_per_{unit}": round(1000 * floor_cpu_s / count, 3),
        "ratio_to_floor": round(cpu_s / floor_cpu_s, 2),
    }


def called(unit: str, made: Recorded, count: float) -> dict[str, float]:
    """Return the calls and units of a recorded run of ``count`` of something, for each."""
    return {
        f"calls_per_{unit}": round(len(made.calls) / count, 3),
        f"read_units_per_{unit}": round(made.reads / count, 3),
        f"write_units_per_{unit}": round(made.writes / count, 3),
    }


def record_hours(place: Place, hour: Hour) -> Sequence[Recorded]:
    """Close and post an hour by calls, then close and post the next by the event stream; return the calls of each."""
    shards = list(range(SHARDS))
    made = []
    for at, streamed in ((hour, False), (hour.next(), True)):
        made.append(recorded(partial(close, place, later(at))))
        made.append(recorded(partial(post, place, at, shards, later(at), streamed=streamed)))
    return made


def record_close(place: Place, hour: Hour) -> Recorded:
    """Close an hour and return the calls."""
    return recorded(partial(close, place, later(hour)))

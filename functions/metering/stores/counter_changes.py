"""What the stream of the Counters table tells: how much was added to which source's counters, and of which hour.

A record holds the item as it was and as it is, so that what was added is the difference. See :mod:`.counters`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from metering.model.periods import Hour
from metering.model.subjects import subject_of_source

_AMOUNTS: Final = ("n:", "u:", "m:")
"""Sums, values new in the month, peaks; how a sum splits is in none of them, for it is in the sum."""


class MalformedRecordError(ValueError):
    """A record that is not as DynamoDB writes those of the counters; the message holds nothing of what was counted."""


@dataclass(frozen=True, slots=True)
class Added:
    """What was added to a source's counters of an hour, by metric, each more than 0.

    Of a peak it is by how much the source's own rose, and of distinct values those that are new to the source: never
    less than what its customer used more.
    """

    source: str
    hour: Hour
    amounts: Mapping[str, int]


def added(record: Mapping[str, Any]) -> Added | None:
    """Return what a record of the stream tells (API reference of DynamoDB Streams, "Record").

    None if it is no counter's, if the item was deleted, as all are when they expire, or if nothing rose. Raises
    MalformedRecordError.
    """
    try:
        change = record["dynamodb"]
        pk, sk = change["Keys"]["pk"]["S"], change["Keys"]["sk"]["S"]
        if record["eventName"] not in ("INSERT", "MODIFY") or not pk.startswith("hour#"):
            return None
        _, hour, _ = pk.split("#")
        before = change.get("OldImage", {})
        rose = {
            name[2:]: _number(value) - _number(before.get(name))
            for name, value in change["NewImage"].items()
            if name[:2] in _AMOUNTS
        }
        amounts = {metric: amount for metric, amount in rose.items() if amount > 0}
        return Added(_source(sk), Hour.parse(hour), amounts) if amounts else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The kind alone: what an image holds may be in the message.
        raise MalformedRecordError(f"a counter's record was expected, got one with a {type(error).__name__}") from error


def _source(sk: str) -> str:
    source, _, _ = sk.partition("#")
    subject_of_source(source)  # raises ValueError for what stands for nobody
    return source


def _number(attribute: Mapping[str, str] | None) -> int:
    return int(attribute["N"]) if attribute is not None else 0

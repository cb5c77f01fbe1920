"""What schedules of the money and of limits have in common: log lines, the batches that bring them, who holds a key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metering.model.batches import Batch, Source, batch_of
from metering.model.periods import Hour
from metering.stores.aws import from_item
from tests.doubles.access_log import line_of


@dataclass(frozen=True, slots=True)
class Line:
    """A log line: a request of a key in an hour, with so many bytes in its answer; perhaps by a user."""

    hour: Hour
    key: str
    bytes: int
    user: str = ""


@dataclass(frozen=True, slots=True)
class Deliver:
    """A batch is delivered to ``record_usage``."""

    batch: int


@dataclass(frozen=True, slots=True)
class Adjust:
    """An operator adds to what is billed of a metric in an hour, or takes away; ``number`` tells alike ones apart."""

    number: int
    customer: str
    metric: str
    hour: Hour
    amount: int


def batch_with(number: int, lines: Sequence[Line], *, users: bool = False) -> Batch:
    """Return a batch of these lines, each with its user where ``users`` are told."""
    written = [
        line_of(
            {
                "request_id": f"{number}-{n}",
                "time": str(int(line.hour.start.timestamp() * 1000) + n),
                "key": line.key,
                "status": "200",
                "method": "GET",
                "resource": "/",
                "response_length": str(line.bytes),
                "response_latency": "5",
                "integration_latency": "-",
                **({"authorizer.user": line.user or "-"} if users else {}),
            }
        )
        for n, line in enumerate(lines)
    ]
    return batch_of([f"{number}-{n}" for n in range(len(written))], written, Source.ACCESS_LOG, "group stream")


def holders_in(backing: Any) -> dict[str, list[tuple[int, str]]]:
    """Return who holds each key since which hour, as operators have said: from the ledger's items."""
    found: dict[str, list[tuple[int, str]]] = {}
    for item in backing.items(backing.ledger):
        if item["sk"]["S"] == "holders":
            values = from_item(item)
            found[values["pk"].removeprefix("key#")] = [
                (Hour.parse(one["since"]).number, one["customer"]) for one in values["holders"]
            ]
    return found

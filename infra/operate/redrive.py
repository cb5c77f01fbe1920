"""What could not be counted, as an operator sees it, and the way back in."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Final

import msgspec

from infra.operate.deployment import Deployment, OperatorError, check_reason
from infra.operate.limits.setting import moment
from metering.layout import FAILED_BATCHES
from metering.stores.aws import side_by_side
from metering.stores.set_aside import BATCH_PATTERN, Dismissal, Kept, Waiting


@dataclass(frozen=True, slots=True)
class Entry:
    """One batch of which something is not counted.

    ``kind`` is "lines" for a batch that set some lines aside, or "failed" for one of which every attempt failed; then
    ``batch`` is the object in the bucket. ``left`` lines wait for a redrive; ``doubtful`` of them may be counted
    already. ``dismissed`` lines wait no longer. ``at`` is when the first line was written, or the last attempt failed:
    2026-11-22T05:17:30Z; None of what an older version set aside.
    """

    batch: str
    kind: str
    source: str
    origin: str
    left: int
    doubtful: int
    counted: int
    dismissed: int
    reasons: Mapping[str, int]
    at: str | None = None


@dataclass(frozen=True, slots=True)
class ShownLine:
    """One line that was set aside, for ``metrics`` alone if it names any.

    ``state`` is "set aside", "doubtful", "counted" or "dismissed"; then ``dismissal`` says who did it, when and why.
    """

    id: str
    state: str
    reason: str
    message: str
    metrics: tuple[str, ...] = ()
    dismissal: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Redriven:
    """What has become of a batch's lines: how many were counted, and how many are left, with reasons by their ids."""

    batch: str
    counted: int = 0
    left: int = 0
    reasons: Mapping[str, str] = field(default_factory=dict)


_LINES: Final = "lines"
_FAILED: Final = "failed"
_AT_ONCE: Final = 64
_MOST_REASONS: Final = 20


def entries(deployment: Deployment) -> Iterator[Entry]:
    """Yield every batch that has something left to count; each that ever set lines aside is read."""
    yield from waiting(deployment, deployment.set_aside.batches())
    yield from failed(deployment)


def failed(deployment: Deployment) -> Iterator[Entry]:
    """Yield every batch of which every attempt failed."""
    pages = deployment.client("s3").get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=deployment.outputs.bucket, Prefix=FAILED_BATCHES):
        for stored in page.get("Contents", []):
            reasons, at = {"every attempt of Lambda failed": 1}, int(stored["LastModified"].timestamp())
            yield Entry(stored["Key"], _FAILED, "", "", 1, 0, 0, 0, reasons, moment(at))


def waiting(deployment: Deployment, batches: Iterable[str]) -> Iterator[Entry]:
    """Yield those of some batches of which lines wait to be counted; a few are read at a time."""
    names = iter(batches)
    while piece := [*islice(names, _AT_ONCE)]:
        for batch, kept in zip(piece, side_by_side(deployment.set_aside.of, piece), strict=True):
            if left := kept.waiting:
                yield _entry(batch, kept, left)


def lines(deployment: Deployment, batch: str) -> list[ShownLine]:
    """Return the lines that a batch set aside; OperatorError if there are none."""
    kept = _kept(deployment, batch)
    still = {one.line.name: one for one in kept.waiting}
    shown = []
    for _, line in kept.lines:
        left, dismissal = still.get(line.name), kept.dismissed.get(line.name)
        ended = "dismissed" if dismissal else "counted"
        state = ended if left is None else "doubtful" if left.doubtful else "set aside"
        metrics, why = left.metrics if left else line.metrics, msgspec.to_builtins(dismissal)
        shown.append(ShownLine(line.id, state, line.reason, line.message, metrics, why))
    return shown


def dismiss(deployment: Deployment, batch: str, ids: Collection[str], reason: str, *, now: datetime) -> int:
    """Note that nobody will ever bill some lines of a batch, or all that wait, and why; return how many these are.

    They stay where they are, until nothing of their batch waits any more and it expires. Doing it again changes
    nothing. OperatorError if the batch has no such line.
    """
    if batch.startswith(FAILED_BATCHES):
        raise OperatorError(f"{batch} failed as a whole and is to be delivered again: 'metering set-aside redrive'")
    check_reason(reason)
    kept = _kept(deployment, batch)
    if unknown := sorted(set(ids) - {line.id for _, line in kept.lines}):
        raise OperatorError(
            f"the batch {batch} has set no line {unknown[0]!r} aside: 'metering set-aside show' names them"
        )
    names = {one.line.name for one in kept.waiting if not ids or one.line.id in ids}
    if names:
        dismissal = Dismissal(reason, deployment.who(), f"{now:%Y-%m-%dT%H:%M:%SZ}")
        deployment.set_aside.dismiss(batch, {**kept.dismissed, **dict.fromkeys(names, dismissal)})
    return len(names)


def waiting_lines(deployment: Deployment, batch: str) -> int:
    """Return how many lines of a batch wait; one for a batch that failed. OperatorError if nothing is set aside."""
    return 1 if batch.startswith(FAILED_BATCHES) else len(_kept(deployment, batch).waiting)


def redrive(deployment: Deployment, batch: str, *, doubtful: bool) -> Iterator[Redriven]:
    """Count what a batch set aside, or deliver a failed one again, through ``record_usage`` itself.

    A run of the function does as much as its time allows: what has become of the batch is yielded after each, until
    all of it is gone through. With ``doubtful``, lines that an earlier delivery may have counted are counted, too.
    """
    if batch.startswith(FAILED_BATCHES):
        yield _deliver_again(deployment, batch)
        return
    so_far = Redriven(batch)
    place: int | None = 0
    while place is not None:
        payload = {"redrive": {"batch": batch, "doubtful": doubtful, "from": place}}
        answer = deployment.invoke(deployment.outputs.record_usage_function, payload)
        reasons = {**so_far.reasons, **answer["reasons"]}
        so_far = Redriven(
            batch,
            so_far.counted + answer["counted"],
            so_far.left + answer["left"],
            dict([*reasons.items()][:_MOST_REASONS]),
        )
        place = answer.get("next")  # a function that was deployed before knows none: its runs end or fail
        yield so_far


def _deliver_again(deployment: Deployment, name: str) -> Redriven:
    """Give ``record_usage`` a payload that failed, then delete the object; its counters refuse what they have."""
    s3 = deployment.client("s3")
    try:
        body = s3.get_object(Bucket=deployment.outputs.bucket, Key=name)["Body"].read()
    except s3.exceptions.NoSuchKey as error:
        raise OperatorError(f"there is no failed batch {name!r}: 'metering set-aside list' names them") from error
    try:
        payload = json.loads(body)["requestPayload"]
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(f"{name} is no record of a failed invocation: it has no requestPayload") from error
    answer = deployment.invoke(deployment.outputs.record_usage_function, payload)
    s3.delete_object(Bucket=deployment.outputs.bucket, Key=name)
    return Redriven(name, answer.get("billed", 0))


def _kept(deployment: Deployment, batch: str) -> Kept:
    kept = deployment.set_aside.of(batch) if re.fullmatch(BATCH_PATTERN, batch) else Kept()
    if kept.certain is None:
        raise OperatorError(f"nothing is set aside of a batch {batch!r}: 'metering set-aside list' names them")
    return kept


def _entry(batch: str, kept: Kept, left: Sequence[Waiting]) -> Entry:
    return Entry(
        batch,
        _LINES,
        str(kept.certain.source) if kept.certain else "",
        kept.certain.origin if kept.certain else "",
        left=len(left),
        doubtful=sum(one.doubtful for one in left),
        counted=len(kept.redriven),
        dismissed=len(kept.dismissed),
        reasons=dict(Counter(one.line.reason for one in left)),
        at=moment(kept.certain.at // 1000) if kept.certain and kept.certain.at else None,
    )

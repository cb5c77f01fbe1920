"""What could not be counted, as an operator sees it, and the way back in."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra.operate.deployment import Deployment, OperatorError
from metering.layout import FAILED_BATCHES
from metering.stores.set_aside import BATCH_PATTERN, Kept


@dataclass(frozen=True, slots=True)
class Entry:
    """One batch of which something is not counted.

    ``kind`` is "lines" for a batch that set some lines aside, or "failed" for one of which every attempt failed; then
    ``batch`` is the object in the bucket. ``left`` lines wait for a redrive; ``doubtful`` of them may be counted
    already.
    """

    batch: str
    kind: str
    source: str
    origin: str
    left: int
    doubtful: int
    counted: int
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ShownLine:
    """One line that was set aside, for ``metrics`` alone if it names any.

    ``state`` is "set aside", "doubtful", "counted" or "dismissed".
    """

    id: str
    state: str
    reason: str
    message: str
    metrics: tuple[str, ...] = ()


_LINES: Final = "lines"
_FAILED: Final = "failed"


def entries(deployment: Deployment) -> Iterator[Entry]:
    """Yield every batch that has something left to count."""
    for batch in deployment.set_aside.batches():
        entry = _entry(batch, deployment.set_aside.of(batch))
        if entry.left:
            yield entry
    pages = deployment.client("s3").get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=deployment.outputs.bucket, Prefix=FAILED_BATCHES):
        for stored in page.get("Contents", []):
            yield Entry(stored["Key"], _FAILED, "", "", 1, 0, 0, {"every attempt of Lambda failed": 1})


def lines(deployment: Deployment, batch: str) -> list[ShownLine]:
    """Return the lines that a batch set aside; OperatorError if there are none."""
    kept = _kept(deployment, batch)
    waiting = {one.line.name: one for one in kept.waiting}
    shown = []
    for _, line in kept.lines:
        left = waiting.get(line.name)
        ended = "dismissed" if line.name in kept.dismissed else "counted"
        state = ended if left is None else "doubtful" if left.doubtful else "set aside"
        shown.append(ShownLine(line.id, state, line.reason, line.message, left.metrics if left else line.metrics))
    return shown


def redrive(deployment: Deployment, batch: str, *, doubtful: bool) -> dict[str, Any]:
    """Count what a batch set aside, or deliver a failed one again, through ``record_usage`` itself.

    With ``doubtful``, lines that an earlier delivery may have counted are counted, too.
    """
    if batch.startswith(FAILED_BATCHES):
        return _deliver_again(deployment, batch)
    _kept(deployment, batch)
    payload = {"redrive": {"batch": batch, "doubtful": doubtful}}
    return deployment.invoke(deployment.outputs.record_usage_function, payload)


def _deliver_again(deployment: Deployment, name: str) -> dict[str, Any]:
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
    return {"batch": name, "counted": answer.get("billed", 0), "left": 0, "reasons": {}}


def _kept(deployment: Deployment, batch: str) -> Kept:
    kept = deployment.set_aside.of(batch) if re.fullmatch(BATCH_PATTERN, batch) else Kept()
    if kept.certain is None:
        raise OperatorError(f"nothing is set aside of a batch {batch!r}: 'metering set-aside list' names them")
    return kept


def _entry(batch: str, kept: Kept) -> Entry:
    return Entry(
        batch,
        _LINES,
        str(kept.certain.source) if kept.certain else "",
        kept.certain.origin if kept.certain else "",
        left=len(kept.waiting),
        doubtful=sum(waiting.doubtful for waiting in kept.waiting),
        counted=len(kept.redriven),
        reasons=dict(Counter(waiting.line.reason for waiting in kept.waiting)),
    )

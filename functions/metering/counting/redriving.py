"""Redriving: lines that were set aside are counted after all, each once."""

import re
from collections.abc import Mapping
from typing import Any, Final

from metering.counting.payloads import PayloadError
from metering.counting.recording import Recorder
from metering.stores.aws import side_by_side
from metering.stores.set_aside import BATCH_PATTERN

_MOST_REASONS: Final = 20


def redrive(recorder: Recorder, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Count what a batch set aside, as far as it can be read now; redriving again counts nothing twice (I2).

    ``wanted`` is ``{"batch": "<token in hex>", "doubtful": false}``; with ``true``, lines that an earlier delivery may
    have counted are counted, too. Returns how many lines are counted, for all the metrics that they waited for, and
    the reasons of the others by their ids. Raises PayloadError for another form, or a batch of which nothing is kept.
    """
    name = wanted.get("batch") if isinstance(wanted, Mapping) else None
    if not (isinstance(name, str) and re.fullmatch(BATCH_PATTERN, name)):
        raise PayloadError('wanted {"redrive": {"batch": "<24 hex digits>"}}, got another form')
    kept = recorder.set_aside.of(name)
    if kept.certain is None:
        raise PayloadError(f"nothing is set aside of the batch {name}")
    work = kept.waiting
    believed = wanted.get("doubtful") is True
    redriven = side_by_side(lambda one: recorder.redrive(one, believed=believed), work)
    counted = {one.line.name: result.left for one, result in zip(work, redriven, strict=True) if result.counted}
    if counted:
        recorder.set_aside.note_redriven(name, {**kept.redriven, **counted})
    left = {one.line.id: result.reason for one, result in zip(work, redriven, strict=True) if result.reason}
    return {
        "batch": name,
        "counted": sum(not result.reason for result in redriven),
        "left": len(left),
        "reasons": dict(list(left.items())[:_MOST_REASONS]),
    }

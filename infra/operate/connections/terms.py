"""What a plan is made of: the case, what the operator asked for, where lines are to go, and why not. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum

from metering.model.connections import Connection, Form, StageLog
from metering.model.log_format import AccessLog
from metering.model.metrics import Metric


class Case(StrEnum):
    """What was found; the value is the letter of the table above."""

    NO_LOG = "A"
    IN_PLACE = "B"
    EXTEND = "C"
    REFUSED = "D"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why it cannot be connected as it is, and the way out; ``lines`` are to be pasted."""

    why: str
    way_out: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the operator asked for."""

    name: str = ""
    caller: str = ""
    extend: bool = False
    force: bool = False
    make_role: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where lines are to go: a deployment, as far as a plan needs it.

    ``connected_logs`` is what names of log groups begin with that are made for stages; ``group_arn`` what their ARNs
    begin with: ``arn:aws:logs:REGION:ACCOUNT:log-group:``; ``delivery_stream`` is that of the Firehose road, or empty.
    ``policy_is_full`` says that the function's policy has no room for one more statement
    (:mod:`infra.operate.connections.permission`).
    """

    stack: str
    access_log: AccessLog
    access_log_group: str
    connected_logs: str
    group_arn: str
    function_arn: str
    nonce: str
    metrics: tuple[Metric, ...]
    policy_is_full: bool = False
    delivery_stream: str = ""


def named_after(text: str, kind: str, otherwise: str = "") -> str:
    """Return a connection's name made of a text, or of ``otherwise``, with ``kind`` in front where no letter is."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = name if re.match(r"[a-z]", name) else f"{kind}-{name or otherwise}"
    return name[:32].rstrip("-")


def is_as_left(connection: Connection, log: StageLog, nonce: str) -> bool:
    """Say whether a stage writes as its connection left it, or as metrics of an earlier ``app.py`` had it write.

    Where it was given our format, it is known by the nonce, which nobody else writes, and by what was theirs behind.
    """
    if log == connection.after:
        return True
    theirs = connection.before.format.strip().removeprefix("{").lstrip() if connection.form is Form.EXTENDED else ""
    return (
        connection.form in (Form.OURS, Form.EXTENDED)
        and log.destination == connection.after.destination
        and nonce in log.format
        and log.format.endswith(theirs)
    )

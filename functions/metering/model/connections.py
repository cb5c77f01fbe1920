"""Connections: stages and log groups that somebody else deployed, and how their lines are read. Pure.

A connection has one log group. What is written into a log group of no connection, and is not the stack's own access
log, are usage lines.
"""

import re
from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum
from typing import Final

import msgspec

from metering.model.log_format import AccessLog, Api
from metering.model.periods import Hour

NAME_PATTERN: Final = r"[a-z][a-z0-9-]{0,31}"
"""A connection's name: what metrics call its API, and what a caller that is no API key begins with."""

EARLY: Final = timedelta(minutes=5)
"""How much earlier than it began a connection's first lines may be dated: two clocks are never the same.

Not where its log group was read already: lines of before come from there, late or again, and are nobody's.
"""


class Form(StrEnum):
    """How lines of a connection's log group are read."""

    OURS = "ours"
    """The stage had no access log: it writes our format into a log group that was made for it."""

    THEIRS = "theirs"
    """The stage is left alone: its own format has all that a bill needs, and is compiled (foreign_format.py)."""

    EXTENDED = "extended"
    """The stage's own format with our line in front, as its field ``metering``."""

    USAGE = "usage"
    """No stage's, but a log group with usage lines of somebody's code."""


class Step(StrEnum):
    """How far it is: what is begun is written down first, so that it can be gone on with, or back."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTING = "disconnecting"
    DISCONNECTED = "disconnected"


class StageLog(msgspec.Struct, frozen=True):
    """A stage's access-log settings: the destination's ARN and the format; both empty where it has none."""

    destination: str = ""
    format: str = ""


class Connection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stage, or one log group of usage lines, that is metered without having been deployed with metering.

    ``since`` and ``until`` are in milliseconds since 1970, by AWS's own clock; ``until`` is 0 while it is connected.
    ``api_name`` is the API's name at API Gateway, ``name`` the connection's. ``before`` is what the stage had,
    ``after`` what it was given (the same where it was left alone). ``shares_log`` says that each line must name this
    API and stage, since others write into the log group, too, or may; ``alone`` that none did when it was connected, so
    that a line which names none is its own, in another format. ``was_read`` says that its log group was being read when
    it began, or had just been. ``by`` is the ARN of who connected it.
    """

    name: str
    form: Form
    step: Step
    log_group: str
    since: int
    by: str
    until: int = 0
    api: Api | None = None
    api_id: str = ""
    api_name: str = ""
    stage: str = ""
    caller: str | None = None
    keys_apart: bool = False
    before: StageLog = StageLog()
    after: StageLog = StageLog()
    shares_log: bool = False
    alone: bool = False
    was_read: bool = False
    version: int = 0

    @property
    def log(self) -> AccessLog:
        """What the stage writes, and who is billed; ValueError for a log group of usage lines."""
        if self.api is None:
            raise ValueError(f"the connection {self.name} has no API")
        return AccessLog(self.api, self.caller, self.name, self.keys_apart)

    @property
    def is_access_log(self) -> bool:
        """Say whether its lines are those of a stage."""
        return self.form is not Form.USAGE

    @property
    def first(self) -> int:
        """The earliest moment that a line of its own may be dated at, in milliseconds since 1970."""
        return self.since if self.was_read else self.since - EARLY // timedelta(milliseconds=1)

    def covers(self, moment: int) -> bool:
        """Say whether what was written at a moment (milliseconds since 1970) is metered by it."""
        return self.first <= moment and (not self.until or moment < self.until)

    def covers_all_of(self, hour: Hour) -> bool:
        """Say whether it was connected through a whole hour."""
        begin, end = (int(moment.timestamp() * 1000) for moment in (hour.start, hour.end))
        return self.since <= begin and (not self.until or end <= self.until)


def is_name(text: str) -> bool:
    """Say whether this can be a connection's name."""
    return re.fullmatch(NAME_PATTERN, text) is not None


OF_CALLERS: Final = {
    "/aws/appsync/apis/": "AppSync writes queries",
    "API-Gateway-Execution-Logs_": "API Gateway writes requests",
    "aws-waf-logs-": "AWS WAF writes requests",
}
"""Log groups that AWS writes callers' own text into, by how their names begin (AppSync Developer Guide, "CloudWatch
Logs"; API Gateway Developer Guide, "Set up CloudWatch logging for REST APIs"; AWS WAF Developer Guide, "Logging")."""


def callers_write(log_group: str) -> str:
    """Say by whom callers' text gets into a log group, where anyone could write a usage line (I7); else nothing."""
    by = next((words for beginning, words in OF_CALLERS.items() if log_group.startswith(beginning)), "")
    return by and f"{by} into {log_group}, so that whoever calls could write a usage line there, and bill anyone"


def in_force(connections: Iterable[Connection], moment: int) -> tuple[Connection, ...]:
    """Return which of a log group's connections meter what was written at a moment, the latest first.

    There are several where stages share the log group.
    """
    return tuple(sorted((one for one in connections if one.covers(moment)), key=lambda one: -one.since))

"""What a plan is made of: the case, what the operator asked for, where lines are to go, and why not. Pure."""

from dataclasses import dataclass
from enum import StrEnum

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

"""Which stages and log groups are connected: how each is read, by whom it was connected, and what came of late.

For each connection that is not over two calls of CloudWatch Logs, for :data:`MOST_LOOKED_AT` of them at most, and for
all of them the lines of the last whole hour: 16 queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from infra.operate.deployment import Deployment
from metering.model.connections import Connection, Form, Step
from metering.model.log_format import Api
from metering.model.periods import Hour
from metering.stores.aws import side_by_side

MOST_LOOKED_AT: Final = 200
"""Log groups whose newest line is asked for: CloudWatch Logs takes 25 such calls a second of an account ("Quotas")."""

_FORMS: Final[Mapping[Form, str]] = {
    Form.OURS: "our format",
    Form.THEIRS: "its own format",
    Form.EXTENDED: "ours in front of its own",
    Form.USAGE: "usage lines",
}
_KINDS: Final[Mapping[Api, str]] = {Api.REST: "REST", Api.HTTP: "HTTP", Api.WEBSOCKET: "WebSocket"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A connection, as it is listed.

    ``last_line`` is when the newest line of its log group was written, None if there is none, or nobody looked;
    ``lines`` how many lines of the log group were counted, or found to be nobody's, in the last whole hour.
    """

    connection: Connection
    last_line: datetime | None
    lines: int

    @property
    def where(self) -> str:
        """The stage, or the log group, in words."""
        one = self.connection
        return f"{one.stage} of {one.api_name} ({one.api_id})" if one.api else one.log_group

    @property
    def read_as(self) -> str:
        """The kind of API and how its lines are read, in words."""
        one = self.connection
        return f"{_KINDS[one.api]}, {_FORMS[one.form]}" if one.api else _FORMS[one.form]

    def as_json(self) -> dict[str, Any]:
        """Return it as ``metering connections --json`` prints it."""
        one = self.connection
        return {
            "name": one.name,
            "kind": one.api.value if one.api else None,
            "api_id": one.api_id or None,
            "api_name": one.api_name or None,
            "stage": one.stage or None,
            "caller": one.log.variable if one.api else None,
            "form": one.form.value,
            "step": one.step.value,
            "log_group": one.log_group,
            "shares_log": one.shares_log,
            "since": _written(moment(one.since)),
            "until": _written(moment(one.until)) if one.until else None,
            "by": one.by,
            "last_line": _written(self.last_line) if self.last_line else None,
            "lines_last_hour": self.lines,
        }


def listed(deployment: Deployment, connections: Sequence[Connection], now: datetime) -> list[Listed]:
    """Return connections with what came of late, in their order."""
    last_hour = Hour(Hour.containing(now).number - 1)
    counted = deployment.counters.lines.by_hour(last_hour, last_hour.next())[last_hour]
    alive = [one.log_group for one in connections if one.step is not Step.DISCONNECTED]
    groups = [*dict.fromkeys(alive)][:MOST_LOOKED_AT]
    newest = dict(zip(groups, side_by_side(lambda name: _newest(deployment, name), groups), strict=True))
    return [Listed(one, newest.get(one.log_group), counted[one.log_group]) for one in connections]


def shown(deployment: Deployment, *, ended: bool) -> list[Connection]:
    """Return the connections that there are by their names, those that have ended only if asked."""
    there = deployment.connections.all()
    return [one for one in there if ended or one.step is not Step.DISCONNECTED]


def moment(milliseconds: int) -> datetime:
    """Return a moment that the ledger holds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _written(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _newest(deployment: Deployment, log_group: str) -> datetime | None:
    """Return when the newest line of a log group was written, or None.

    What a stream says of its last event may be an hour old, so that the event itself is read (CloudWatch Logs API
    Reference, "LogStream", ``lastEventTimestamp``).
    """
    logs = deployment.client("logs")
    try:
        newest = logs.describe_log_streams(logGroupName=log_group, orderBy="LastEventTime", descending=True, limit=1)
        streams = newest["logStreams"]
        if not streams:
            return None
        name, told = streams[0]["logStreamName"], streams[0].get("lastEventTimestamp", 0)
        last = logs.get_log_events(logGroupName=log_group, logStreamName=name, startFromHead=False, limit=1)["events"]
    except logs.exceptions.ResourceNotFoundException:  # doctor says what to do
        return None
    at = max([told, *(event["timestamp"] for event in last)])
    return moment(at) if at else None

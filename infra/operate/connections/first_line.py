"""The first line of a connection, and what it is counted as: for whom, in which metrics, or why not.

It is read as ``record_usage`` reads it, and nothing is written. A look takes :data:`MOST_PAGES` calls of CloudWatch
Logs at most, and the looks are as many as the patience has room for.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from infra.operate.connections.listing import moment
from infra.operate.deployment import Deployment
from metering.model.access_log import Partly, Reader, Rejected
from metering.model.connections import Connection
from metering.model.line_forms import forms_of
from metering.model.log_format import API_KEY, AccessRecord, Api
from metering.model.measuring import NO_KEY, NOT_BILLED, Usage, measure
from metering.model.metrics import declared
from metering.model.subjects import Kind, key_of_source
from metering.model.usage_lines import Report, UsageLineReader, measure_reports
from metering.stores.attribution import owner_of

EVERY: Final = timedelta(seconds=5)
"""How long it is between two looks: CloudWatch Logs takes five such calls a second of an account ("Quotas")."""

MOST_LINES: Final = 100
MOST_PAGES: Final = 5
"""Pages of one look, some of which may be empty (CloudWatch Logs API Reference, "FilterLogEvents")."""

OF_LATE: Final = timedelta(hours=1)
"""Of a connection that is older, a line of this long ago at most is looked for."""


@dataclass(frozen=True, slots=True)
class FirstLine:
    """A line and what it is counted as.

    ``said`` is the request in words, ``key`` whom it names and ``customer`` whose that is; both are empty for nobody.
    ``excluded`` is why nobody is billed for the key, if somebody said so. ``amounts`` are what the line adds, by
    metric; ``why`` says why it is not counted, or not by every metric.
    """

    at: datetime
    said: str
    key: str = ""
    customer: str = ""
    excluded: str = ""
    amounts: Mapping[str, int] = field(default_factory=dict)
    why: str = ""

    def __str__(self) -> str:
        """Say it in a sentence."""
        counted = ", ".join(f"{metric} {quantity:,}" for metric, quantity in sorted(self.amounts.items()))
        parts = [f"counts as {counted} {self._for_whom()}"] if counted else []
        parts += [self.why] if self.why else []
        return (
            f"the first line, of {self.at:%H:%M:%S} UTC ({self.said}), {'; '.join(parts) or 'adds nothing to a metric'}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as ``metering connect --json`` prints it."""
        return asdict(self) | {"at": f"{self.at:%Y-%m-%dT%H:%M:%SZ}", "amounts": dict(self.amounts)}

    def _for_whom(self) -> str:
        if self.customer:
            return f"for {self.customer} ({self.key})" if self.key else f"for {self.customer}"
        if self.excluded:
            return f"for {self.key}, for which nobody is billed: {self.excluded}"
        do = f"metering customers add ID --name NAME --key {shlex.quote(self.key)}"
        return f"for {self.key}, which is no customer's yet: {do}"


def wait_for_first_line(
    deployment: Deployment,
    connection: Connection,
    *,
    patience: timedelta,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    pause: Callable[[float], object] = time.sleep,
) -> FirstLine | None:
    """Return a connection's first line as soon as it is there, or None where the patience ends before."""
    for look in range(patience // EVERY + 1):
        if look:
            pause(EVERY.total_seconds())
        for at, line in _lines(deployment, connection, clock()):
            found = counted_as(deployment, connection, line, at=at, now=clock())
            if found is not None:
                return found
    return None


def counted_as(
    deployment: Deployment, connection: Connection, line: str, *, at: datetime, now: datetime
) -> FirstLine | None:
    """Return what a line of a connection's log group is counted as; None if it is none of the connection's."""
    metrics = deployment.declared_metrics
    read = reader_of(deployment, connection, now).read(line)
    if read is None:
        return None
    if isinstance(read, Rejected):
        return FirstLine(at, "cannot be read", why=f"is set aside: {read.reason}")
    good, why = (
        (read.good, f"is set aside for {', '.join(read.bad.metrics)}: {read.bad.reason}")
        if isinstance(read, Partly)
        else (read, "")
    )
    if isinstance(good, Report):
        return _first(deployment, measure_reports([good], metrics), at, f"usage of {good.hour}", why)
    usage = measure([good], metrics, declared(metrics))
    said = f"{good.call}, status {good.status}"
    return _first(deployment, usage, at, said, why or _unbilled(usage, connection, good))


def example_call(connection: Connection, *, region: str, methods: Sequence[str] = ()) -> str:
    """Return a command line that calls a connection's stage, with what its caller has to show left to variables.

    It gets the first of the ``methods`` (``GET /items``) that needs no parameter. The addresses are those that API
    Gateway gives each API (API Gateway Developer Guide, "Invoke a REST API", "Invoke a WebSocket API"), but for mutual
    TLS, which only a domain name of one's own has (the same, "Mutual TLS authentication").
    """
    host = f"{connection.api_id}.execute-api.{region}.amazonaws.com{'.cn' * region.startswith('cn-')}"
    if connection.api is Api.WEBSOCKET:
        return f'wscat -c wss://{host}/{connection.stage} -H "Authorization: $TOKEN"'
    stage = "" if connection.stage == "$default" else f"/{connection.stage}"
    gets = (one.partition(" ")[2] for one in methods if one.startswith("GET /") and "{" not in one)
    path = next(gets, "/")
    variable = connection.log.variable
    if variable.startswith("identity.clientCert."):
        return f'curl -i --cert client.pem --key client.key "https://$DOMAIN{path}"'
    if variable in ("identity.accountId", "identity.userArn"):
        shows = f'--aws-sigv4 "aws:amz:{region}:execute-api" -u "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY"'
        shows += ' -H "x-amz-security-token: $AWS_SESSION_TOKEN"'
    else:
        shows = '-H "x-api-key: $API_KEY"' if variable == API_KEY else '-H "Authorization: Bearer $TOKEN"'
    return f'curl -i {shows} "https://{host}{stage}{path}"'


def _lines(deployment: Deployment, connection: Connection, now: datetime) -> Iterator[tuple[datetime, str]]:
    """Yield the first lines of a connection's log group since it began, each with its moment."""
    since = max(moment(connection.since), now - OF_LATE)
    pages = deployment.client("logs").get_paginator("filter_log_events")
    found = pages.paginate(
        logGroupName=connection.log_group,
        startTime=int(since.timestamp() * 1000),
        PaginationConfig={"PageSize": MOST_LINES},
    )
    events = (event for page in islice(found, MOST_PAGES) for event in page["events"])
    for event in islice(events, MOST_LINES):
        yield moment(event["timestamp"]), event["message"]


def reader_of(deployment: Deployment, connection: Connection, now: datetime) -> Reader | UsageLineReader:
    """Return what reads lines of a connection's log group that arrive now."""
    metrics = deployment.declared_metrics
    if not connection.is_access_log:
        return UsageLineReader(now, metrics)
    return Reader(now, metrics, forms_of([connection], tuple(deployment.outputs.nonces.split()), metrics))


def _first(deployment: Deployment, usage: Usage, at: datetime, said: str, why: str) -> FirstLine:
    """Return what one line adds up to, and whose it is."""
    touched = usage.touched
    if not touched:
        return FirstLine(at, said, why=why)
    ((hour, source),) = touched
    amounts = usage.cells[hour, source].quantities() if (hour, source) in usage.cells else {}
    amounts |= dict.fromkeys(usage.seen.get((hour, source), {}), 1)
    amounts |= {metric: quantity for (metric, _, _), (_, quantity) in usage.once.items()}
    holding = deployment.ledger.holders.holdings([source])[source]
    owner, holder = owner_of(source, holding, hour), holding.at(hour)
    named = owner.id if owner.kind is Kind.CUSTOMER else ""
    excluded = holder.reason if holder and not named else ""
    return FirstLine(at, said, key_of_source(source), named, excluded, amounts, why)


def _unbilled(usage: Usage, connection: Connection, record: AccessRecord) -> str:
    """Say why nobody is billed for a good request, or nothing."""
    if NO_KEY in usage.unbilled:
        return f"is billed to nobody: $context.{connection.log.variable} has no value, so that it names no caller"
    if NOT_BILLED in usage.unbilled:
        return f"is billed to nobody: no metric bills {record.call} with status {record.status}"
    return ""

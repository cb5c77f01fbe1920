"""A deployment in memory with the time in hand, and the events that AWS would send it."""

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from infra.local.stripe.server import LocalStripe
from infra.operate.customers import Customers, Entry
from metering.billing.carried import Carried
from metering.billing.carrying import Carrier
from metering.billing.closed import Closed
from metering.billing.closing import INDEX_LAG, Closer
from metering.billing.posting import Poster
from metering.billing.reconciling import Reconciled, Reconciler
from metering.billing.sending import Posted
from metering.counting.recorded import Recorded
from metering.counting.recording import Hashing, Recorder
from metering.layout import SHARDS
from metering.model.batches import Batch, Source, batch_of
from metering.model.metrics import Count, Metric, Sum, meters, needs_hash
from metering.model.periods import Hour
from metering.model.subjects import Subject
from metering.stores.attribution import Uniques
from metering.stores.changes import Changes
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.set_aside import SetAside
from metering.stores.switch import PostingSwitch
from metering.stripe.client import StripeNotConnectedError
from metering.stripe.invoices import StripeReader
from metering.stripe.meters import StripeMeters
from metering.stripe.pacing import Pace
from metering.stripe.reading import Reads
from tests.doubles.access_log import NONCE, line_of
from tests.doubles.clock import Clock

METRICS: tuple[Metric, ...] = (Count(name="requests"), Sum(name="bytes", of="response_length"))
HOUR = Hour.parse("2026-11-22T05")
EPOCH = "1"
ACCESS_LOG_GROUP = "Metering-AccessLog3A1B2C3D-x7Yz0pQwErTy"


@dataclass
class World:
    """A deployment in memory, with the time in hand."""

    stripe: LocalStripe
    counters: Counters
    ledger: Ledger
    set_aside: SetAside
    time: Clock = field(default_factory=lambda: Clock(HOUR.start + timedelta(minutes=30)))
    ids: int = 0
    key: str | None = "sk_test_local"
    ledger_epoch: str = EPOCH
    metrics: tuple[Metric, ...] = METRICS
    streamed_from: Hour | None = None

    @property
    def now(self) -> datetime:
        """The present moment, by the world's clock."""
        return self.time.moment

    @now.setter
    def now(self, moment: datetime) -> None:
        self.time.moment = moment

    def clock(self) -> datetime:
        """Return the present moment."""
        return self.now

    def bill(self, *metrics: Metric) -> None:
        """Bill by these metrics from now on, each with its meter at Stripe."""
        self.metrics = metrics
        there = self.meters().meters()
        for name in meters(metrics):
            if self.meters().event_name(name) not in there:
                self.meters().create_meter(name)

    def line(self, **changes: str) -> str:
        """Return a good access-log line of this moment, with some fields changed."""
        self.ids += 1
        return line_of(
            {
                "request_id": f"request-{self.ids}=",
                "time": str(int((HOUR.start + timedelta(minutes=29)).timestamp() * 1000)),
                "key": "key1",
                "status": "200",
                "method": "GET",
                "resource": "/items",
                "response_length": "10",
                "response_latency": "5",
                "integration_latency": "-",
            }
            | changes
        )

    def batch(self, *lines: str) -> Batch:
        """Return a batch of lines; the same lines make the same batch."""
        return batch_of(event_ids(lines), lines, Source.ACCESS_LOG, "log-group stream")

    def recorder(self, counters: Any = None) -> Recorder:
        """Return what record_usage uses."""
        return Recorder(
            self.metrics,
            (NONCE,),
            counters or self.counters,
            self.claims,
            self.set_aside,
            self.clock,
            Hashing(b"secret", self.ledger.holders) if needs_hash(self.metrics) else None,
        )

    @property
    def claims(self) -> Claims:
        """The claims of the Counters table."""
        return Claims(self.counters.client, self.counters.table)

    def record(self, *lines: str) -> Recorded:
        """Deliver a batch of access-log lines."""
        return self.recorder().record(self.batch(*lines))

    def report(self, *lines: str) -> Recorded:
        """Deliver a batch of an application's own log."""
        return self.recorder().record(batch_of(event_ids(lines), lines, Source.USAGE_LINES, "application stream"))

    def counted(self, hour: Hour = HOUR) -> dict[str, dict[str, int]]:
        """Return an hour's counters, by key and metric."""
        return {key: amounts.quantities() for key, amounts in self.counters.read(hour).items()}

    def closer(self, minutes: int = 2) -> Closer:
        """Return what close_periods closes with; it has some minutes."""
        uniques = Uniques(self.claims, self.ledger.holders)
        deadline = self.now + timedelta(minutes=minutes)
        return Closer(self.counters, uniques, self.ledger, self.changes, self.clock, deadline)

    @property
    def changes(self) -> Changes:
        """What stands beside the counters."""
        return Changes(self.ledger.client, self.ledger.table, self.counters)

    @property
    def switch(self) -> PostingSwitch:
        """What turns posting on."""
        return PostingSwitch(self.ledger.client, self.ledger.table)

    def meters(self) -> StripeMeters:
        """Return the deployment's meters at the local Stripe."""
        return StripeMeters(self._api_key, "Metering", self.stripe.url)

    def close(self) -> Closed:
        """Close what is due into the ledger, and post nothing."""
        return self.closer().close_due()

    def poster(self, minutes: int = 4) -> Poster:
        """Return what post_usage posts with; it has some minutes."""
        return Poster(
            self.ledger,
            self.counters,
            self.meters(),
            self.ledger_epoch,
            self.clock,
            self.now + timedelta(minutes=minutes),
            Pace(10_000),
            self.streamed_from,
        )

    def post(self) -> Posted:
        """Do what workers do that have all shards."""
        first = self.switch.read().first
        return self.poster().post_pending(first, range(SHARDS)) if first else Posted()

    def run(self) -> tuple[Closed, Posted]:
        """Do what a tick of close_periods does, what its workers do, and what the next tick makes of it."""
        closer = self.closer()
        closed = closer.close_due()
        posted = self.post()
        closed.pending.clear()
        replace(closer, clock=lambda: self.now + INDEX_LAG).settle(closed, self.switch.read().first)
        return closed, posted

    def check(self, calls: int = 1000) -> tuple[Carried, Reconciled]:
        """Do what a run of reconcile_usage does, but for the look who pays."""
        reader, since = StripeReader(self.meters(), Reads(calls)), Hour.parse(self.switch.read().since)
        deadline = self.now + timedelta(minutes=5)
        carried = Carrier(self.ledger, self.changes, reader, since, self.clock, deadline).run()
        return carried, Reconciler(self.ledger, self.changes, reader, since, self.clock, deadline).run()

    def customer(self, name: str, *keys: str, stripe_customer: str = "", since: Hour | None = None) -> None:
        """Add a customer, and its Stripe customer at Stripe."""
        if stripe_customer:
            self.stripe.add_customer(stripe_customer)
        customers = Customers(self.ledger, self.counters)
        customers.add(Entry(name, name.capitalize(), stripe_customer, keys, since), now=self.now)

    def at_stripe(self, stripe_customer: str, metric: str = "requests", hour: Hour = HOUR) -> int:
        """Return what Stripe holds for a customer, metric and hour."""
        held = self.stripe.hour_totals()
        return int(held.get((stripe_customer, f"Metering_{metric}", int(hour.start.timestamp())), 0))

    def in_ledger(self, subject: str, hour: Hour = HOUR) -> dict[str, tuple[int, str]]:
        """Return each metric's quantity and state in a row."""
        row = self.ledger.rows.at(hour, [Subject.parse(subject)])[Subject.parse(subject)]
        return {metric: (total.quantity, str(total.state)) for metric, total in row.totals.items()}

    def month_in_ledger(self, subject: str, metric: str, hour: Hour = HOUR) -> dict[Hour, int]:
        """Return a metric's quantities that are not zero in the rows of an hour's month, by hour."""
        rows = self.ledger.rows.of(Subject.parse(subject), hour.month_begin, hour.month_end)
        quantities = {row.hour: row.totals[metric].quantity for row in rows if metric in row.totals}
        return {hour: quantity for hour, quantity in quantities.items() if quantity}

    def after_grace(self) -> None:
        """Let the hour end and its grace pass."""
        self.now = HOUR.end + timedelta(minutes=10)

    def stream_from(self, hour: Hour) -> None:
        """Let hours from this one on go by the event stream, as it is in live mode."""
        self.streamed_from, self.key = hour, "sk_live_local"

    def _api_key(self, _fresh: bool) -> str:  # noqa: FBT001 - the signature that StripeMeters names
        if self.key is None:
            raise StripeNotConnectedError("the secret holds no Stripe key")
        return self.key


def moment(hour: Hour, minute: int = 29) -> str:
    """Return a minute of an hour as an access-log line has it."""
    return str(int((hour.start + timedelta(minutes=minute)).timestamp() * 1000))


def event_ids(lines: Sequence[str]) -> list[str]:
    """Return ids of log events: the same lines have the same."""
    return [f"event-{hash(line)}-{n}" for n, line in enumerate(lines)]


def envelope(*lines: str, message_type: str = "DATA_MESSAGE", log_group: str = ACCESS_LOG_GROUP) -> dict[str, Any]:
    """Return a Lambda event of CloudWatch Logs that holds these lines."""
    payload = {
        "messageType": message_type,
        "owner": "123456789012",
        "logGroup": log_group,
        "logStream": "stream",
        "subscriptionFilters": ["filter"],
        "logEvents": [{"id": f"{n:056d}", "timestamp": 1795325400000, "message": line} for n, line in enumerate(lines)],
    }
    return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(payload).encode())).decode()}}

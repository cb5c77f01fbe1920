"""Who uses how much just now, what it costs, and what waits for a person.

A look reads the running hour's counters (16 queries), and who holds the keys that it has not met in the last minute (a
hundred in a read). Once a minute it also reads what was rejected (16 queries of an index), what nobody pays (one item),
and up to :data:`MOST_SET_ASIDE` batches of those that were set aside. For each customer that is shown it asks Stripe
once an hour which plan it is on, and reads what it has used in the period before: its rows in one query, and up to
:data:`MOST_OPEN` hours' counters that are in no row yet. Nothing is ever scanned.

**What the running hour costs** is the price at the margin: what the plan asks for all of the period's usage with this
hour, less what it asks without it, by the plan as ``app.py`` declares it, fees left out. So an hour within a free tier
costs nothing, and the package or tier that it begins is its own. ``per_hour`` is what that comes to if the hour goes on
as it went since its begin. Both are estimates: whoever is subscribed to an older price pays that one. Distinct values
are as the ledger has them once it has the hour. Until then those of a customer with several keys are settled by a
month's claims, as the customers' page does it: of the first :data:`MOST_SETTLED` customers, by at most 128 queries
each. Where that does not suffice, they are an upper bound, which is said (``up_to``): what its keys have in common
counts for each.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, Final

from infra.operate.deployment import Deployment
from infra.operate.looks import Busy, Look
from metering.layout import FAILED_BATCHES
from metering.limits.gate import reasons_of_one
from metering.model.amounts import Amounts
from metering.model.limits import Reason
from metering.model.metrics import Count, Metric, Unique, meters_of
from metering.model.periods import EPOCH, HOUR, Hour, hours
from metering.model.prices import Flat, Plan, Price, explain, terms
from metering.model.subjects import Kind, customer, key_of_source, source_of_key
from metering.portal.uniques import KeptUniques
from metering.stores.attribution import Share, alone, owner_of
from metering.stores.aws import side_by_side
from metering.stores.counters import Counted
from metering.stores.holders import Customer, Holding
from metering.stores.limits import LimitItems
from metering.stripe.client import StripeRejectedError, StripeUnavailableError
from metering.stripe.subscriptions import plans_of, running

MOST_OPEN: Final = 3
"""How many hours before the running one may be in no row yet and still be read: closing takes one, and a little."""

MOST_SET_ASIDE: Final = 100
"""How many of the batches that were ever set aside are looked at, and of those that failed for good."""

MOST_KEYS: Final = 100
"""Of so many keys of a customer that is shown it is looked at whether one alone stands for it."""

MOST_SETTLED: Final = 20
"""Of so many customers that are shown distinct values of several keys are settled."""

MOST_REJECTED: Final = 10_000
"""More rows that Stripe rejected are not counted."""

_STANDING: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class _Subscribed:
    """To which plan a customer is subscribed, and since which hour its period runs."""

    plan: Plan
    since: Hour


@dataclass(slots=True)
class Top:
    """Looks again and again; it remembers the look before, and what it need not read twice.

    ``rows`` is how many customers and keys are shown. ``hour`` is another hour than the running one.
    """

    deployment: Deployment
    rows: int = 10
    hour: Hour | None = None
    _before: tuple[Hour, datetime, Counted] | None = None
    _standing_at: datetime | None = None
    _set_aside: int = 0
    _rejected: int = 0
    _unbilled: int = 0
    _holdings: dict[str, Holding] = field(default_factory=dict)
    _subscribed: dict[str, _Subscribed | None] = field(default_factory=dict)
    _used: dict[tuple[str, Hour], Counter[str]] = field(default_factory=dict)
    _open: dict[Hour, list[tuple[Hour, Counted]]] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)
    _unpriced: str = ""
    _reasons: dict[str, tuple[Reason, ...]] = field(default_factory=dict)
    _held: dict[str, Mapping[str, Holding] | None] = field(default_factory=dict)
    _settles: KeptUniques | None = None
    _at: datetime = field(default=EPOCH)

    def look(self, now: datetime) -> Look:
        """Look at the counters, and at what is not known yet."""
        self._at = now
        hour = self.hour or Hour.containing(now)
        if self._before is not None and self._before[0] != hour:  # a period may have begun with the hour
            self._subscribed, self._used = {}, {}
        self._notes = []
        self._stand(now)
        counted = self.deployment.counters.read(hour)
        self._learn_holders(counted)
        metrics = self.deployment.declared_metrics
        rate_of, names = _rate_of(metrics)
        before, since = self._since(hour, now)
        # Late records are counted in an hour that is over, too; what came since the look before came in that time.
        until = min(now, hour.end) if before is None else now
        seconds = max(1.0, (until - since).total_seconds())

        def rate(sources: Iterable[str]) -> float:
            more = sum(_added(counted, before, source, names) for source in sources)
            return round(more / seconds, 3)

        keys = [self._key(source, hour, amounts.quantities(), rate([source])) for source, amounts in counted.items()]
        theirs: dict[str, list[str]] = {}
        for source, busy in zip(counted, keys, strict=True):
            if busy.customer:
                theirs.setdefault(busy.customer, []).append(source)
        customers = [self._customer(name, counted, names_of, rate) for name, names_of in theirs.items()]
        busiest = self._settled(sorted(customers, key=_busiest)[: self.rows], counted, theirs, hour)
        self._before = hour, now, counted
        return Look(
            hour,
            now,
            since,
            is_first=before is None,
            rate_of=rate_of,
            per_second=rate(counted),
            customers=self._with_reasons(self._priced(busiest, hour, min(now, hour.end)), now),
            keys=sorted((busy for busy in keys if busy.name), key=_busiest)[: self.rows],
            unmapped=sorted((busy for busy in keys if not busy.customer and not busy.reason), key=_busiest),
            set_aside=self._set_aside,
            rejected=self._rejected,
            unbilled=self._unbilled,
            notes=self._notes,
        )

    def _stand(self, now: datetime) -> None:
        """Read once a minute what changes slowly."""
        if self._standing_at is not None and now - self._standing_at < _STANDING:
            return
        self._standing_at = now
        self._holdings = {}
        self._reasons = {}
        self._held = {}
        self._unpriced = ""
        self._subscribed = {name: on for name, on in self._subscribed.items() if on is not None}
        self._set_aside = self._count_set_aside()
        self._rejected = self.deployment.ledger.rows.rejected_count(most=MOST_REJECTED)
        nobody_pays = self.deployment.ledger.agreements.looks().hours()
        self._unbilled = sum(hours for why, hours in nobody_pays.items() if not why.is_agreed)

    def _count_set_aside(self) -> int:
        """Return how many batches have something left, of the first ones that were set aside, or failed for good."""
        kept = map(self.deployment.set_aside.of, islice(self.deployment.set_aside.batches(), MOST_SET_ASIDE))
        bucket = self.deployment.outputs.bucket
        failed = self.deployment.client("s3").list_objects_v2(
            Bucket=bucket, Prefix=FAILED_BATCHES, MaxKeys=MOST_SET_ASIDE
        )
        return sum(bool(one.waiting) for one in kept) + int(failed.get("KeyCount", 0))

    def _learn_holders(self, counted: Counted) -> None:
        self._holdings |= self.deployment.ledger.holders.holdings(counted.keys() - self._holdings.keys())

    def _owner(self, source: str, hour: Hour) -> str:
        """Return the customer that a source's usage of an hour belongs to, or an empty string."""
        subject = owner_of(source, self._holdings[source], hour)
        return subject.id if subject.kind is Kind.CUSTOMER else ""

    def _since(self, hour: Hour, now: datetime) -> tuple[Counted | None, datetime]:
        """Return what the look before has counted of this hour, and when; nothing and its begin, if none has."""
        if self._before is None or self._before[0] != hour or self._before[1] >= now:
            return None, hour.start
        return self._before[2], self._before[1]

    def _key(self, source: str, hour: Hour, quantities: Mapping[str, int], per_second: float) -> Busy:
        holder = self._holdings[source].at(hour)
        reason = holder.reason if holder else ""
        return Busy(key_of_source(source), self._owner(source, hour), quantities, per_second, reason)

    def _customer(self, name: str, counted: Counted, sources: list[str], rate: Any) -> Busy:
        together = Share.of({source: counted[source] for source in sources}).together
        distinct = tuple(sorted(together.uniques))
        return Busy(name, name, together.quantities(), rate(sources), keys=len(sources), up_to=distinct)

    def _settled(
        self, busiest: list[Busy], counted: Counted, theirs: Mapping[str, list[str]], hour: Hour
    ) -> list[Busy]:
        """Return customers with distinct values as the ledger has them, or as claims say, or so many at most."""
        wanted = [busy.name for busy in busiest if busy.up_to]
        rows = self.deployment.ledger.rows.at(hour, map(customer, wanted))
        self._learn_held(wanted)
        settled = []
        for busy in busiest:
            totals = rows[customer(busy.name)].totals if busy.up_to else {}
            known = {metric: totals[metric].counted for metric in busy.up_to if metric in totals}
            may_settle = busy.name in wanted[:MOST_SETTLED] or (busy.up_to and self._is_alone(busy.name, hour))
            if len(known) < len(busy.up_to) and may_settle:
                of_hour = {source: counted[source] for source in theirs[busy.name]}
                known = self._settle(busy.name, hour, of_hour).uniques | known
            left = tuple(metric for metric in busy.up_to if metric not in known)
            settled.append(replace(busy, quantities={**busy.quantities, **known}, up_to=left))
        return settled

    def _is_alone(self, name: str, hour: Hour) -> bool:
        """Say whether one key alone stands for a customer in the month, so that its counters say what is distinct."""
        held = self._held[name]
        return held is not None and alone(held, name, hour)

    def _learn_held(self, names: Iterable[str]) -> None:
        """Look which keys these customers have; of too many it is not looked at, and None."""
        unknown = [name for name in names if name not in self._held]
        self._held |= dict(zip(unknown, side_by_side(self._keys_of, unknown), strict=True))

    def _keys_of(self, name: str) -> Mapping[str, Holding] | None:
        holders = self.deployment.ledger.holders
        keys = holders.few_keys_of(name, MOST_KEYS)
        return None if keys is None else holders.holdings(map(source_of_key, keys))

    def _settle(self, name: str, hour: Hour, by_source: Counted) -> Amounts:
        """Return what a customer used in an hour, without the distinct values that few reads do not settle (I10)."""
        share = Share.of(by_source)
        if share.together.uniques:
            self._learn_held([name])
            held = self._held[name]
            if held is None:
                share.together.uniques.clear()
            else:
                self._uniques().settle(name, {hour: share}, held)
        return share.together

    def _clock(self) -> float:
        return self._at.timestamp()

    def _uniques(self) -> KeptUniques:
        if self._settles is None:
            distinct = sum(isinstance(metric, Unique) for metric in self.deployment.declared_metrics)
            self._settles = KeptUniques(self.deployment.uniques, distinct, self._clock)
        return self._settles

    def _priced(self, busiest: list[Busy], hour: Hour, end: datetime) -> list[Busy]:
        """Return customers with what they cost."""
        self._learn_plans([busy.name for busy in busiest])
        elapsed = Decimal(max(1.0, (end - hour.start).total_seconds())) / Decimal(HOUR.total_seconds())
        priced = []
        for busy in busiest:
            on = self._subscribed.get(busy.name)
            if on is None:
                priced.append(busy)
                continue
            used = self._used_before(busy.name, on.since, hour)
            prices = terms(on.plan)
            more = {name: quantity for name, quantity in busy.quantities.items() if name in prices}
            cost = sum((_at_margin(prices[name], used[name], quantity) for name, quantity in more.items()), Decimal(0))
            per_hour = cost / elapsed
            at_most = any(metric in prices for metric in busy.up_to)
            priced.append(
                replace(
                    busy,
                    plan=on.plan.name,
                    currency=on.plan.currency,
                    cost=cost,
                    per_hour=per_hour,
                    costs_up_to=at_most,
                )
            )
        return priced

    def _with_reasons(self, busiest: list[Busy], now: datetime) -> list[Busy]:
        """Return customers with why their keys are not open: of each that is shown, a query and two reads a minute."""
        limits = LimitItems(self.deployment.client("dynamodb"), self.deployment.outputs.ledger_table)
        unknown = [busy.name for busy in busiest if busy.name not in self._reasons]
        found = side_by_side(lambda name: tuple(reasons_of_one(limits, name, now)), unknown)
        self._reasons |= dict(zip(unknown, found, strict=True))
        return [replace(busy, reasons=self._reasons[busy.name]) for busy in busiest]

    def _learn_plans(self, names: Iterable[str]) -> None:
        """Ask Stripe which plan each of these customers is on that is not known yet."""
        if not self.deployment.declared_plans:
            self._notes.append("app.py declares no plan, so that nothing has a price")
            return
        unknown = [name for name in names if name not in self._subscribed]
        there = self.deployment.ledger.holders.customers(unknown)
        try:
            plans = side_by_side(lambda name: self._ask(there.get(name)), unknown)
        except (StripeUnavailableError, StripeRejectedError) as error:
            self._unpriced = f"nothing has a price: {error}"
            plans = [None] * len(unknown)
        self._subscribed |= dict(zip(unknown, plans, strict=True))
        if self._unpriced:
            self._notes.append(self._unpriced)

    def _ask(self, owner: Customer | None) -> _Subscribed | None:
        """Return what a customer is subscribed to; None where that is no plan that is declared."""
        if owner is None or not owner.stripe_customer:
            return None
        stripe = self.deployment.stripe()
        subscription = running(stripe, owner.stripe_customer)
        if subscription is None:
            return None
        declared = {plan.name: plan for plan in self.deployment.declared_plans}
        ours = sorted(declared.keys() & plans_of(subscription, stripe.deployment))
        start = min(item.current_period_start for item in subscription["items"].data)
        return _Subscribed(declared[ours[0]], Hour.of_epoch_ms(start * 1000)) if ours else None

    def _used_before(self, name: str, since: Hour, hour: Hour) -> Counter[str]:
        """Return what a customer used from ``since`` up to ``hour``, exclusive."""
        if (name, hour) not in self._used:
            used: Counter[str] = Counter()
            first_open = self._read_open(hour)
            for row in self.deployment.ledger.rows.of(customer(name), since, first_open):
                used.update({metric: total.quantity for metric, total in row.totals.items()})
            for earlier, counted in self._open[hour]:
                self._learn_holders(counted)
                if since <= earlier:
                    theirs = {source: one for source, one in counted.items() if self._owner(source, earlier) == name}
                    at_most = Share.of(theirs).together.quantities()
                    used.update({**at_most, **self._settle(name, earlier, theirs).quantities()})
            self._used[name, hour] = used
        return self._used[name, hour]

    def _read_open(self, hour: Hour) -> Hour:
        """Read the counters of the hours before ``hour`` that are in no row yet; return the first of them."""
        if hour not in self._open:
            written = self.deployment.ledger.progress.written_before(hour.start)
            first = min(hour, max(written, Hour(hour.number - MOST_OPEN)))
            self._open = {hour: [(one, self.deployment.counters.read(one)) for one in hours(first, hour)]}
        return self._open[hour][0][0] if self._open[hour] else hour


def _rate_of(metrics: Iterable[Metric]) -> tuple[str, set[str]]:
    """Return which metric the rates are of, and the names that it is counted under: the first that counts requests."""
    declared = [*metrics]
    first = next((one for one in declared if isinstance(one, Count)), declared[0])
    return first.name, {*meters_of(first).values()}


def _added(counted: Counted, before: Counted | None, source: str, names: set[str]) -> int:
    """Return how much of some metrics a source has used since the look before, or in the hour."""
    quantities = counted[source].quantities()
    former = before[source].quantities() if before and source in before else {}
    return sum(quantities.get(name, 0) - former.get(name, 0) for name in names)


def _at_margin(price: Price, before: int, more: int) -> Decimal:
    """Return what so many units more cost, after those that were used before; exact, in the smallest unit."""
    if isinstance(price, Flat):
        return Decimal(0)
    asked = [sum((line.exact for line in explain(price, quantity)), Decimal(0)) for quantity in (before, before + more)]
    return asked[1] - asked[0]


def _busiest(busy: Busy) -> tuple[float, int, str]:
    return -busy.per_second, -sum(busy.quantities.values()), busy.name

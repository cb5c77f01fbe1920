"""The judge of the money side: says where the money is wrong.

What it promises, and checks with code that shares nothing with the closer but the tables' attributes:

- **Converges**: when nothing fails any more, some hourly runs later nothing is asked for, nothing waits, and for every
  customer, metric and hour the ledger's count is the straight count of the lines, its adjustments are those that were
  made, and Stripe holds what the ledger says (of hours that Stripe still takes, from ``since`` on; nothing before it).
- **Billed once, or told**: what finalised invoices bill that nobody voided, what Stripe holds of hours that none of
  them covers and a subscription does, and what rows tell that nobody is billed for is together exactly the straight
  count and the adjustments.
- **Nobody waits for another**: after the first calm tick (by the event stream, where a newer total departs a tick after
  the older one that had no answer, the second) nothing is pending of any customer but the one whose account still
  fails, and what Stripe accepted it holds, before anything is reconciled.
- **Told**: the sums of held rows are what the rows say.
- **Closed whole**: of an hour that is said to be written, all that was counted stands in rows, or has a late mark.
  Where nothing came late, changed hands or was lost, its numbers of customers and of keys without one are right, too.
- **Distinct values**: each that a customer's keys brought in a month counts once, in an hour in which it was brought.
- **Nobody waits for a partition** of the counters that cannot be read but who has a key in it, or shares one with who
  has; nor does any late mark.
- **Never more**: after no run does Stripe hold, or an invoice bill, more than was delivered until then, for customers
  without a correction downwards. (One with such a correction may be over until the next run: that is not promised.)
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from metering.billing.unbilled import Looker
from metering.model.periods import CLOCK_SKEW, Hour, due_before
from metering.model.usage_row import Change, State
from metering.stores.attribution import Attribution, Uniques
from metering.stores.aws import from_item
from metering.stores.changes import Changes
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.marks import partition
from metering.stores.switch import PostingSwitch
from metering.stripe.invoices import StripeReader
from metering.stripe.pacing import Pace
from metering.stripe.reading import Reads
from tests.doubles.clock import Clock
from tests.faults.counted import holders_in
from tests.faults.money_schedule import DISTINCT, METRICS, Schedule
from tests.faults.money_stripe import DEPLOYMENT, Behaviour, StripeAccount
from tests.faults.tables import Backing

Cell = tuple[str, str, int]
"""A customer, a metric, and an hour's number."""

_REASONS: Final = {
    "the customer has no Stripe customer": "no_stripe_customer",
    "older than 34.5 days: Stripe would refuse it": "too_old",
}

_LAST: Final = Hour(10**6)


@dataclass(frozen=True, slots=True)
class Parts:
    """What functions and commands are made of; it stands for a `Deployment` where a command wants one."""

    counters: Counters
    claims: Claims
    ledger: Ledger
    changes: Changes
    switch: PostingSwitch
    uniques: Uniques

    def who(self) -> str:
        """Return who acts."""
        return "operator"

    @property
    def attribution(self) -> Attribution:
        """Who used what."""
        return Attribution(self.counters, self.uniques)

    @classmethod
    def of(cls, client: Any, counters_table: str, ledger_table: str) -> "Parts":
        """Make the parts of a client and its tables' names."""
        counters, claims = Counters(client, counters_table), Claims(client, counters_table)
        ledger = Ledger(client, ledger_table)
        return cls(
            counters=counters,
            claims=claims,
            ledger=ledger,
            changes=Changes(client, ledger_table, counters),
            switch=PostingSwitch(client, ledger_table),
            uniques=Uniques(claims, ledger.holders),
        )


@dataclass
class Judge:
    """Knows a schedule, what it was played with, and what was used beside it (``doses``)."""

    schedule: Schedule
    world: Clock
    stripe: StripeAccount
    backing: Backing
    parts: Parts
    doses: Counter[Cell] = field(default_factory=Counter)
    lost: bool = False
    """Whether items were lost that say how far closing is."""

    _on_time: dict[int, frozenset[str]] = field(default_factory=dict)
    """The keys whose usage of an hour was there before it was due."""

    _told: set[int] = field(default_factory=set)
    """The hours whose numbers have been looked at."""

    def _holder(self, holders: dict[str, list[tuple[int, str]]], key: str, hour: int) -> str:
        held = [name for since, name in holders.get(key, []) if since <= hour]
        return held[-1] if held else ""

    def _straight(self, batches: Iterable[int]) -> Counter[Cell]:
        """Return what each customer used of each metric in each hour: every line once, added up.

        Of distinct values that is how many were brought in the hour: no more of them count there.
        """
        used, holders = self.doses.copy(), holders_in(self.backing)
        for number in batches:
            for line in self.schedule.batches[number]:
                name = self._holder(holders, line.key, line.hour.number)
                if name:
                    used[name, "requests", line.hour.number] += 1
                    used[name, "bytes", line.hour.number] += line.bytes
        for (name, hour), users in self._users(batches).items():
            used[name, DISTINCT, hour] = len(users)
        return used

    def _users(self, batches: Iterable[int]) -> dict[tuple[str, int], set[str]]:
        """Return who used what was a customer's in an hour."""
        users: dict[tuple[str, int], set[str]] = {}
        holders = holders_in(self.backing)
        for number in batches:
            for line in self.schedule.batches[number]:
                name = self._holder(holders, line.key, line.hour.number)
                if name and line.user:
                    users.setdefault((name, line.hour.number), set()).add(line.user)
        return users

    def _adjusted(self) -> Counter[Cell]:
        adjusted: Counter[Cell] = Counter()
        for one in self.schedule.adjustments():
            adjusted[one.customer, one.metric, one.hour.number] += one.amount
        return adjusted

    def under_way(self) -> list[str]:
        """Say what is still asked for."""
        return [
            f"a mark {item['pk']['S']} {item['sk']['S']} is left"
            for item in self.backing.items(self.backing.counters)
            if item["pk"]["S"].startswith(("late#", "check#"))
        ]

    def nobody_waits(self) -> Iterator[str]:
        """Say who waits for another after calm has returned, and what Stripe took and does not hold."""
        first, due = self.parts.switch.read().first, due_before(self.world.moment)
        unknown = {whom for whom, how in self.schedule.bad.items() if how is Behaviour.UNKNOWN}
        stripe = self._at_stripe()
        for cell, total in self._ledger().items():
            accepted = total["state"] == State.POSTED and total.get("posted_to", "") not in {"", *unknown}
            quantity = max(0, sum(total.get(name, 0) for name in ("counted", "adjusted", "carried")))
            if accepted and quantity != stripe[cell] and not Hour(cell[2]).is_past_stripe(self.world.moment):
                yield f"I4: Stripe took {quantity} of {_named(cell)}, and holds {stripe[cell]}: {total}"
            owner = self.parts.ledger.holders.customers([cell[0]])[cell[0]]
            fails = self.schedule.failing in self._owned(cell[0]) or owner.stripe_customer in self.stripe.bad
            if total["state"] == State.PENDING and first and first.number <= cell[2] < due.number and not fails:
                yield f"I6: {_named(cell)} waits after a calm tick: {total}"

    def nobody_waits_to_be_closed(self, batches: Iterable[int], unreadable: Collection[str]) -> Iterator[str]:
        """Say who waits to be closed for a partition that cannot be read, and has no key in it."""
        due = due_before(self.world.moment).number
        waits = {(hour, name) for hour, name in self._concerned(unreadable)}
        ledger, adjusted = self._ledger(), self._adjusted()
        for cell, used in self._straight(batches).items():
            name, metric, hour = cell
            counted = ledger.get(cell, {}).get("counted", 0)
            if metric in METRICS and hour < due and counted != used and (hour, name) not in waits:
                yield f"I6: {_named(cell)} is not closed: {counted} of {used}, {adjusted[cell]} adjusted"
        for hour, subject in self._marked():
            if hour < due and (hour, subject.partition("#")[2]) not in waits:
                yield f"I6: the mark of {subject} in {Hour(hour)} waits"

    def _concerned(self, partitions: Collection[str]) -> Iterator[tuple[int, str]]:
        """Yield the hours and customers, and keys, that have to do with partitions of the counters.

        A key is closed together with all who ever held it, and each of them with all its keys.
        """
        ever = self._ever()
        alone = {line.key: {line.key} for batch in self.schedule.batches for line in batch}
        for pk in partitions:
            _, hour, number = pk.split("#")
            for name, keys in (ever | alone).items():
                together = [(name, keys), *((one, theirs) for one, theirs in ever.items() if keys & theirs)]
                sources = {source for one, theirs in together for source in (f"@{one}", *theirs)}
                if int(number) in map(partition, sources):
                    yield from ((Hour.parse(hour).number, one) for one in (name, *keys))

    def _ever(self) -> dict[str, set[str]]:
        """Return the keys that each customer may ever have held."""
        ever: dict[str, set[str]] = {name: set() for name in self.schedule.connected}
        given = ((one.key, one.customer) for one in self.schedule.hand_overs())
        for key, name in (*self.schedule.mapped.items(), *given):
            ever[name].add(key)
        return ever

    def _marked(self) -> set[tuple[int, str]]:
        """Return the hours and subjects that have late marks."""
        marked = set()
        for item in self.backing.items(self.backing.counters):
            if item["pk"]["S"].startswith("late#"):
                hour, _, subject = item["sk"]["S"].partition("#")
                marked.add((Hour.parse(hour).number, subject))
        return marked

    def written(self, begun: Collection[int], unrecorded: Collection[int], moving: Collection[str]) -> Iterator[str]:
        """Say what was counted in a written hour, stands in no row, and has no mark; and which numbers are wrong.

        What an ``unrecorded`` batch has counted is marked once it comes again, a ``moving`` key once it is handed over.
        """
        holders, ever, marked = holders_in(self.backing), self._ever(), self._marked()
        unsure = {(line.hour.number, line.key) for one in unrecorded for line in self.schedule.batches[one]}
        periods = self._periods()
        rows: Counter[Cell] = Counter()
        for cell, total in self._ledger(kinds=("customer", "key")).items():
            rows[cell] = total.get("counted", 0)
        counted: Counter[Cell] = Counter()
        for item in self.backing.items(self.backing.counters):
            kind, hour, *_ = item["pk"]["S"].split("#")
            if kind == "hour":
                source, number = item["sk"]["S"].partition("#")[0], Hour.parse(hour).number
                owner = source[1:] if source[0] == "@" else self._holder(holders, source, number) or source
                for metric in METRICS:
                    counted[owner, metric, number] += int(item.get(f"n:{metric}", {"N": "0"})["N"])
        for cell in sorted({*rows, *counted}):
            name, metric, hour = cell
            keys = ever.get(name, {name})
            asked = (hour, f"customer#{name}") in marked or any(
                (hour, f"key#{key}") in marked or (hour, key) in unsure or key in moving for key in keys
            )
            if hour in periods and metric in METRICS and not asked and rows[cell] != counted[cell]:
                yield f"I1: {_named(cell)}, which is written, has {rows[cell]} in its row, and counters {counted[cell]}"
        yield from self._numbers(periods, begun, unrecorded)

    def _numbers(
        self, periods: dict[int, dict[str, Any]], begun: Iterable[int], unrecorded: Collection[int]
    ) -> Iterator[str]:
        """Say which written hours have a wrong number of customers, or of keys without one."""
        used: dict[int, set[str]] = {hour: set() for hour in periods}
        recorded: dict[int, set[str]] = {}
        for number in begun:
            for line in self.schedule.batches[number]:
                used.setdefault(line.hour.number, set()).add(line.key)
                if number not in unrecorded:
                    recorded.setdefault(line.hour.number, set()).add(line.key)
        for hour in used:
            if not Hour(hour).is_due(self.world.moment + CLOCK_SKEW):
                self._on_time[hour] = frozenset(recorded.get(hour, ()))
        holders = holders_in(self.backing)
        moved = bool(self.schedule.hand_overs())
        for hour in periods.keys() - self._told:
            self._told.add(hour)
            if self.lost or moved or used[hour] != self._on_time.get(hour, set()):
                continue
            owners = [self._holder(holders, key, hour) for key in used[hour]]
            wanted = {"customers": len({*owners} - {""}), "unmapped": owners.count("")}
            there = {name: periods[hour][name] for name in wanted}
            if there != wanted and not any(cell[2] == hour for cell in self.doses):
                yield f"I5: {Hour(hour)} is written with {there}, and has {wanted}"

    def _periods(self) -> dict[int, dict[str, Any]]:
        """Return the hours that are said to be written or closed, with their numbers."""
        return {
            Hour.parse(item["pk"]["S"].removeprefix("period#")).number: from_item(item)
            for item in self.backing.items(self.backing.ledger)
            if item["sk"]["S"] == "close" and item["pk"]["S"] != "period#cursor"
        }

    def never_more(self, batches: Iterable[int]) -> Iterator[str]:
        """Say where more is billed than these batches hold, of customers without a correction downwards."""
        corrected = {one.customer for one in self.schedule.adjustments() if one.amount < 0} | self._losers()
        most = self._straight(batches) + +self._adjusted()
        carried = self._carried()
        for (name, metric, hour), held in self._at_stripe().items():
            cell = (name, metric, hour)
            if name not in corrected and cell not in carried and held > most[cell]:
                yield f"I4: Stripe holds {held} of {_named(cell)}, and {most[cell]} were delivered"
        due = due_before(self.world.moment + CLOCK_SKEW).number
        delivered: Counter[tuple[str, str]] = Counter()
        for (name, metric, hour), amount in most.items():
            delivered[name, metric] += amount if hour < due else 0
        for (name, metric), billed in self._billed(due).items():
            if name not in corrected and billed > delivered[name, metric]:
                yield f"I4: {name} is billed {billed} {metric}, and {delivered[name, metric]} were delivered"

    def changes(self) -> Iterator[tuple[str, Hour, Change]]:
        """Yield what stands beside the counts of every customer."""
        for name in self.schedule.connected:
            yield from ((name, hour, change) for hour, change in self.parts.changes.between(name, Hour(0), _LAST))

    def _carried(self) -> Counter[Cell]:
        carried: Counter[Cell] = Counter()
        for name, hour, change in self.changes():
            if change.carry:
                carried[name, change.metric, hour.number] += change.amount
        return carried

    def _losers(self) -> set[str]:
        holders = dict(self.schedule.mapped)
        losers = set()
        for one in self.schedule.hand_overs():
            losers |= {holders[one.key]} if one.key in holders else set()
            holders[one.key] = one.customer
        return losers

    def final(self, batches: Iterable[int]) -> list[str]:
        """Say what is wrong now, of the hours that are due."""
        due = due_before(self.world.moment).number
        since = Hour.parse(self.parts.switch.read().since).number
        used = {cell: n for cell, n in self._straight(batches).items() if cell[2] < due}
        adjusted = {cell: n for cell, n in self._adjusted().items() if cell[2] < due}
        ledger, stripe, carried = self._ledger(), self._at_stripe(), self._carried()
        wrong = [*self._judge_distinct(used, ledger, batches)]
        for cell in sorted({*used, *adjusted, *carried, *ledger, *stripe}):
            if cell[2] < due:
                wanted = (used.get(cell, 0), adjusted.get(cell, 0), carried[cell])
                total = ledger.get(cell, {})
                there = tuple(total.get(name, 0) for name in ("counted", "adjusted", "carried"))
                if there != wanted:
                    wrong.append(f"I5: the ledger has {there} of {_named(cell)}, and counted and changed were {wanted}")
                wrong += self._judge_posted(cell, total, max(0, sum(there)), stripe[cell], since)
        return wrong + self._judge_billed(used, adjusted, since, due) + [*self._judge_sums()]

    def _judge_distinct(
        self, used: dict[Cell, int], ledger: dict[Cell, dict[str, Any]], batches: Iterable[int]
    ) -> Iterator[str]:
        """Judge distinct values; then take for ``used`` what the ledger says of each hour. All lie in one month."""
        users: dict[str, set[str]] = {}
        for (name, _), some in self._users(batches).items():
            users.setdefault(name, set()).update(some)
        counted: Counter[str] = Counter()
        cells = {cell for cell in (*used, *ledger) if cell[1] == DISTINCT}
        for cell in sorted(cells):
            there = ledger.get(cell, {}).get("counted", 0)
            if there > used.get(cell, 0):
                yield f"I2: the ledger has {there} of {_named(cell)}, in which {used.get(cell, 0)} were brought"
            used[cell] = there
            counted[cell[0]] += there
        for name in sorted({*users, *counted}):
            if counted[name] != len(users.get(name, ())):
                yield f"I2: {name} has {counted[name]} users in the month, and {len(users.get(name, ()))} were brought"

    def _judge_posted(self, cell: Cell, total: dict[str, Any], quantity: int, held: int, since: int) -> Iterator[str]:
        if cell[2] < since:
            if held:
                yield f"Stripe holds {held} of {_named(cell)}, before posting began"
            return
        if quantity != held and not Hour(cell[2]).is_past_stripe(self.world.moment):
            yield f"I4: Stripe holds {held} of {_named(cell)}, and the ledger {quantity}: {total}"
        if total and total["state"] != State.POSTED:
            yield f"I4: {_named(cell)} is not posted: {total}"

    def _judge_sums(self) -> Iterator[str]:
        """Say where the sums of held rows are not what the rows are, whatever was crashed or refused on the way."""
        summed, wanted = Counter[str](), Counter[str]()
        for item in self.backing.items(self.backing.ledger):
            if item["pk"]["S"].startswith("held#"):
                summed.update({name: int(value["N"]) for name, value in item.items() if name not in ("pk", "sk")})
            elif item["pk"]["S"].startswith("customer#") and item["sk"]["S"].startswith("usage#"):
                totals = from_item(item)["totals"].values()
                wanted.update({_REASONS[total["reason"]] for total in totals if total["state"] == State.HELD})
        if +summed != wanted or min(summed.values(), default=0) < 0:
            yield f"I9: the sums of held rows are {dict(summed)}, and the rows say {dict(wanted)}"

    def _judge_billed(self, used: dict[Cell, int], adjusted: dict[Cell, int], since: int, due: int) -> list[str]:
        wanted: Counter[tuple[str, str]] = Counter()
        for (name, metric, hour), amount in [*used.items(), *adjusted.items()]:
            if since <= hour < due:
                wanted[name, metric] += amount
        billed, told = self._billed(due), self._told_unbilled(since, due)
        return [
            f"I4: {name} is billed for {billed[name, metric]} {metric}, told that nobody is for {told[name, metric]}, "
            f"and used {wanted[name, metric]}"
            for name, metric in sorted({*wanted, *billed, *told})
            if billed[name, metric] + told[name, metric] != wanted[name, metric]
        ]

    def _billed(self, due: int) -> Counter[tuple[str, str]]:
        """Return what is billed: by finalised invoices, and by what Stripe holds of all other hours that are due."""
        billed: Counter[tuple[str, str]] = Counter()
        covered: set[tuple[str, int]] = set()
        meters = {meter.id: meter.event_name.removeprefix(f"{DEPLOYMENT}_") for meter in self._meters()}
        owners = self._owners()
        for invoice in self.stripe.account.billing.invoices.values():
            if invoice.finalized_at is None:
                continue
            whom = str(invoice.customer["id"])
            prices = {part.price.id: meters[part.price.recurring.meter or ""] for part in invoice.parts}
            for part in invoice.parts:
                covered |= {(whom, hour) for hour in range(part.start // 3600, part.end // 3600)}
            for line in invoice.lines if invoice.status != "void" else ():
                metric = prices[line["pricing"]["price_details"]["price"]]
                if whom in owners:
                    billed[owners[whom], metric] += int(line["quantity"])
        for (whom, metric, hour), held in self.stripe.totals().items():
            if whom in owners and (whom, hour) not in covered and hour < due and self.stripe.is_paid(whom, hour):
                billed[owners[whom], metric] += held
        return billed

    def _told_unbilled(self, since: int, due: int) -> Counter[tuple[str, str]]:
        """Return what would be told if it were looked for now: that no invoice will ever bill it."""
        told: Counter[tuple[str, str]] = Counter()
        reader = StripeReader(self.stripe.meters, Reads(10**6, Pace(10.0**6)))
        first, now = Hour(since), self.world.moment
        looker = Looker(self.parts.ledger, self.parts.changes, reader, first, lambda: now, now)
        for owner in self.parts.ledger.holders.customers(self.schedule.connected).values():
            for one in looker.look(owner).unbilled:
                if one.hour.number < due:
                    told[owner.id, one.metric] += one.quantity
        return told

    def _meters(self) -> Iterable[Any]:
        return self.stripe.account.meters.values()

    def _owners(self) -> dict[str, str]:
        """Return the customer of each Stripe customer."""
        return {
            item["pk"]["S"].removeprefix("stripe#"): item["customer"]["S"]
            for item in self.backing.items(self.backing.ledger)
            if item["sk"]["S"] == "owner"
        }

    def _owned(self, name: str) -> set[str]:
        return {whom for whom, owner in self._owners().items() if owner == name}

    def _at_stripe(self) -> Counter[Cell]:
        """Return what Stripe holds, by customer."""
        owners, found = self._owners(), Counter[Cell]()
        for (whom, metric, hour), held in self.stripe.totals().items():
            found[owners.get(whom, whom), metric, hour] += held
        return found

    def _ledger(self, kinds: Collection[str] = ("customer",)) -> dict[Cell, dict[str, Any]]:
        found = {}
        for item in self.backing.items(self.backing.ledger):
            kind, _, name = item["pk"]["S"].partition("#")
            if kind in kinds and item["sk"]["S"].startswith("usage#"):
                hour = Hour.parse(item["sk"]["S"].removeprefix("usage#")).number
                for metric, total in from_item(item)["totals"].items():
                    found[name, metric, hour] = total
        return found


def _named(cell: Cell) -> str:
    return f"{cell[0]}'s {cell[1]} in {Hour(cell[2])}"

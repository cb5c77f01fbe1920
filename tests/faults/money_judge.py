"""The judge of the money side: says where the money is wrong.

What it promises, and checks with code that shares nothing with the closer but the tables' attributes:

- **Converges**: when nothing fails any more, some hourly runs later nothing is asked for, nothing waits, and for every
  customer, metric and hour the ledger's count is the straight count of the lines, its adjustments are those that were
  made, and Stripe holds what the ledger says (of hours that Stripe still takes, from ``since`` on; nothing before it).
- **Billed once**: what finalised invoices bill and what Stripe holds of the hours that none of them covers is together
  exactly the straight count and the adjustments.
- **Nobody waits for another**: after the first calm tick (by the event stream, where a newer total departs a tick after
  the older one that had no answer, the second) nothing is pending of any customer but the one whose account still
  fails, and what Stripe accepted it holds, before anything is reconciled.
- **Never more**: after no run does Stripe hold, or an invoice bill, more than was delivered until then, for customers
  without a correction downwards. (One with such a correction may be over until the next run: that is not promised.)
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from metering.model.periods import CLOCK_SKEW, Hour, due_before
from metering.model.usage_row import Change, State
from metering.stores.attribution import Attribution, Uniques
from metering.stores.aws import from_item
from metering.stores.changes import Changes
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.switch import PostingSwitch
from tests.doubles.clock import Clock
from tests.faults.money_schedule import Schedule
from tests.faults.money_stripe import DEPLOYMENT, Behaviour, StripeAccount
from tests.faults.tables import Backing

Cell = tuple[str, str, int]
"""A customer, a metric, and an hour's number."""

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

    def _holder(self, holders: dict[str, list[tuple[int, str]]], key: str, hour: int) -> str:
        held = [name for since, name in holders.get(key, []) if since <= hour]
        return held[-1] if held else ""

    def _holders(self) -> dict[str, list[tuple[int, str]]]:
        """Return who holds each key since which hour, as operators have said."""
        found: dict[str, list[tuple[int, str]]] = {}
        for item in self.backing.items(self.backing.ledger):
            if item["sk"]["S"] == "holders":
                values = from_item(item)
                found[values["pk"].removeprefix("key#")] = [
                    (Hour.parse(one["since"]).number, one["customer"]) for one in values["holders"]
                ]
        return found

    def _straight(self, batches: Iterable[int]) -> Counter[Cell]:
        """Return what each customer used of each metric in each hour: every line once, added up."""
        used, holders = self.doses.copy(), self._holders()
        for number in batches:
            for line in self.schedule.batches[number]:
                name = self._holder(holders, line.key, line.hour.number)
                if name:
                    used[name, "requests", line.hour.number] += 1
                    used[name, "bytes", line.hour.number] += line.bytes
        return used

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
        wrong = []
        for cell in sorted({*used, *adjusted, *carried, *ledger, *stripe}):
            if cell[2] < due:
                wanted = (used.get(cell, 0), adjusted.get(cell, 0), carried[cell])
                total = ledger.get(cell, {})
                there = tuple(total.get(name, 0) for name in ("counted", "adjusted", "carried"))
                if there != wanted:
                    wrong.append(f"I5: the ledger has {there} of {_named(cell)}, and counted and changed were {wanted}")
                wrong += self._judge_posted(cell, total, max(0, sum(there)), stripe[cell], since)
        return wrong + self._judge_billed(used, adjusted, since, due)

    def _judge_posted(self, cell: Cell, total: dict[str, Any], quantity: int, held: int, since: int) -> Iterator[str]:
        if cell[2] < since:
            if held:
                yield f"Stripe holds {held} of {_named(cell)}, before posting began"
            return
        if quantity != held and not Hour(cell[2]).is_past_stripe(self.world.moment):
            yield f"I4: Stripe holds {held} of {_named(cell)}, and the ledger {quantity}: {total}"
        if total and total["state"] != State.POSTED:
            yield f"I4: {_named(cell)} is not posted: {total}"

    def _judge_billed(self, used: dict[Cell, int], adjusted: dict[Cell, int], since: int, due: int) -> list[str]:
        wanted: Counter[tuple[str, str]] = Counter()
        for (name, metric, hour), amount in [*used.items(), *adjusted.items()]:
            if since <= hour < due:
                wanted[name, metric] += amount
        billed = self._billed(due)
        return [
            f"I4: {name} is billed for {billed[name, metric]} {metric}, and used {wanted[name, metric]}"
            for name, metric in sorted({*wanted, *billed})
            if billed[name, metric] != wanted[name, metric]
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
            for line in invoice.lines:
                metric = prices[line["pricing"]["price_details"]["price"]]
                if whom in owners:
                    billed[owners[whom], metric] += int(line["quantity"])
        for (whom, metric, hour), held in self.stripe.totals().items():
            if whom in owners and (whom, hour) not in covered and hour < due:
                billed[owners[whom], metric] += held
        return billed

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

    def _ledger(self) -> dict[Cell, dict[str, Any]]:
        found = {}
        for item in self.backing.items(self.backing.ledger):
            kind, _, name = item["pk"]["S"].partition("#")
            if kind == "customer" and item["sk"]["S"].startswith("usage#"):
                hour = Hour.parse(item["sk"]["S"].removeprefix("usage#")).number
                for metric, total in from_item(item)["totals"].items():
                    found[name, metric, hour] = total
        return found


def _named(cell: Cell) -> str:
    return f"{cell[0]}'s {cell[1]} in {Hour(cell[2])}"

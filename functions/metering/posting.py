"""Posting: what is pending in the ledger → Stripe.

Customers are posted side by side, each customer's hours one after the other: Stripe takes one call at a time per
customer and meter, and a customer whose account fails delays no other (I6).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from aws_lambda_powertools import Logger

from metering.ledger import Ledger, RowChangedError
from metering.periods import Hour
from metering.stripe_meters import (
    MeterMissingError,
    StripeMeters,
    StripeNotConnectedError,
    StripeRejectedError,
    StripeUnavailableError,
)
from metering.subjects import customer
from metering.usage_row import TOO_OLD, Posting, State, UsageRow, accepted, departing, held, rejected

logger = Logger(child=True)

CUSTOMERS_AT_ONCE: Final = 16


@dataclass(slots=True)
class Posted:
    """What a run of posting did, counted in metrics' totals."""

    posted: int = 0
    rejected: int = 0
    held: int = 0
    pending: int = 0
    unsettled: set[Hour] = field(default_factory=set)
    """The hours in which something is still pending."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Why something is."""

    def leave(self, hours: Iterable[Hour], reason: str) -> None:
        """Note hours that stay pending."""
        for hour in hours:
            self.unsettled.add(hour)
            self.pending += 1
            self.reasons[reason] += 1

    def add(self, other: "Posted") -> None:
        """Add what another run did."""
        self.posted += other.posted
        self.rejected += other.rejected
        self.held += other.held
        self.pending += other.pending
        self.unsettled |= other.unsettled
        self.reasons += other.reasons


@dataclass(frozen=True, slots=True)
class Poster:
    """Posts pending totals; ``clock`` gives the present moment, and no row is begun after ``deadline``."""

    ledger: Ledger
    stripe: StripeMeters
    epoch: str
    clock: Callable[[], datetime]
    deadline: datetime
    _without_meter: dict[str, str] = field(default_factory=dict)
    """Metrics that turned out in this run to have no meter, with Stripe's words."""

    def post_pending(self, just_written: Mapping[str, set[Hour]]) -> Posted:
        """Post everything that is pending, however old: what the index shows, and what was ``just_written``."""
        pending = {name: set(hours) for name, hours in self.ledger.pending().items()}
        for name, hours in just_written.items():
            pending.setdefault(name, set()).update(hours)
        did = Posted()
        if not pending:
            return did
        try:
            self.stripe.check_key()
        except StripeNotConnectedError as error:
            for hours in pending.values():
                did.leave(hours, str(error))
            logger.warning("Stripe is not connected", reason=str(error), customers=len(pending))
            return did
        names = self._in_turn(sorted(pending))
        with ThreadPoolExecutor(CUSTOMERS_AT_ONCE) as pool:
            for run in pool.map(lambda name: self._post_customer(name, pending[name]), names):
                did.add(run)
        return did

    def _in_turn(self, names: list[str]) -> list[str]:
        """Begin with another customer at each run, so that a run which ends early does not starve the same ones."""
        start = (int(self.clock().timestamp()) // 60 * 7919) % max(1, len(names))
        return names[start:] + names[:start]

    def _post_customer(self, name: str, hours: set[Hour]) -> Posted:
        did = Posted()
        if self.clock() >= self.deadline:
            did.leave(hours, "out of time")
            return did
        owner = self.ledger.customers([name]).get(name)  # now, so that a correction is not missed for a whole run
        answers = True
        for hour in sorted(hours):
            if not answers or self.clock() >= self.deadline:
                did.leave([hour], "out of time" if answers else "waits for an earlier hour")
                continue
            row = self.ledger.rows(hour, [customer(name)])[customer(name)]
            try:
                answers = self._post_row(row, owner.stripe_customer if owner else "", did)
            except RowChangedError:
                did.leave([hour], "the row changed while it was posted")
        if did.reasons:
            logger.warning("usage stays pending", customer=name, reasons=dict(did.reasons))
        return did

    def _post_row(self, row: UsageRow, stripe_customer: str, did: Posted) -> bool:
        """Post a row's pending totals, or hold them where nobody can be billed; return False if Stripe is silent."""
        waiting = row.in_state(State.PENDING)
        silence: Counter[str] = Counter()
        if waiting and row.hour.is_past_stripe(self.clock()):
            row = self.ledger.save(held(row, TOO_OLD))
        elif waiting and not stripe_customer:
            row = self.ledger.hold_without_stripe_customer(row)
        elif waiting:
            row, silence = self._send_pending(row, stripe_customer)
        states = Counter(row.totals[metric].state for metric in waiting)
        did.posted += states[State.POSTED]
        did.rejected += states[State.REJECTED]
        did.held += states[State.HELD]
        did.pending += states[State.PENDING]
        did.reasons += silence
        for metric in row.in_state(State.PENDING):
            did.unsettled.add(row.hour)
            if metric in self._without_meter:
                did.reasons[self._without_meter[metric]] += 1
            elif not silence:
                did.reasons["a rejected posting could still land"] += 1
        return not silence

    def _send_pending(self, row: UsageRow, stripe_customer: str) -> tuple[UsageRow, Counter[str]]:
        """Send a row's pending totals, each written into the row before it is sent.

        Returns the row as it then is, and why Stripe gave no answer, if it gave none.
        """
        while True:
            departed, postings = departing(
                row,
                stripe_customer=stripe_customer,
                epoch=self.epoch,
                now=self.clock(),
                without=self._without_meter,
            )
            if not postings:
                return row, Counter()
            row = self.ledger.save(departed)
            answered, silence = self._send(row, postings)
            if answered is not row:
                row = self.ledger.save(answered)
            if silence:
                return row, silence

    def _send(self, row: UsageRow, postings: Mapping[str, Posting]) -> tuple[UsageRow, Counter[str]]:
        """Send postings that are written in the row; return the row with Stripe's answers, and why some have none."""
        silence: Counter[str] = Counter()
        for metric, posting in postings.items():
            if self.clock() >= self.deadline:
                silence["out of time"] += 1
                continue
            try:
                self.stripe.post(metric, posting)
            except MeterMissingError as error:
                self._without_meter[metric] = str(error)
            except StripeRejectedError as error:
                row = rejected(row, metric, str(error), epoch=self.epoch)
                logger.warning("Stripe rejected usage", identifier=posting.identifier, reason=str(error))
            except StripeUnavailableError as error:
                silence[str(error)] += 1
            else:
                row = accepted(row, metric, epoch=self.epoch)
        return row, silence

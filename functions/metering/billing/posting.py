"""Posting: what is pending in the ledger → Stripe.

Customers are posted side by side, each customer's hours one after the other: Stripe takes one call at a time per
customer and meter, and a customer whose account fails delays no other (I6). Workers share the customers out by the
shards of the index, which they lease; each keeps the share of the account's rate that belongs to its shards.

By the event stream (``streamed_from``) up to a hundred totals go in one call, whoever they are of.
"""

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from threading import BoundedSemaphore
from typing import Final

from aws_lambda_powertools import Logger

from metering.billing.pacing import Pace, pause
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import TOO_OLD, Posting, State, UsageRow, accepted, departing, held, rejected
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.counters import Counters
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stores.table import RowChangedError
from metering.stripe.meters import (
    STREAM_BATCH,
    MeterMissingError,
    StripeBusyError,
    StripeMeters,
    StripeNotConnectedError,
    StripeRejectedError,
    StripeUnavailableError,
)

logger = Logger(child=True)

CUSTOMERS_AT_ONCE: Final = 64
"""At 100 ms for an answer these are 640 calls a second; one process has no CPU for more."""

ATTEMPTS: Final = 4
"""How often a call is made in a run before its customer waits for the next one."""

_PIECE: Final = 300
"""How many customers' rows are read at once."""

_CHANGED: Final = "the row changed while it was posted"
_OUT_OF_TIME: Final = "out of time"


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

    refused: dict[str, str] = field(default_factory=dict)
    """What Stripe rejected for good: its identifier, and Stripe's words."""

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
        self.refused |= other.refused


@dataclass(frozen=True, slots=True)
class Poster:
    """Posts pending totals; ``clock`` gives the present moment, and no row is begun after ``deadline``."""

    ledger: Ledger
    counters: Counters
    stripe: StripeMeters
    epoch: str
    clock: Callable[[], datetime]
    deadline: datetime
    pace: Pace
    streamed_from: Hour | None = None
    """Hours from this one on go by the event stream."""

    _without_meter: dict[str, str] = field(default_factory=dict)
    """Metrics that turned out in this run to have no meter, with Stripe's words."""

    def post_pending(self, since: Hour, shards: Iterable[int]) -> Posted:
        """Post everything that is pending in hours from ``since`` on, of the customers in these shards."""
        pending = self.ledger.rows.pending(since, shards)
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
        streamed, called = self._by_way(pending)
        for names in in_pieces(self._in_turn(streamed), _PIECE):
            did.add(self._post_streamed({name: streamed[name] for name in names}))
        for one in self._post_side_by_side(called):
            did.add(one)
        return did

    def _by_way(self, pending: Mapping[str, list[Hour]]) -> tuple[dict[str, list[Hour]], dict[str, list[Hour]]]:
        """Tell the hours that go by the event stream from those that go by a call each."""
        streamed: dict[str, list[Hour]] = {}
        called: dict[str, list[Hour]] = {}
        for name, hours in pending.items():
            for hour in hours:
                by_stream = self.streamed_from is not None and hour >= self.streamed_from
                (streamed if by_stream else called).setdefault(name, []).append(hour)
        return streamed, called

    def _in_turn(self, pending: Iterable[str]) -> list[str]:
        """Begin with another customer at each run, so that a run which ends early does not starve the same ones.

        Which one is as good as random: runs that are evenly spaced must not meet the same few again and again.
        """
        names = sorted(pending)
        start = zlib.crc32(str(int(self.clock().timestamp())).encode()) % max(1, len(names))
        return names[start:] + names[:start]

    # --- a call for each total --------------------------------------------------------------------------------------

    def _post_side_by_side(self, pending: Mapping[str, list[Hour]]) -> Iterator[Posted]:
        """Post customers side by side; the rows of some are read while others are posted."""
        free = BoundedSemaphore(2 * CUSTOMERS_AT_ONCE)  # so that not all rows are in memory at once
        with ThreadPoolExecutor(CUSTOMERS_AT_ONCE) as pool:
            runs = []
            for names in in_pieces(self._in_turn(pending), _PIECE):
                owners, rows = self._read({name: pending[name] for name in names})
                for name in names:
                    free.acquire()
                    run = pool.submit(self._post_customer, owners.get(name), rows[name])
                    run.add_done_callback(lambda _: free.release())
                    runs.append(run)
            yield from (run.result() for run in runs)

    def _read(self, pending: Mapping[str, list[Hour]]) -> tuple[dict[str, Customer], dict[str, list[UsageRow]]]:
        """Return these customers and their rows, oldest first."""
        rows = self.ledger.rows.written({(customer(name), hour) for name, hours in pending.items() for hour in hours})
        by_name: dict[str, list[UsageRow]] = {name: [] for name in pending}
        for row in sorted(rows, key=lambda row: row.hour):
            by_name[row.subject.id].append(row)
        return self.ledger.holders.customers(pending), by_name

    def _post_customer(self, owner: Customer | None, rows: Sequence[UsageRow]) -> Posted:
        did = Posted()
        answers = True
        for row in rows:
            if not answers or self.clock() >= self.deadline:
                did.leave([row.hour], "waits for an earlier hour" if not answers else _OUT_OF_TIME)
                continue
            try:
                answers = self._post_row(row, owner.stripe_customer if owner else "", did)
            except RowChangedError:
                did.leave([row.hour], _CHANGED)
        if did.reasons:
            logger.warning("usage stays pending", customer=rows[0].subject.id, reasons=dict(did.reasons))
        return did

    def _post_row(self, row: UsageRow, stripe_customer: str, did: Posted) -> bool:
        """Post a row's pending totals, or hold them where nobody can be billed; return False if Stripe is silent."""
        waiting = row.in_state(State.PENDING)
        silence: Counter[str] = Counter()
        if waiting and not self._is_to_hold(row, stripe_customer):
            row, silence = self._send_pending(row, stripe_customer, did)
        elif waiting:
            row = self._hold(row, stripe_customer)
        self._note(row, waiting, silence, did)
        return not silence

    def _is_to_hold(self, row: UsageRow, stripe_customer: str) -> bool:
        return not stripe_customer or row.hour.is_past_stripe(self.clock())

    def _hold(self, row: UsageRow, stripe_customer: str) -> UsageRow:
        if not stripe_customer:
            return self.ledger.rows.hold_without_stripe_customer(row)
        # First the mark: reconcile_usage leaves it while the row is pending, and carries the usage once it is held.
        self.counters.marks.mark_to_check(row.hour, row.subject)
        return self.ledger.rows.save(held(row, TOO_OLD))

    def _note(self, row: UsageRow, waiting: Iterable[str], silence: Counter[str], did: Posted) -> None:
        states = Counter(row.totals[metric].state for metric in waiting)
        did.posted += states[State.POSTED]
        did.rejected += states[State.REJECTED]
        did.held += states[State.HELD]
        did.pending += states[State.PENDING]
        did.reasons += silence
        for metric, total in row.in_state(State.PENDING).items():
            did.unsettled.add(row.hour)
            if metric in self._without_meter:
                did.reasons[self._without_meter[metric]] += 1
            elif not silence:
                flying = total.not_before > self.clock().timestamp()
                did.reasons["a rejected posting could still land" if flying else "a newer total follows"] += 1

    def _depart(self, row: UsageRow, stripe_customer: str) -> tuple[UsageRow, dict[str, Posting]]:
        return departing(
            row,
            stripe_customer=stripe_customer,
            epoch=self.epoch,
            now=self.clock(),
            without=self._without_meter,
            streamed=self.streamed_from is not None and row.hour >= self.streamed_from,
        )

    def _send_pending(self, row: UsageRow, stripe_customer: str, did: Posted) -> tuple[UsageRow, Counter[str]]:
        """Send a row's pending totals, each written into the row before it is sent.

        Returns the row as it then is, and why Stripe gave no answer, if it gave none.
        """
        while True:
            departed, postings = self._depart(row, stripe_customer)
            if not postings:
                return row, Counter()
            row = self.ledger.rows.save(departed)
            answered, silence = self._send(row, postings, did)
            if answered is not row:
                row = self.ledger.rows.save(answered)
            if silence:
                return row, silence

    def _send(self, row: UsageRow, postings: Mapping[str, Posting], did: Posted) -> tuple[UsageRow, Counter[str]]:
        """Send postings that are written in the row; return the row with Stripe's answers, and why some have none."""
        answers: dict[str, Exception | None] = {}
        for one in postings.items():
            answers |= self._send_group([one])
        return self._answered(row, postings, answers, did)

    def _answered(
        self,
        row: UsageRow,
        postings: Mapping[str, Posting],
        answers: Mapping[str, Exception | None],
        did: Posted,
    ) -> tuple[UsageRow, Counter[str]]:
        """Return a row with Stripe's answers to its postings, by identifier, and why some have none."""
        silence: Counter[str] = Counter()
        for metric, posting in postings.items():
            match answers[posting.identifier]:
                case None:
                    row = accepted(row, metric, epoch=self.epoch, now=self.clock())
                case MeterMissingError() as error:
                    self._without_meter[metric] = str(error)
                case StripeRejectedError() as error:
                    row = self._reject(row, metric, posting, str(error), did)
                case error:
                    silence[str(error)] += 1
        return row, silence

    def _reject(self, row: UsageRow, metric: str, posting: Posting, words: str, did: Posted) -> UsageRow:
        logger.warning("Stripe rejected usage", identifier=posting.identifier, reason=words)
        did.refused[posting.identifier] = words
        return rejected(row, metric, words, epoch=self.epoch)

    def _try(self, postings: Sequence[tuple[str, Posting]]) -> None:
        """Send one posting, or several by the event stream, at the account's pace.

        Again after a while, if Stripe does not answer or wants fewer calls.
        """
        for attempt in range(1, ATTEMPTS + 1):
            left = (self.deadline - self.clock()).total_seconds()
            if left <= 0 or not self.pace.wait(left):
                raise StripeUnavailableError(_OUT_OF_TIME)
            try:
                if postings[0][1].streamed:
                    self.stripe.stream(postings)
                else:
                    self.stripe.post(*postings[0])
            except (MeterMissingError, StripeNotConnectedError):
                raise
            except StripeUnavailableError as error:
                if isinstance(error, StripeBusyError) and not error.alone:
                    self.pace.refused(error.retry_after)
                if attempt == ATTEMPTS:
                    raise
                time.sleep(min(pause(attempt), max(0.0, left)))
            else:
                self.pace.went_well()
                return

    # --- by the event stream ----------------------------------------------------------------------------------------

    def _post_streamed(self, pending: Mapping[str, list[Hour]]) -> Posted:
        """Post some customers' totals together; what Stripe finds wrong with one of them it reports later."""
        did = Posted()
        if self.clock() >= self.deadline:
            for hours in pending.values():
                did.leave(hours, _OUT_OF_TIME)
            return did
        owners, by_name = self._read(pending)
        rows = [row for name in pending for row in by_name[name]]
        to_send = []
        for row in rows:
            owner = owners.get(row.subject.id)
            stripe_customer = owner.stripe_customer if owner else ""
            if row.in_state(State.PENDING) and not self._is_to_hold(row, stripe_customer):
                to_send.append((row, stripe_customer))
                continue
            try:
                self._post_row(row, stripe_customer, did)
            except RowChangedError:
                did.leave([row.hour], _CHANGED)
        saved = side_by_side(lambda one: self._save_departed(*one), to_send)
        departed = [one for one in saved if one]
        did.leave([row.hour for (row, _), one in zip(to_send, saved, strict=True) if not one], _CHANGED)
        answers = self._send_together([posting for _, postings in departed for posting in postings.items()])
        for one in side_by_side(lambda one: self._save_answers(*one, answers), departed):
            did.add(one)
        return did

    def _save_departed(self, row: UsageRow, stripe_customer: str) -> tuple[UsageRow, dict[str, Posting]] | None:
        departed, postings = self._depart(row, stripe_customer)
        try:
            return (self.ledger.rows.save(departed) if postings else row), postings
        except RowChangedError:
            return None

    def _send_together(self, postings: Sequence[tuple[str, Posting]]) -> dict[str, Exception | None]:
        """Send postings by the way that each is written down for; return what became of each, by identifier."""
        streamed = [one for one in postings if one[1].streamed]
        groups = [*in_pieces(streamed, STREAM_BATCH), *([one] for one in postings if not one[1].streamed)]
        answers: dict[str, Exception | None] = {}
        for found in side_by_side(self._send_group, groups):
            answers |= found
        return answers

    def _send_group(self, group: Sequence[tuple[str, Posting]]) -> dict[str, Exception | None]:
        """Send postings in one call; one that Stripe rejects as a whole is halved until it is known which it was."""
        answer: Exception | None = None
        try:
            self._try(group)
        except StripeRejectedError as error:
            if len(group) > 1:
                half = len(group) // 2
                return self._send_group(group[:half]) | self._send_group(group[half:])
            answer = error
        except StripeUnavailableError as error:
            answer = error
        return {posting.identifier: answer for _, posting in group}

    def _save_answers(
        self, row: UsageRow, postings: Mapping[str, Posting], answers: Mapping[str, Exception | None]
    ) -> Posted:
        did, waiting = Posted(), row.in_state(State.PENDING)
        after, silence = self._answered(row, postings, answers, did)
        try:
            row = self.ledger.rows.save(after) if after is not row else row
        except RowChangedError:
            did.leave([row.hour], _CHANGED)
        else:
            self._note(row, waiting, silence, did)
        return did

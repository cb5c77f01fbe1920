"""Sending: one row's pending totals → Stripe, each written down before it is sent, and its answer afterwards.

Whoever reads many rows, :mod:`metering.billing.posting` one call a total or :mod:`metering.billing.streaming` many in
one, sends and notes them by the rules here.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import Lock
from typing import Final, Self

from aws_lambda_powertools import Logger

from metering.model.periods import Hour
from metering.model.usage_row import TOO_OLD, Posting, State, UsageRow, accepted, departing, held, rejected
from metering.stores.counters import Counters
from metering.stores.ledger import Ledger
from metering.stores.table import TABLE_ERRORS, RowChangedError
from metering.stripe.client import (
    MeterMissingError,
    StripeBusyError,
    StripeNotConnectedError,
    StripeRejectedError,
    StripeUnavailableError,
)
from metering.stripe.meters import EVENTS_TO_A_CALL, StripeMeters
from metering.stripe.pacing import Pace, pause

logger = Logger(child=True)

ATTEMPTS: Final = 4
"""How often a call is made in a run before its customer waits for the next one."""

CHANGED: Final = "the row changed while it was posted"
OUT_OF_TIME: Final = "out of time"

FAILED: Final = "AWS failed"

MOST_FAILURES: Final = 20

Answers = Mapping[str, Exception | None]
"""What became of each posting, by identifier: None if Stripe has it."""


@dataclass(slots=True)
class Posted:
    """What posting came to, counted in metrics' totals."""

    posted: int = 0
    rejected: int = 0
    held: int = 0
    pending: int = 0
    unsettled: set[Hour] = field(default_factory=set)
    """The hours in which something is still pending."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Why something is."""

    failures: list[Exception] = field(default_factory=list)
    """What AWS said of rows that could not be read or written; of many, the first :data:`MOST_FAILURES`."""

    @classmethod
    def left(cls, hours: Sequence[Hour], reason: str) -> Self:
        """Return that these hours stay pending."""
        return cls(
            pending=len(hours), unsettled=set(hours), reasons=Counter({reason: len(hours)}) if hours else Counter()
        )

    @classmethod
    def failed(cls, hours: Sequence[Hour], error: Exception) -> Self:
        """Return that these hours stay pending, since AWS failed; the others are posted, and then it is raised."""
        failed = cls.left(hours, FAILED)
        failed.failures.append(error)
        return failed

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """Return what all parts come to."""
        total = cls()
        for part in parts:
            total.posted += part.posted
            total.rejected += part.rejected
            total.held += part.held
            total.pending += part.pending
            total.unsettled |= part.unsettled
            total.reasons.update(part.reasons)
            total.failures += part.failures[: MOST_FAILURES - len(total.failures)]
        return total


@dataclass(frozen=True, slots=True)
class Sent:
    """A row after its totals were sent; ``silence`` says why Stripe gave no answer.

    ``refused`` is what it rejected: identifiers, and its words.
    """

    row: UsageRow
    silence: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def _no_further(_refused: Mapping[str, str]) -> None:
    """Leave it at the log and the row."""


@dataclass(slots=True)
class Sender:
    """Sends the totals of rows; ``clock`` gives the present moment, and no row is begun after ``deadline``."""

    ledger: Ledger
    counters: Counters
    stripe: StripeMeters
    epoch: str
    clock: Callable[[], datetime]
    deadline: datetime
    pace: Pace
    streamed_from: Hour | None = None
    """Hours from this one on go by the event stream."""

    tell: Callable[[Mapping[str, str]], None] = _no_further
    """Is called with what Stripe rejected of a row, by identifier, with its words, as soon as that is written; by one
    thread at a time."""

    _telling: Lock = field(default_factory=Lock)

    _without_meter: dict[str, str] = field(default_factory=dict)
    """Metrics that turned out in this run to have no meter, with Stripe's words: whichever thread writes it last."""

    def is_streamed(self, hour: Hour) -> bool:
        """Say whether an hour's totals go by the event stream."""
        return self.streamed_from is not None and hour >= self.streamed_from

    def is_over(self) -> bool:
        """Say whether no row may be begun any more."""
        return self.clock() >= self.deadline

    def may_send(self, row: UsageRow, stripe_customer: str) -> bool:
        """Say whether a row has a pending total that somebody can be billed for."""
        return bool(row.in_state(State.PENDING)) and not self._is_to_hold(row, stripe_customer)

    def post_row(self, row: UsageRow, stripe_customer: str) -> tuple[Posted, bool]:
        """Post a row's pending totals, or hold them where nobody can be billed.

        Returns what it came to, and whether Stripe answers.
        """
        waiting = row.in_state(State.PENDING)
        sent = Sent(row)
        try:
            if self.may_send(row, stripe_customer):
                sent = self._send_pending(row, stripe_customer)
            elif waiting:
                sent = Sent(self._hold(row, stripe_customer))
        except RowChangedError:
            return Posted.left([row.hour], CHANGED), True
        except TABLE_ERRORS as error:
            return Posted.failed([row.hour], error), True
        return self.told(sent, waiting), not sent.silence

    def _is_to_hold(self, row: UsageRow, stripe_customer: str) -> bool:
        return not stripe_customer or row.hour.is_past_stripe(self.clock())

    def _hold(self, row: UsageRow, stripe_customer: str) -> UsageRow:
        if not stripe_customer:
            return self.ledger.rows.hold_without_stripe_customer(row)
        # First the mark: reconcile_usage leaves it while the row is pending, and carries the usage once it is held.
        self.counters.marks.mark_to_check(row.hour, row.subject)
        return self.ledger.rows.save(held(row, TOO_OLD))

    def _send_pending(self, row: UsageRow, stripe_customer: str) -> Sent:
        """Send a row's pending totals until none is left that may depart, or Stripe is silent."""
        while True:
            departed, postings = self.depart(row, stripe_customer)
            if not postings:
                return Sent(row)
            row = self.ledger.rows.save(departed)
            answers: dict[str, Exception | None] = {}
            for posting in postings.items():
                answers |= self.send([posting])
            sent = self.save_answers(row, postings, answers)
            if sent.silence:
                return sent
            row = sent.row

    def depart(self, row: UsageRow, stripe_customer: str) -> tuple[UsageRow, dict[str, Posting]]:
        """Return a row in which the totals that may depart are on their way, and these postings by metric.

        First what Stripe does not take of an hour is marked, for reconcile_usage to carry it.
        """
        if any(total.beyond for total in row.in_state(State.PENDING).values()):
            self.counters.marks.mark_to_check(row.hour, row.subject)
        return departing(
            row,
            stripe_customer=stripe_customer,
            epoch=self.epoch,
            now=self.clock(),
            without=self._without_meter,
            streamed=self.is_streamed(row.hour),
        )

    def send(self, group: Sequence[tuple[str, Posting]]) -> Answers:
        """Send postings in one call; what is refused for some of them is halved until it is known for which (I6)."""
        answer: Exception | None = None
        try:
            self._try(group)
        except (StripeRejectedError, StripeUnavailableError) as error:
            of_some = isinstance(error, StripeRejectedError) or _is_alone(error)
            if of_some and len(group) > 1:
                half = len(group) // 2
                answers = {**self.send(group[:half]), **self.send(group[half:])}
                for refusal in answers.values():
                    if isinstance(refusal, StripeRejectedError):
                        refusal.again |= error.again  # in which they all were
                return answers
            answer = error
        return {posting.identifier: answer for _, posting in group}

    def save_answers(self, row: UsageRow, postings: Mapping[str, Posting], answers: Answers) -> Sent:
        """Write a row with Stripe's answers, and tell at once of what it rejected.

        Whatever becomes of the run then, that was told; what a process died before is found by the hourly look, which
        counts the rows that are rejected.
        """
        sent = self._answered(row, postings, answers)
        if sent.row is row:
            return sent
        sent = replace(sent, row=self.ledger.rows.save(sent.row))
        if sent.refused:
            with self._telling:
                self.tell(sent.refused)
        return sent

    def _answered(self, row: UsageRow, postings: Mapping[str, Posting], answers: Answers) -> Sent:
        """Return a row with Stripe's answers to its postings."""
        silence: Counter[str] = Counter()
        refused: dict[str, str] = {}
        for metric, posting in postings.items():
            match answers[posting.identifier]:
                case None:
                    row = accepted(row, metric, epoch=self.epoch, now=self.clock())
                case MeterMissingError() as error:
                    self._without_meter[metric] = str(error)
                case StripeRejectedError() as error:
                    logger.warning("Stripe rejected usage", identifier=posting.identifier, reason=str(error))
                    refused[posting.identifier] = str(error)
                    row = rejected(row, metric, str(error), epoch=self.epoch, again=error.again)
                case error:
                    silence[str(error)] += 1
        return Sent(row, silence, refused)

    def told(self, sent: Sent, waiting: Iterable[str]) -> Posted:
        """Return what became of the totals of a row that were ``waiting``."""
        row = sent.row
        states = Counter(row.totals[metric].state for metric in waiting)
        pending = row.in_state(State.PENDING)
        reasons = Counter(sent.silence)
        for metric, total in pending.items():
            if metric in self._without_meter:
                reasons[self._without_meter[metric]] += 1
            elif not sent.silence:
                flying = total.not_before > self.clock().timestamp()
                reasons["a rejected posting could still land" if flying else "a newer total follows"] += 1
        return Posted(
            states[State.POSTED],
            states[State.REJECTED],
            states[State.HELD],
            states[State.PENDING],
            {row.hour} if pending else set(),
            reasons,
        )

    def _try(self, postings: Sequence[tuple[str, Posting]]) -> None:
        """Send one posting, or several by the event stream, at the account's pace.

        Again after a while, if Stripe does not answer or wants fewer calls. What it is at work for concerns that
        customer and meter alone: no other one is slowed.
        """
        turns = len(postings) / EVENTS_TO_A_CALL if postings[0][1].streamed else 1
        unanswered = False
        for attempt in range(1, ATTEMPTS + 1):
            left = (self.deadline - self.clock()).total_seconds()
            if left <= 0 or not self.pace.wait(left, turns):
                raise StripeUnavailableError(OUT_OF_TIME)
            try:
                if postings[0][1].streamed:
                    self.stripe.stream(postings)
                else:
                    self.stripe.post(*postings[0])
            except (MeterMissingError, StripeNotConnectedError):
                raise
            except StripeRejectedError as error:
                error.again = unanswered
                raise
            except StripeUnavailableError as error:
                error.again = unanswered
                unanswered |= not isinstance(error, StripeBusyError)
                alone = _is_alone(error)
                if isinstance(error, StripeBusyError) and not alone:
                    self.pace.refused(error.retry_after)
                if attempt == ATTEMPTS or (alone and len(postings) > 1):
                    raise
                time.sleep(min(pause(attempt), max(0.0, left)))
            else:
                self.pace.went_well()
                return


def _is_alone(error: Exception) -> bool:
    """Say whether Stripe is only at work for one customer and meter."""
    return isinstance(error, StripeBusyError) and error.alone

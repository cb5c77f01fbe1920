"""A usage row: what one customer, or one key without a customer, used in one hour. Pure.

Every change of a row is a function here from a row to a row; :mod:`metering.ledger` writes it on condition that the
row is still as it was read.

How a total gets to Stripe, and why it converges (I4)::

    recounted ──▶ PENDING ──depart──▶ PENDING, posting on its way ──landed──▶ POSTED
                     ▲                      │        ▲                  └───▶ REJECTED
                     └── recounted ─────────┘        └── no answer: the same posting departs again

A posting is written into the row before it is sent. A newer total is not sent before the older one that is on its
way has been answered: it is sent again, with its own identifier, until Stripe accepts it or says that it exists.
After that, Stripe refuses any copy of it that is still under way, since identifiers are unique for 24 hours and no
run lives that long. Only a posting that was *rejected* leaves no identifier behind; so after a rejection nothing is
sent before the time in which a copy could still land is over.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, assert_never

import msgspec

from metering.measuring import Amounts
from metering.periods import Hour
from metering.subjects import Kind, Subject

FLIGHT_TIME: Final = timedelta(minutes=16)
"""A copy of a request can land this long after it was written down: the longest life of a Lambda, and a minute."""

NO_STRIPE_CUSTOMER: Final = "the customer has no Stripe customer"
TOO_OLD: Final = "older than 34.5 days: Stripe would refuse it"

_TIMESTAMPS: Final = 600
"""Events are dated in the hour's last ten minutes, so that an hour in which a subscription begins is billed."""


class State(StrEnum):
    """Where a total stands."""

    PENDING = "PENDING"
    """To be posted; the next run of ``close_periods`` moves it on."""

    POSTED = "POSTED"
    """Stripe holds it; only a new total moves it, back to PENDING."""

    REJECTED = "REJECTED"
    """Stripe said no for good; an operator mends the cause and closes the hour again."""

    HELD = "HELD"
    """Kept, with its reason; giving the key a customer, or the customer a Stripe customer, moves it to PENDING."""


class Posting(msgspec.Struct, frozen=True):
    """One attempt to tell Stripe a total; ``timestamp`` and ``until`` are in seconds since 1970.

    ``until`` is when no copy of this attempt can land any more.
    """

    identifier: str
    stripe_customer: str
    quantity: int
    timestamp: int
    until: int


class Total(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric's total in a row. ``revision`` is the row's version that gave it this quantity."""

    counted: int
    revision: int
    state: State
    adjusted: int = 0
    carried: int = 0
    reason: str = ""
    identifier: str = ""
    posting: Posting | None = None
    """On its way: written down, perhaps sent, not answered. May be of an older revision."""

    split: dict[str, int] = {}
    """How ``counted`` splits, by value, where the metric is split; nobody is billed by it."""

    posted_to: str = ""
    """The Stripe customer that accepted a posting of this total; every later one goes there too."""

    not_before: int = 0
    """After a rejection: nothing is sent before this moment (seconds since 1970)."""

    @property
    def quantity(self) -> int:
        """What is billed."""
        return self.counted + self.adjusted + self.carried


class UsageRow(msgspec.Struct, frozen=True):
    """A row as it was read. ``version`` counts its writes; 0 means that it has never been written."""

    subject: Subject
    hour: Hour
    version: int = 0
    totals: dict[str, Total] = {}

    def in_state(self, state: State) -> dict[str, Total]:
        """Return the totals that are in a state, by metric."""
        return {metric: total for metric, total in self.totals.items() if total.state is state}

    def with_totals(self, changed: Mapping[str, Total]) -> "UsageRow":
        """Return the row with some totals replaced."""
        return msgspec.structs.replace(self, totals={**self.totals, **changed})


def recounted(row: UsageRow, counted: Amounts, *, held: str = "") -> UsageRow:
    """Return the row with what has been counted now; zero where nothing is left. Unchanged if nothing changes.

    Closing again is asked for by a late mark, so a total that was held or rejected gets a new try, under a new
    revision. With ``held``, the reason why nobody is billed, totals are held instead of pending.
    """
    changed = {}
    quantities = counted.quantities()
    for metric in {*row.totals, *quantities}:
        before = row.totals.get(metric)
        after = _recounted(before, quantities.get(metric, 0), revision=row.version + 1, held=held)
        after = msgspec.structs.replace(after, split=counted.splits.get(metric, {}))
        if after != before:
            changed[metric] = after
    return row.with_totals(changed) if changed else row


def _recounted(before: Total | None, counted: int, *, revision: int, held: str) -> Total:
    if before is None:
        return Total(counted, revision, State.HELD if held else State.PENDING, reason=held)
    same = before.counted == counted
    if held:
        return before if same and before.reason == held else _renewed(before, counted, revision, State.HELD, held)
    match before.state:
        case State.PENDING | State.POSTED:
            return before if same else _renewed(before, counted, revision, State.PENDING)
        case State.REJECTED | State.HELD:
            return _renewed(before, counted, revision, State.PENDING)
        case _:
            assert_never(before.state)


def _renewed(before: Total, counted: int, revision: int, state: State, reason: str = "") -> Total:
    after = msgspec.structs.replace(before, counted=counted, revision=revision, state=state, reason=reason)
    ever_sent = before.posted_to or before.posting or before.not_before
    if state is State.PENDING and not after.quantity and not ever_sent:
        return msgspec.structs.replace(after, state=State.POSTED, reason="zero, and nothing was ever sent")
    return after


def held(row: UsageRow, reason: str) -> UsageRow:
    """Return the row with every pending total held for a reason."""
    return row.with_totals(
        {
            metric: msgspec.structs.replace(total, state=State.HELD, reason=reason)
            for metric, total in row.in_state(State.PENDING).items()
        }
    )


def departing(
    row: UsageRow, *, stripe_customer: str, epoch: str, now: datetime, without: Collection[str] = ()
) -> tuple[UsageRow, dict[str, Posting]]:
    """Return the row to be written before anything is sent, and the postings to send once it is written, by metric.

    A posting that had no answer yet departs again as it is; only when it has been answered does a newer total depart.
    Nothing departs of the metrics in ``without``.
    """
    until = int((now + FLIGHT_TIME).timestamp())
    postings = {}
    for metric, total in row.in_state(State.PENDING).items():
        if metric in without:
            continue
        if total.posting is not None:
            postings[metric] = msgspec.structs.replace(total.posting, until=until)
        elif total.not_before <= now.timestamp():
            postings[metric] = Posting(
                identifier=identifier(epoch, row.subject, metric, row.hour, total.revision),
                stripe_customer=total.posted_to or stripe_customer,
                quantity=total.quantity,
                timestamp=int(row.hour.end.timestamp()) - max(1, _TIMESTAMPS - total.revision),
                until=until,
            )
    departed = row.with_totals(
        {metric: msgspec.structs.replace(row.totals[metric], posting=posting) for metric, posting in postings.items()}
    )
    return departed, postings


def accepted(row: UsageRow, metric: str, *, epoch: str) -> UsageRow:
    """Return the row after Stripe accepted the metric's posting, or said that it has it already."""
    total = row.totals[metric]
    posting = _on_its_way(total)
    landed = msgspec.structs.replace(total, posting=None, posted_to=posting.stripe_customer)
    if posting.identifier == identifier(epoch, row.subject, metric, row.hour, total.revision):
        landed = msgspec.structs.replace(landed, state=State.POSTED, reason="", identifier=posting.identifier)
    return row.with_totals({metric: landed})


def rejected(row: UsageRow, metric: str, reason: str, *, epoch: str) -> UsageRow:
    """Return the row after Stripe refused the metric's posting for good."""
    total = row.totals[metric]
    posting = _on_its_way(total)
    landed = msgspec.structs.replace(total, posting=None, not_before=posting.until)
    if posting.identifier == identifier(epoch, row.subject, metric, row.hour, total.revision):
        landed = msgspec.structs.replace(landed, state=State.REJECTED, reason=reason, identifier=posting.identifier)
    return row.with_totals({metric: landed})


def identifier(epoch: str, subject: Subject, metric: str, hour: Hour, revision: int) -> str:
    """Return what Stripe knows a posting by: derived, unique to this revision, at most 100 characters."""
    if subject.kind is not Kind.CUSTOMER:
        raise ValueError(f"only a customer's usage is posted, got {subject}")
    return f"{epoch}.{subject.id}.{metric}.{hour}.r{revision}"


def _on_its_way(total: Total) -> Posting:
    if total.posting is None:
        raise ValueError(f"no posting of this total is on its way: {total}")
    return total.posting

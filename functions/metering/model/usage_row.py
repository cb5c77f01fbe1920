"""A usage row: what one customer, or one key without a customer, used in one hour. Pure.

Every change of a row is a function here from a row to a row; :mod:`metering.stores.rows` writes it on condition that
the row is still as it was read.

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

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from metering.model.amounts import Amounts
from metering.model.identifiers import ends_with, identifier, next_date
from metering.model.periods import Hour
from metering.model.subjects import Kind, Subject

MOST_IN_AN_HOUR: Final = 999_999_999_999_999
"""Stripe takes 15 digits (Stripe docs, "Record usage"); what an hour has beyond is carried into a later one."""

FLIGHT_TIME: Final = timedelta(minutes=16)
"""A copy of a request can land this long after it was written down: the longest life of a Lambda, and a minute."""

NO_STRIPE_CUSTOMER: Final = "the customer has no Stripe customer"
REST_CARRIED: Final = "the rest of it was carried"
TOO_OLD: Final = "older than 34.5 days: Stripe would refuse it"

FROM_BEFORE: Final = "older than 34.5 days, and from before the subscription: nobody is billed for it"


class WhyHeld(StrEnum):
    """For what a customer's row is held, as the sums of such rows name it."""

    NO_STRIPE_CUSTOMER = "no_stripe_customer"
    TOO_OLD = "too_old"


_WHY_HELD: Final = {NO_STRIPE_CUSTOMER: WhyHeld.NO_STRIPE_CUSTOMER, TOO_OLD: WhyHeld.TOO_OLD}


class State(StrEnum):
    """Where a total stands."""

    PENDING = "PENDING"
    """To be posted; the next run of ``close_periods`` moves it on."""

    POSTED = "POSTED"
    """Stripe holds it; only a new total moves it, back to PENDING."""

    REJECTED = "REJECTED"
    """Stripe said no for good; an operator mends the cause and closes the hour again."""

    HELD = "HELD"
    """Kept, with its reason; giving the key a customer, or the customer a Stripe customer, moves it to PENDING. What is
    too old for Stripe is carried into a later hour by ``reconcile_usage``."""


class Posting(msgspec.Struct, frozen=True):
    """One attempt to tell Stripe a total; ``timestamp`` and ``until`` are in seconds since 1970.

    ``until`` is when no copy of this attempt can land any more; ``streamed`` that it goes by the event stream;
    ``again`` that an attempt before had no answer, and may have landed.
    """

    identifier: str
    stripe_customer: str
    quantity: int
    timestamp: int
    until: int
    streamed: bool = False
    again: bool = False


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands beside an hour's count of a metric: an adjustment by an operator, or a carry from elsewhere.

    ``who`` did it (an ARN, or the function that carried) ``at`` a moment in seconds since 1970; ``recount`` says that a
    recount found it. What was made against a count of ``if_counted`` is void while another is counted.
    """

    id: str
    metric: str
    amount: int
    reason: str
    who: str
    at: int
    carry: bool = False
    if_counted: int | None = None
    recount: bool = False

    def is_void(self, counted: int) -> bool:
        """Say whether the change was made against another count than this."""
        return self.if_counted is not None and self.if_counted != counted


class Total(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric's total in a row. ``revision`` is how many quantities, and new tries of one, it has had so far.

    ``adjusted`` and ``carried`` are the sums of the changes that stand beside the count.
    """

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
    """The Stripe customer that accepted a posting of this total; every later one goes there too, since it may hold it.

    Empty again once Stripe has said that it could use none of what it accepted for it.
    """

    posted_before: bool = False
    """Whether that one accepted a posting before the last, which it may hold. Of what is not ``dated`` nobody knows."""

    not_before: int = 0
    """After a rejection: nothing is sent before this moment (seconds since 1970)."""

    posted_at: int = 0
    """When Stripe last accepted a posting (seconds since 1970)."""

    streamed: bool = False
    """Whether that went by the event stream; every later one does, too."""

    reposts: int = 0
    """How often this total was posted again because Stripe showed another."""

    dated: int = 0
    """When its newest posting is dated (seconds since 1970); 0 if there was none, or an older version made it."""

    @property
    def balance(self) -> int:
        """What is counted, adjusted and carried; below nothing until the difference is carried on."""
        return self.counted + self.adjusted + self.carried

    @property
    def quantity(self) -> int:
        """What is billed of this hour: the balance, but never less than nothing, nor more than Stripe takes."""
        return min(max(0, self.balance), MOST_IN_AN_HOUR)

    @property
    def beyond(self) -> int:
        """What the balance has beyond what Stripe takes of an hour, to be carried."""
        return max(0, self.balance - MOST_IN_AN_HOUR)

    @property
    def is_at_stripe(self) -> bool:
        """Whether Stripe took all that is billed of it, and not what a carry has left of an hour it takes no more."""
        return self.state is State.POSTED and bool(self.posted_at) and self.reason != REST_CARRIED

    @property
    def was_sent(self) -> bool:
        """Whether a posting of it was ever written down, so that Stripe may hold something."""
        return bool(self.dated or self.identifier or self.posted_to or self.posting or self.not_before)


class UsageRow(msgspec.Struct, frozen=True):
    """A row as it was read. ``version`` counts its writes; 0 means that it has never been written.

    ``only_key`` is the one key that everything was counted for, empty where there are several or none. ``summed`` says
    in which sums of held rows it was counted when it was read; whoever writes the row sees to that.
    """

    subject: Subject
    hour: Hour
    version: int = 0
    totals: dict[str, Total] = {}
    only_key: str = ""
    summed: tuple[WhyHeld, ...] = ()

    def in_state(self, state: State) -> dict[str, Total]:
        """Return the totals that are in a state, by metric."""
        return {metric: total for metric, total in self.totals.items() if total.state is state}

    def held_for(self) -> tuple[WhyHeld, ...]:
        """Return why totals are held that a customer is to be billed for, each reason once; a key's own are none."""
        if self.subject.kind is not Kind.CUSTOMER:
            return ()
        reasons = {total.reason for total in self.in_state(State.HELD).values()}
        return tuple(why for reason, why in _WHY_HELD.items() if reason in reasons)

    def with_totals(self, changed: Mapping[str, Total]) -> "UsageRow":
        """Return the row with some totals replaced."""
        return msgspec.structs.replace(self, totals={**self.totals, **changed})


def recounted(
    row: UsageRow, counted: Amounts | None, changes: Sequence[Change] | None = None, *, held: str = ""
) -> UsageRow:
    """Return the row with what is counted now, zero where nothing is left, and its changes; unchanged if all is known.

    Without ``counted``, because the counters have expired, or without ``changes``, those of the row stay. Closing again
    is asked for by a late mark, so a total that was held or rejected gets a new try, under a new revision. With
    ``held``, the reason why nobody is billed, totals are held instead of pending.
    """
    quantities = counted.quantities() if counted is not None else {}
    changed = {}
    for metric in {*row.totals, *quantities, *(change.metric for change in changes or ())}:
        before = row.totals.get(metric)
        after = before or Total(0, 0, State.PENDING)
        if counted is not None:
            split = counted.splits.get(metric, {})
            after = msgspec.structs.replace(after, counted=quantities.get(metric, 0), split=split)
        if changes is not None:
            valid = [one for one in changes if one.metric == metric and not one.is_void(after.counted)]
            after = msgspec.structs.replace(
                after,
                adjusted=sum(one.amount for one in valid if not one.carry),
                carried=sum(one.amount for one in valid if one.carry),
            )
        after = _renewed(before, after, held=held)
        if after != before:
            changed[metric] = after
    return row.with_totals(changed) if changed else row


def _renewed(before: Total | None, after: Total, *, held: str) -> Total:
    """Return a total that is to be billed ``after`` now; as it is if nothing changes for Stripe."""
    same = before is not None and before.balance == after.balance
    if before is not None and same:
        if held and before.reason == held:
            return after
        if not held and before.state in (State.PENDING, State.POSTED):
            return after
    state = State.HELD if held else State.PENDING
    after = msgspec.structs.replace(
        after, revision=after.revision + 1, state=state, reason=held, reposts=before.reposts if before and same else 0
    )
    if state is State.PENDING and not after.quantity and not after.was_sent:
        return msgspec.structs.replace(after, state=State.POSTED, reason="zero, and nothing was ever sent")
    return after


def reposted(row: UsageRow, metric: str) -> UsageRow:
    """Return the row with a total that Stripe accepted and does not show, pending again under a new revision.

    A metric that the row does not have is posted as zero: Stripe holds something that nobody here has counted.
    """
    before = row.totals.get(metric) or Total(0, 0, State.POSTED)
    after = msgspec.structs.replace(
        before, revision=before.revision + 1, state=State.PENDING, reason="", reposts=before.reposts + 1
    )
    return row.with_totals({metric: after})


def posted_elsewhere(row: UsageRow, metric: str) -> UsageRow:
    """Return the row with a total pending for another Stripe customer: Stripe does not know the one that it went to.

    Nobody is billed for it there, and the tries to have Stripe show it begin anew.
    """
    after = msgspec.structs.replace(
        row.totals[metric],
        revision=row.totals[metric].revision + 1,
        state=State.PENDING,
        reason="",
        reposts=0,
        posted_to="",
        posted_before=False,
    )
    return row.with_totals({metric: after})


def settled_by_carry(row: UsageRow, metric: str) -> UsageRow:
    """Return the row with a total that is what Stripe holds, now that the rest of it was carried elsewhere."""
    after = msgspec.structs.replace(row.totals[metric], state=State.POSTED, reason=REST_CARRIED)
    return row.with_totals({metric: after})


def never_billed(row: UsageRow, metric: str) -> UsageRow:
    """Return the row with a held total that waits for nothing any more, since nobody was to pay for its hour."""
    return row.with_totals({metric: msgspec.structs.replace(row.totals[metric], reason=FROM_BEFORE)})


def held(row: UsageRow, reason: str) -> UsageRow:
    """Return the row with every pending total held for a reason."""
    return row.with_totals(
        {
            metric: msgspec.structs.replace(total, state=State.HELD, reason=reason)
            for metric, total in row.in_state(State.PENDING).items()
        }
    )


def departing(  # noqa: PLR0913 - what a posting says, each by name
    row: UsageRow,
    *,
    stripe_customer: str,
    epoch: str,
    now: datetime,
    without: Collection[str] = (),
    streamed: bool = False,
) -> tuple[UsageRow, dict[str, Posting]]:
    """Return the row to be written before anything is sent, and the postings to send once it is written, by metric.

    A posting that had no answer yet departs again as it is; only when it has been answered does a newer total depart.
    Nothing departs of the metrics in ``without``. With ``streamed`` it departs by the event stream; a total that once
    went by it always does, so that one hour's events never take two ways.
    """
    until = int((now + FLIGHT_TIME).timestamp())
    postings = {}
    for metric, total in row.in_state(State.PENDING).items():
        if metric in without:
            continue
        if total.posting is not None:
            postings[metric] = msgspec.structs.replace(total.posting, until=until, again=True)
        elif total.not_before <= now.timestamp():
            postings[metric] = Posting(
                identifier=identifier(epoch, row.subject, metric, row.hour, total.revision),
                stripe_customer=total.posted_to or stripe_customer,
                quantity=total.quantity,
                timestamp=next_date(row.hour, epoch, after=_last_date(row.hour, total)),
                until=until,
                streamed=streamed or total.streamed,
            )
    departed = {
        metric: msgspec.structs.replace(row.totals[metric], posting=posting, dated=posting.timestamp)
        for metric, posting in postings.items()
    }
    return row.with_totals(departed), postings


def _last_date(hour: Hour, total: Total) -> int:
    """Return when the last posting of a total was dated, as an earlier version did it if that made it; 0 if none."""
    if total.dated or not total.was_sent:
        return total.dated
    return int(hour.end.timestamp()) - max(1, 600 - total.revision)


def accepted(row: UsageRow, metric: str, *, epoch: str, now: datetime) -> UsageRow:
    """Return the row after Stripe accepted the metric's posting, or said that it has it already."""
    total = row.totals[metric]
    posting = _on_its_way(total)
    landed = msgspec.structs.replace(
        total,
        posting=None,
        posted_to=posting.stripe_customer,
        posted_before=total.posted_to == posting.stripe_customer,
        posted_at=int(now.timestamp()),
        streamed=posting.streamed,
    )
    if posting.identifier == identifier(epoch, row.subject, metric, row.hour, total.revision):
        landed = msgspec.structs.replace(landed, state=State.POSTED, reason="", identifier=posting.identifier)
    return row.with_totals({metric: landed})


def rejected(row: UsageRow, metric: str, reason: str, *, epoch: str, again: bool = False) -> UsageRow:
    """Return the row after Stripe refused a posting for good; who was sent it before, ``again``, may hold it."""
    total = row.totals[metric]
    posting = _on_its_way(total)
    holder = total.posted_to or (posting.stripe_customer if again or posting.again else "")
    landed = msgspec.structs.replace(total, posting=None, not_before=posting.until, posted_to=holder)
    if posting.identifier == identifier(epoch, row.subject, metric, row.hour, total.revision):
        landed = msgspec.structs.replace(landed, state=State.REJECTED, reason=reason, identifier=posting.identifier)
    return row.with_totals({metric: landed})


def rejected_later(row: UsageRow, known_as: str, reason: str) -> UsageRow:
    """Return the row after Stripe reported that it could not use a posting which it had accepted.

    Unchanged if a newer posting has taken its place, or the report came before. A copy of one that is on its way can
    land as long as a rejected one's. Who accepted nothing else holds nothing: the next one goes to whom there is then.
    """
    for metric, total in row.totals.items():
        if total.posting is not None and total.posting.identifier == known_as:
            landed = msgspec.structs.replace(total, posting=None, not_before=total.posting.until)
            if ends_with(known_as, total.revision):
                landed = msgspec.structs.replace(landed, state=State.REJECTED, reason=reason, identifier=known_as)
            return row.with_totals({metric: landed})
        if total.identifier == known_as and total.state is State.POSTED:
            holder = total.posted_to if total.posted_before or (not total.dated and total.revision > 1) else ""
            refused = msgspec.structs.replace(total, state=State.REJECTED, reason=reason, posted_to=holder)
            return row.with_totals({metric: refused})
    return row


def _on_its_way(total: Total) -> Posting:
    if total.posting is None:
        raise ValueError(f"no posting of this total is on its way: {total}")
    return total.posting

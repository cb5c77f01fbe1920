"""A usage row: its states, and that Stripe ends at the ledger's quantity whatever goes wrong on the way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.measuring import Amounts
from metering.periods import Hour
from metering.subjects import customer, key
from metering.usage_row import (
    FLIGHT_TIME,
    Posting,
    State,
    UsageRow,
    accepted,
    departing,
    held,
    identifier,
    recounted,
    rejected,
)

HOUR = Hour.parse("2026-11-22T05")
NOW = HOUR.end + timedelta(minutes=10)
ACME = UsageRow(customer("acme"), HOUR)


def saved(row: UsageRow) -> UsageRow:
    """Return a row as the ledger would after writing it."""
    return UsageRow(row.subject, row.hour, row.version + 1, row.totals)


def depart(row: UsageRow, *, now: datetime = NOW) -> tuple[UsageRow, dict[str, Posting]]:
    """Let a row's postings depart to acme's Stripe customer."""
    return departing(row, stripe_customer="cus_acme", epoch="1", now=now)


def posted(counted: int) -> UsageRow:
    """Return a row that Stripe has accepted."""
    row, _ = depart(saved(recounted(ACME, Amounts({"requests": counted}))))
    return saved(accepted(saved(row), "requests", epoch="1", now=NOW))


def test_a_new_total_is_pending() -> None:
    """The first revision is the row's first version."""
    total = recounted(ACME, Amounts({"requests": 5})).totals["requests"]
    assert (total.quantity, total.state, total.revision) == (5, State.PENDING, 1)


def test_counting_the_same_again_changes_nothing() -> None:
    """I4: an hour that is closed twice is posted once."""
    row = posted(5)
    assert recounted(row, Amounts({"requests": 5})) is row


def test_a_late_record_makes_a_new_total_with_the_next_revision() -> None:
    """I4: the total is absolute, not the difference."""
    total = recounted(posted(5), Amounts({"requests": 6})).totals["requests"]
    assert (total.quantity, total.state, total.revision) == (6, State.PENDING, 4)


def test_where_nothing_is_left_the_total_is_zero_and_is_posted() -> None:
    """I4: a key that moved to another customer takes its usage along."""
    row = saved(recounted(posted(5), Amounts({})))
    assert row.totals["requests"].quantity == 0
    assert depart(row)[1]["requests"].quantity == 0


def test_zero_is_not_posted_where_nothing_was_ever_sent() -> None:
    """There is nothing at Stripe to be overwritten."""
    row = recounted(saved(recounted(ACME, Amounts({"requests": 5}))), Amounts())
    assert row.totals["requests"].state is State.POSTED


def test_an_identifier_is_derived_and_fits_stripes_limit() -> None:
    """The longest ids, the last epoch and a huge revision make 100 characters at most."""
    assert identifier("1", customer("acme"), "requests", HOUR, 3) == "1.acme.requests.2026-11-22T05.r3"
    assert len(identifier("999", customer("c" * 40), "m" * 32, HOUR, 9_999_999)) == 100


def test_the_usage_of_a_key_without_a_customer_has_no_identifier() -> None:
    """It is held, and never posted."""
    with pytest.raises(ValueError, match="only a customer's usage is posted, got key#k1"):
        identifier("1", key("k1"), "requests", HOUR, 1)


def test_an_event_lies_in_the_last_ten_minutes_and_grows_with_the_revision() -> None:
    """A later revision is the newer event, and an hour in which a subscription begins is billed."""
    end = int(HOUR.end.timestamp())
    first = depart(saved(recounted(ACME, Amounts({"requests": 5}))))[1]["requests"]
    later = depart(saved(recounted(posted(5), Amounts({"requests": 6}))))[1]["requests"]
    assert (first.timestamp, later.timestamp) == (end - 599, end - 596)
    old = UsageRow(ACME.subject, HOUR, 5000, {})
    assert depart(saved(recounted(old, Amounts({"requests": 6}))))[1]["requests"].timestamp == end - 1


def test_a_posting_without_an_answer_departs_again_as_it_was() -> None:
    """I4: the same identifier, so that Stripe takes it once, although the total has changed since."""
    row, first = depart(saved(recounted(ACME, Amounts({"requests": 5}))))
    row = saved(recounted(saved(row), Amounts({"requests": 6})))
    _, again = depart(row)
    assert (again["requests"].identifier, again["requests"].quantity) == (first["requests"].identifier, 5)


def test_the_newer_total_departs_when_the_older_has_been_answered() -> None:
    """I4: and only then is the total settled."""
    row, _ = depart(saved(recounted(ACME, Amounts({"requests": 5}))))
    row, _ = depart(saved(recounted(saved(row), Amounts({"requests": 6}))))
    row = saved(accepted(saved(row), "requests", epoch="1", now=NOW))
    assert row.totals["requests"].state is State.PENDING
    _, newer = depart(row)
    assert newer["requests"].quantity == 6


def test_after_a_rejection_nothing_departs_while_a_copy_could_still_land() -> None:
    """I4: a rejected posting leaves no identifier behind that would stop a stalled copy."""
    row, _ = depart(saved(recounted(ACME, Amounts({"requests": 5}))))
    row = saved(rejected(saved(row), "requests", "No such customer", epoch="1"))
    assert row.totals["requests"].state is State.REJECTED
    assert row.totals["requests"].reason == "No such customer"
    row = saved(recounted(row, Amounts({"requests": 5})))
    assert row.totals["requests"].state is State.PENDING
    assert depart(row, now=NOW + FLIGHT_TIME - timedelta(seconds=1))[1] == {}
    assert depart(row, now=NOW + FLIGHT_TIME)[1]["requests"].identifier == "1.acme.requests.2026-11-22T05.r4"


def test_a_held_total_is_pending_again_when_its_hour_is_closed_again() -> None:
    """Whoever mends the cause marks the hour."""
    row = saved(held(saved(recounted(ACME, Amounts({"requests": 5}))), "the customer has no Stripe customer"))
    assert row.in_state(State.PENDING) == {}
    assert recounted(row, Amounts({"requests": 5})).totals["requests"].state is State.PENDING


def test_what_stripe_accepted_stays_with_its_stripe_customer() -> None:
    """I4: a late record must not bill the same hour to two Stripe customers."""
    row = saved(recounted(posted(5), Amounts({"requests": 6})))
    _, postings = departing(row, stripe_customer="cus_other", epoch="1", now=NOW)
    assert postings["requests"].stripe_customer == "cus_acme"


def test_after_the_ledger_was_restored_an_older_epochs_posting_does_not_settle_a_total() -> None:
    """The restored ledger may reuse revisions; another epoch keeps the identifiers apart."""
    row, _ = depart(saved(recounted(ACME, Amounts({"requests": 5}))))
    row = accepted(saved(row), "requests", epoch="2", now=NOW)
    assert row.totals["requests"].state is State.PENDING


@dataclass
class Stripe:
    """Keeps the latest event of an hour, by arrival or by timestamp; refuses an identifier that it has seen."""

    by_timestamp: bool
    seen: set[str] = field(default_factory=set)
    latest: tuple[int, int] = (0, 0)

    def take(self, posting: Posting) -> None:
        """Take an event, or refuse it as known."""
        if posting.identifier not in self.seen:
            self.seen.add(posting.identifier)
            if not self.by_timestamp or posting.timestamp >= self.latest[0]:
                self.latest = (posting.timestamp, posting.quantity)


@dataclass
class Run:
    """A run of close_periods that has written its postings and sends them, or stalls."""

    row: UsageRow
    posting: Posting


@dataclass
class World:
    """A ledger row, Stripe, runs that overlap, and copies of requests that are still under way."""

    random: Random
    stripe: Stripe
    row: UsageRow = ACME
    now: datetime = NOW
    runs: list[Run] = field(default_factory=list)
    under_way: list[Posting] = field(default_factory=list)

    def write(self, read: UsageRow, after: UsageRow) -> bool:
        """Write a row on condition that it is as it was read."""
        if read.version != self.row.version:
            return False
        self.row = saved(after)
        return True

    def count(self) -> None:
        """A late record, or an adjustment downwards, closes the hour again."""
        after = recounted(self.row, Amounts({"requests": self.random.randint(0, 9)}))
        if after is not self.row:
            self.write(self.row, after)

    def start(self) -> None:
        """A run reads the row and writes down what it is going to send."""
        after, postings = depart(self.row, now=self.now)
        if postings and self.write(self.row, after):
            self.runs.append(Run(self.row, postings["requests"]))

    def send(self) -> None:
        """A run sends; the answer may be lost, and the request may be lost, refused, or land much later."""
        if not self.runs:
            return
        run = self.runs.pop(self.random.randrange(len(self.runs)))
        fate = self.random.choice(["accepted", "answer lost", "lost", "stalled", "stalled", "rejected", "rejected"])
        if fate in ("accepted", "answer lost"):
            self.stripe.take(run.posting)
        if fate == "stalled":
            self.under_way.append(run.posting)
        if fate == "rejected" and run.posting.identifier not in self.stripe.seen:
            self.write(run.row, rejected(run.row, "requests", "no", epoch="1"))
        elif fate in ("accepted", "rejected"):
            self.write(run.row, accepted(run.row, "requests", epoch="1", now=NOW))

    def land(self) -> None:
        """A copy that had stalled arrives."""
        if self.under_way:
            self.stripe.take(self.under_way.pop(self.random.randrange(len(self.under_way))))

    def wait(self) -> None:
        """Time passes; a copy, and a run, live no longer than their time, and land or die in it."""
        self.now += timedelta(minutes=self.random.choice([1, 5, 17]))
        for posting in [posting for posting in self.under_way if posting.until <= self.now.timestamp()]:
            self.under_way.remove(posting)
            self.stripe.take(posting) if self.random.random() < 0.5 else None
        self.runs = [run for run in self.runs if run.posting.until > self.now.timestamp()]

    def come_to_rest(self) -> None:
        """Everything under way ends, an operator retries what was rejected, and a run without faults follows."""
        self.now += FLIGHT_TIME
        self.runs = []
        for posting in self.under_way:
            self.stripe.take(posting)
        counted = {metric: total.counted for metric, total in self.row.totals.items()}
        if self.row.in_state(State.REJECTED):
            self.write(self.row, recounted(self.row, Amounts(counted)))
        self.now += FLIGHT_TIME
        while True:
            after, postings = depart(self.row, now=self.now)
            if not postings:
                return
            self.write(self.row, after)
            self.stripe.take(postings["requests"])
            self.write(self.row, accepted(self.row, "requests", epoch="1", now=NOW))


@settings(max_examples=2000, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.integers(20, 80))
def test_stripe_ends_at_the_ledgers_quantity(seed: int, by_timestamp: bool, steps: int) -> None:  # noqa: FBT001
    """I4: crashes, stalls, lost answers, rejections, overlapping runs and late records, in any order."""
    random = Random(seed)
    world = World(random, Stripe(by_timestamp))
    moves: list[Callable[[], None]] = [world.count, *[world.start] * 3, *[world.send] * 4, world.land, world.wait]
    for _ in range(steps):
        random.choice(moves)()
    world.come_to_rest()
    total = world.row.totals.get("requests")
    if total is not None:
        assert total.state is State.POSTED
        assert world.stripe.latest[1] == total.quantity

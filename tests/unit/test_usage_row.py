"""A usage row: its states, and that Stripe ends at the ledger's quantity whatever goes wrong on the way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metering.model.amounts import Amounts
from metering.model.identifiers import LAST_EPOCH, epoch_of, identifier, named_by
from metering.model.periods import Hour
from metering.model.subjects import customer, key
from metering.model.usage_row import (
    FLIGHT_TIME,
    Change,
    Posting,
    State,
    Total,
    UsageRow,
    accepted,
    departing,
    held,
    posted_elsewhere,
    recounted,
    rejected,
    rejected_later,
    reposted,
    settled_by_carry,
)

HOUR = Hour.parse("2026-11-22T05")
NOW = HOUR.end + timedelta(minutes=10)
ACME = UsageRow(customer("acme"), HOUR)


def saved(row: UsageRow) -> UsageRow:
    """Return a row as the ledger would after writing it."""
    return UsageRow(row.subject, row.hour, row.version + 1, row.totals)


def depart(row: UsageRow, *, now: datetime = NOW, epoch: str = "1") -> tuple[UsageRow, dict[str, Posting]]:
    """Let a row's postings depart to acme's Stripe customer."""
    return departing(row, stripe_customer="cus_acme", epoch=epoch, now=now)


def posted(counted: int) -> UsageRow:
    """Return a row that Stripe has accepted."""
    row, _ = depart(saved(recounted(ACME, Amounts({"requests": counted}))))
    return saved(accepted(saved(row), "requests", epoch="1", now=NOW))


def test_a_new_total_is_pending() -> None:
    """Under its first revision."""
    total = recounted(ACME, Amounts({"requests": 5})).totals["requests"]
    assert (total.quantity, total.state, total.revision) == (5, State.PENDING, 1)


def test_counting_the_same_again_changes_nothing() -> None:
    """I4: an hour that is closed twice is posted once."""
    row = posted(5)
    assert recounted(row, Amounts({"requests": 5})) is row


def test_a_late_record_makes_a_new_total_with_the_next_revision() -> None:
    """I4: the total is absolute, not the difference."""
    total = recounted(posted(5), Amounts({"requests": 6})).totals["requests"]
    assert (total.quantity, total.state, total.revision) == (6, State.PENDING, 2)


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
    epoch = epoch_of(str(LAST_EPOCH), "Metering")
    for revision in (9_999, 10_000, 1_000_000):
        assert len(identifier(epoch, customer("c" * 40), "m" * 32, HOUR, revision)) == 100
        assert len(identifier(epoch, customer("\U0001f600" * 128), "m" * 32, HOUR, revision)) == 93


@given(st.sets(st.integers(1, 1_000_000), min_size=2, max_size=20))
@example({9_999, 10_000, 10_001})
def test_each_revision_has_an_identifier_of_its_own_that_can_be_read(revisions: set[int]) -> None:
    """I4: Stripe takes no other quantity under an identifier that it has seen."""
    known_as = [identifier("1", ACME.subject, "requests", HOUR, revision) for revision in revisions]
    assert len({*known_as}) == len(revisions)
    assert {named_by(name) for name in known_as} == {("acme", "requests", HOUR)}


def test_two_deployments_in_one_account_never_use_the_same_identifier() -> None:
    """I4: to Stripe the second one's usage would be known already; and what is written can be read."""
    known_as = {identifier(epoch_of("1", name), ACME.subject, "requests", HOUR, 1) for name in ("eu", "us")}
    assert len(known_as) == 2
    assert {named_by(name) for name in known_as} == {("acme", "requests", HOUR)}


def test_the_usage_of_a_key_without_a_customer_has_no_identifier() -> None:
    """It is held, and never posted."""
    with pytest.raises(ValueError, match="only a customer's usage is posted, got key#k1"):
        identifier("1", key("k1"), "requests", HOUR, 1)


def dates(row: UsageRow, epoch: str, times: int) -> list[int]:
    """Post so many totals one after the other; return how many seconds before the hour's end each is dated."""
    found = []
    for n in range(times):
        row, postings = departing(
            recounted(row, Amounts({"requests": 100 + n})), stripe_customer="cus_acme", epoch=epoch, now=NOW
        )
        found.append(int(HOUR.end.timestamp()) - postings["requests"].timestamp)
        row = saved(accepted(row, "requests", epoch=epoch, now=NOW))
    return found


def test_an_event_lies_in_the_last_ten_minutes_each_later_than_the_one_before() -> None:
    """I4: the newest is also the one that is dated last; and an hour in which a subscription begins is billed."""
    assert dates(ACME, "1", 3) == [598, 597, 596]


def test_a_total_that_is_posted_without_end_stays_in_its_ten_minutes() -> None:
    """I4: where its epoch has no seconds left, the last arrival counts."""
    found = dates(ACME, "1", 300)
    assert found == [max(598 - n, 348) for n in range(300)]


@given(st.integers(1, LAST_EPOCH - 1), st.integers(1, 300), st.integers(0, 300))
def test_what_is_posted_after_a_restore_is_dated_later_than_all_before(epoch: int, posted: int, kept: int) -> None:
    """I4: a backup knows nothing of what was posted since; ``kept`` postings are in it."""
    before = dates(ACME, epoch_of(str(epoch), "Metering"), posted)
    backup = ACME
    if kept:
        backup = ACME.with_totals({"requests": Total(1, 1, State.POSTED, dated=at_the_end(before[:kept][-1]))})
    after = dates(backup, epoch_of(str(epoch + 1), "Metering"), 2)
    assert min(before) > max(after) >= min(after) >= 1


def at_the_end(left: int) -> int:
    """Return the moment so many seconds before the hour's end."""
    return int(HOUR.end.timestamp()) - left


@given(st.integers(1, 20_000), st.integers(1, LAST_EPOCH))
def test_what_an_earlier_version_posted_is_followed_by_later_dates(revision: int, epoch: int) -> None:
    """I4: it dated by the row's version, and did not write down how."""
    left = max(1, 600 - revision)
    there = Total(5, revision, State.POSTED, identifier=f"1.acme.requests.{HOUR}.r{revision}", posted_to="cus_acme")
    assert max(dates(ACME.with_totals({"requests": there}), epoch_of(str(epoch), "Metering"), 2)) <= left


def test_tries_without_an_answer_use_up_no_revision() -> None:
    """A total of a day's silence is at its second one."""
    row = saved(recounted(ACME, Amounts({"requests": 5})))
    for _ in range(288):
        row, postings = depart(row)
        row = saved(row)
        assert postings["requests"].identifier == "1.acme.requests.2026-11-22T05.r1"
    row = saved(accepted(row, "requests", epoch="1", now=NOW))
    assert recounted(row, Amounts({"requests": 6})).totals["requests"].revision == 2


def test_an_epoch_that_is_none_is_refused() -> None:
    """Rather than dated anywhere."""
    with pytest.raises(ValueError, match="an epoch is a number of two digits"):
        dates(ACME, "100", 1)


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
    assert depart(row, now=NOW + FLIGHT_TIME)[1]["requests"].identifier == "1.acme.requests.2026-11-22T05.r2"


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


def change(amount: int, *, metric: str = "requests", carry: bool = False, if_counted: int | None = None) -> Change:
    """Return what stands beside a count."""
    return Change(f"{amount}", metric, amount, "a mistake", "operator", 0, carry=carry, if_counted=if_counted)


def test_changes_are_added_to_what_is_counted() -> None:
    """I5: adjustments and carries each have their sum; a change of another metric makes a total of its own."""
    changes = [change(3), change(-1), change(10, carry=True), change(7, metric="bytes")]
    row = recounted(ACME, Amounts({"requests": 5}), changes)
    total = row.totals["requests"]
    assert (total.counted, total.adjusted, total.carried, total.quantity) == (5, 2, 10, 17)
    assert row.totals["bytes"].quantity == 7


def test_a_late_record_changes_what_is_counted_alone() -> None:
    """I5: the changes are read again and are the same."""
    row = saved(recounted(posted(5), Amounts({"requests": 5}), [change(3)]))
    total = recounted(row, Amounts({"requests": 6}), [change(3)]).totals["requests"]
    assert (total.counted, total.adjusted, total.quantity) == (6, 3, 9)


def test_without_changes_those_of_the_row_stay() -> None:
    """An hour's first close does not read them."""
    row = saved(recounted(posted(5), Amounts({"requests": 5}), [change(3)]))
    assert recounted(row, Amounts({"requests": 6})).totals["requests"].quantity == 9


def test_without_counters_what_was_counted_stays() -> None:
    """I5: they have expired; an adjustment still changes the hour, also of a metric that it did not have."""
    row = recounted(posted(5), None, [change(-2), change(4, metric="bytes")])
    assert (row.totals["requests"].counted, row.totals["requests"].quantity) == (5, 3)
    assert row.totals["bytes"].quantity == 4
    assert recounted(posted(5), None, []).totals == posted(5).totals


def test_a_change_that_is_taken_back_leaves_the_count() -> None:
    """I5: the sums are made anew each time."""
    row = saved(recounted(posted(5), Amounts({"requests": 5}), [change(3)]))
    assert recounted(row, Amounts({"requests": 5}), []).totals["requests"].quantity == 5


def test_an_adjustment_bound_to_a_count_is_void_while_another_is_counted() -> None:
    """I5: it was made against 5."""
    bound = [change(2, if_counted=5)]
    assert recounted(ACME, Amounts({"requests": 5}), bound).totals["requests"].quantity == 7
    assert recounted(ACME, Amounts({"requests": 6}), bound).totals["requests"].quantity == 6
    assert recounted(posted(5), None, bound).totals["requests"].quantity == 7


def test_less_than_nothing_is_posted_as_nothing() -> None:
    """I4: the rest is carried on."""
    row = saved(recounted(posted(5), Amounts({"requests": 5}), [change(-8)]))
    assert (row.totals["requests"].balance, row.totals["requests"].quantity) == (-3, 0)
    assert depart(row)[1]["requests"].quantity == 0


def test_another_balance_below_nothing_is_settled_like_any_other() -> None:
    """I4: the quantity is zero before and after, and where nothing was ever sent nothing is."""
    row = recounted(ACME, Amounts(), [change(-8)])
    assert row.totals["requests"].state is State.POSTED
    assert recounted(saved(row), Amounts(), [change(-3)]).totals["requests"].balance == -3


def test_what_stripe_lost_is_posted_again_under_a_new_revision() -> None:
    """I4: the same total, and a new identifier."""
    row = saved(reposted(posted(5), "requests"))
    total = row.totals["requests"]
    assert (total.state, total.revision, total.reposts) == (State.PENDING, 2, 1)
    assert depart(row)[1]["requests"].identifier == "1.acme.requests.2026-11-22T05.r2"


def test_what_nobody_here_has_counted_is_posted_as_zero() -> None:
    """I4: Stripe holds an event of somebody else."""
    row = saved(reposted(ACME, "requests"))
    assert depart(row)[1]["requests"].quantity == 0


def test_reposts_are_counted_until_the_total_changes() -> None:
    """Of another total they say nothing."""
    row = saved(reposted(saved(reposted(posted(5), "requests")), "requests"))
    assert row.totals["requests"].reposts == 2
    assert recounted(row, Amounts({"requests": 5})) is row
    assert recounted(row, Amounts({"requests": 6})).totals["requests"].reposts == 0


def test_what_stripe_reports_later_is_rejected() -> None:
    """The identifier names the total; its words are kept."""
    row = posted(5)
    later = rejected_later(row, "1.acme.requests.2026-11-22T05.r1", "No such customer").totals["requests"]
    assert (later.state, later.reason) == (State.REJECTED, "No such customer")


def test_what_stripe_reports_later_is_not_bound_to_its_stripe_customer() -> None:
    """I4: it may not exist; the next try goes to the one that the customer has then."""
    refused = saved(rejected_later(posted(5), "1.acme.requests.2026-11-22T05.r1", "No such customer"))
    again = saved(recounted(refused, Amounts({"requests": 5})))
    _, postings = departing(again, stripe_customer="cus_right", epoch="1", now=NOW)
    assert postings["requests"].stripe_customer == "cus_right"


def test_a_stripe_customer_that_took_an_earlier_total_keeps_it() -> None:
    """I2: it may hold that, and be billed for it, although Stripe refuses a newer one: another would be billed, too."""
    row, _ = depart(saved(recounted(posted(5), Amounts({"requests": 6}))))
    row = saved(accepted(saved(row), "requests", epoch="1", now=NOW))
    refused = saved(rejected_later(row, row.totals["requests"].identifier, "archived"))
    assert refused.totals["requests"].state is State.REJECTED
    again = saved(recounted(refused, Amounts({"requests": 6})))
    _, postings = departing(again, stripe_customer="cus_right", epoch="1", now=NOW)
    assert postings["requests"].stripe_customer == "cus_acme"


@pytest.mark.parametrize("again", [True, False])
def test_who_may_hold_what_was_sent_before_keeps_it_although_stripe_refuses_it_now(again: bool) -> None:  # noqa: FBT001
    """I4: an attempt that had no answer may have landed, of this run or of one before."""
    row, _ = depart(saved(recounted(ACME, Amounts({"requests": 5}))))
    refused = saved(rejected(saved(row), "requests", "no", epoch="1", again=again))
    later = NOW + FLIGHT_TIME + timedelta(minutes=1)
    renewed = saved(recounted(refused, Amounts({"requests": 6})))
    _, postings = departing(renewed, stripe_customer="cus_other", epoch="1", now=later)
    assert postings["requests"].stripe_customer == ("cus_acme" if again else "cus_other")
    row, _ = depart(saved(row), now=NOW + timedelta(minutes=5))
    assert rejected(saved(row), "requests", "no", epoch="1").totals["requests"].posted_to == "cus_acme"


def test_what_went_to_a_stripe_customer_that_there_is_not_departs_to_another() -> None:
    """I4: under a new revision, with all tries before it; what that one takes stays with it."""
    row = saved(posted_elsewhere(saved(reposted(posted(5), "requests")), "requests"))
    total = row.totals["requests"]
    assert (total.state, total.revision, total.reposts, total.posted_to) == (State.PENDING, 3, 0, "")
    row, postings = departing(row, stripe_customer="cus_right", epoch="1", now=NOW)
    assert (postings["requests"].stripe_customer, postings["requests"].quantity) == ("cus_right", 5)
    total = accepted(saved(row), "requests", epoch="1", now=NOW).totals["requests"]
    assert (total.posted_to, total.posted_before) == ("cus_right", False)


def test_what_the_first_release_posted_more_than_once_stays_with_whom_it_went_to() -> None:
    """I4: it may hold the earlier quantity; whether it took one was not written down then."""
    known_as = f"1abcd.acme.requests.{HOUR}.r3"
    old = Total(7, 3, State.POSTED, identifier=known_as, posted_to="cus_a", posted_at=1)
    refused = rejected_later(UsageRow(customer("acme"), HOUR, 6, {"requests": old}), known_as, "no")
    assert refused.totals["requests"].posted_to == "cus_a"


def test_a_report_that_comes_twice_or_of_an_older_total_changes_nothing() -> None:
    """I4: a newer total has taken its place, or is about to."""
    row = posted(5)
    marked = saved(rejected_later(row, "1.acme.requests.2026-11-22T05.r1", "no"))
    assert rejected_later(marked, "1.acme.requests.2026-11-22T05.r1", "no") is marked
    newer = saved(recounted(row, Amounts({"requests": 6})))
    assert rejected_later(newer, "1.acme.requests.2026-11-22T05.r1", "no") is newer
    assert rejected_later(row, "1.acme.requests.2026-11-22T05.r9", "no") is row


def test_a_report_may_come_before_the_answer() -> None:
    """I4: a copy can still land, so that nothing departs before it has."""
    row, _ = depart(saved(recounted(ACME, Amounts({"requests": 5}))))
    total = rejected_later(saved(row), "1.acme.requests.2026-11-22T05.r1", "no").totals["requests"]
    assert (total.state, total.posting) == (State.REJECTED, None)
    assert total.not_before == int((NOW + FLIGHT_TIME).timestamp())


def test_a_report_of_an_older_posting_on_its_way_leaves_the_newer_total_pending() -> None:
    """I4: which departs when no copy of the older can land any more."""
    row, _ = depart(saved(recounted(ACME, Amounts({"requests": 5}))))
    row = saved(recounted(saved(row), Amounts({"requests": 6})))
    total = rejected_later(row, "1.acme.requests.2026-11-22T05.r1", "no").totals["requests"]
    assert (total.state, total.posting, total.quantity) == (State.PENDING, None, 6)


def test_what_was_carried_elsewhere_is_settled() -> None:
    """Stripe holds the rest."""
    row = saved(held(saved(recounted(posted(5), Amounts({"requests": 6}))), "too old"))
    total = settled_by_carry(row, "requests").totals["requests"]
    assert (total.state, total.reason) == (State.POSTED, "the rest of it was carried")


def test_a_total_that_went_by_the_stream_stays_with_it() -> None:
    """I4: one hour's events never take two ways; what is on its way keeps its own."""
    row = saved(recounted(ACME, Amounts({"requests": 5})))
    row, postings = departing(row, stripe_customer="cus_acme", epoch="1", now=NOW, streamed=True)
    assert postings["requests"].streamed
    assert depart(saved(row))[1]["requests"].streamed
    row = saved(accepted(saved(row), "requests", epoch="1", now=NOW))
    assert depart(saved(recounted(row, Amounts({"requests": 6}))))[1]["requests"].streamed


def test_a_posting_on_its_way_by_a_call_departs_again_by_a_call() -> None:
    """I4: also where the stream has been chosen since."""
    row, _ = depart(saved(recounted(ACME, Amounts({"requests": 5}))))
    _, again = departing(saved(row), stripe_customer="cus_acme", epoch="1", now=NOW, streamed=True)
    assert not again["requests"].streamed


def test_nothing_departs_of_a_metric_that_has_no_meter() -> None:
    """I6: the others do."""
    row = saved(recounted(ACME, Amounts({"requests": 5, "new": 1})))
    _, postings = departing(row, stripe_customer="cus_acme", epoch="1", now=NOW, without={"new"})
    assert list(postings) == ["requests"]


def test_an_identifier_names_its_customer_metric_and_hour() -> None:
    """As Stripe's reports give it back."""
    known_as = identifier("12", customer("acme-2_b"), "u_1", HOUR, 3)
    assert named_by(known_as) == ("acme-2_b", "u_1", HOUR)


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "x" * 200,
        "1.acme.requests.2026-11-22T05",
        "1.acme.requests.2026-11-22T05.r",
        "1.acme.requests.2026-13-22T05.r1",
        "1.acme#x.requests.2026-11-22T05.r1",
        "1.acme.com.requests.2026-11-22T05.r1",
        "1.acme.requests.2026-11-22T05.r1\n",
        "1.acme.requests.T-T.r1",
    ],
)
def test_what_is_no_identifier_of_ours_is_refused(foreign: str) -> None:
    """I7: an account's other software has its own."""
    with pytest.raises(ValueError, match=r"no identifier of ours|an hour is written|month must be in"):
        named_by(foreign)


@dataclass
class Stripe:
    """Keeps the latest event of an hour, by arrival or by timestamp; refuses an identifier that it has seen."""

    by_timestamp: bool
    seen: set[str] = field(default_factory=set)
    latest: tuple[int, int] = (0, 0)
    unusable: list[str] = field(default_factory=list)
    quantities: dict[str, int] = field(default_factory=dict)

    def take(self, posting: Posting, *, usable: bool = True) -> None:
        """Take an event, or refuse it as known; one that turns out not to be usable counts for nobody."""
        assert self.quantities.setdefault(posting.identifier, posting.quantity) == posting.quantity
        if posting.identifier not in self.seen:
            self.seen.add(posting.identifier)
            if not usable:
                self.unusable.append(posting.identifier)
            elif not self.by_timestamp or posting.timestamp >= self.latest[0]:
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
    reports_late: bool = False
    epoch: int = 1
    backup: UsageRow = ACME
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
        after, postings = depart(self.row, now=self.now, epoch=str(self.epoch))
        if postings and self.write(self.row, after):
            self.runs.append(Run(self.row, postings["requests"]))

    def send(self) -> None:
        """A run sends; the answer may be lost, and the request may be lost, refused, or land much later."""
        if not self.runs:
            return
        run = self.runs.pop(self.random.randrange(len(self.runs)))
        fate = self.random.choice(["accepted", "answer lost", "lost", "stalled", "stalled", "rejected", "rejected"])
        if fate in ("accepted", "answer lost"):
            self.stripe.take(run.posting, usable=not self.reports_late or self.random.random() < 0.7)
        if fate == "stalled":
            self.under_way.append(run.posting)
        if fate == "rejected" and run.posting.identifier not in self.stripe.seen:
            self.write(run.row, rejected(run.row, "requests", "no", epoch=str(self.epoch)))
        elif fate in ("accepted", "rejected"):
            self.write(run.row, accepted(run.row, "requests", epoch=str(self.epoch), now=NOW))

    def land(self) -> None:
        """A copy that had stalled arrives."""
        if self.under_way:
            self.stripe.take(self.under_way.pop(self.random.randrange(len(self.under_way))))

    def report(self) -> None:
        """Stripe reports, minutes or days later, that it cannot use a posting which it had accepted."""
        if self.stripe.unusable:
            known_as = self.stripe.unusable.pop(self.random.randrange(len(self.stripe.unusable)))
            self.write(self.row, rejected_later(self.row, known_as, "no"))

    def reconcile(self) -> None:
        """What Stripe shows and what the ledger holds are compared."""
        total = self.row.totals.get("requests")
        if total and total.state is State.POSTED and self.stripe.latest[1] != total.quantity:
            self.write(self.row, reposted(self.row, "requests"))

    def back_up(self) -> None:
        """A copy of the row is kept."""
        self.backup = self.row

    def restore(self) -> None:
        """Posting is turned off until nothing is under way, and the ledger is as it was when it was kept."""
        if self.epoch < 5:
            self.runs = []
            while self.under_way:
                self.land()
            self.row, self.epoch = self.backup, self.epoch + 1

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
        while self.stripe.unusable:
            self.report()
        counted = {metric: total.counted for metric, total in self.row.totals.items()}
        if self.row.in_state(State.REJECTED):
            self.write(self.row, recounted(self.row, Amounts(counted)))
        self.now += FLIGHT_TIME
        while True:
            after, postings = depart(self.row, now=self.now, epoch=str(self.epoch))
            if not postings:
                return
            self.write(self.row, after)
            self.stripe.take(postings["requests"])
            self.write(self.row, accepted(self.row, "requests", epoch=str(self.epoch), now=NOW))


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


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.integers(20, 80))
def test_stripe_ends_at_the_ledgers_quantity_although_it_reports_late(
    seed: int,
    by_timestamp: bool,  # noqa: FBT001
    steps: int,
) -> None:
    """I4: it takes what it cannot use, says so later, once or never before the end; and totals are posted again."""
    random = Random(seed)
    world = World(random, Stripe(by_timestamp), reports_late=True)
    moves: list[Callable[[], None]] = [world.count, *[world.start] * 3, *[world.send] * 4, world.land, world.wait]
    moves += [world.report, world.reconcile]
    for _ in range(steps):
        random.choice(moves)()
    world.come_to_rest()
    total = world.row.totals.get("requests")
    if total is not None:
        assert total.state is State.POSTED
        assert world.stripe.latest[1] == total.quantity


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.integers(20, 80))
def test_stripe_ends_at_the_totals_of_a_ledger_that_was_restored(seed: int, by_timestamp: bool, steps: int) -> None:  # noqa: FBT001
    """I4: whatever was posted since the backup, and whichever event of an hour counts at Stripe."""
    random = Random(seed)
    world = World(random, Stripe(by_timestamp))
    moves: list[Callable[[], None]] = [world.count, *[world.start] * 3, *[world.send] * 4, world.land, world.wait]
    moves += [world.back_up, world.restore]
    for _ in range(steps):
        random.choice(moves)()
    for _ in range(3):
        world.come_to_rest()
        world.reconcile()
    total = world.row.totals.get("requests")
    if total is not None:
        assert total.state is State.POSTED
        assert world.stripe.latest[1] == total.quantity

"""Posting by workers: leases, pace, fair turns, the event stream; however it ends, Stripe holds the ledger's totals."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from infra.local.stripe.faults import METER_EVENT_STREAM, Fault
from metering.billing import posting, sending
from metering.layout import SHARDS
from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import Posting, State, Total, UsageRow
from metering.stores.rows import Rows, shard_of
from metering.stores.switch import shards_of_workers
from metering.stripe import client as stripe_client
from metering.stripe.client import StripeBusyError, StripeUnavailableError
from metering.stripe.meters import StripeMeters
from metering.stripe.pacing import Pace
from tests.doubles.clock import Clock
from tests.integration.world import HOUR, World

NEXT = HOUR.next()
STREAM = "POST /v2/billing/meter_event_stream"
SESSION = "POST /v2/billing/meter_event_session"
CALL = "POST /v1/billing/meter_events"


@pytest.fixture(autouse=True)
def no_session() -> None:
    """Each test's Stripe is another one."""
    stripe_client._sessions.clear()


def use(world: World, name: str, key: str, amounts: dict[str, int], hour: Hour = HOUR) -> None:
    """Let a customer of its own Stripe customer use something in an hour."""
    world.customer(name, key, stripe_customer=f"cus_{name}")
    world.counters.count(hour, key, Amounts(amounts), b"123456789012")


def many(world: World, number: int) -> list[str]:
    """Let so many customers have one total each that is pending; return their names."""
    names = [f"c{n}" for n in range(number)]
    for n, name in enumerate(names):
        use(world, name, f"k{n}", {"requests": n + 1})
    world.after_grace()
    world.close()
    return names


# --- leases ----------------------------------------------------------------------------------------------------------


def test_two_workers_share_no_shard(world: World) -> None:
    """One call at a time per customer and meter."""
    now, until = world.now, world.now + timedelta(minutes=5)
    assert world.switch.lease([0, 1, 2], "one", now=now, until=until) == [0, 1, 2]
    assert world.switch.lease([1, 2, 3], "two", now=now, until=until) == [3]


def test_workers_that_ask_at_once_share_no_shard(world: World) -> None:
    """Each shard has one holder."""
    until = world.now + timedelta(minutes=5)
    with ThreadPoolExecutor(4) as pool:
        taken = list(
            pool.map(lambda who: world.switch.lease(range(4), who, now=world.now, until=until), ["a", "b", "c", "d"])
        )
    assert sorted(shard for shards in taken for shard in shards) == [0, 1, 2, 3]


def test_a_dead_workers_lease_ends(world: World) -> None:
    """Then another one takes it, and the dead one's word no longer counts."""
    until = world.now + timedelta(minutes=5)
    world.switch.lease([0], "dead", now=world.now, until=until)
    assert world.switch.lease([0], "next", now=until - timedelta(seconds=1), until=until) == []
    later = until + timedelta(minutes=5)
    assert world.switch.lease([0], "next", now=until, until=later) == [0]
    world.switch.release([0], "dead")
    assert world.switch.lease([0], "third", now=until, until=later) == []


def test_a_lease_is_given_back_and_can_be_taken_again(world: World) -> None:
    """Also by the same holder, whose answer was lost."""
    until = world.now + timedelta(minutes=5)
    assert world.switch.lease([0], "one", now=world.now, until=until) == [0]
    assert world.switch.lease([0], "one", now=world.now, until=until) == [0]
    world.switch.release([0, 1], "one")
    assert world.switch.lease([0], "two", now=world.now, until=until) == [0]


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 16])
def test_workers_share_all_shards_out(workers: int) -> None:
    """Each has as many as any other."""
    dealt = shards_of_workers(workers)
    assert sorted(shard for share in dealt for shard in share) == list(range(SHARDS))
    assert {len(share) for share in dealt} == {SHARDS // workers}


def test_a_worker_posts_the_customers_of_its_shards_alone(world: World) -> None:
    """And all workers together post all."""
    names = many(world, 6)
    mine = {shard_of(customer(name)) for name in names[:2]}
    world.poster().post_pending(HOUR, mine)
    posted = {name for name in names if world.at_stripe(f"cus_{name}")}
    assert posted == {name for name in names if shard_of(customer(name)) in mine}
    world.poster().post_pending(HOUR, set(range(SHARDS)) - mine)
    assert [world.at_stripe(f"cus_{name}") for name in names] == [1, 2, 3, 4, 5, 6]


# --- pace ------------------------------------------------------------------------------------------------------------


def pace(clock: Clock, per_second: float = 1000) -> Pace:
    """Return a pace on a clock."""
    return Pace(per_second, now=clock, sleep=clock.sleep)


class Busy(StripeMeters):
    """Stripe, which first refuses a call for each of the customers in ``_refusals``."""

    def post(self, metric: str, posting: Posting) -> None:
        """Post, or be refused."""
        refusal = _refusals.pop(posting.stripe_customer, None)
        if refusal is not None:
            raise refusal
        super().post(metric, posting)


_refusals: dict[str, StripeUnavailableError] = {}


def busy(world: World) -> Busy:
    """Return this Stripe."""
    meters = world.meters()
    return Busy(meters.api_key, meters.deployment, meters.api_base)


def test_retry_after_is_honoured(world: World) -> None:
    """Nothing is sent before; then everything is."""
    names = many(world, 3)
    _refusals["cus_c0"] = StripeBusyError("Stripe wants fewer calls (429)", 9.0, alone=False)
    clock = Clock()
    posted = replace(world.poster(), stripe=busy(world), pace=pace(clock)).post_pending(HOUR, range(SHARDS))
    assert posted.posted == 3
    assert max(clock.slept) == pytest.approx(9, abs=0.1)
    assert [world.at_stripe(f"cus_{name}") for name in names] == [1, 2, 3]


def test_without_retry_after_the_pace_falls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All wait a little, and nobody is left behind."""
    monkeypatch.setattr("metering.stripe.pacing.LONGEST_PAUSE", 30)
    many(world, 3)
    world.stripe.set_faults([Fault.RATE_LIMITED])
    clock = Clock()
    posted = replace(world.poster(), pace=pace(clock, 10)).post_pending(HOUR, range(SHARDS))
    assert posted.posted == 3
    assert any(seconds > 0.15 for seconds in clock.slept)  # a tenth of a second is the whole rate


def test_a_lock_timeout_slows_its_customer_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: Stripe is at work for this customer and meter; the account's rate is not concerned."""
    slowed: list[float | None] = []
    monkeypatch.setattr(Pace, "refused", lambda _, retry_after: slowed.append(retry_after))
    many(world, 3)
    world.stripe.set_faults([Fault.LOCKED], customer="cus_c0")
    assert world.post().posted == 3
    assert world.stripe.faults == {Fault.LOCKED: 1}
    assert slowed == []


def test_two_workers_together_keep_the_accounts_rate(world: World) -> None:
    """Each has the share that belongs to its shards."""
    many(world, 12)
    rate = 20.0

    def work(shards: list[int]) -> int:
        pace = Pace(rate * len(shards) / SHARDS)
        return replace(world.poster(), pace=pace).post_pending(HOUR, shards).posted

    begin = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        posted = list(pool.map(work, shards_of_workers(2)))
    assert sum(posted) == 12
    assert time.monotonic() - begin >= (max(posted) - 1) / (rate / 2) - 0.05


def test_a_customer_that_takes_all_the_time_does_not_starve_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: each run begins with another customer."""
    names = many(world, 4)
    monkeypatch.setattr(posting, "CUSTOMERS_AT_ONCE", 1)
    monkeypatch.setattr(sending, "ATTEMPTS", 1)

    class Stuck(StripeMeters):
        def post(self, metric: str, posting: Posting) -> None:
            if posting.stripe_customer == "cus_c0":
                world.now += timedelta(minutes=5)
                raise StripeUnavailableError("no answer")
            super().post(metric, posting)

    meters = world.meters()
    for _ in range(12):
        stuck = Stuck(meters.api_key, meters.deployment, meters.api_base)
        replace(world.poster(), stripe=stuck).post_pending(HOUR, range(SHARDS))
        world.now += timedelta(minutes=5)
    assert [world.at_stripe(f"cus_{name}") for name in names] == [0, 2, 3, 4]


# --- a backlog, and rows that fail ------------------------------------------------------------------------------------


def backlog(world: World, name: str, hours: int) -> list[Hour]:
    """Let a customer have a pending total in so many hours; return them."""
    world.customer(name, f"key-of-{name}", stripe_customer=f"cus_{name}")
    found = [Hour(HOUR.number - n) for n in reversed(range(hours))]
    for n, hour in enumerate(found):
        world.ledger.rows.save(UsageRow(customer(name), hour, totals={"requests": Total(n + 1, 1, State.PENDING)}))
    return found


@contextmanager
def failing(world: World, operation: str, *names: str) -> Iterator[None]:
    """Let DynamoDB fail at these customers' rows, in what is read or written."""
    client: Any = world.ledger.client

    def fail(called: str, arguments: Any) -> None:
        if called == operation and any(f"customer#{name}" in str(arguments) for name in names):
            raise EndpointConnectionError(endpoint_url="https://dynamodb")

    client.before.append(fail)
    yield
    client.before.remove(fail)


def test_a_customers_month_is_posted_piece_by_piece(world: World) -> None:
    """I10: not all of its rows are in memory at once; each hour is posted, the oldest first."""
    hours = backlog(world, "acme", 3 * posting._ROWS_AT_ONCE + 5)
    sizes = []
    written = Rows.written

    def reading(rows: Rows, places: Iterable[Any]) -> list[UsageRow]:
        asked = list(places)
        sizes.append(len(asked))
        return written(rows, asked)

    world.after_grace()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rows, "written", reading)
        posted = world.poster().post_pending(hours[0], range(SHARDS))
    assert (posted.posted, posted.pending, max(sizes)) == (len(hours), 0, posting._ROWS_AT_ONCE)
    assert [world.at_stripe("cus_acme", hour=hour) for hour in hours] == [n + 1 for n in range(len(hours))]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_takes_up_what_it_can_and_the_next_ones_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch, *, streamed: bool
) -> None:
    """I6, I10: whichever way totals go."""
    monkeypatch.setattr(posting, "MOST_ROWS", 2 * SHARDS)
    hours = backlog(world, "acme", 5)
    others = [backlog(world, f"c{n}", 1) for n in range(3)]
    if streamed:
        world.stream_from(hours[0])
    world.after_grace()
    posted = [world.poster().post_pending(hours[0], range(SHARDS)).posted for _ in range(3)]
    assert sum(posted) == len(hours) + len(others)
    assert max(posted) <= 2 * SHARDS
    assert world.ledger.rows.pending_count(hours[0], most=100) == 0


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("operation", ["PutItem", "BatchGetItem"])
def test_a_row_that_aws_fails_at_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, operation: str, *, streamed: bool
) -> None:
    """I6: the others are posted, and what failed is returned to be raised; the next run posts it."""
    monkeypatch.setattr(posting, "_PIECE", 1)
    names = many(world, 4)
    if streamed:
        world.stream_from(HOUR)
    with failing(world, operation, "c1"):
        posted = world.poster().post_pending(HOUR, range(SHARDS))
    assert (posted.posted, posted.pending, posted.reasons) == (3, 1, {"AWS failed": 1})
    assert [type(error) for error in posted.failures] == [EndpointConnectionError]
    assert [world.at_stripe(f"cus_{name}") for name in names] == [1, 0, 3, 4]
    assert world.poster().post_pending(HOUR, range(SHARDS)).posted == 1
    assert [world.at_stripe(f"cus_{name}") for name in names] == [1, 2, 3, 4]


def test_a_row_that_cannot_be_written_stops_no_later_hour_of_its_customer(world: World) -> None:
    """I6: nor the pieces that are read when it has failed."""
    hours = backlog(world, "acme", 2 * posting._ROWS_AT_ONCE)
    world.after_grace()
    with failing(world, "PutItem", f"acme'}}, 'sk': {{'S': 'usage#{hours[3]}"):
        posted = world.poster().post_pending(hours[0], range(SHARDS))
    assert (posted.posted, posted.pending) == (len(hours) - 1, 1)


def test_what_is_returned_of_many_failures_is_bounded(world: World) -> None:
    """I10: AWS may fail at everything."""
    hours = backlog(world, "acme", sending.MOST_FAILURES + 5)
    world.after_grace()
    with failing(world, "PutItem", "acme"):
        posted = world.poster().post_pending(hours[0], range(SHARDS))
    assert (posted.pending, len(posted.failures)) == (len(hours), sending.MOST_FAILURES)


def test_a_silent_stripe_leaves_the_rest_of_a_customers_month(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its later hours wait for the earlier one, unread, and are counted as what still waits."""
    monkeypatch.setattr(sending, "ATTEMPTS", 1)
    hours = backlog(world, "acme", 2 * posting._ROWS_AT_ONCE)
    world.after_grace()
    world.stripe.set_faults([Fault.ERROR_BEFORE])
    posted = world.poster().post_pending(hours[0], range(SHARDS))
    assert (posted.posted, posted.pending) == (0, len(hours))
    assert posted.reasons["waits for an earlier hour"] == len(hours) - 1
    assert posted.unsettled == {*hours}


# --- the event stream ------------------------------------------------------------------------------------------------


def test_the_stream_is_paced_by_its_events(world: World) -> None:
    """A hundred of them take as much of the account's rate as ten calls."""
    use(world, "acme", "k1", {f"m{n}": 1 for n in range(75)})  # moto reads no longer expressions
    use(world, "globex", "k2", {f"m{n}": 1 for n in range(75)})
    use(world, "initech", "k3", {f"m{n}": 1 for n in range(75)})
    world.stream_from(HOUR)
    world.after_grace()
    world.close()
    clock = Clock(0.0)
    kept = pace(clock, 10)
    posted = replace(world.poster(), pace=kept).post_pending(HOUR, range(SHARDS))
    assert (posted.posted, world.stripe.calls[STREAM]) == (225, 3)
    assert kept.wait(60)
    assert clock.now >= 2.25  # when what follows 225 events may begin at the earliest


def test_what_stripe_is_at_work_for_delays_no_other_total_of_the_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: it refuses the whole call for one customer and meter; halves of it go on at once, at the same pace."""
    slowed: list[float | None] = []
    monkeypatch.setattr(Pace, "refused", lambda _, retry_after: slowed.append(retry_after))
    names = many(world, 4)
    world.stream_from(HOUR)
    world.stripe.set_faults([Fault.LOCKED], route=METER_EVENT_STREAM)
    assert (world.post().posted, world.stripe.calls[STREAM]) == (4, 3)
    assert slowed == []
    assert [world.at_stripe(f"cus_{name}") for name in names] == [1, 2, 3, 4]


def test_in_a_sandbox_all_totals_go_by_calls(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whether there is a stream at all is not certain there."""
    many(world, 2)
    world.stream_from(HOUR)
    world.key = "sk_test_local"
    assert world.post().posted == 2
    assert (world.stripe.calls[CALL], world.stripe.calls[STREAM]) == (2, 0)
    assert [record.message for record in caplog.records if "sandbox" in record.message] == [
        "the event stream is for live mode: in a sandbox each total goes by a call"
    ]


def test_what_once_went_by_the_stream_goes_on_so_in_a_sandbox(world: World) -> None:
    """I4: no total takes two ways, one of which may be slower."""
    many(world, 1)
    world.stream_from(HOUR)
    world.post()
    world.counters.count(HOUR, "k0", Amounts({"requests": 5}), b"another12345")
    world.counters.marks.mark_late(HOUR, customer("c0"), "mark")
    world.key = "sk_test_local"
    world.run()
    assert (world.stripe.calls[CALL], world.stripe.calls[STREAM]) == (0, 2)
    assert world.at_stripe("cus_c0") == 6


def test_a_hundred_totals_go_in_one_call(world: World) -> None:
    """Whoever they are of."""
    use(world, "acme", "k1", {"requests": 3} | {f"m{n}": 1 for n in range(75)})  # moto reads no longer expressions
    use(world, "globex", "k2", {"requests": 4, "bytes": 5} | {f"m{n}": 1 for n in range(74)})
    world.stream_from(HOUR)
    world.after_grace()
    _, posted = world.run()
    assert (posted.posted, posted.pending) == (152, 0)
    assert (world.stripe.calls[STREAM], world.stripe.calls[CALL]) == (2, 0)
    assert (world.at_stripe("cus_acme"), world.at_stripe("cus_globex", "bytes")) == (3, 5)
    world.run()
    assert world.stripe.calls[STREAM] == 2


def test_one_bad_total_is_found_by_halves_and_rejects_no_other(world: World) -> None:
    """I6: a malformed event makes Stripe refuse the whole call."""
    use(world, "acme", "k1", {"m" * 95: 1})
    for n in range(9):
        use(world, f"c{n}", f"key{n}", {"requests": n + 1})
    world.stream_from(HOUR)
    world.after_grace()
    _, posted = world.run()
    assert (posted.posted, posted.rejected) == (9, 1)
    assert [world.at_stripe(f"cus_c{n}") for n in range(9)] == list(range(1, 10))
    assert world.in_ledger("customer#acme") == {"m" * 95: (1, "REJECTED")}
    assert world.stripe.calls[STREAM] <= 9


@pytest.mark.parametrize("fault", [Fault.RATE_LIMITED, Fault.ERROR_BEFORE, Fault.ERROR_AFTER, Fault.RESET_AFTER])
def test_a_failing_stream_delays_totals_and_doubles_none(world: World, fault: Fault) -> None:
    """I4: they depart again with the same identifiers."""
    use(world, "acme", "k1", {"requests": 3})
    world.stream_from(HOUR)
    world.after_grace()
    world.stripe.set_faults([fault] * sending.ATTEMPTS, route=METER_EVENT_STREAM)
    _, posted = world.run()
    assert posted.pending == 1
    world.stripe.clear_faults()
    world.counters.count(HOUR, "k1", Amounts({"requests": 2}), b"another12345")
    world.counters.marks.mark_late(HOUR, customer("acme"), "mark")
    world.run()
    world.run()
    assert world.at_stripe("cus_acme") == 5
    assert world.in_ledger("customer#acme") == {"requests": (5, "POSTED")}


def test_a_session_that_has_ended_is_made_anew(world: World) -> None:
    """After 15 minutes at Stripe's clock, whatever ours says."""
    use(world, "acme", "k1", {"requests": 3})
    use(world, "globex", "k2", {"requests": 4}, NEXT)
    world.stream_from(HOUR)
    world.after_grace()
    world.run()
    sessions = world.stripe.calls[SESSION]
    world.stripe.advance(15 * 60)
    world.now = NEXT.end + timedelta(minutes=10)
    world.run()
    assert world.at_stripe("cus_globex", hour=NEXT) == 4
    assert world.stripe.calls[SESSION] == sessions + 1


class Interrupted(StripeMeters):
    """Stripe, where something happens here while it takes events."""

    def stream(self, postings: Sequence[tuple[str, Posting]]) -> None:
        """Take events, after it has happened."""
        if _meanwhile:
            _meanwhile.pop()()
        super().stream(postings)


_meanwhile: list[Callable[[], Any]] = []


def test_a_row_that_changes_while_it_is_streamed_is_settled_by_the_next_run(world: World) -> None:
    """I4: what was sent is on its way until it is answered; the newer total follows."""
    use(world, "acme", "k1", {"requests": 3})
    use(world, "globex", "k2", {"requests": 4})
    world.stream_from(HOUR)
    world.after_grace()
    world.close()

    def late() -> None:
        world.counters.count(HOUR, "k1", Amounts({"requests": 2}), b"another12345")
        world.counters.marks.mark_late(HOUR, customer("acme"), "mark")
        world.close()

    _meanwhile.append(late)
    meters = world.meters()
    stripe = Interrupted(meters.api_key, meters.deployment, meters.api_base)
    posted = replace(world.poster(), stripe=stripe).post_pending(HOUR, range(SHARDS))
    assert posted.reasons == {"the row changed while it was posted": 1}
    assert world.at_stripe("cus_globex") == 4
    world.run()
    world.run()
    assert world.at_stripe("cus_acme") == 5
    assert world.in_ledger("customer#acme") == {"requests": (5, "POSTED")}


def test_posting_moves_to_the_stream_and_back_at_an_hours_boundary(world: World) -> None:
    """I4: an hour keeps its way, also for what comes late."""
    world.stripe.advance(7200)
    use(world, "acme", "k1", {"requests": 1})
    world.counters.count(NEXT, "k1", Amounts({"requests": 2}), b"123456789012")
    world.stream_from(NEXT)
    world.now = NEXT.end + timedelta(minutes=10)
    world.run()
    assert (world.stripe.calls[CALL], world.stripe.calls[STREAM]) == (1, 1)
    world.streamed_from = None
    third = NEXT.next()
    for hour, amount in ((HOUR, 10), (NEXT, 20), (third, 30)):
        world.counters.count(hour, "k1", Amounts({"requests": amount}), b"another12345")
        world.counters.marks.mark_late(hour, customer("acme"), "mark")
    world.now = third.end + timedelta(minutes=10)
    world.run()
    assert [world.at_stripe("cus_acme", hour=hour) for hour in (HOUR, NEXT, third)] == [11, 22, 30]
    assert (world.stripe.calls[CALL], world.stripe.calls[STREAM]) == (3, 2)


def test_streaming_stops_in_time_and_goes_on_at_the_next_tick(world: World) -> None:
    """I4: nothing is sent after the deadline, and nothing is lost."""
    use(world, "acme", "k1", {"requests": 3})
    world.stream_from(HOUR)
    world.after_grace()
    world.close()
    posted = world.poster(minutes=0).post_pending(HOUR, range(SHARDS))
    assert (posted.pending, posted.reasons, world.stripe.calls[STREAM]) == (1, {"out of time": 1}, 0)
    world.run()
    assert world.at_stripe("cus_acme") == 3


def test_without_a_stripe_customer_or_too_old_a_streamed_hour_is_held(world: World) -> None:
    """I1: as by a call."""
    world.customer("acme", "k1")
    world.counters.count(HOUR, "k1", Amounts({"requests": 3}), b"123456789012")
    world.stream_from(HOUR)
    world.after_grace()
    _, posted = world.run()
    assert (posted.held, world.stripe.calls[STREAM]) == (1, 0)
    assert world.in_ledger("customer#acme") == {"requests": (3, "HELD")}

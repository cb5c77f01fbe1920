"""Closing and posting: Stripe ends at the ledger's total, the ledger at the counters', whatever happens on the way."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from infra.local.stripe.faults import Fault
from infra.operate.customers import Customers
from metering.billing import sending
from metering.layout import SHARDS
from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.subjects import customer, key
from metering.stores.counters import Counters
from metering.stores.holders import Holders
from metering.stores.ledger import Ledger
from metering.stores.marks import Mark
from metering.stores.progress import PeriodState
from metering.stores.rows import Rows
from metering.stores.table import RowChangedError
from metering.stripe import client as stripe_client
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.world import HOUR, World


def test_an_hour_becomes_a_bill(world: World) -> None:
    """I4, I5: two customers, one with two keys; everything counted is in the ledger and at Stripe."""
    world.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    world.customer("globex", "key3", stripe_customer="cus_globex")
    world.record(world.line(), world.line(key="key2", response_length="5"), world.line(key="key3"))
    world.after_grace()
    closed, posted = world.run()
    assert HOUR in closed.closed
    assert posted.posted == 4
    assert world.in_ledger("customer#acme") == {"requests": (2, "POSTED"), "bytes": (15, "POSTED")}
    assert world.at_stripe("cus_acme") == 2
    assert world.at_stripe("cus_acme", "bytes") == 15
    assert world.at_stripe("cus_globex") == 1


def test_an_hour_is_not_closed_before_its_grace_has_passed(world: World) -> None:
    """I1: records may still be under way."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.now = HOUR.end + timedelta(minutes=10) - timedelta(seconds=1)
    closed, _ = world.run()
    assert HOUR not in closed.written
    assert world.at_stripe("cus_acme") == 0


def test_an_hour_closed_twice_is_posted_once(world: World) -> None:
    """I4: nothing has changed, so nothing is written or sent."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.run()
    calls = sum(world.stripe.calls.values())
    closed, posted = world.run()
    assert (closed.written, closed.again, posted.posted) == ([], 0, 0)
    assert sum(world.stripe.calls.values()) == calls


def test_every_hour_since_the_last_run_is_closed(world: World) -> None:
    """The schedule has been down for a day."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.after_grace()
    world.run()
    world.now += timedelta(hours=26)
    closed, _ = world.run()
    assert len(closed.closed) == 26
    assert closed.behind == 0
    assert world.ledger.progress.cursor() == closed.closed[-1].next()


def test_a_late_record_corrects_the_hour_at_stripe(world: World) -> None:
    """I3, I4: a new absolute total with the next revision."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.run()
    world.record(world.line())
    closed, _ = world.run()
    assert closed.again == 1
    assert world.in_ledger("customer#acme")["requests"] == (2, "POSTED")
    assert world.at_stripe("cus_acme") == 2
    assert world.counters.marks.of_kind(Mark.LATE) == []
    world.run()
    assert world.at_stripe("cus_acme") == 2


def test_an_hour_of_several_keys_says_what_each_was_counted_for(world: World) -> None:
    """I5: beside the row, and with it; of one key the row itself says which."""
    world.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    world.customer("globex", "key3", stripe_customer="cus_globex")
    world.record(world.line(), world.line(key="key2", response_length="5"), world.line(key="key3"))
    world.after_grace()
    world.run()
    world.record(world.line(key="key2"))
    world.run()
    acme, globex = world.ledger.rows.at(HOUR, [customer("acme"), customer("globex")]).values()
    assert (acme.only_key, globex.only_key) == ("", "key3")
    assert dict(world.ledger.rows.by_key(acme.subject, HOUR, HOUR.next())) == {
        HOUR: {"key1": {"requests": 1, "bytes": 10}, "key2": {"requests": 2, "bytes": 15}}
    }
    assert dict(world.ledger.rows.by_key(globex.subject, HOUR, HOUR.next())) == {}
    assert world.in_ledger("customer#acme")["requests"] == (3, "POSTED")


def test_the_smallest_of_very_many_keys_stand_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item has its bounds; nothing is left out of its sum."""
    monkeypatch.setattr("metering.stores.rows.MOST_KEYS", 2)
    keys = [f"key{n}" for n in range(1, 5)]
    world.customer("acme", *keys, stripe_customer="cus_acme")
    world.record(*(world.line(key=name) for n, name in enumerate(keys, 1) for _ in range(n)))
    world.after_grace()
    world.run()
    ((_, by_key),) = world.ledger.rows.by_key(customer("acme"), HOUR, HOUR.next())
    assert {name: counted["requests"] for name, counted in by_key.items()} == {"key4": 4, "key3": 3, "other": 3}


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_a_row_with_several_keys_leaves_both_or_none(world: World, after: bool) -> None:  # noqa: FBT001
    """I4, I5: the row and its split by key are one transaction, and the next run finds what the first has left."""
    world.customer("acme", "key1", "key2", stripe_customer="cus_acme")
    world.record(world.line(), world.line(key="key2"))
    world.after_grace()
    dying = cast("Any", Dying(world.ledger.client, Life(1, accepted=after, of={"transact_write_items"})))
    with pytest.raises(KilledError):
        replace(world, ledger=Ledger(dying, "ledger")).run()
    assert bool(world.in_ledger("customer#acme")) is after
    assert len(dict(world.ledger.rows.by_key(customer("acme"), HOUR, HOUR.next()))) == after
    world.now += timedelta(minutes=5)
    world.run()
    assert world.in_ledger("customer#acme")["requests"] == (2, "POSTED")
    assert world.at_stripe("cus_acme") == 2
    assert len(dict(world.ledger.rows.by_key(customer("acme"), HOUR, HOUR.next()))[HOUR]) == 2


def test_a_late_record_of_an_hour_that_was_never_closed_closes_it(world: World) -> None:
    """I1: a record from before the deployment's first run is billed, too."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.now = HOUR.end + timedelta(days=3)
    world.record(world.line())
    world.run()
    assert world.in_ledger("customer#acme")["requests"] == (1, "POSTED")


def test_a_key_without_a_customer_is_kept_and_billed_once_it_has_one(world: World) -> None:
    """I1: visible meanwhile, with its reason."""
    world.record(world.line())
    world.after_grace()
    closed, _ = world.run()
    assert closed.unmapped == 1
    assert HOUR in closed.closed
    row = world.ledger.rows.at(HOUR, [key("key1")])[key("key1")]
    assert row.totals["requests"].reason == "the key belongs to no customer"
    assert world.ledger.holders.key_ids() == ["key1"]
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.run()
    assert world.in_ledger("customer#acme")["requests"] == (1, "POSTED")
    assert world.in_ledger("key#key1")["requests"] == (0, "HELD")
    assert world.at_stripe("cus_acme") == 1


def test_a_customer_without_a_stripe_customer_is_held_and_posted_once_it_has_one(world: World) -> None:
    """I1, I6: and closes the hour all the same."""
    world.customer("acme", "key1")
    world.record(world.line())
    world.after_grace()
    closed, posted = world.run()
    assert HOUR in closed.closed
    assert posted.held == 2
    row = world.ledger.rows.at(HOUR, [customer("acme")])[customer("acme")]
    assert row.totals["requests"].reason == "the customer has no Stripe customer"
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.run()
    assert world.at_stripe("cus_acme") == 1


def test_a_key_that_changes_hands_is_billed_to_each_for_its_hours(world: World) -> None:
    """I3, I4: a hand-over in the past moves what was already billed, and takes it back from the former customer."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.run()
    assert world.at_stripe("cus_acme") == 1
    world.customer("globex", "key1", stripe_customer="cus_globex", since=HOUR)
    world.run()
    assert (world.at_stripe("cus_acme"), world.at_stripe("cus_globex")) == (0, 1)
    assert world.in_ledger("customer#acme")["requests"] == (0, "POSTED")


def test_a_hand_over_leaves_the_hours_before_it(world: World) -> None:
    """I3: history stays right."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.customer("globex", "key1", stripe_customer="cus_globex", since=HOUR.next())
    world.after_grace()
    world.run()
    assert (world.at_stripe("cus_acme"), world.at_stripe("cus_globex")) == (1, 0)


def test_a_key_that_is_not_billed_is_kept_with_its_reason(world: World) -> None:
    """I5: our own health checks."""
    Customers(world.ledger, world.counters).exclude("key1", reason="health check", since=None, now=world.now)
    world.record(world.line())
    world.after_grace()
    closed, _ = world.run()
    row = world.ledger.rows.at(HOUR, [key("key1")])[key("key1")]
    assert row.totals["requests"].reason == "not billed: health check"
    assert closed.unmapped == 0


def test_a_metric_that_is_declared_no_longer_is_closed_all_the_same(world: World) -> None:
    """I1: what was counted is billed."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.counters.count(HOUR, "key1", Amounts({"retired": 3}), b"123456789012")
    world.meters().create_meter("retired")
    world.after_grace()
    world.run()
    assert world.at_stripe("cus_acme", "retired") == 3


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("left", range(1, 7))
def test_a_crash_at_any_write_of_the_ledger_ends_right(world: World, left: int, after: bool) -> None:  # noqa: FBT001
    """I4, I6: the next run resumes from what is written."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.customer("globex", "key3", stripe_customer="cus_globex")
    world.record(world.line(), world.line(key="key3"), world.line(key="stray"))
    world.after_grace()
    ledger = replace(
        world.ledger, client=cast("Any", Dying(world.ledger.client, Life(left, accepted=after, of={"put_item"})))
    )
    with pytest.raises(KilledError):
        replace(world, ledger=ledger).run()
    world.now += timedelta(minutes=5)
    world.run()
    assert (world.at_stripe("cus_acme"), world.at_stripe("cus_globex")) == (1, 1)
    assert world.in_ledger("customer#acme")["requests"] == (1, "POSTED")
    assert world.in_ledger("key#stray")["requests"] == (1, "HELD")
    assert world.ledger.progress.periods([HOUR])[HOUR].state is PeriodState.CLOSED


@pytest.mark.parametrize("before", [True, False])
def test_a_hand_over_beside_a_run_that_dies_bills_one_customer(world: World, before: bool) -> None:  # noqa: FBT001
    """I4, I5: the run had read the former holder, wrote its row, and died before it looked again."""
    if before:
        world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()

    class HandedOver(Rows):
        def save(self, row: Any, by_key: Any = None, *, beside: Any = ()) -> Any:
            world.customer("globex", "key1", stripe_customer="cus_globex", since=HOUR if before else None)
            super().save(row, by_key, beside=beside)
            raise KilledError

    class HandingOver(Ledger):
        @property
        def rows(self) -> Rows:
            return HandedOver(self.client, self.table)

    with pytest.raises(KilledError):
        replace(world, ledger=HandingOver(world.ledger.client, "ledger")).run()
    world.now += timedelta(minutes=5)
    world.run()
    assert world.in_ledger("customer#globex")["requests"] == (1, "POSTED")
    assert world.at_stripe("cus_globex") == 1
    assert world.in_ledger("customer#acme" if before else "key#key1")["requests"][0] == 0
    assert world.at_stripe("cus_acme") == 0


def test_closing_again_touches_no_customer_that_only_shares_a_key(world: World) -> None:
    """I6: keys that wander from customer to customer do not make a chain of all of them."""
    for n in range(8):
        world.customer(f"customer{n + 1}", f"key{n}", stripe_customer=f"cus_{n + 1}")
        world.customer(f"customer{n}", f"key{n}", since=HOUR.next())
    world.record(*[world.line(key=f"key{n}") for n in range(8)])
    world.after_grace()
    world.run()
    world.counters.marks.mark_late(HOUR, customer("customer1"), "mark")
    before = world.ledger.rows.at(HOUR, [customer("customer8")])
    closed, _ = world.run()
    assert closed.again == 1
    assert world.ledger.rows.at(HOUR, [customer("customer8")]) == before
    assert [world.at_stripe(f"cus_{n + 1}") for n in range(8)] == [1] * 8


def test_rows_that_keep_changing_hold_up_no_other_hour(world: World) -> None:
    """I6: that hour is written by the next run."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.now = HOUR.next().end + timedelta(minutes=10)

    closer = replace(world.closer(minutes=60), ledger=Contended(world.ledger.client, "ledger"))
    assert closer.close_due().written == [HOUR.next()]


class ContendedRows(Rows):
    """Rows that somebody else always writes first."""

    def save(self, row: Any, _by_key: Any = None, *, beside: Any = ()) -> Any:  # noqa: ARG002
        """Be late."""
        raise RowChangedError(str(row.subject))


class Contended(Ledger):
    """A ledger of such rows."""

    @property
    def rows(self) -> Rows:
        """Return them."""
        return ContendedRows(self.client, self.table)


class Slow(Counters):
    """Counters that something happens to between a run's read and its write."""

    def of_sources(self, hour: Hour, sources: Iterable[str]) -> Any:
        """Read, and let it happen."""
        found = super().of_sources(hour, sources)
        _meanwhile.pop()() if _meanwhile else None
        return found


_meanwhile: list[Callable[[], object]] = []


def test_a_slow_run_does_not_overwrite_a_newer_total(world: World) -> None:
    """I4: row, then mapping, then counters; and written only if the row is still as it was read."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.run()
    world.record(world.line())

    def another_run() -> None:
        world.record(world.line())
        world.run()

    _meanwhile.append(another_run)
    replace(world, counters=Slow(world.counters.client, world.counters.table)).run()
    world.run()
    assert world.in_ledger("customer#acme")["requests"] == (3, "POSTED")
    assert world.at_stripe("cus_acme") == 3


def test_a_customer_named_while_its_hour_is_closed_is_billed(world: World) -> None:
    """I1: the run looks at the mapping again after it has written."""
    world.record(world.line())
    world.after_grace()
    _meanwhile.append(lambda: world.customer("acme", "key1", stripe_customer="cus_acme"))

    class LateHolders(Holders):
        def holdings(self, sources: Iterable[str], *, consistent: bool = True) -> Any:
            found = super().holdings(sources, consistent=consistent)
            _meanwhile.pop()() if _meanwhile else None
            return found

    class LateMapping(Ledger):
        @property
        def holders(self) -> Holders:
            return LateHolders(self.client, self.table)

    replace(world, ledger=LateMapping(world.ledger.client, world.ledger.table)).run()
    world.run()
    assert world.in_ledger("customer#acme")["requests"] == (1, "POSTED")
    assert world.in_ledger("key#key1")["requests"] == (0, "HELD")
    assert world.at_stripe("cus_acme") == 1


def test_two_runs_side_by_side_post_the_same(world: World) -> None:
    """I4: a tick can come twice."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    _meanwhile.append(lambda: bool(world.run()))
    replace(world, counters=Slow(world.counters.client, world.counters.table)).run()
    assert world.at_stripe("cus_acme") == 1
    assert world.in_ledger("customer#acme")["requests"] == (1, "POSTED")


@pytest.mark.parametrize(
    "fault",
    [
        Fault.RATE_LIMITED,
        Fault.RATE_LIMITED_RETRY,
        Fault.ERROR_BEFORE,
        Fault.ERROR_AFTER,
        Fault.RESET_BEFORE,
        Fault.RESET_AFTER,
    ],
)
def test_a_failing_stripe_delays_a_total_and_never_doubles_it(world: World, fault: Fault) -> None:
    """I4: also when it failed after it had accepted."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line(), world.line())
    world.after_grace()
    world.stripe.set_faults([fault] * 6)
    world.run()
    world.stripe.clear_faults()
    world.record(world.line())
    world.now += timedelta(minutes=5)
    closed, _ = world.run()
    assert world.at_stripe("cus_acme") == 3
    assert world.in_ledger("customer#acme")["requests"] == (3, "POSTED")
    assert closed.behind == 0


def test_a_total_that_lands_late_does_not_win(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: the answer to the first total was lost, a later one follows, and then a copy of the first arrives."""
    monkeypatch.setattr("metering.stripe.client.TIMEOUT", (1, 0.3))
    monkeypatch.setattr("metering.stripe.client.RETRIES", 0)
    stripe_client._client.cache_clear()
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.stripe.set_faults([Fault.LANDS_LATE] * 2 * sending.ATTEMPTS)
    world.run()
    assert world.at_stripe("cus_acme") == 0
    assert world.in_ledger("customer#acme")["requests"] == (1, "PENDING")
    world.stripe.clear_faults()
    world.record(world.line())
    world.run()
    assert world.at_stripe("cus_acme") == 2
    assert world.stripe.land_late_calls() == 2 * sending.ATTEMPTS
    assert world.at_stripe("cus_acme") == 2


def test_one_customers_failure_delays_no_other(world: World) -> None:
    """I6: the hour stays open, the other's usage is at Stripe."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.customer("globex", "key3", stripe_customer="cus_globex")
    world.record(world.line(), world.line(key="key3"))
    world.after_grace()
    world.stripe.set_faults([Fault.ERROR_BEFORE] * 20, customer="cus_acme")
    closed, posted = world.run()
    assert world.at_stripe("cus_globex") == 1
    assert HOUR not in closed.closed
    assert posted.pending == 2
    world.stripe.clear_faults()
    world.now += timedelta(minutes=5)
    closed, _ = world.run()
    assert world.at_stripe("cus_acme") == 1
    assert HOUR in closed.closed


def test_what_stripe_rejects_is_kept_with_stripes_words_and_closes_the_hour(world: World) -> None:
    """I6: an operator must act; marking the hour tries again."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.counters.count(HOUR, "key1", Amounts({"m" * 95: 1}), b"123456789012")
    world.after_grace()
    closed, posted = world.run()
    row = world.ledger.rows.at(HOUR, [customer("acme")])[customer("acme")]
    assert posted.rejected == 1
    assert row.totals["m" * 95].state == "REJECTED"
    assert "at most 100 characters" in row.totals["m" * 95].reason
    assert HOUR in closed.closed


def test_without_a_meter_usage_waits(world: World) -> None:
    """I1: nothing is wrong with the usage; it is posted when the meter is there."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.counters.count(HOUR, "key1", Amounts({"new_metric": 1}), b"123456789012")
    world.after_grace()
    _, posted = world.run()
    assert posted.pending == 1
    assert "No active meter" in next(iter(posted.reasons))
    assert world.in_ledger("customer#acme")["new_metric"] == (1, "PENDING")
    world.meters().create_meter("new_metric")
    world.run()
    assert world.at_stripe("cus_acme", "new_metric") == 1


def test_a_missing_meter_holds_up_no_other_metric(world: World) -> None:
    """I6: neither of the same hour nor of later ones, run after run."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.counters.count(HOUR, "key1", Amounts({"new_metric": 1, "requests": 2}), b"123456789012")
    world.counters.count(HOUR.next(), "key1", Amounts({"new_metric": 1, "requests": 3}), b"123456789012")
    world.now = HOUR.next().end + timedelta(minutes=10)
    for _ in range(2):
        _, posted = world.run()
        assert posted.pending == 2
        assert (world.at_stripe("cus_acme"), world.at_stripe("cus_acme", hour=HOUR.next())) == (2, 3)


def test_without_a_stripe_key_usage_waits(world: World) -> None:
    """I1: everything is posted once Stripe is connected."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.key = None
    _, posted = world.run()
    assert posted.reasons == {"the secret holds no Stripe key": 1}
    world.key = "sk_test_local"
    world.run()
    assert world.at_stripe("cus_acme") == 1


def test_a_rotated_key_is_read_afresh(world: World) -> None:
    """A 401 makes the key be read again, once."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.stripe.rotate_key("sk_test_new")
    asked: list[bool] = []

    def api_key(fresh: bool) -> str:  # noqa: FBT001 - the signature that StripeMeters names
        asked.append(fresh)
        return "sk_test_new" if fresh else "sk_test_local"

    world.close()
    replace(world.poster(), stripe=replace(world.meters(), api_key=api_key)).post_pending(HOUR, range(SHARDS))
    assert world.at_stripe("cus_acme") == 1
    assert True in asked


def test_what_is_too_old_for_stripe_is_held(world: World) -> None:
    """I1: kept, with its reason, and the hour is closed."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.now = HOUR.start + timedelta(days=34, hours=13)
    world.ledger.progress.advance_cursor(Hour.containing(world.now))
    world.record(world.line())
    world.run()
    row = world.ledger.rows.at(HOUR, [customer("acme")])[customer("acme")]
    assert (row.totals["requests"].state, row.totals["requests"].reason) == (
        "HELD",
        "older than 34.5 days: Stripe would refuse it",
    )


def test_closing_stops_in_time_and_goes_on_at_the_next_tick(world: World) -> None:
    """Nothing is half done: the hour is written by the next run."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    closed = world.closer(minutes=0).close_due()
    assert HOUR not in closed.written
    world.run()
    assert world.at_stripe("cus_acme") == 1


def test_posting_stops_in_time_and_goes_on_at_the_next_tick(world: World) -> None:
    """I4: what departed without being sent departs again."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.close()
    posted = world.poster(minutes=0).post_pending(HOUR, range(SHARDS))
    assert posted.pending
    assert world.at_stripe("cus_acme") == 0
    world.run()
    assert world.at_stripe("cus_acme") == 1


def test_an_hour_past_change_is_left_as_it_is(world: World) -> None:
    """I5: its counters may be gone; only an adjustment changes it."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.run()
    world.counters.client.delete_item(
        TableName="counters", Key={name: item[name] for name in ("pk", "sk")} if (item := _counter(world)) else {}
    )
    world.now = HOUR.end + timedelta(days=61)
    world.ledger.progress.advance_cursor(Hour.containing(world.now))
    world.counters.marks.mark_late(HOUR, customer("acme"), "mark")
    world.run()
    assert world.in_ledger("customer#acme")["requests"] == (1, "POSTED")
    assert world.counters.marks.of_kind(Mark.LATE) == []


def _counter(world: World) -> dict[str, Any]:
    items = world.counters.client.scan(TableName="counters")["Items"]
    return next(dict(item) for item in items if item["pk"]["S"].startswith("hour#"))


def test_rows_that_keep_changing_leave_the_mark_for_the_next_run(world: World) -> None:
    """I4: an error is not mistaken for success."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.record(world.line())
    world.after_grace()
    world.run()
    world.record(world.line())

    closer = replace(world.closer(minutes=60), ledger=Contended(world.ledger.client, "ledger"))
    assert closer.close_due().again == 0
    assert len(world.counters.marks.of_kind(Mark.LATE)) == 1


def test_a_new_deployment_closes_the_day_before_its_first_run(world: World) -> None:
    """Requests may have been counted before the first tick."""
    world.counters.client.delete_item(TableName="ledger", Key={"pk": {"S": "period#cursor"}, "sk": {"S": "close"}})
    world.after_grace()
    closed, _ = world.run()
    assert len(closed.closed) == 24
    assert world.ledger.progress.cursor() == HOUR.next()

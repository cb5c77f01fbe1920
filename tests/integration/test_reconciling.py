"""Reconciling: what Stripe shows and the ledger holds are compared, mended, and told where it cannot be mended."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import boto3
import msgspec
import pytest

from infra.local.stripe.faults import Fault
from infra.operate.deployment import Deployment
from infra.operate.posting import reconcile
from metering.billing.reconciling import NOT_POSTED, NOT_YET, POSTED_AGAIN, STAYS, Reconciled, Reconciler
from metering.billing.unbilled import Looker
from metering.model.amounts import Amounts
from metering.model.periods import Hour
from metering.model.subjects import key
from metering.model.usage_row import State
from metering.stores.attribution import Attribution
from metering.stores.aws import to_item
from metering.stores.marks import new_mark
from metering.stores.progress import Round
from metering.stores.switch import Switch
from metering.stripe import client as stripe_client
from metering.stripe.invoices import StripeReader
from metering.stripe.reading import Reads
from tests.integration.billing import Billing, due
from tests.integration.operator_commands import Operator
from tests.integration.world import HOUR, World

LATER = due(HOUR) + timedelta(hours=2)
"""Stripe shows by now what it took when the world's hour was closed."""


@pytest.fixture
def stripe_time() -> Callable[[], float]:
    """The world's hour begins."""
    return HOUR.start.timestamp


@pytest.fixture
def billing(world: World) -> Billing:
    """Acme with 5 requests in the world's hour, which is posted."""
    made = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    made.use(5)
    made.at(due(HOUR))
    world.run()
    assert world.at_stripe("cus_acme") == 5
    return made


SUMMARIES = "GET /v1/billing/meters/:id/event_summaries"


def put(billing: Billing, value: int, hour: Hour = HOUR, metric: str = "requests", whom: str = "cus_acme") -> None:
    """Put another total into Stripe by hand, as the dashboard or another program could."""
    event: Any = {
        "event_name": f"Metering_{metric}",
        "timestamp": int(hour.end.timestamp()) - 1,
        "payload": {"stripe_customer_id": whom, "value": str(value)},
    }
    billing.client().v1.billing.meter_events.create(event)


def lose(billing: Billing, stripe_customer: str = "cus_acme") -> None:
    """Let Stripe lose every event that it has accepted of a customer."""
    for meter in billing.world.stripe._account.meters.values():
        meter.counted.pop(stripe_customer, None)


def look(billing: Billing, calls: int = 1000) -> Reconciled:
    """Compare."""
    world = billing.world
    since, deadline = Hour.parse(world.switch.read().since), world.now + timedelta(minutes=5)
    reader = StripeReader(world.meters(), Reads(calls))
    return Reconciler(world.ledger, world.changes, reader, since, world.clock, deadline).run()


def done(found: Reconciled) -> list[tuple[str, int, int, str]]:
    """Return what differs: metric, at the ledger, at Stripe, and what was done."""
    return [(one.metric, one.ledger, one.stripe, one.what) for one in found.differing]


def day_of(name: str, moment: datetime) -> datetime:
    """Return the moment's next hour in which a customer's days are compared."""
    return moment + timedelta(hours=(zlib.crc32(name.encode()) % 24 - moment.hour) % 24)


def test_where_all_is_equal_nothing_is_done(billing: Billing) -> None:
    """I4: and nothing is posted."""
    billing.at(LATER)
    found = look(billing)
    assert (found.customers, found.differing, found.round_over) == (1, [], True)
    assert billing.world.post().posted == 0


def test_a_difference_that_was_put_in_by_hand_is_found_and_mended(billing: Billing) -> None:
    """I4: the same absolute total, under the next revision."""
    put(billing, 99)
    billing.at(LATER)
    assert done(look(billing)) == [("requests", 5, 99, POSTED_AGAIN)]
    billing.world.run()
    assert billing.world.at_stripe("cus_acme") == 5
    billing.at(LATER + timedelta(hours=2))
    assert look(billing).differing == []


def test_what_stripe_lost_is_posted_again(billing: Billing) -> None:
    """I1, I4: under a new identifier, since it remembers the old one."""
    lose(billing)
    billing.at(LATER)
    assert done(look(billing)) == [("requests", 5, 0, POSTED_AGAIN)]
    billing.world.run()
    assert billing.world.at_stripe("cus_acme") == 5


def test_what_nobody_here_has_counted_is_overwritten_with_zero(billing: Billing) -> None:
    """I4: an hour, and a metric, of which the ledger has nothing."""
    put(billing, 7, metric="bytes")
    billing.at(LATER + timedelta(hours=1))
    put(billing, 8, HOUR.next())
    assert sorted(done(look(billing))) == [("bytes", 0, 7, POSTED_AGAIN), ("requests", 0, 8, POSTED_AGAIN)]
    billing.world.run()
    assert billing.world.at_stripe("cus_acme", "bytes") == 0
    assert billing.world.at_stripe("cus_acme", hour=HOUR.next()) == 0
    assert billing.world.at_stripe("cus_acme") == 5


def test_posting_that_was_turned_on_just_now_has_nothing_to_compare(billing: Billing) -> None:
    """Stripe refuses to sum up a period that ends before it begins."""
    world = billing.world
    switch = world.switch.read()
    world.switch.turn(Switch(on=True, since=str(Hour.containing(world.now)), version=switch.version))
    assert look(billing).differing == []


def test_a_day_three_weeks_back_is_compared_once_a_day(billing: Billing) -> None:
    """The hours of a day that differs are compared, and the one that differs is mended."""
    moment = HOUR.start + timedelta(days=21)
    billing.jump(moment)
    assert look(billing).differing == []
    put(billing, 99)
    for hours in (1, 12, 22):
        billing.jump(moment + timedelta(hours=hours))
        assert look(billing).differing == []
    billing.jump(moment + timedelta(hours=24))
    assert done(look(billing)) == [("requests", 5, 99, POSTED_AGAIN)]
    billing.world.run()
    assert billing.world.at_stripe("cus_acme") == 5


def test_two_differences_of_one_day_that_cancel_out_are_found_while_they_are_new(billing: Billing) -> None:
    """Hour by hour for the last two days; later a day's sum hides them."""
    put(billing, 3)
    billing.jump(HOUR.start + timedelta(hours=40))
    put(billing, 2, HOUR.next())
    assert len(look(billing).differing) == 2


def test_stripe_has_its_time_to_show_what_it_took(billing: Billing) -> None:
    """I4: a total that was posted just now is not judged."""
    lose(billing)
    billing.at(due(HOUR) + timedelta(minutes=59))
    assert done(look(billing)) == [("requests", 5, 0, NOT_YET)]
    assert billing.world.in_ledger("customer#acme")["requests"] == (5, "POSTED")
    billing.at(due(HOUR) + timedelta(minutes=61))
    assert done(look(billing)) == [("requests", 5, 0, POSTED_AGAIN)]
    billing.world.run()
    lose(billing)
    billing.at(due(HOUR) + timedelta(minutes=90))
    assert done(look(billing)) == [("requests", 5, 0, NOT_YET)]


def test_what_stripe_shows_late_is_not_posted_again(world: World) -> None:
    """I4: it takes half an hour to add up what it took."""
    world.stripe._account.summary_delay_s = 1800
    billing = Billing(world)
    world.customer("acme", "key1", stripe_customer="cus_acme")
    billing.use(5)
    billing.at(due(HOUR))
    world.run()
    calls = len(world.stripe.events)
    for minutes in (5, 35, 65, 95):
        billing.at(due(HOUR) + timedelta(minutes=minutes))
        look(billing)
        world.run()
    assert len(world.stripe.events) == calls


def test_a_difference_that_stays_is_told_and_posted_three_times_at_most(billing: Billing) -> None:
    """A person must look."""
    told = []
    for n in range(1, 7):
        lose(billing)
        billing.at(due(HOUR) + timedelta(hours=2 * n))
        told += [what for metric, *_, what in done(look(billing)) if metric == "requests"]
        billing.world.run()
    assert told == [POSTED_AGAIN, STAYS, STAYS, STAYS, STAYS, STAYS]
    assert [event.value for event in billing.world.stripe.events] == [5] * 4
    billing.use(1)
    billing.world.run()
    assert billing.world.at_stripe("cus_acme") == 6


def test_what_stripe_accepted_for_an_unknown_customer_is_found_without_its_notification(billing: Billing) -> None:
    """I1: the webhook was lost; once the customer is there it is mended."""
    world = billing.world
    world.customer("globex", "key2", stripe_customer="cus_globex")
    del world.stripe._account.customers["cus_globex"]
    now = Hour.containing(world.now)
    billing.use(3, now, "key2")
    billing.at(due(now))
    world.run()
    assert world.in_ledger("customer#globex", now)["requests"] == (3, "POSTED")
    billing.at(due(now) + timedelta(hours=2))
    assert done(look(billing)) == [("requests", 3, 0, POSTED_AGAIN)]
    world.stripe.add_customer("cus_globex")
    world.run()
    assert world.at_stripe("cus_globex", hour=now) == 3


@pytest.mark.parametrize("state", [State.REJECTED, State.HELD])
def test_what_waits_for_a_person_is_shown_and_not_posted(billing: Billing, state: State) -> None:
    """Whoever mends the cause has it posted."""
    lose(billing)
    row = billing.row(HOUR)
    total = msgspec.structs.replace(row.totals["requests"], state=state)
    billing.world.ledger.rows.save(row.with_totals({"requests": total}))
    billing.at(LATER)
    assert done(look(billing)) == [("requests", 5, 0, NOT_POSTED)]
    assert billing.world.post().posted == 0


def test_hours_before_posting_began_are_not_compared(billing: Billing) -> None:
    """Nothing of them is billed."""
    world = billing.world
    put(billing, 99)
    world.switch.turn(msgspec.structs.replace(world.switch.read(), since=str(HOUR.next())))
    moment = day_of("acme", HOUR.start + timedelta(days=3))
    for at in (LATER, moment):
        billing.jump(at)
        assert look(billing).differing == []


def test_what_stripe_takes_no_more_is_told_and_left(billing: Billing) -> None:
    """It would refuse it."""
    put(billing, 99)
    moment = day_of("acme", HOUR.start + timedelta(days=33, hours=22))
    billing.jump(moment)
    found = done(look(billing))
    past = HOUR.is_past_stripe(moment)
    assert found in ([("requests", 5, 99, STAYS if past else POSTED_AGAIN)], [])


def test_a_total_stays_with_the_stripe_customer_that_took_it(billing: Billing) -> None:
    """I4: both are asked, and their sum is compared."""
    world = billing.world
    world.customer("acme", stripe_customer="cus_new")
    now = Hour.containing(world.now)
    billing.use(3, now)
    billing.at(due(now))
    world.run()
    billing.at(due(now) + timedelta(hours=2))
    assert look(billing).differing == []
    lose(billing)
    assert done(look(billing)) == [("requests", 5, 0, POSTED_AGAIN)]
    world.run()
    assert (world.at_stripe("cus_acme"), world.at_stripe("cus_new")) == (5, 0)


def test_a_round_goes_on_where_the_budget_ended(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each customer is compared once in a round, and no run makes more calls than it may."""
    monkeypatch.setattr("metering.billing.reconciling._CUSTOMERS_AT_ONCE", 1)
    world = billing.world
    for n in range(4):
        world.customer(f"c{n}", f"k{n}", stripe_customer=f"cus_c{n}")
        billing.use(1, HOUR, f"k{n}")
    world.run()
    billing.jump(LATER + timedelta(days=3))
    compared, runs, over = 0, 0, False
    while not over:
        before = world.stripe.calls.total()
        found = look(billing, calls=5)
        assert world.stripe.calls.total() - before <= 5
        compared, runs, over = compared + found.customers, runs + 1, found.round_over
        assert found.customers
    assert compared == 5
    assert runs > 1
    assert world.ledger.progress.round().name == ""


def test_a_days_reads_are_one_a_metric(billing: Billing) -> None:
    """Stripe allots few: 33 days take one each, and the last two one more for as long as reads are left."""
    billing.jump(HOUR.start + timedelta(days=33))
    assert (_read(billing, calls=1 + 4), _read(billing)) == (["day", "day"], [])
    hour = Hour.containing(billing.world.now)
    billing.jump(billing.world.now + timedelta(hours=3))
    billing.use(1, hour)
    billing.world.run()
    billing.at(billing.world.now + timedelta(hours=3))
    assert _read(billing) == ["hour", "hour"]


def test_hours_are_read_of_days_that_differ_alone(billing: Billing) -> None:
    """Of one day that differs, one read."""
    billing.jump(HOUR.start + timedelta(days=20))
    put(billing, 99)
    assert _read(billing) == ["day", "day", "hour"]


def test_a_customer_that_used_nothing_is_read_in_every_thirtieth_round(billing: Billing) -> None:
    """Nobody but its owner could have put anything into Stripe; it is found all the same."""
    world = billing.world
    world.customer("idle", "key2", stripe_customer="cus_idle")
    begin = HOUR.start + timedelta(days=2)
    found = []
    for day in range(30):
        billing.jump(begin + timedelta(days=day))
        if not day:
            put(billing, 7, HOUR, whom="cus_idle")
        found += done(look(billing))
        world.run()
    assert found == [("requests", 0, 7, POSTED_AGAIN)]
    assert world.at_stripe("cus_idle") == 0


def test_a_customer_that_takes_more_reads_than_a_run_has_keeps_no_other_waiting(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: ten of its days differ, and a read sums up the hours of one."""
    monkeypatch.setattr("metering.billing.reconciling._SPAN", 24)
    world = billing.world
    world.customer("zzz", "key2", stripe_customer="cus_zzz")
    billing.use(1, HOUR, "key2")
    world.run()
    for day in range(10):
        billing.jump(HOUR.start + timedelta(days=day + 1))
        put(billing, 99, Hour(HOUR.number + 24 * day))
    put(billing, 8, HOUR, whom="cus_zzz")
    billing.jump(HOUR.start + timedelta(days=12))
    first = look(billing, calls=6)
    assert (first.cut_short, first.count(POSTED_AGAIN) > 0) == ("the 6 reads of this run are made", True)
    second = look(billing, calls=6)
    assert ("requests", 1, 8, POSTED_AGAIN) in done(second)


def test_what_one_customer_found_is_kept_although_the_next_one_fails(billing: Billing) -> None:
    """I4: both are looked at side by side; the next run begins with the one that failed."""
    world = billing.world
    world.customer("zzz", "key2", stripe_customer="cus_zzz")
    billing.use(1, HOUR, "key2")
    world.run()
    billing.jump(LATER + timedelta(days=3))
    lose(billing)
    world.stripe.set_faults({Fault.ERROR_BEFORE: 1.0}, route=SUMMARIES, customer="cus_zzz")
    found = look(billing)
    assert done(found) == [("requests", 5, 0, POSTED_AGAIN)]
    assert (found.looked_at, found.cut_short) == ({"acme"}, "Stripe answers with an error (500)")
    assert world.ledger.progress.round().name == "acme"
    world.stripe.clear_faults()
    found = look(billing)
    assert (found.cut_short, found.round_over) == ("", True)


def test_a_customer_that_stripe_always_fails_at_keeps_no_other_waiting(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: a run that begins with it steps over it, and tells it; one a run, if Stripe fails at everybody."""
    monkeypatch.setattr(stripe_client, "RETRIES", 0)
    stripe_client._client.cache_clear()
    world = billing.world
    world.customer("zzz", "key2", stripe_customer="cus_zzz")
    billing.use(1, HOUR, "key2")
    world.run()
    billing.jump(LATER + timedelta(days=3))
    world.stripe.set_faults({Fault.ERROR_BEFORE: 1.0}, route=SUMMARIES, customer="cus_acme")
    found = look(billing)
    assert (found.looked_at, found.odd, found.cut_short) == ({"acme"}, {"acme"}, "Stripe answers with an error (500)")
    assert "zzz" in look(billing).looked_at
    world.stripe.set_faults({Fault.ERROR_BEFORE: 1.0}, route=SUMMARIES)
    billing.jump(world.now + timedelta(days=1))
    assert [look(billing).odd for _ in range(2)] == [{"acme"}, {"zzz"}]


def test_a_run_with_fewer_reads_than_a_customer_may_take_looks_at_one(billing: Billing) -> None:
    """I4: most take half of it, since their days are equal; otherwise nobody would ever be looked at."""
    billing.jump(LATER + timedelta(days=3))
    assert look(billing, calls=1 + 2).looked_at == {"acme"}
    assert look(billing, calls=1).looked_at == set()


def test_a_round_of_before_is_gone_on_with(billing: Billing) -> None:
    """Written by a version that knew neither numbers nor odd customers."""
    item = {"pk": "period#reconciled", "sk": "round", "name": "aaa", "daily": True, "daily_at": 5}
    billing.world.ledger.client.put_item(TableName="ledger", Item=to_item(item))
    assert billing.world.ledger.progress.round() == Round("aaa", daily=True, daily_at=5)


def _read(billing: Billing, calls: int = 1000) -> list[str]:
    """Look, and return by which windows Stripe was asked to sum up."""
    asked: list[str] = []
    account: Any = billing.world.stripe._account
    answer = account.list_event_summaries

    def note(meter: str, params: Any, now: float) -> Any:
        asked.append(params["value_grouping_window"])
        return answer(meter, params, now)

    billing.world.stripe._api._endpoints[SUMMARIES] = note
    look(billing, calls)
    billing.world.stripe._api._endpoints[SUMMARIES] = answer
    return asked


def test_a_run_that_dies_is_followed_by_one_that_goes_on(billing: Billing) -> None:
    """What it had repaired is pending; comparing it again changes nothing."""
    lose(billing)
    billing.at(LATER)
    found = look(billing)
    assert done(found) == [("requests", 5, 0, POSTED_AGAIN)]
    assert done(look(billing)) == [("requests", 5, 0, NOT_POSTED)]
    billing.world.run()
    assert [event.value for event in billing.world.stripe.events] == [5, 5]


# --- the operator's command ------------------------------------------------------------------------------------------


@pytest.fixture
def operator(billing: Billing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Whoever asks, two hours after the world's hour."""
    billing.at(LATER)
    return Operator(billing.world, monkeypatch, capsys)


def test_the_command_shows_a_customers_three_columns(billing: Billing, operator: Operator) -> None:
    """Counted, ledger, Stripe; exit 0 where nothing differs."""
    said = operator.run("reconcile", "acme")
    told = "1 total compared by 7 reads at Stripe, 0 differ; nobody pays for 1 total: no subscription (1)\n"
    assert (said.code, said.err) == (0, told)
    header, row = said.out.splitlines()
    assert header.split() == ["customer", "metric", "hour", "counted", "ledger", "Stripe", "difference", "state"]
    assert row.split()[:7] == ["acme", "requests", str(HOUR), "5", "5", "5", "POSTED"]
    assert row.endswith("nobody pays: no subscription")
    billing.subscribe()  # from now on
    assert operator.run("reconcile", "acme").out.splitlines()[1].endswith("nobody pays: before subscription")
    document = operator.run("reconcile", "acme", "--json").document
    assert [row["unpaid"] for row in document["rows"]] == ["before subscription"]
    assert (document["unpaid"], document["differing"]) == ({"before subscription": 1}, 0)


def test_an_hours_counters_are_read_once_for_all_its_metrics(
    billing: Billing, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: and a month's claims, which may be many, with them."""
    billing.batches += 1
    amounts = Amounts({"bytes": 70})
    billing.world.counters.count(HOUR, "key1", amounts, f"{billing.batches:012d}".encode())
    billing.world.counters.marks.mark_late(HOUR, key("key1"), new_mark())
    billing.world.run()
    asked: list[tuple[str, list[Hour]]] = []
    inner = Attribution.hours_of_customer

    def of_hours(attribution: Attribution, name: str, hours: Iterable[Hour]) -> dict[Hour, Amounts]:
        asked.append((name, [*hours]))
        return inner(attribution, name, asked[-1][1])

    monkeypatch.setattr(Attribution, "hours_of_customer", of_hours)
    rows = operator.run("reconcile", "acme", "--json").document["rows"]
    assert [(row["metric"], row["counted"]) for row in rows] == [("bytes", 70), ("requests", 5)]
    assert asked == [("acme", [HOUR])]


def test_many_keys_are_few_queries_an_hour(billing: Billing, operator: Operator) -> None:
    """I10: a partition's keys are looked for at once, and who holds them is read once for all hours."""
    world = billing.world
    keys = [f"many{number:02d}" for number in range(50)]
    world.customer("acme", *keys)
    for number, hour in enumerate((HOUR, Hour(HOUR.number + 1), Hour(HOUR.number + 2))):
        world.now = hour.start + timedelta(minutes=30)
        for nth, name in enumerate(keys):
            world.counters.count(hour, name, Amounts({"requests": 2}), f"{number:06d}{nth:06d}".encode())
            world.counters.marks.mark_late(hour, key(name), new_mark())
    world.now = Hour(HOUR.number + 3).start + timedelta(minutes=30)
    for _ in range(4):
        world.run()
    deployment, asked = operator.deployment, Counter[str]()
    client: Any = deployment.counters.client
    client.before.append(lambda operation, _arguments: asked.update([operation]))
    acme = deployment.ledger.holders.customers(["acme"])["acme"]
    looked = reconcile(deployment, acme, now=world.now, progress=lambda each, _: each)
    assert sum(row.counted for row in looked.rows if row.metric == "requests") == 3 * 100 + 5
    assert 0 < asked["Query"] < 40, "of each hour there were 51"


def test_the_stripe_key_is_read_once_in_a_command(
    billing: Billing, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many calls it makes, side by side; and once more where Stripe takes it no longer."""
    secrets: Any = boto3.client("secretsmanager")
    asked: list[str] = []
    secrets.before.append(lambda operation, _arguments: asked.append(operation))
    made = operator.deployment
    client = made.client
    made.client = lambda name, **more: secrets if name == "secretsmanager" else client(name, **more)
    monkeypatch.setattr(Deployment, "find", lambda *_, **__: made)
    assert operator.run("reconcile", "acme", "--json").document["reads"] > 5
    assert asked == ["GetSecretValue"]
    billing.world.stripe.rotate_key("sk_test_new")
    secrets.put_secret_value(SecretId="stripe-secret", SecretString="sk_test_new")
    asked.clear()
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: made.stripe().meters(), range(8)))
    assert 1 <= asked.count("GetSecretValue") <= 8
    asked.clear()
    made.put_stripe_key("sk_test_new")
    asked.clear()
    assert made.stripe().meters()
    assert asked == []


def test_the_command_says_of_everyone_what_the_daily_looks_found(billing: Billing, operator: Operator) -> None:
    """I9: nothing differs, and nobody pays."""
    world = billing.world
    told = operator.run("reconcile").err
    assert (told.count("\n"), told[-10:]) == (1, " 0 differ\n")
    reader, since = StripeReader(world.meters(), Reads(100)), Hour.parse(world.switch.read().since)
    Looker(world.ledger, world.changes, reader, since, world.clock, world.now + timedelta(minutes=5)).run()
    said = operator.run("reconcile")
    why = "nobody pays for 1 customer's hour, as found last: no subscription (1); see 'metering doctor'"
    assert said.err.endswith(f" 0 differ; {why}\n")
    assert operator.run("reconcile", "--json").document["unpaid"] == {"no subscription": 1}


def test_the_command_mends_what_differs_at_once(billing: Billing, operator: Operator) -> None:
    """And says what it did."""
    put(billing, 99)
    said = operator.run("reconcile", "acme")
    assert said.code == 0
    assert said.out.splitlines()[1].split()[3:9] == ["5", "5", "5", "POSTED", "posted", "again,"]
    assert billing.world.at_stripe("cus_acme") == 5


def test_the_command_exits_with_1_where_a_difference_stays(billing: Billing, operator: Operator) -> None:
    """Stripe shows nothing of what it accepts."""
    lose(billing)
    billing.world.stripe._account.summary_delay_s = 86_400
    said = operator.run("reconcile", "--json")
    assert said.code == 1
    document = said.document
    assert (document["posting"], document["compared"], document["differing"]) == (True, 1, 1)
    assert document["rows"] == [
        {
            "customer": "acme",
            "metric": "requests",
            "hour": str(HOUR),
            "counted": 5,
            "ledger": 5,
            "stripe": 0,
            "state": "POSTED",
            "what": POSTED_AGAIN,
            "unpaid": "",
            "difference": -5,
        }
    ]


def test_while_posting_is_off_the_command_shows_what_would_be_posted(billing: Billing, operator: Operator) -> None:
    """And posts nothing."""
    operator.run("posting", "off")
    now = Hour.containing(billing.world.now)
    billing.use(3, now)
    billing.at(due(now))
    billing.world.run()
    said = operator.run("reconcile")
    assert (said.code, said.err) == (0, "2 totals compared by 5 reads at Stripe, 0 differ; posting is off\n")
    assert said.out.splitlines()[1].split()[3:] == ["3", "3", "0", "-3", "PENDING", "not", "posted"]
    assert billing.world.at_stripe("cus_acme", hour=now) == 0


def test_while_posting_is_off_what_was_posted_and_differs_is_told(billing: Billing, operator: Operator) -> None:
    """And left as it is: exit 1."""
    put(billing, 99)
    operator.run("posting", "off")
    said = operator.run("reconcile")
    assert said.code == 1
    assert "was posted, and is not posted again while posting is off" in said.out
    assert billing.world.at_stripe("cus_acme") == 99


def test_the_command_says_of_whom_stripe_says_nothing(billing: Billing, operator: Operator) -> None:
    """I6: the others are compared; and what it read is no longer there for the hourly look."""
    world = billing.world
    world.customer("aaa", "key2", stripe_customer="cus_aaa")
    put(billing, 99)
    before = operator.deployment.read_budget.left(world.now)
    world.stripe.set_faults({Fault.REFUSED: 1.0}, route=SUMMARIES, customer="cus_aaa")
    said = operator.run("reconcile", "--json")
    assert said.code == 1
    assert said.document["not_compared"] == {"aaa": "This object cannot be used here."}
    assert [row["what"] for row in said.document["rows"]] == [POSTED_AGAIN]
    assert operator.deployment.read_budget.left(world.now) <= before - said.document["reads"]
    assert "aaa is not compared, since Stripe answers: This object" in operator.run("reconcile").err


def test_the_command_knows_no_other_customer(operator: Operator) -> None:
    """It says so."""
    assert operator.run("reconcile", "nobody").err.startswith("error: there is no customer 'nobody'")


def test_rejected_totals_are_listed_and_retried(billing: Billing, operator: Operator) -> None:
    """With Stripe's words; a retry is a new revision, when no copy of the rejected one can land any more."""
    world = billing.world
    now = Hour.containing(world.now)
    billing.use(3, now)
    world.now = due(now)  # and an hour earlier at Stripe
    world.run()
    [one] = operator.run("rejected", "list", "--json").document
    assert (one["customer"], one["metric"], one["hour"], one["quantity"]) == ("acme", "requests", str(now), 3)
    assert "5 minutes in the future" in one["reason"]
    listed = operator.run("rejected", "list", "--most", "1")
    assert ("5 minutes in the future" in listed.out, listed.err) == (True, "1 total\n")
    assert "there is no customer 'globex'" in operator.run("rejected", "list", "--customer", "globex").err
    world.customer("globex")
    assert operator.run("rejected", "list", "--customer", "globex").err == "nothing there\n"
    billing.at(world.now)
    assert operator.run("rejected", "retry", "acme", "--json").document == {"hours": 1}
    world.run()
    assert world.in_ledger("customer#acme", now)["requests"] == (3, "PENDING")
    billing.at(world.now + timedelta(minutes=20))
    world.run()
    assert world.at_stripe("cus_acme", hour=now) == 3
    assert operator.run("rejected", "list", "--json").document == []
    assert operator.run("rejected", "retry", "--all", "--json").document == {"hours": 0}
    assert operator.run("rejected", "retry", "--all").out == "nothing to change\n"


@pytest.mark.parametrize("arguments", [(), ("acme", "--all")])
def test_a_retry_names_whose_totals(operator: Operator, arguments: tuple[str, ...]) -> None:
    """Or all, and not both."""
    assert operator.run("rejected", "retry", *arguments).code == 2


def test_what_is_compared_is_due(billing: Billing) -> None:
    """I3: an hour that is not closed yet is not compared."""
    hour = HOUR.next()
    billing.at(hour.end + timedelta(minutes=5))
    put(billing, 9, hour)
    assert look(billing).differing == []


@pytest.mark.parametrize("latest", ["arrival", "timestamp"])
def test_a_restored_ledger_converges_whichever_event_stripe_takes(billing: Billing, latest: Any) -> None:
    """I4: the backup knows nothing of what was posted since, and its epoch is followed by the next one."""
    world = billing.world
    world.stripe._account.latest = latest
    ledger: Any = world.ledger.client
    backup = ledger.scan(TableName="ledger", ConsistentRead=True)["Items"]
    for _ in range(10):  # late records
        billing.use(1)
        billing.at(world.now + timedelta(minutes=5))
        world.run()
    assert world.at_stripe("cus_acme") == 15
    for item in backup:  # which has all that there is by now
        ledger.put_item(TableName="ledger", Item=item)
    world.ledger_epoch = "2"
    billing.use(1)
    for _ in range(4):
        billing.at(world.now + timedelta(minutes=65))
        world.run()
        world.check()
    assert world.in_ledger("customer#acme")["requests"] == (16, "POSTED")
    assert world.at_stripe("cus_acme") == 16

"""Measuring: what records add up to, for every kind of metric, in whatever order and pieces they come."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.model.amounts import MOST_VALUES, Amounts
from metering.model.log_format import AccessRecord, Declared
from metering.model.measuring import Tally, Usage, measure
from metering.model.metrics import OTHER, USAGE_LINES, Count, Max, Metric, Sum, Unique, declared
from metering.model.periods import Hour
from tests.doubles.access_log import NONCE

HOUR = Hour.parse("2026-11-22T05")
MESSAGES = "authorizer.messages"
SECONDS = "responseOverride.header.x-seconds"
USER = "authorizer.user"
PLAN = "authorizer.plan"


def record(log: Declared, values: dict[str, str] | None = None, **changes: Any) -> AccessRecord:
    """Make a record of a log, with the values of some of its variables."""
    fields: dict[str, Any] = {
        "metering": f"1:14:{NONCE}",
        "request_id": "r",
        "time": HOUR.number * 3_600_000 + 1,
        "key": "k1",
        "status": 200,
        "method": "GET",
        "resource": "/items",
        "api_id": "a1b2c3d4e5",
        "stage": "v1",
        "end": NONCE,
        "response_length": 10,
    }
    return log.record_type()(
        **fields | {log.attribute(name): value for name, value in (values or {}).items()} | changes
    )


def measured(metrics: tuple[Metric, ...], *records: tuple[dict[str, str], dict[str, Any]]) -> Usage:
    """Measure records, each given by its variables and its other fields."""
    log = declared(metrics)
    return measure([record(log, values, **changes) for values, changes in records], metrics, log)


def only(usage: Usage) -> Amounts:
    """Return the amounts of the one hour and key that there is."""
    (amounts,) = usage.cells.values()
    return amounts


# --- units ------------------------------------------------------------------------------------------------------------


def test_the_units_that_a_call_carries_are_added_up() -> None:
    """One call may send a hundred messages; a call that says nothing sends none."""
    usage = measured(
        (Count(name="requests"), Sum(name="messages", of=MESSAGES)),
        ({MESSAGES: "100"}, {}),
        ({MESSAGES: "7"}, {}),
        ({MESSAGES: "-"}, {}),
        ({MESSAGES: ""}, {}),
        ({}, {}),
        ({MESSAGES: "1000"}, {"status": 500}),
    )
    assert only(usage).sums == {"requests": 5, "messages": 107}


def test_a_variable_with_decimals_is_added_up_in_its_smallest_unit() -> None:
    """0.1 three times is 0.3."""
    usage = measured(
        (Sum(name="seconds", of=SECONDS, scale=3), Max(name="slowest", of=SECONDS, scale=3)),
        ({SECONDS: "0.1"}, {}),
        ({SECONDS: "0.1"}, {}),
        ({SECONDS: "0.1"}, {}),
        ({SECONDS: "12"}, {"key": "k2"}),
    )
    assert usage.cells[HOUR, "k1"].quantities() == {"seconds": 300, "slowest": 100}
    assert usage.cells[HOUR, "k2"].quantities() == {"seconds": 12_000, "slowest": 12_000}


def test_a_maximum_is_the_hours_highest_value() -> None:
    """Over like and unlike requests, of those that the metric bills."""
    usage = measured(
        (Max(name="largest", of="response_length", methods=("GET",)),),
        ({}, {"response_length": 5}),
        ({}, {"response_length": 9, "resource": "/other"}),
        ({}, {"response_length": 7}),
        ({}, {"response_length": "-"}),
        ({}, {"response_length": 1000, "method": "POST"}),
        ({}, {"response_length": 3, "time": (HOUR.number + 1) * 3_600_000}),
    )
    assert usage.cells[HOUR, "k1"].peaks == {"largest": 9}
    assert usage.cells[HOUR.next(), "k1"].peaks == {"largest": 3}


def test_a_peak_of_nothing_is_no_peak() -> None:
    """It would cost a write for each key and batch, and say nothing."""
    usage = measured(
        (Count(name="requests"), Max(name="seats", of="authorizer.seats")), ({}, {}), ({"authorizer.seats": "0"}, {})
    )
    assert only(usage) == Amounts(sums={"requests": 2})


def test_the_distinct_values_of_each_hour_and_key_are_seen() -> None:
    """Which of them are new in the month is for the claims to say."""
    usage = measured(
        (Unique(name="users", of=USER, opaque_id=True), Unique(name="active_keys", of="key")),
        ({USER: "ann"}, {}),
        ({USER: "ann"}, {"resource": "/other"}),
        ({USER: "bob"}, {}),
        ({USER: "ann"}, {"key": "k2"}),
        ({USER: "-"}, {"key": "k3"}),
        ({USER: ""}, {"key": "k3"}),
        ({USER: "cid"}, {"status": 404}),
        ({USER: "dan"}, {"key": "-"}),
    )
    assert {key: seen for (_, key), seen in usage.seen.items()} == {
        "k1": {"users": {"ann", "bob"}, "active_keys": {"k1"}},
        "k2": {"users": {"ann"}, "active_keys": {"k2"}},
        "k3": {"active_keys": {"k3"}},
    }
    assert not any(usage.cells.values())


def test_metrics_of_usage_lines_measure_no_request() -> None:
    """Their numbers are in another log."""
    usage = measured((Sum(name="tokens", of=USAGE_LINES), Max(name="stored", of=USAGE_LINES)), ({}, {}))
    assert not any(usage.cells.values())
    assert usage.unbilled == {"no metric bills such a request": 1}


# --- splits -----------------------------------------------------------------------------------------------------------


def test_a_split_says_how_a_total_came_about() -> None:
    """By a field, by a class of statuses, by a variable; the total stands beside it."""
    usage = measured(
        (
            Count(name="by_resource", by="resource"),
            Count(name="by_class", by="status_class", statuses=("2xx", "4xx")),
            Sum(name="by_plan", of="response_length", by=PLAN),
            Count(name="by_method", by="method", methods=("PUT",)),
        ),
        ({PLAN: "free"}, {}),
        ({PLAN: "free"}, {"status": 404}),
        ({PLAN: "pro"}, {"status": 201, "resource": "/other"}),
        ({PLAN: "-"}, {}),
        ({}, {}),
        ({PLAN: ""}, {}),
    )
    assert only(usage).sums == {"by_resource": 5, "by_class": 6, "by_plan": 50}
    assert only(usage).splits == {
        "by_resource": {"/items": 4, "/other": 1},
        "by_class": {"2xx": 5, "4xx": 1},
        "by_plan": {"free": 10, "pro": 10, "-": 30},
    }


def test_usage_is_told_apart_by_api_and_stage() -> None:
    """Several APIs count into one deployment; a split shows them by name, a filter takes some alone."""
    usage = measured(
        (
            Count(name="by_api", by="api"),
            Count(name="by_stage", by="stage", meters=("v1",)),
            Count(name="orders", apis=("orders",)),
            Sum(name="new", of="response_length", stages=("v2",), by="method"),
        ),
        ({}, {"api_id": "orders"}),
        ({}, {"api_id": "orders", "stage": "v2", "method": "POST"}),
        ({}, {"api_id": "carts", "stage": "$default"}),
    )
    assert only(usage).sums == {"by_api": 3, "by_stage_v1": 1, "by_stage_other": 2, "orders": 2, "new": 10}
    assert only(usage).splits == {"by_api": {"orders": 2, "carts": 1}, "new": {"POST": 10}}


def test_apis_and_stages_are_looked_at_only_where_a_metric_asks_for_them() -> None:
    """A group of like records is what costs: two stages' are one where nobody tells them apart."""
    records = [record(Declared(), api_id=api, stage=stage) for api in ("a", "b") for stage in ("v1", "v2")]
    groups = []
    for metric in (Count(name="n"), Count(name="n", by="api"), Count(name="n", apis=("a",), stages=("v1",))):
        tally = Tally([metric], Declared())
        tally.add(records)
        groups.append(sum(map(len, tally._hours.values())))
    assert groups == [1, 2, 4]


def test_what_adds_nothing_has_no_value_in_a_split() -> None:
    """A counter holds no zeros."""
    usage = measured(
        (Count(name="requests"), Sum(name="messages", of=MESSAGES, by="resource")),
        ({MESSAGES: "5"}, {}),
        ({MESSAGES: "0"}, {"resource": "/none"}),
    )
    assert only(usage).splits == {"messages": {"/items": 5}}


def test_a_value_too_long_for_a_counter_stands_under_other() -> None:
    """64 bytes are kept, whatever the letters."""
    plans = ("p" * 64, "q" * 65, "\U0001f600" * 16, "\U0001f600" * 17)
    usage = measured((Count(name="requests", by=PLAN),), *(({PLAN: plan}, {}) for plan in plans))
    assert only(usage).splits == {"requests": {"p" * 64: 1, "\U0001f600" * 16: 1, "other": 2}}


def test_each_declared_value_is_billed_by_a_meter_of_its_own() -> None:
    """And all the others by one; nothing is billed twice, so there is no total beside them."""
    usage = measured(
        (Count(name="calls", by=PLAN, meters=("free", "Pro Plus")), Sum(name="bytes", of="response_length", by=PLAN)),
        ({PLAN: "free"}, {}),
        ({PLAN: "Pro Plus"}, {}),
        ({PLAN: "pro_plus"}, {}),
        ({PLAN: "other"}, {}),
        ({PLAN: "-"}, {}),
    )
    assert only(usage).sums == {"calls_free": 1, "calls_pro_plus": 1, "calls_other": 3, "bytes": 50}
    assert only(usage).splits.keys() == {"bytes"}


def many(count: int, *, first: int = 0, weight: int = 1) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Return a request for each of many plans."""
    return [({PLAN: f"plan{n:03}"}, {}) for n in range(first, first + count) for _ in range(weight)]


SPLIT: tuple[Metric, ...] = (Count(name="requests", by=PLAN),)


def test_fifty_values_are_kept_and_the_rest_stands_under_other() -> None:
    """The largest are kept; the total is what it was."""
    amounts = only(measured(SPLIT, *many(60), *many(20, first=40)))
    kept = amounts.splits["requests"]
    assert MOST_VALUES == 50
    assert len(kept) == 51
    assert kept[OTHER] == 10
    assert {f"plan{n:03}": 2 for n in range(40, 60)}.items() <= kept.items()
    assert amounts.sums == {"requests": 80}
    assert sum(kept.values()) == 80


def test_exactly_fifty_values_need_no_other() -> None:
    """The bound is inclusive."""
    assert len(only(measured(SPLIT, *many(50))).splits["requests"]) == 50


def test_what_was_capped_is_kept_when_it_is_capped_again() -> None:
    """Fifty values and 'other' are within the bound: closing puts together what was capped before."""
    amounts = only(measured(SPLIT, *many(60)))
    before = dict(amounts.splits["requests"])
    amounts.cap_splits()
    assert amounts.splits["requests"] == before


def test_a_value_that_is_called_other_is_not_lost() -> None:
    """It stands with those that have no place of their own."""
    amounts = only(measured(SPLIT, ({PLAN: "other"}, {}), *many(60, weight=2)))
    assert amounts.splits["requests"][OTHER] == 21
    assert len(amounts.splits["requests"]) == 51


@given(st.lists(st.dictionaries(st.integers(0, 80), st.integers(1, 5), max_size=70), max_size=4))
def test_putting_capped_splits_together_never_changes_the_total(parts: list[dict[int, int]]) -> None:
    """I5: over slots and keys, each capped before and all of them after."""
    together = Amounts()
    for part in parts:
        one = Amounts({"requests": sum(part.values())}, splits={"requests": {f"v{n}": m for n, m in part.items()}})
        one.cap_splits()
        together.include(one)
    together.cap_splits()
    split = together.splits.get("requests", {})
    assert sum(split.values()) == sum(sum(part.values()) for part in parts)
    assert len(split.keys() - {OTHER}) <= 50


# --- the law ----------------------------------------------------------------------------------------------------------

EVERYTHING: tuple[Metric, ...] = (
    Count(name="requests", by="resource"),
    Sum(name="messages", of=MESSAGES, scale=1, by=PLAN),
    Sum(name="calls", of="response_length", by=PLAN, meters=("free",)),
    Unique(name="users", of=USER, opaque_id=True, methods=("GET",)),
    Unique(name="active_keys", of="key"),
    Max(name="most", of=MESSAGES, scale=1),
    Max(name="largest", of="response_length", statuses=("2xx", "4xx")),
    Count(name="orders", apis=("orders", "carts"), by="api"),
    Count(name="second", stages=("v2",), methods=("GET",)),
)
LOG = declared(EVERYTHING)
RECORDS = st.builds(
    lambda changes, values: record(LOG, values, **changes),
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["k1", "k2", "-"]),
            "status": st.sampled_from([200, 301, 404, 500]),
            "method": st.sampled_from(["GET", "POST"]),
            "resource": st.sampled_from(["/items", "/items/{id}"]),
            "api_id": st.sampled_from(["orders", "carts", "a1b2c3d4e5"]),
            "stage": st.sampled_from(["v1", "v2"]),
            "response_length": st.integers(0, 10**12) | st.just("-"),
            "time": st.sampled_from([HOUR.number * 3_600_000 + offset for offset in (-1, 0, 1, 3_599_999, 3_600_000)]),
        }
    ),
    st.fixed_dictionaries(
        {
            MESSAGES: st.sampled_from(["-", "0", "0.5", "100", "100000000000"]),
            PLAN: st.sampled_from(["free", "pro", "-"]),
            USER: st.sampled_from(["ann", "bob", "-", ""]),
        }
    ),
)


def all_of(usages: list[Usage]) -> tuple[Any, ...]:
    """Return what several batches add up to."""
    cells: dict[Any, Amounts] = {}
    seen: dict[Any, set[str]] = {}
    for usage in usages:
        for where, amounts in usage.cells.items():
            cells.setdefault(where, Amounts()).include(amounts)
        for where, metrics in usage.seen.items():
            for metric, values in metrics.items():
                seen.setdefault((where, metric), set()).update(values)
    return (
        {where: (amounts.quantities(), amounts.splits) for where, amounts in cells.items() if amounts},
        {where: values for where, values in seen.items() if values},
        sum(usage.billed for usage in usages),
        sum((usage.unbilled for usage in usages), Counter()),
    )


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=30), st.randoms(use_true_random=False))
def test_adding_up_is_independent_of_order_and_of_batches(records: list[AccessRecord], random: Random) -> None:
    """I2, I3: sums, peaks, distinct values and splits; and of the pieces in which a batch is read."""
    whole = all_of([measure(records, EVERYTHING, LOG)])
    shuffled = [*records]
    random.shuffle(shuffled)
    cuts = sorted(random.choices(range(len(records) + 1), k=3))
    parts = [shuffled[start:end] for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True)]
    assert all_of([measure(part, EVERYTHING, LOG) for part in parts]) == whole
    tally = Tally(EVERYTHING, LOG)
    for part in parts:
        tally.add(part)
    assert all_of([tally.usage()]) == whole
    assert tally.oldest == min((one.time for one in records), default=None)


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=30))
def test_every_metric_agrees_with_a_straight_count(records: list[AccessRecord]) -> None:
    """I1, I3: one record at a time, by the plainest code."""
    usage = measure(records, EVERYTHING, LOG)
    for hour in (Hour(HOUR.number - 1), HOUR, HOUR.next()):
        for key in ("k1", "k2"):
            mine = [one for one in records if one.key == key and one.time // 3_600_000 == hour.number]
            good = [one for one in mine if one.status in {200, 301}]
            lengths = {one: one.response_length for one in mine if one.response_length != "-"}
            free = [int(lengths.get(one, 0)) for one in good if getattr(one, LOG.attribute(PLAN)) == "free"]
            rest = [int(lengths.get(one, 0)) for one in good if getattr(one, LOG.attribute(PLAN)) != "free"]
            messages = [
                0 if text == "-" else int(float(text) * 10)
                for one in good
                if (text := getattr(one, LOG.attribute(MESSAGES)))
            ]
            expected = {
                "requests": len(good),
                "messages": sum(messages),
                "calls_free": sum(free),
                "calls_other": sum(rest),
                "most": max(messages, default=0),
                "orders": sum(one.api_id != "a1b2c3d4e5" for one in good),
                "second": sum(one.stage == "v2" and one.method == "GET" for one in good),
                "largest": max((int(lengths.get(one, 0)) for one in mine if one.status in {200, 404}), default=0),
            }
            found = usage.cells.get((hour, key), Amounts()).quantities()
            assert {name: n for name, n in found.items() if n} == {name: n for name, n in expected.items() if n}
            users = {getattr(one, LOG.attribute(USER)) for one in good if one.method == "GET"} - {"-", ""}
            seen = usage.seen.get((hour, key), {})
            assert seen.get("users", set()) == users
            assert seen.get("active_keys", set()) == ({key} if good else set())


@pytest.mark.parametrize("offset", [-1, 0])
def test_a_piece_over_the_end_of_an_hour_is_parted(offset: int) -> None:
    """I3: the hour's last millisecond is its own, the next one is not."""
    log = declared(EVERYTHING)
    tally = Tally((Count(name="requests"),), log)
    end = HOUR.next().number * 3_600_000
    tally.add([record(log, time=end - 2), record(log, time=end + offset), record(log, time=end - 1)])
    sums = {hour: amounts.sums["requests"] for (hour, _), amounts in tally.usage().cells.items()}
    assert sums == ({HOUR: 3} if offset < 0 else {HOUR: 2, HOUR.next(): 1})

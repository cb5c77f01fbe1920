"""Usage lines: one object of JSON is the whole interface, and what is meant as one is counted or set aside."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.model.access_log import Partly, Rejected
from metering.model.metrics import USAGE_LINES, Count, Max, Metric, Sum
from metering.model.periods import Hour
from metering.model.usage_lines import Report, UsageLineReader, measure_reports

HOUR = Hour.parse("2026-11-22T05")
NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
NOW_MS = 1795325400000
METRICS: tuple[Metric, ...] = (
    Count(name="requests"),
    Sum(name="bytes", of="response_length"),
    Sum(name="tokens", of=USAGE_LINES),
    Sum(name="minutes", of=USAGE_LINES, scale=1),
    Sum(name="jobs", of=USAGE_LINES, deduplicate=True),
    Max(name="stored", of=USAGE_LINES, scale=3),
)
READER = UsageLineReader(NOW, METRICS)
GOOD = {"id": "job-17", "time": "2026-11-22T05:17:00Z", "customer": "acme", "tokens": 1250}
NUMBERS = "['jobs', 'minutes', 'stored', 'tokens']"


def line(**changes: Any) -> str:
    """Return a good usage line with some fields changed; None takes a field out."""
    return json.dumps({"usage": {name: value for name, value in (GOOD | changes).items() if value is not None}})


def number(text: str, metric: str = "tokens") -> str:
    """Return a usage line whose number is written so."""
    return line(tokens=None).replace("}}", f', "{metric}": {text}}}}}')


def read(text: str) -> Report:
    """Read a line that is good."""
    found = READER.read(text)
    assert isinstance(found, Report), found
    return found


def reason(text: str) -> str:
    """Return why a line was set aside."""
    found = READER.read(text)
    assert isinstance(found, Rejected), found
    assert found.line == text
    return found.reason


def test_a_usage_line_says_who_used_how_much_and_when() -> None:
    """I3: a customer stands in the counters behind a sign that no key's id holds."""
    assert read(line()) == Report("job-17", HOUR, "@acme", {"tokens": 1250}, NOW_MS - 13 * 60_000)
    assert read(line(customer=None, key="k-1_a")).source == "k-1_a"
    assert read(line(tokens=None, minutes=2, stored=7, jobs=1)).amounts == {"minutes": 20, "stored": 7000, "jobs": 1}


def test_other_fields_beside_the_usage_object_are_nobodys_business() -> None:
    """A logger adds its own."""
    assert read(json.dumps({"level": "INFO", "message": "done", **json.loads(line()), "requestId": "r"})) == read(
        line()
    )
    assert read(f"  {line()}\n") == read(line())


@pytest.mark.parametrize(
    "text",
    ["", "usage", "START RequestId: 1 usage", "{", "[]", "7", "null", '"usage"', "{}", '{"level":"INFO"}',
     '{"usage":7}', '{"usage":"high"}', '{"usage":[1]}', '{"usage":null}', '{"message":"usage: {}"}',
     '[{"usage":{}}]', '{"data":{"usage":{"id":"x"}}}', '{"level":"INFO","us":{"id":"cut o',
     "\ud800", '{"level":' + "[" * 100_000],
)  # fmt: skip
def test_a_line_that_is_no_usage_line_is_none_of_our_business(text: str) -> None:
    """The subscription's filter is a plain term, so anything may come with it."""
    assert READER.read(text) is None


@pytest.mark.parametrize(
    ("time", "moment"),
    [
        ("2026-11-22T05:17:00Z", NOW_MS - 13 * 60_000),
        ("2026-11-22T05:17:00.250+00:00", NOW_MS - 13 * 60_000 + 250),
        ("2026-11-22T06:17:00+01:00", NOW_MS - 13 * 60_000),
        ("2026-11-21T20:17:00-09:00", NOW_MS - 13 * 60_000),
        ("2026-11-22T05:59:59.999999Z", None),
        ("2026-11-22T04:59:59.999999Z", NOW_MS - 30 * 60_000 - 1),
        (NOW_MS - 13 * 60_000, NOW_MS - 13 * 60_000),
        (NOW_MS + 5 * 60_000, NOW_MS + 5 * 60_000),
        (NOW_MS - 60 * 86_400_000, NOW_MS - 60 * 86_400_000),
        (str(NOW_MS), NOW_MS),
        (float(NOW_MS), NOW_MS),
        (NOW_MS - 0.75, NOW_MS - 1),
        ("1.7953254E12", NOW_MS),
        ("2026-11-22T05:17:00.250999999Z", NOW_MS - 13 * 60_000 + 250),
        ("2026-11-22T05:17:00.000400+00:00:01.000800", NOW_MS - 13 * 60_000 - 1001),
    ],
)
def test_a_time_is_a_moment_with_its_zone_or_milliseconds(time: str | int, moment: int | None) -> None:
    """I3: the hour is that of the moment in UTC; half an hour ahead is not believed."""
    if moment is None:
        assert "over 5 minutes ahead" in reason(line(time=time))
        return
    found = read(line(time=time))
    assert (found.moment, found.time, found.hour) == (moment, moment, Hour.of_epoch_ms(moment))


@pytest.mark.parametrize(
    ("time", "why"),
    [
        ("2026-11-22T05:17:00", "time must be a moment such as '2026-11-22T05:17:00Z'"),
        ("2026-11-22", "time must be a moment such as"),
        ("yesterday", "or milliseconds since 1970, got 'yesterday'"),
        ("0001-01-01T00:00:00+14:00", "over 60 days before"),
        ("9999-12-31T23:59:59-12:00", "over 5 minutes ahead"),
        (True, "time must be a moment such as"),
        (1795325400.5, "time must be milliseconds since 1970, got 1795325400.5, which looks like seconds"),
        ("1795325400", "time must be milliseconds since 1970, got '1795325400', which looks like seconds"),
        ([], "time must be a moment such as '2026-11-22T05:17:00Z' or milliseconds since 1970, got a list"),
        ({"a": 1}, "or milliseconds since 1970, got an object"),
        (None, "time must be a moment such as '2026-11-22T05:17:00Z' or milliseconds since 1970, got None"),
        (NOW_MS // 1000, "time must be milliseconds since 1970, got 1795325400, which looks like seconds"),
        (0, "over 60 days before"),
        (-1, "over 60 days before"),
        (10**30, "time must not be over 5 minutes ahead of 2026-11-22T05:30:00Z"),
        (NOW_MS + 5 * 60_000 + 1, "over 5 minutes ahead of 2026-11-22T05:30:00Z, got 1795325700001"),
        (NOW_MS - 60 * 86_400_000 - 1, "over 60 days before 2026-11-22T05:30:00Z, got 1790141399999"),
    ],
)
def test_a_time_that_is_no_moment_or_not_believed_sets_the_line_aside(time: object, why: str) -> None:
    """I1: a reason shows a value as it is written in the line."""
    assert why in reason(line(time=time))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": None}, "usage: id must be a string of 1 to 128 printable characters, got None"),
        ({"id": ""}, "usage: id must be a string of 1 to 128 printable characters, got ''"),
        ({"id": 17}, "usage: id must be a string of 1 to 128 printable characters, got 17"),
        ({"id": "a\nb"}, "usage: id must be a string of 1 to 128 printable characters, got 'a\\nb'"),
        ({"id": "\ud800"}, "usage: id must be a string of 1 to 128 printable characters, got '\\ud800'"),
        ({"id": "x" * 129}, "usage: id must be a string of 1 to 128 printable characters, got 'xxx"),
        ({"customer": None}, "usage: exactly one of key and customer must say who used it"),
        ({"key": "k1"}, "usage: exactly one of key and customer must say who used it"),
        ({"customer": "a" * 129}, "usage: customer must be 1 to 128 printable characters, no space around them"),
        ({"customer": "acme\n"}, "usage: customer must be 1 to 128 printable characters"),
        (
            {"customer": 7},
            "usage: customer must be 1 to 128 printable characters, no space around them, not '-', got 7",
        ),
        ({"customer": None, "key": "-"}, "usage: key must be 1 to 128 printable characters"),
        ({"customer": None, "key": " k1"}, "usage: key must be 1 to 128 printable characters"),
        (
            {"customer": None, "key": ""},
            "usage: key must be 1 to 128 printable characters, no space around them, not '-', got ''",
        ),
        ({"tokens": None}, f"usage: no metric is named: write one of {NUMBERS}"),
        ({"tokens": None, "toknes": 1}, f"usage: 'toknes' is none of the metrics of usage lines: {NUMBERS}"),
        ({"tokens": None, "requests": 1}, f"usage: 'requests' is none of the metrics of usage lines: {NUMBERS}"),
        ({"tokens": None, "bytes": 1}, f"usage: 'bytes' is none of the metrics of usage lines: {NUMBERS}"),
        ({"tokens": "12 50"}, "usage: tokens must be a whole number from 0 to 10^12, got '12 50'"),
        ({"tokens": "-"}, "usage: tokens must be a number, got '-'"),
        ({"tokens": ""}, "usage: tokens must be a number, got ''"),
        ({"tokens": True}, "usage: tokens must be a number, got True"),
        ({"tokens": [1]}, "usage: tokens must be a number, got a list"),
        ({"tokens": {}}, "usage: tokens must be a number, got an object"),
    ],
)
def test_a_malformed_usage_object_is_set_aside_with_what_was_got_and_wanted(changes: dict[str, Any], why: str) -> None:
    """I1: without its id, its time, who used it or any number, nothing of a line counts."""
    assert reason(line(**changes)).startswith(why)


@pytest.mark.parametrize(
    ("written", "metric", "wanted"),
    [
        ("0", "tokens", 0),
        ("1000000000000", "tokens", 10**12),
        ("1e3", "tokens", 1000),
        ("1.000", "tokens", 1),
        ("1.5", "minutes", 15),
        ("1.50", "minutes", 15),
        ("1.5e1", "minutes", 150),
        ("15e-1", "minutes", 15),
        ("100000000000", "minutes", 10**12),
        ("0.001", "stored", 1),
        ("0.1", "stored", 100),
        ("0e400", "tokens", 0),
        ('"1250"', "tokens", 1250),
        ('"1.50"', "minutes", 15),
        ('"1.2e+06"', "tokens", 1_200_000),
    ],
)
def test_a_number_is_the_whole_multiple_of_its_scale(written: str, metric: str, wanted: int) -> None:
    """Decimals are read as decimals: 0.1 is a tenth. Any spelling will do, and loggers make texts of numbers."""
    assert read(number(written, metric)).amounts == {metric: wanted}


@pytest.mark.parametrize(
    ("written", "metric", "why"),
    [
        ("1.5", "tokens", "usage: tokens must be a whole number from 0 to 10^12, got 1.5"),
        ("1.55", "minutes", "usage: minutes must be a number with at most 1 decimals from 0 to 10^11, got 1.55"),
        ("0.0001", "stored", "usage: stored must be a number with at most 3 decimals from 0 to 10^9, got 0.0001"),
        ("-1", "tokens", "usage: tokens must be a whole number from 0 to 10^12, got -1"),
        ("-0.1", "minutes", "usage: minutes must be a number with at most 1 decimals"),
        ("1000000000001", "tokens", "usage: tokens must be a whole number from 0 to 10^12, got 1000000000001"),
        ("100000000000.1", "minutes", "usage: minutes must be a number with at most 1 decimals from 0 to 10^11"),
        ("1e13", "tokens", "usage: tokens must be a whole number from 0 to 10^12, got 1e13"),
        ("1e400", "tokens", "usage: tokens must be a whole number"),
        ("1e-400", "minutes", "usage: minutes must be a number with at most 1 decimals"),
        ("1e999999999", "tokens", "usage: tokens must be a whole number"),
        ("9" * 30, "tokens", "usage: tokens must be a whole number"),
        ("null", "tokens", "usage: tokens must be a number, got None"),
    ],
)
def test_a_number_that_cannot_be_counted_sets_the_line_aside(written: str, metric: str, why: str) -> None:
    """I1, I7: nothing is rounded, nothing lowers a bill, nothing fails the batch."""
    assert reason(number(written, metric)).startswith(why)


def test_a_number_of_thousands_of_digits_is_set_aside_quickly() -> None:
    """I1: it is looked at as it is spelled."""
    assert reason(number("9" * 100_000)).startswith("usage: tokens must be a whole number from 0 to 10^12, got 99999")


@settings(deadline=None)
@given(st.decimals(0, 10**9, places=3), st.sampled_from(["f", "e"]))
def test_a_decimal_is_stored_exactly_however_it_is_written(value: Decimal, form: str) -> None:
    """Quantities are whole numbers, never floats."""
    assert read(number(format(value, form), "stored")).amounts == {"stored": int(value * 1000)}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*GOOD, "key", "minutes", "other"]), ANYTHING, max_size=6))
def test_any_usage_object_is_read_or_set_aside(usage: dict[str, Any]) -> None:
    """I1: no line raises, and what is meant as a usage line is never ignored."""
    assert isinstance(READER.read(json.dumps({"usage": GOOD | usage})), Report | Partly | Rejected)
    assert READER.read(json.dumps({"usage": {"customer": "acme"} | usage})) is not None


# --- what one metric cannot read --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "amounts", "metrics", "why"),
    [
        ({"jobs": -1}, {"tokens": 1250}, ("jobs",), "usage: jobs must be a whole number from 0 to 10^12, got -1"),
        (
            {"note": "hi"},
            {"tokens": 1250},
            ("note",),
            f"usage: 'note' is none of the metrics of usage lines: {NUMBERS}",
        ),
        ({"minutes": 0.25, "stored": 2}, {"tokens": 1250, "stored": 2000}, ("minutes",), "usage: minutes must be"),
        (
            {"jobs": True, "b": 1, "a": 1},
            {"tokens": 1250},
            ("a", "b", "jobs"),
            "usage: jobs must be a number, got True; ",
        ),
        ({"\ud800": 1}, {"tokens": 1250}, ("\\ud800",), "usage: '\\\\ud800' is none of the metrics"),
    ],
)
def test_a_value_that_one_metric_cannot_read_costs_that_metric_alone(
    changes: dict[str, Any], amounts: dict[str, int], metrics: tuple[str, ...], why: str
) -> None:
    """I1: the others count, and the line is set aside for what does not, also for a metric that is declared later."""
    found = READER.read(line(**changes))
    assert isinstance(found, Partly)
    assert found.good == Report("job-17", HOUR, "@acme", amounts, NOW_MS - 13 * 60_000)
    assert (found.bad.line, found.bad.metrics) == (line(**changes), metrics)
    assert found.bad.reason.startswith(why)


def test_of_many_faults_three_are_told() -> None:
    """A reason is read by people."""
    found = READER.read(line(**{f"m{number}": number for number in range(96)}))
    assert isinstance(found, Partly)
    assert len(found.bad.metrics) == 96
    assert found.bad.reason.endswith("; and 93 more")
    assert len(found.bad.reason) < 500


def test_an_object_of_more_than_a_hundred_fields_is_set_aside_whole() -> None:
    """I10: what is kept of a line is bounded, so that its next delivery costs no more than its first."""
    found = READER.read(line(**{f"m{number}": number for number in range(20_000)}))
    assert isinstance(found, Rejected)
    assert found.reason == "usage: a usage object must have at most 100 fields, got 20004"
    assert found.metrics == ()


def test_a_line_that_waits_for_some_metrics_is_read_for_these_alone() -> None:
    """I2: what of it has counted is not read again, and what is wrong elsewhere is no reason."""
    text = line(jobs=-1, minutes=2, later=7)
    read_for = UsageLineReader(NOW, (*METRICS, Sum(name="later", of=USAGE_LINES)), ("later", "jobs")).read(text)
    assert isinstance(read_for, Partly)
    assert (read_for.good.amounts, read_for.bad.metrics) == ({"later": 7}, ("jobs",))
    found = UsageLineReader(NOW, METRICS, ("jobs",)).read(text)
    assert isinstance(found, Rejected)
    assert (found.metrics, found.reason) == ((), "usage: jobs must be a whole number from 0 to 10^12, got -1")
    assert READER.measured == ["tokens", "minutes", "jobs", "stored"]


def test_an_object_that_names_a_field_twice_is_set_aside_whole() -> None:
    """I7: nobody can say which was meant."""
    twice = line().replace('"tokens"', '"customer": "globex", "tokens"')
    assert reason(twice) == "usage: 'customer' stands there twice"
    assert reason(number('1, "tokens": 1')) == "usage: 'tokens' stands there twice"


# --- adding up --------------------------------------------------------------------------------------------------------


def test_reports_add_up_by_hour_and_source() -> None:
    """I3: sums are added, the highest is kept, and a customer is not a key of the same name."""
    usage = measure_reports(
        [
            read(line(tokens=5, stored=2)),
            read(line(tokens=7, stored=1.5)),
            read(line(tokens=1, time="2026-11-22T04:17:00Z")),
            read(line(tokens=2, customer=None, key="acme")),
            read(line(tokens=0, minutes=0, customer="globex")),
        ],
        METRICS,
    )
    assert {where: amounts.quantities() for where, amounts in usage.cells.items()} == {
        (HOUR, "@acme"): {"tokens": 12, "stored": 2000},
        (Hour(HOUR.number - 1), "@acme"): {"tokens": 1},
        (HOUR, "acme"): {"tokens": 2},
    }
    assert usage.billed == 5


def test_what_counts_once_per_id_is_kept_apart() -> None:
    """I2: the first line of an id and source stands for it; the line's other numbers count each time."""
    usage = measure_reports(
        [
            read(line(jobs=1, tokens=5)),
            read(line(jobs=3, tokens=5)),
            read(line(jobs=1, tokens=None, customer="globex")),
            read(line(id="job-18", jobs=1, tokens=None)),
        ],
        METRICS,
    )
    assert usage.once == {
        ("jobs", "@acme", "job-17"): (HOUR, 1),
        ("jobs", "@globex", "job-17"): (HOUR, 1),
        ("jobs", "@acme", "job-18"): (HOUR, 1),
    }
    assert usage.cells[HOUR, "@acme"].quantities() == {"tokens": 10}

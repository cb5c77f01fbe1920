"""Every benchmark runs, at its smallest size, and tells what it always told; no time is looked at here."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from infra.stack import limiting
from metering.portal.uniques import MOST_QUERIES
from metering.stores.claims import SHARDS
from tests.benchmarks import bench, watched_hour
from tests.benchmarks.bench import BENCHMARKS, Benchmark, Machine
from tests.benchmarks.cost import ALARMS, LIMITS_ALARMS
from tests.benchmarks.recorded_calls import Call, Recorded, transaction_units
from tests.conftest import ROOT, cannot_run
from tests.doubles.template import Template, of_type

IN_TURNS: Final = ("ratio_to_floor", "floor_ms", "ms", "records_per_s_per_core")
CASE: Final = ("batch", "units_per_1000_requests", "ratio_to_floor")
UNIQUE: Final = (*CASE, "new_values", "units_per_new_value", "read_units_per_1000_requests")
HANDLERS: Final = (
    "record_usage",
    "close_periods",
    "post_usage",
    "reconcile_usage",
    "receive_events",
    "check_completeness",
    "show_usage",
    "watch_limits",
    "enforce_limits",
    "set_budget",
    "authorize_calls",
)
COLD_START: Final = (
    "ratio_to_floor",
    "cpu_ms",
    "floor_cpu_ms",
    "ms",
    "floor_ms",
    "peak_rss_mb",
    "floor_peak_rss_mb",
    "third_party_modules",
    "clients",
)
HOUR: Final = (
    "seconds",
    "close_seconds",
    "post_seconds",
    "totals_posted",
    "rss_mb.close_periods",
    "rss_mb.post_usage",
    "rss_growth_mb.close_periods",
    "rss_growth_mb.post_usage",
    "cpu_seconds.close_periods",
    "cpu_seconds.post_usage",
    "cpu_seconds.local_stripe",
    "cpu_seconds.dynamodb_local",
)
BUSY: Final = ("cpu_seconds", "rss_mb", "rss_growth_mb", "sampled")
READ: Final = (
    "compute_ms",
    "floor_ms",
    "own_ms",
    "ratio_to_floor",
    "closed_ms",
    "time_ms",
    "plain_rows_ms",
    "calls",
    "units.BatchGetItem of ledger",
    "units.GetItem of ledger",
    "units.Query of counters",
    "units.Query of ledger",
    "closed_units",
    "first.calls",
    "first.units",
)
REDRIVE: Final = (
    "cpu_ms_per_line",
    "floor_ms_per_line",
    "ratio_to_floor",
    "writes_per_line",
    "runs",
    "object_mb",
    "notes_mb",
    "rss_growth_mb",
)
WITHOUT_DISTINCT: Final = ("compute_ms", "floor_ms", "own_ms", "time_ms", "calls")
DISTINCT: Final = ("keys", "shown", "calls", "claims_calls", "claims_units")
ROW: Final = (
    "road",
    "requests_per_s",
    "usd_per_million",
    "transport_usd_per_million",
    "items.lambda_requests",
    "items.lambda_compute",
    "items.dynamodb_writes",
    "items.dynamodb_reads",
    "items.s3_requests",
    "items.own_logs",
    "items.closing",
    "items.custom_metrics",
    "items.sqs_requests",
    "items.sqs_polling",
    "lines_at_once",
    "cpu_ms_at_once",
    "writes_at_once",
    "own_log_bytes_at_once",
    "usd_per_million_with_a_tenth_at_once",
)
LIMITS_IDLE: Final = ("lambda", "dynamodb", "own_logs", "scheduler", "sqs_polling", "alarms", "total")
IDLE_FREE: Final = ("dynamodb", "metrics_asked_for", "secrets", "alarms", "total")
IDLE: Final = (*IDLE_FREE, "lambda", "own_logs", "scheduler", "custom_metrics")
RUN: Final = ("cpu_ms", "write_units", "read_units")
WATCHING: Final = (
    "lambda_requests",
    "lambda_compute",
    "dynamodb_reads",
    "dynamodb_writes",
    "scheduler",
    "own_logs",
    "sqs_polling",
)


def per(unit: str) -> tuple[str, ...]:
    """Return what is told of each customer, total or key."""
    figures = ("cpu_ms", "floor_cpu_ms", "calls", "read_units", "write_units")
    return ("ratio_to_floor", *(f"{figure}_per_{unit}" for figure in figures))


KEYS: Final[Mapping[str, set[str]]] = {
    "count_batch": {
        "ratio_to_floor",
        "records_per_s_per_core",
        "peak_rss_mb",
        "records",
        "keys",
        "metrics",
        *(f"subscription.{key}" for key in IN_TURNS),
        *(f"firehose.{key}" for key in IN_TURNS),
    },
    "write_cost": {
        "ratio_to_floor",
        "fewer_than_one_update_per_line_at_10000",
        "units_per_new_value",
        "requests",
        "keys",
        *(f"count_and_sum.{key}" for key in CASE),
        *(f"grouped.{key}" for key in CASE),
        *(f"unique.{key}" for key in UNIQUE),
        "sustained_units_per_batch.1000",
        "sustained_units_per_batch.5000",
        "sustained_units_per_batch.15000",
        "one_update_per_line_units_per_1000_requests",
        "marker_and_add_units_per_1000_requests.100",
        "marker_and_add_units_per_1000_requests.1000",
        "marker_and_add_units_per_1000_requests.10000",
    },
    "hot_key": {
        "ratio_to_spread",
        "conflicts",
        "lost",
        "busiest_partition_units_per_s",
        "batches",
        "at_once",
        "rounds",
        "one_key_ms",
        "many_keys_ms",
        "lines_per_batch",
        "busiest_partition_units_per_s_by_lines_per_batch.25",
        "busiest_partition_units_per_s_by_lines_per_batch.100",
        "busiest_partition_units_per_s_by_lines_per_batch.1000",
        "busiest_partition_units_per_s_by_lines_per_batch.20000",
    },
    "cold_start": {
        "ratio_to_floor",
        "runs",
        *(f"handlers.{handler}.{key}" for handler in HANDLERS for key in COLD_START),
        "targets.show_usage",
        "pydantic.handler",
        "pydantic.cpu_ms",
        "pydantic.share_of_floor",
        "pydantic.peak_rss_mb",
        "pydantic.modules",
    },
    "close": {
        "customers",
        "with_two_keys",
        "workers",
        "sampled",
        "limit_seconds",
        "ratio_to_limit",
        "stream_ratio_to_limit",
        "post_ratio_to_limit",
        "stream_post_ratio_to_limit",
        "rss_mb",
        "rss_growth_mb",
        "calls_per_row",
        "bound",
        *(f"closing.{keys}.{key}" for keys in ("one_key", "two_keys") for key in per("customer")),
        *(f"posting.{way}.{key}" for way in ("by_call", "by_stream") for key in per("total")),
        "needed.customers",
        "needed.metrics",
        "needed.seconds",
        "needed.share_of_a_core.close_periods",
        "needed.share_of_a_core.post_usage",
        "needed.closers_needed.one_key",
        "needed.closers_needed.two_keys",
        "needed.workers_needed.by_call",
        "needed.workers_needed.by_stream",
        *(f"{hour}.{key}" for hour in ("first", "unchanged", "late", "stream") for key in HOUR),
        "first.calls.POST /v1/billing/meter_events",
        "unchanged.calls",  # there are none
        "late.calls.POST /v1/billing/meter_events",
        "stream.calls.POST /v2/billing/meter_event_session",
        "stream.calls.POST /v2/billing/meter_event_stream",
        *(f"busy_keys.{key}" for key in ("keys", "slots", *per("key"), *BUSY)),
        *(
            f"uniques.customers.{key}"
            for key in ("customers", "values_of_a_key", "earlier_rows", *per("customer"), *BUSY)
        ),
        *(f"uniques.one_customer.{key}" for key in ("values", "earlier_rows", *per("1000_values"), *BUSY)),
    },
    "redrive": {
        "lines",
        "runs",
        "cpu_ms_per_line",
        "ratio_to_floor",
        "share_of_a_processor",
        "limit_seconds",
        *(f"{case}.{key}" for case in ("partly", "whole") for key in REDRIVE),
    },
    "soak": {
        "records_per_s",
        "lost",
        "twice",
        "equal",
        "records",
        "seconds",
        "lines_per_call",
        "keys",
        "cores_used.sender",
        "cores_used.emulator",
        "cores_used.functions",
        "records_per_s_for_a_subscriber_that_does_nothing",
        "records_per_s_per_core_of_the_function",
    },
    "usage_everyone": {
        *("customers", "hours"),
        *(
            f"{way}.{key}"
            for way in ("by_rows", "by_counters")
            for key in (
                *("ratio_to_floor", "cpu_seconds", "floor_cpu_seconds", "seconds", "first_line_seconds"),
                *("lines", "calls", "read_units"),
            )
        ),
    },
    "usage_read": {
        "own_ms.one",
        "own_ms.hundred",
        "limit_ms",
        "ratio_to_floor",
        "units_per_closed_hour.one",
        "units_per_closed_hour.hundred",
        "closed_units_ratio",
        *(f"without_distinct.{what}_ratio" for what in ("compute_ms", "own_ms", "time_ms")),
        *(f"without_distinct.{customer}.{key}" for customer in ("one", "hundred") for key in WITHOUT_DISTINCT),
        *(f"distinct.{customer}.{key}" for customer in ("changed", "eight", "hundred") for key in DISTINCT),
        "worst.days",
        "worst.sure_hours",
        "worst.sure_hours_by_key",
        "worst.units",
        "worst.units_refused",
        "worst.cpu_ms",
        "worst.rss_mb",
        *(f"{customer}.{key}" for customer in ("one", "hundred") for key in READ),
    },
    "cost": {
        "prices",
        "line_bytes",
        "line_bytes_gzipped",
        "active_keys",
        "customers",
        *(f"rows.{key}" for key in ROW),
        *(
            f"idle_usd_per_month.{road}.with_free_tier.{key}"
            for road in ("subscription", "firehose")
            for key in IDLE_FREE
        ),
        *(
            f"idle_usd_per_month.{road}.without_free_tier.{key}"
            for road in ("subscription", "firehose")
            for key in IDLE
        ),
        "idle_usd_per_month.firehose.without_free_tier.sqs_polling",
        *(f"limits_idle_usd_per_month.with_free_tier.{key}" for key in ("dynamodb", "alarms", "total")),
        *(f"limits_idle_usd_per_month.without_free_tier.{key}" for key in LIMITS_IDLE),
        "signals_while_idle",
        *(f"close_periods.{run}.{key}" for run in ("idle", "empty_hour", "full_hour") for key in RUN),
        *(f"post_usage.{key}" for key in RUN),
    },
    "limits": {
        "usd_per_million_requests",
        "usd_per_month_per_1000_limited_customers",
        "write_units_ratio",
        *(f"usd_per_million_requests_items.{key}" for key in WATCHING),
        *(f"usd_per_month_per_1000_limited_customers_items.{key}" for key in WATCHING),
        *(f"watched.{key}" for key in ("batches", "records", "looks", "sweeps", "sweep_looks")),
        *(f"watched.{key}" for key in ("read_units", "write_units", "read_units_per_look")),
        *(f"cpu.{key}" for key in ("batch_ms", "floor_ms", "ratio_to_floor", "records", "look_ms")),
        *(f"detect_s.{key}" for key in ("p50", "p99", "samples", "gathered")),
        *(f"detect_s.without_gathering_{key}" for key in ("p50", "p99")),
        *(f"overshoot.{key}" for key in ("rate", "overshoot_calls", "bound_calls", "bound_s", "let_in", "refused")),
        *(f"overshoot.{key}" for key in ("other", "seconds_after_the_limit", "sent_per_s")),
        *(f"memory.{key}" for key in ("names", "sources", "swept", "watcher_floor_mb", "watcher_ratio_to_floor")),
        *(f"memory.{who}_{key}" for who in ("watcher", "sweeper") for key in ("rss_mb", "rss_growth_mb")),
    },
}
"""What each benchmark tells with ``--json``: its keys, those of what is within them behind a dot."""

MACHINE: Final = Machine(commit="1a2b3c", cpu="A processor", cores=2, python="3.11.7", load=0.5)


@pytest.mark.parametrize("benchmark_", BENCHMARKS, ids=[one.name for one in BENCHMARKS])
def test_a_benchmark_tells_what_it_always_told(benchmark_: Benchmark, capfd: pytest.CaptureFixture[str]) -> None:
    """Its keys; what is right or wrong whatever the machine does; and a row of the table."""
    try:
        figures = bench.measured(benchmark_, benchmark_.smallest)
    except subprocess.CalledProcessError:
        _failed(capfd.readouterr().err)
    assert set(_keys(figures)) == KEYS[benchmark_.name]
    match benchmark_.name:
        case "hot_key":
            assert (figures["conflicts"], figures["lost"]) == (0, 0)
        case "write_cost":
            assert 1 < figures["ratio_to_floor"] < 1.05  # one more a batch, for how many lines it had
            assert figures["units_per_new_value"] == 1
        case "close":
            assert (figures["customers"], figures["calls_per_row"]) == (10, 3)
            assert figures["posting"]["by_call"]["calls_per_total"] > 1  # one for each, beside those that save it
        case "redrive":
            assert (figures["lines"], figures["runs"]) == (30, 1)
        case "soak":
            assert (figures["lost"], figures["twice"], figures["equal"]) == (0, 0, True)
            assert figures["records"] > 0
        case "limits":
            assert figures["write_units_ratio"] == 1
            assert all(0 <= one["overshoot_calls"] <= one["bound_calls"] for one in figures["overshoot"])
            assert {one["other"] for one in figures["overshoot"]} == {0}
        case "usage_everyone":  # both ways tell the same lines, and by rows no closed hour's counters are read
            assert figures["by_rows"]["lines"] == figures["by_counters"]["lines"] == 5 * 2 * 3
            assert figures["by_rows"]["read_units"] < figures["by_counters"]["read_units"]
        case "usage_read":  # a row an hour, however many keys; and the answer of both is whole
            assert figures["closed_units_ratio"] < 2
            assert 0 < figures["units_per_closed_hour"]["one"] < 0.5
            distinct = figures["distinct"]
            assert {name: one["shown"] for name, one in distinct.items()} == {"changed": 5, "eight": 200, "hundred": 0}
            assert distinct["changed"]["claims_calls"] == SHARDS + 5
            assert distinct["eight"]["claims_calls"] == 8 * SHARDS == MOST_QUERIES
            assert distinct["hundred"]["claims_calls"] == 0
    *_, row = bench.table(MACHINE, {benchmark_.name: figures}).splitlines()
    assert row.startswith(f"| `{benchmark_.name}.py` | ")
    assert row.count("|") == 4


def test_what_idles_has_as_many_alarms_as_are_paid_for(template: Template) -> None:
    """By Firehose there are three more, and with limits three, which the alarms' own tests name."""
    alarms = len(of_type(template, "AWS::CloudWatch::Alarm"))
    assert {"subscription": alarms, "firehose": alarms + 3} == ALARMS
    assert LIMITS_ALARMS == 3


def test_batches_of_the_stream_are_gathered_as_long_as_is_reckoned_with() -> None:
    """The benchmark does not import the stack, which would weigh on what it measures."""
    assert watched_hour.GATHERED_S == limiting.GATHERED_S


def _failed(said: str) -> NoReturn:
    """End a test whose benchmark failed: where it could not run, as a test that needs Java does."""
    last = said.strip().rpartition("\n")[2]
    if last.startswith("tests.doubles.dynamodb_local.CannotRunError"):
        cannot_run(last, needs="java")
    pytest.fail(said)


def _keys(value: Any, above: str = "") -> Iterator[str]:
    """Yield where each figure stands; those of a list's members once, as if they were its own."""
    match value:
        case dict() if value:
            for name, inner in value.items():
                yield from _keys(inner, f"{above}.{name}".removeprefix("."))
        case [dict(), *_]:
            for member in value:
                yield from _keys(member, above)
        case _:
            yield above


def test_a_query_of_a_whole_partition_is_told_from_one_of_some_items() -> None:
    """The first is the paginator's part of a floor, the second the bare HTTP client's."""
    whole = {
        "KeyConditionExpression": "#pk = :pk AND #sk > :first",
        "ExpressionAttributeValues": {":pk": {"S": "hour#2026-11-22T05#7"}, ":first": {"S": "k1"}},
    }
    some = whole | {"KeyConditionExpression": "#pk = :pk AND begins_with(#sk, :first)"}
    made = Recorded([_query(whole), _query(some), _query(whole)])
    assert made.reading("hour#") == (["hour#2026-11-22T05#7"], [made.calls[1]])
    assert made.reading("unique#") == ([], made.calls)


def _query(asked: dict[str, Any]) -> Call:
    return Call("Query", "POST", "/", {}, json.dumps(asked).encode(), 200)


def test_a_transaction_costs_two_units_a_kilobyte_and_one_for_a_new_entry_of_the_index() -> None:
    """As the Developer Guide says, since DynamoDB Local says something else."""
    place = {"pk": {"S": "customer#acme"}, "sk": {"S": "usage#2026-11-22T05"}}
    listed = {**place, "pending": {"S": "pending#3"}}
    new, again = ({"ConditionExpression": text} for text in ("attribute_not_exists(#pk)", "#version = :version"))
    large = {**place, "counted": {"S": "x" * 1500}}
    assert transaction_units({"TransactItems": [{"Put": {"Item": listed, **new}}]}) == 3
    assert transaction_units({"TransactItems": [{"Put": {"Item": listed, **again}}, {"Put": {"Item": large}}]}) == 6


def test_every_script_is_among_the_benchmarks() -> None:
    """Whatever can be run here, but for what runs them all."""
    here = Path(__file__)
    scripts = {file.stem for file in here.parent.glob("*.py") if file != here and "__main__" in file.read_text()}
    assert scripts - {"bench"} == {one.name for one in BENCHMARKS} == set(KEYS)


def test_cold_starts_are_those_of_every_function() -> None:
    """A new function has one, too."""
    assert {file.stem for file in (ROOT / "functions").glob("*.py")} == set(HANDLERS)


def test_all_run_by_one_command_that_says_where() -> None:
    """Its keys with ``--json``; progress is on stderr, so that stdout is JSON alone."""
    command = [sys.executable, bench.__file__, "--smallest", "--json", "count_batch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own script
    told = json.loads(done.stdout)
    assert set(told) == {"machine", "benchmarks"}
    assert set(told["machine"]) == {"commit", "cpu", "cores", "python", "load"}
    assert set(told["benchmarks"]) == {"count_batch"}
    assert "1 of 1: count_batch" in done.stderr


def test_a_benchmark_that_fails_leaves_the_others_and_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And nothing is written, since a table without it would not be the table."""
    page = tmp_path / "README.md"
    page.write_text(f"{bench.BEGIN}\nold\n{bench.END}\n")
    scripts = {"good": '{"figure": 7}', "bad": "no JSON"}

    def measured(benchmark: Benchmark, _options: object) -> Any:
        if benchmark.name == "bad":
            raise subprocess.CalledProcessError(3, "bad")
        return json.loads(scripts[benchmark.name])

    made = tuple(Benchmark(name, "what", lambda found: str(found["figure"]), smallest=()) for name in ("bad", "good"))
    monkeypatch.setattr(bench, "BENCHMARKS", made)
    monkeypatch.setattr(bench, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--write", str(page)])
    with pytest.raises(SystemExit, match="1"):
        bench.main()
    said = capsys.readouterr()
    assert "| `good.py` | what | 7 |" in said.out
    assert "bad failed with exit code 3" in said.err
    assert page.read_text() == f"{bench.BEGIN}\nold\n{bench.END}\n"


def test_the_table_of_all_is_written_into_the_page_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it is printed, between the page's marks."""
    page = tmp_path / "README.md"
    page.write_text(f"{bench.BEGIN}\nold\n{bench.END}\nMore.\n")
    good = Benchmark("good", "what", lambda found: str(found["figure"]), smallest=())
    monkeypatch.setattr(bench, "BENCHMARKS", (good,))
    monkeypatch.setattr(bench, "measured", lambda *_: {"figure": 7})
    monkeypatch.setattr(Machine, "here", lambda: MACHINE)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--write", str(page)])
    bench.main()
    table = bench.table(MACHINE, {"good": {"figure": 7}})
    assert page.read_text() == f"{bench.BEGIN}\n{table}{bench.END}\nMore.\n"


def test_the_table_replaces_what_stood_between_its_marks() -> None:
    """And nothing else of the page."""
    page = f"# How fast\n\n{bench.BEGIN}\nold\n| old |\n{bench.END}\n\nMore.\n"
    text = bench.table(MACHINE, {})
    assert bench.replaced(page, text) == (
        "# How fast\n\n<!-- bench:begin -->\n"
        "Made with commit `1a2b3c`, A processor, 2 cores, Python 3.11.7, a load of 0.5 beforehand:\n\n"
        "| `uv run python tests/benchmarks/…` | what | figure |\n| --- | --- | --- |\n"
        "<!-- bench:end -->\n\nMore.\n"
    )
    assert bench.replaced(bench.replaced(page, text), text) == bench.replaced(page, text)


@pytest.mark.parametrize(
    "page",
    [
        "no marks\n",
        f"{bench.BEGIN}\n",
        f"{bench.END}\n{bench.BEGIN}\n",
        f"{bench.BEGIN}\n{bench.END}\n{bench.BEGIN}\n{bench.END}\n",
        f"within a line {bench.BEGIN}\n{bench.END}\n",
    ],
)
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    """Rather than written over."""
    with pytest.raises(ValueError, match="<!-- bench:begin -->"):
        bench.replaced(page, "text")

"""All benchmarks, one after another, each in a process of its own: the table of their figures, and where it was made.

    uv run python tests/benchmarks/bench.py --write infra/stack/README.md

``--write`` puts the table between the lines ``<!-- bench:begin -->`` and ``<!-- bench:end -->`` of a page. What is
measured is said on stderr while it is measured. A benchmark that fails is said there, too; the others still run, but
nothing is written, and the exit code is 1.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.common import parser, report

ROOT: Final = Path(__file__).parents[2]
BEGIN: Final = "<!-- bench:begin -->"
END: Final = "<!-- bench:end -->"

Figures = Mapping[str, Any]
"""What a benchmark prints with ``--json``."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A script of this folder: what it measures, how its figures read in a table, and its options.

    ``smallest`` is the size at which it still does everything that it does; its figures then mean nothing.
    """

    name: str
    what: str
    figure: Callable[[Figures], str]
    smallest: Sequence[str]
    usual: Sequence[str] = ()

    @property
    def script(self) -> Path:
        """The script."""
        return Path(__file__).with_name(f"{self.name}.py")


def _count_batch(found: Figures) -> str:
    ratios = f"{found['subscription']['ratio_to_floor']} (subscription), {found['firehose']['ratio_to_floor']} (object)"
    return f"{ratios}; {found['records_per_s_per_core']:,} records/s on one core, {found['peak_rss_mb']} MB"


def _write_cost(found: Figures) -> str:
    fewer = found["fewer_than_one_update_per_line_at_10000"]
    return f"{found['ratio_to_floor']}; {fewer} times fewer; {found['units_per_new_value']}"


def _hot_key(found: Figures) -> str:
    busiest = found["busiest_partition_units_per_s"]
    return f"{found['ratio_to_spread']}; {found['conflicts']}; {found['lost']}; {busiest:g}"


def _cold_start(found: Figures) -> str:
    ratios = ", ".join(f"`{name}` {one['ratio_to_floor']}" for name, one in found["handlers"].items())
    targets = ", ".join(f"`{name}` is to take at most {target}" for name, target in found["targets"].items())
    pydantic = found["pydantic"]
    floor = found["handlers"][pydantic["handler"]]["floor_cpu_ms"]
    return f"{ratios}; {targets}: Pydantic is {pydantic['cpu_ms']:.0f} ms of its floor of {floor:.0f} ms"


def _close(found: Figures) -> str:
    ratios = f"{found['ratio_to_limit']} and {found['stream_ratio_to_limit']} with {found['customers']:,} customers"
    one, two = (_of_floor(found["closing"][keys], "customer") for keys in ("one_key", "two_keys"))
    call, stream = (_of_floor(found["posting"][way], "total") for way in ("by_call", "by_stream"))
    each = f"a customer is closed in {one} with one key, {two} with two, a total posted in {call} or {stream}"
    needed = found["needed"]
    closers, workers = (" or ".join(map(str, needed[f"{who}_needed"].values())) for who in ("closers", "workers"))
    rest = f"{needed['customers']:,} customers in {needed['seconds']} s want {closers} closers, {workers} workers"
    memory = f"{found['rss_mb']} MB, of which {found['rss_growth_mb']:.0f} came with the work"
    unchanged, late = found["unchanged"], found["late"]
    again = f"again with nothing changed {unchanged['seconds']} s, with 1 % late records {late['seconds']} s"
    busy, values = found["busy_keys"], found["uniques"]["one_customer"]
    large = (
        f"a key in every delivery {_of_floor(busy, 'key')}, 1,000 distinct values {_of_floor(values, '1000_values')}"
    )
    return f"{ratios}; {each}; {rest}; {memory}; {again}; {large}"


def _of_floor(took: Figures, unit: str) -> str:
    return f"{took[f'cpu_ms_per_{unit}']:g} ms ({took['ratio_to_floor']})"


def _redrive(found: Figures) -> str:
    partly, whole = found["partly"], found["whole"]
    each = f"{partly['cpu_ms_per_line']} and {whole['cpu_ms_per_line']} ms"
    ratios = f"{partly['ratio_to_floor']} and {whole['ratio_to_floor']}"
    held = max(one["rss_growth_mb"] for one in (partly, whole))
    return f"{ratios}; {each}; {partly['runs']} and {whole['runs']}; {held:.0f} MB came with the work"


def _soak(found: Figures) -> str:
    does_nothing = found["records_per_s_for_a_subscriber_that_does_nothing"]
    rest = f"{found['lost']}; {found['twice']} (a subscriber that does nothing gets {does_nothing:,})"
    return f"{found['records_per_s']:,}; {rest}"


def _usage_read(found: Figures) -> str:
    one, hundred = found["one"], found["hundred"]
    with_one = f"{one['compute_ms']} ms with one key, of which the calls themselves are {one['floor_ms']}"
    return (
        f"{found['closed_units_ratio']}; {one['ratio_to_floor']}: {with_one}, "
        f"and {hundred['compute_ms']} ({hundred['floor_ms']}) with 100"
    )


def _usage_everyone(found: Figures) -> str:
    rows, counters = found["by_rows"], found["by_counters"]
    return (
        f"{rows['ratio_to_floor']}: {rows['cpu_seconds']} s in {rows['calls']:,} calls, the first line after "
        f"{rows['first_line_seconds']} s; by dimension {counters['ratio_to_floor']}: {counters['cpu_seconds']} s"
    )


def _cost(found: Figures) -> str:
    rows: dict[str, list[Figures]] = {}
    for row in found["rows"]:
        rows.setdefault(row["road"], []).append(row)
    roads = [f"{road} {', '.join(map(_dollars, of_road))}" for road, of_road in rows.items()]
    idle = ", ".join(
        f"${one['without_free_tier']['total']:.2f} by {road}" for road, one in found["idle_usd_per_month"].items()
    )
    return f"{'; '.join(roads)}; idle a month {idle}"


def _limits(found: Figures) -> str:
    detect, memory = found["detect_s"], found["memory"]
    overrun = ", ".join(
        f"{one['overshoot_calls']:,} calls of {one['bound_calls']:,} at {one['rate']}/s" for one in found["overshoot"]
    )
    usd = f"${found['usd_per_million_requests']:.4f}, ${found['usd_per_month_per_1000_limited_customers']:.2f}"
    held = f"{memory['watcher_rss_growth_mb']:.0f} and {memory['sweeper_rss_growth_mb']:.0f} MB"
    ratios = f"{found['cpu']['ratio_to_floor']}, {memory['watcher_ratio_to_floor']}"
    return f"{detect['p50']} and {detect['p99']} s; {overrun}; {usd}; {found['write_units_ratio']}; {held}; {ratios}"


def _dollars(row: Figures) -> str:
    return f"${row['usd_per_million']:.3f} at {row['requests_per_s']:,}/s"


BENCHMARKS: Final = (
    Benchmark(
        "count_batch",
        "decoding, measuring and adding up 100,000 records of 200 keys with 4 metrics, ÷ gunzip and a bare typed "
        "decode of the same payload",
        _count_batch,
        smallest=("--records", "1000", "--rounds", "1"),
    ),
    Benchmark(
        "write_cost",
        "write units on DynamoDB Local ÷ one for each hour and key of a batch, up to 15,000 batches of a key in an "
        "hour; against one update per line, at batches of 10,000; units per new distinct value",
        _write_cost,
        smallest=("--requests", "50", "--sampled", "1"),
    ),
    Benchmark(
        "hot_key",
        "500 concurrent batches on one key ÷ the same on 500 keys; errors; lost; units/s on the busiest partition key "
        "at 10,000 requests/s of one key in batches of 100",
        _hot_key,
        smallest=("--batches", "20", "--rounds", "1"),
    ),
    Benchmark(
        "cold_start",
        "importing a handler and making its clients and parts ÷ the same of the third-party modules alone",
        _cold_start,
        smallest=("--runs", "1"),
    ),
    Benchmark(
        "close",
        "closing and posting an hour of customers with 3 metrics and 12 batches each: wall time ÷ what Stripe's 1,000 "
        "calls a second allow, by a call each and by the event stream, while DynamoDB Local and the local Stripe share "
        "the processors; processor time (÷ reading the same pages and making the same calls, bare)",
        _close,
        smallest=("--customers", "10", "--busy-keys", "1", "--unique-customers", "2", "--values", "100"),
        usual=("--customers", "2000"),
    ),
    Benchmark(
        "redrive",
        "redriving 27,000 lines that were set aside for one metric, and as many of 200 keys that were set aside whole, "
        "with a new value each: the function's processor time ÷ that of the same calls made bare; for each line; runs "
        "of 300 s with 512 MB",
        _redrive,
        smallest=("--lines", "30", "--sample", "10"),
    ),
    Benchmark(
        "soak",
        "records/s through the deployed stack on the embedded AWS for 60 s; lost; twice",
        _soak,
        smallest=("--seconds", "1", "--warm-up-seconds", "1", "--nothing-seconds", "0.5"),
    ),
    Benchmark(
        "usage_read",
        "a month by day of a customer with 100 keys ÷ the same with one, in read units per closed hour; the whole "
        "handler's processor time with one key, ÷ the same calls whose answers nobody reads",
        _usage_read,
        smallest=("--days", "1", "--batches", "1", "--runs", "1"),
    ),
    Benchmark(
        "usage_everyone",
        "`metering usage` of a day of 1,000 customers with 3 metrics, all hours but one closed: processor time ÷ the "
        "same calls whose answers nobody reads; the same by dimension, which the counters alone know",
        _usage_everyone,
        smallest=("--customers", "5", "--hours", "1"),
    ),
    Benchmark(
        "cost",
        "dollars for a million requests by each road, without its transport; dollars of one that meters nothing",
        _cost,
        smallest=("--rates", "1", "--repeats", "1", "--sample", "1000", "--customers", "5"),
    ),
    Benchmark(
        "limits",
        "from a counter's write to the decision near a limit, half of them and 99 in 100, with the time that a batch "
        "is gathered on AWS; calls let in beyond a limit, of those that may be; dollars more for a million requests by "
        "subscription, and a month for 1,000 limited customers on Firehose; write units of the counters ÷ without "
        "limits; what 100,000 sources and customers add to the watcher and the sweeper; a batch's processor time ÷ "
        "reading its JSON, and the watcher's memory ÷ a bare dict's",
        _limits,
        smallest=(
            *("--seconds", "60", "--customers", "10", "--limited", "10", "--names", "20", "--sources", "1000"),
            *("--sweep-seconds", "2", "--samples", "2", "--rates", "20"),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what figures were made; ``load`` is how many processes wanted a core in the minute before."""

    commit: str
    cpu: str
    cores: int
    python: str
    load: float

    @classmethod
    def here(cls) -> "Machine":
        """Return this one."""
        load = round(os.getloadavg()[0], 1)
        return cls(_commit(), _cpu_model(), os.cpu_count() or 1, platform.python_version(), load)

    def __str__(self) -> str:
        return (
            f"commit `{self.commit}`, {self.cpu}, {self.cores} cores, Python {self.python}, "
            f"a load of {self.load} beforehand"
        )


def _commit() -> str:
    """Return the commit that is checked out, with a word if files differ from it; "unknown" outside of a checkout."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty= and changes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    return done.stdout.strip() or "unknown"


def _cpu_model() -> str:
    """Return the processor's name as Linux knows it (proc(5)), elsewhere its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Run the benchmarks, print the figures, and write the table where it is wanted."""
    arguments = parser(__doc__)
    names = [one.name for one in BENCHMARKS]
    arguments.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which to run, of {', '.join(names)} (default: all)"
    )
    arguments.add_argument("--smallest", action="store_true", help="at the smallest size: to see that all of them run")
    arguments.add_argument("--write", type=Path, metavar="FILE", help="the page whose table to write anew")
    options = arguments.parse_args()
    if unknown := sorted({*options.names} - {*names}):
        arguments.error(f"there is no benchmark {', '.join(unknown)}: there are {', '.join(names)}")
    if options.write and (options.names or options.smallest):
        arguments.error("a table is written of all benchmarks at their usual size")
    if options.write:
        replaced(options.write.read_text(), "")  # so that a page without its marks is known before
    wanted = [one for one in BENCHMARKS if not options.names or one.name in options.names]
    machine, figures = Machine.here(), measured_all(wanted, smallest=options.smallest)
    if options.json:
        report({"machine": asdict(machine), "benchmarks": figures}, as_json=True)
    else:
        sys.stdout.write(table(machine, figures))
    if len(figures) < len(wanted):
        sys.exit(1)
    if options.write:
        options.write.write_text(replaced(options.write.read_text(), table(machine, figures)))


def measured_all(wanted: Sequence[Benchmark], *, smallest: bool) -> dict[str, Figures]:
    """Run benchmarks; return the figures of each, by its name, but for those that failed."""
    found = {}
    for number, benchmark in enumerate(wanted, 1):
        _say(f"{number} of {len(wanted)}: {benchmark.name}")
        began = time.monotonic()
        try:
            found[benchmark.name] = measured(benchmark, benchmark.smallest if smallest else benchmark.usual)
        except subprocess.CalledProcessError as error:
            _say(f"{benchmark.name} failed with exit code {error.returncode}")
        else:
            _say(f"{benchmark.name}: {time.monotonic() - began:.0f} s")
    return found


def measured(benchmark: Benchmark, options: Sequence[str]) -> Figures:
    """Run a benchmark in a process of its own; raise CalledProcessError if it fails. What it says goes to stderr."""
    command = [sys.executable, str(benchmark.script), "--json", *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own scripts
    figures: Figures = json.loads(done.stdout)
    return figures


def table(machine: Machine, figures: Mapping[str, Figures]) -> str:
    """Return the table in Markdown, under a line that says where it was made."""
    rows = [
        f"| `{one.name}.py` | {one.what} | {one.figure(figures[one.name])} |"
        for one in BENCHMARKS
        if one.name in figures
    ]
    head = ["| `uv run python tests/benchmarks/…` | what | figure |", "| --- | --- | --- |"]
    return "\n".join([f"Made with {machine}:", "", *head, *rows, ""])


def replaced(page: str, text: str) -> str:
    """Return a page with a text between its marks; raise ValueError unless it has both once, each on its own line."""
    lines = page.splitlines()
    if [line for line in lines if line in (BEGIN, END)] != [BEGIN, END]:
        raise ValueError(f"a page must have one line {BEGIN} and, below it, one line {END}")
    before, after = lines[: lines.index(BEGIN) + 1], lines[lines.index(END) :]
    return "\n".join([*before, *text.splitlines(), *after, ""])


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()

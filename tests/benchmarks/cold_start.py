"""How long each function takes from a fresh interpreter to its clients and parts, over the least it could take.

What is started is the function's bundle, as it is deployed, with boto3 beside it, as Lambda's runtime has it: what else
is installed here is out of reach. The floor, in another fresh interpreter, imports exactly the third-party modules that
the function ended up with, in the same order, and makes the same clients with the same settings. So the ratio is what
our own modules cost: executing them, making their classes and decoders, and the parts. Both have bytecode at hand, and
run in turns. The ratio is one of processor time, which a busy machine disturbs less; both do little else than compute.

``pydantic`` says how much of a floor it is: a third interpreter imports the same modules as far as they can be imported
while Pydantic cannot, so that Powertools' models of OpenAPI documents, which are made with it, are counted as its own.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from metering.model import metrics, prices
from metering.model.metrics import Count, Sum
from metering.model.prices import PerUnit, Plan
from metering.settings import (
    AuthorizeCallsSettings,
    CheckCompletenessSettings,
    ClosePeriodsSettings,
    EnforceLimitsSettings,
    PostUsageSettings,
    ReceiveEventsSettings,
    ReconcileUsageSettings,
    RecordUsageSettings,
    SetBudgetSettings,
    ShowUsageSettings,
    WatchLimitsSettings,
)
from tests.benchmarks import beginnings
from tests.benchmarks.common import parser, report
from tests.doubles.access_log import NONCE

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
WITH_PYDANTIC: Final = "show_usage"
PYDANTIC: Final = ("pydantic", "pydantic_core")
TARGETS: Final = {"show_usage": 1.25}
"""The most that a function is to take, as a ratio to its floor."""

OF_THE_RUNTIME: Final = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six.py")
"""boto3 and what it needs: Lambda brings it, so it is in no bundle."""

ROOT: Final = Path(__file__).parents[2]

METRICS: Final = (
    Count(name="requests", by="resource"),
    Sum(name="response_bytes", of="response_length"),
    Sum(name="messages", of="authorizer.messages"),
)
"""None that counts distinct values: with one, ``record_usage`` reads the key of their hashes before its first batch."""

PLANS: Final = (
    Plan(name="standard", title="Standard", currency="usd", prices=(PerUnit(metric="requests", amount=1),)),
)
TABLES: Final = {"counters_table": "counters", "ledger_table": "ledger"}
GATE: Final = {"deployment": "Metering", "gate_queue": "https://sqs.us-east-1.amazonaws.com/123456789012/Gate"}
STRIPE: Final = {"deployment": "Metering", "stripe_secret": "stripe", "stripe_api_base": "https://api.stripe.com"}
SETTINGS: Final = {
    # Nothing listens there, and nothing is asked for: making clients and parts calls no service.
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "POWERTOOLS_SERVICE_NAME": "Metering",
    "POWERTOOLS_METRICS_NAMESPACE": "Metering",
    **RecordUsageSettings("counters", "bucket", metrics.encode(METRICS), NONCE, "access-log", "ledger").environment(),
    **ClosePeriodsSettings(**TABLES, post_usage_function="post-usage", metrics=metrics.encode(METRICS)).environment(),
    **PostUsageSettings(**TABLES, **STRIPE, ledger_epoch="1", stripe_rate="1000").environment(),
    **ReconcileUsageSettings(**TABLES, **STRIPE, stripe_reads_a_month="10000").environment(),
    **ReceiveEventsSettings("ledger", **STRIPE, signing_secret="signing").environment(),  # a secret's name
    **CheckCompletenessSettings(**TABLES, deployment="Metering", access_log_group="access-log").environment(),
    **ShowUsageSettings(**TABLES, **STRIPE, portal_secret="portal").environment(),  # a secret's name
    **WatchLimitsSettings(**TABLES, access_table="access", **GATE, portal_url="https://portal.example").environment(),
    **EnforceLimitsSettings("ledger", "access", **GATE, api="rest").environment(),
    **AuthorizeCallsSettings("access", "https://issuer.example", "api", "sub").environment(),
    **SetBudgetSettings(
        "ledger", "Metering", portal_secret="portal", watch_limits_function="watch-limits"
    ).environment(),  # a secret's name
}
"""Every setting of every function."""

STARTED: Final = """
import time
began, cpu_began = time.perf_counter(), time.process_time()
import beginnings
beginnings.{handler}()
took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
"""

FLOOR: Final = """
import sys, time
sys.modules.update(dict.fromkeys({absent!r}))
began, cpu_began = time.perf_counter(), time.process_time()
import importlib
for name in {modules!r}:
    importlib.import_module(name)
import boto3, botocore.config
config = botocore.config.Config(**{config!r})
for service in {clients!r}:
    boto3.client(service, config=config)
took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
"""

WITHOUT_PYDANTIC: Final = """
import importlib, json, sys
sys.modules.update(dict.fromkeys({absent!r}))
there = []
for name in {modules!r}:
    try:
        importlib.import_module(name)
        there.append(name)
    except ImportError:
        pass
print(json.dumps(there))
"""

TELL: Final = """
import json, resource
print(json.dumps([cpu, took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""

BUNDLE: Final = """
import pathlib, sys
from infra.stack.bundle import build
folder, declared, *names = sys.argv[1:]
for name in names:
    build(pathlib.Path(folder) / name, name=name, local=True, more={"declared.json": declared.encode()})
"""

LOOK: Final = """
import json, sys, botocore.session
made, create = [], botocore.session.Session.create_client
def look(session, service, *rest, **named):
    made.append(service)
    return create(session, service, *rest, **named)
botocore.session.Session.create_client = look
import beginnings
beginnings.{handler}()
from metering.stores import aws
from tests.doubles.access_log import NONCE
files = [(name, getattr(module, "__file__", None) or "") for name, module in list(sys.modules.items())]
print(json.dumps([files, made, aws.CONFIG._user_provided_options]))
"""

Run = Callable[[str], Any]
"""Runs a program beside a bundle in a fresh interpreter, and returns what it printed."""


@dataclass(frozen=True, slots=True)
class Needs:
    """The third-party modules that a function ends up with, in their order, its clients, and their settings."""

    modules: list[str]
    clients: list[str]
    config: Mapping[str, Any]

    def floor(self, modules: Sequence[str], absent: Sequence[str] = ()) -> str:
        """Return the program that imports modules and makes the clients; ``absent`` ones cannot be imported."""
        return FLOOR.format(modules=modules, clients=self.clients, config=self.config, absent=absent) + TELL


def main() -> None:
    """Measure all functions and print what came out."""
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=15, help="of how many runs each median is (default: 15)")
    arguments = options.parse_args()
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cold-start-") as folder:
        for run, handlers in _bundles(Path(folder)):
            for handler in handlers:
                needs = _needs(handler, run)  # after which there is bytecode of all that is imported below
                measured[handler] = measure(handler, needs, run, arguments.runs)
                if handler == WITH_PYDANTIC:
                    pydantic = {"handler": handler} | _pydantic(needs, run, arguments.runs)
    result = {
        "ratio_to_floor": max(one["ratio_to_floor"] for one in measured.values()),
        "runs": arguments.runs,
        "handlers": {handler: measured[handler] for handler in HANDLERS},
        "targets": TARGETS,
        "pydantic": pydantic,
    }
    report(result, as_json=arguments.json)


def measure(handler: str, needs: Needs, run: Run, runs: int) -> dict[str, Any]:
    """Return a function's medians and those of its floor."""
    started = STARTED.format(handler=handler) + TELL
    (cpu, wall, memory), (floor_cpu, floor_wall, floor_memory) = _in_turns(
        run, runs, started, needs.floor(needs.modules)
    )
    return {
        "ratio_to_floor": round(cpu / floor_cpu, 3),
        "cpu_ms": round(1000 * cpu, 1),
        "floor_cpu_ms": round(1000 * floor_cpu, 1),
        "ms": round(1000 * wall, 1),
        "floor_ms": round(1000 * floor_wall, 1),
        "peak_rss_mb": round(memory / 1024, 1),
        "floor_peak_rss_mb": round(floor_memory / 1024, 1),
        "third_party_modules": len(needs.modules),
        "clients": needs.clients,
    }


def _pydantic(needs: Needs, run: Run, runs: int) -> dict[str, Any]:
    """Return what Pydantic, and what Powertools makes with it, are of a function's floor."""
    without = run(WITHOUT_PYDANTIC.format(modules=needs.modules, absent=PYDANTIC))
    if len(without) == len(needs.modules):
        raise RuntimeError("nothing of what is imported needs Pydantic")
    (cpu, _, memory), (cpu_without, _, memory_without) = _in_turns(
        run, runs, needs.floor(needs.modules), needs.floor(without, PYDANTIC)
    )
    return {
        "cpu_ms": round(1000 * (cpu - cpu_without), 1),
        "share_of_floor": round(1 - cpu_without / cpu, 3),
        "peak_rss_mb": round((memory - memory_without) / 1024, 1),
        "modules": len(needs.modules) - len(without),
    }


def _in_turns(run: Run, runs: int, *programs: str) -> list[list[float]]:
    """Run programs in turns; return each one's medians of processor seconds, seconds and KB at most."""
    rounds = [[run(program) for program in programs] for _ in range(runs)]
    return [
        [statistics.median(one[place][figure] for one in rounds) for figure in range(3)]
        for place in range(len(programs))
    ]


def _needs(handler: str, run: Run) -> Needs:
    files, clients, config = run(LOOK.format(handler=handler))
    ours = ("__main__", "metering", "beginnings", handler)
    standard = sys.stdlib_module_names
    modules = [
        name for name, file in files if file and (top := name.partition(".")[0]) not in standard and top not in ours
    ]
    return Needs(modules, clients, config)


def _bundles(folder: Path) -> Iterator[tuple[Run, Sequence[str]]]:
    """Bundle the functions; yield what runs a program beside a bundle, and which functions are in it.

    Functions that need the same are in one bundle, which is each one's own but for the others' modules: so what they
    share is installed and compiled once.
    """
    runtime = folder / "runtime"
    runtime.mkdir()
    for name in OF_THE_RUNTIME:
        (runtime / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    (runtime / "beginnings.py").symlink_to(Path(beginnings.__file__))
    declared = {"metrics": json.loads(metrics.encode(METRICS)), "plans": json.loads(prices.encode(PLANS))}
    node = str(Path(sys.executable).with_name("node"))
    alike = _alike()
    command = [sys.executable, "-c", BUNDLE, str(folder), json.dumps(declared), *(first for first, *_ in alike)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"JSII_NODE": node}, check=True)  # noqa: S603 - ours
    for first, *others in alike:
        for other in others:
            shutil.copyfile(ROOT / "functions" / f"{other}.py", folder / first / f"{other}.py")
        yield _interpreter(folder / first, runtime, folder / "bytecode"), [first, *others]


def _alike() -> list[list[str]]:
    """Return the functions whose dependency groups come to the same, together."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    def needs(group: str) -> frozenset[str]:
        parts = [{part} if isinstance(part, str) else needs(part["include-group"]) for part in groups[group]]
        return frozenset().union(*parts)

    found = defaultdict(list)
    for handler in HANDLERS:
        found[needs(handler.replace("_", "-"))].append(handler)
    return list(found.values())


def _interpreter(bundle: Path, runtime: Path, bytecode: Path) -> Run:
    """Return what runs a program beside a bundle."""
    environment = SETTINGS | {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{bundle}:{runtime}",
        "PYTHONPYCACHEPREFIX": str(bytecode),
    }

    def run(program: str) -> Any:
        command = [sys.executable, "-S", "-c", program]  # -S: without site-packages
        return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)  # noqa: S603 - ours

    return run


if __name__ == "__main__":
    main()

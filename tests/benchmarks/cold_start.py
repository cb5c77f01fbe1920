"""How long each function takes from a fresh interpreter to its clients and parts, over the least it could take.

What is started is the function's bundle, as it is deployed, with boto3 beside it, as Lambda's runtime has it: what else
is installed here is out of reach. The floor, in another fresh interpreter, imports exactly the third-party modules that
the function ended up with, in the same order, and makes the same clients with the same settings. So the ratio is what
our own modules cost: executing them, making their classes and decoders, and the parts. Both have bytecode at hand, and
run in turns. The ratio is one of processor time, which a busy machine disturbs less; both do little else than compute.
"""

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.common import parser, report

HANDLERS: Final = ("record_usage", "close_periods")
OF_THE_RUNTIME: Final = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six.py")
"""boto3 and what it needs: Lambda brings it, so it is in no bundle."""

RUNS: Final = 15
ROOT: Final = Path(__file__).parents[2]

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
    "COUNTERS_TABLE": "counters",
    "LEDGER_TABLE": "ledger",
    "BUCKET": "bucket",
    "ACCESS_LOG_GROUP": "access-log",
    "METRICS": json.dumps(
        [
            {"type": "count", "name": "requests", "by": "resource"},
            {"type": "sum", "name": "response_bytes", "of": "response_length"},
            {"type": "sum", "name": "messages", "of": "authorizer.messages"},
        ]
    ),
    "DEPLOYMENT": "Metering",
    "LEDGER_EPOCH": "1",
    "STRIPE_SECRET": "secret",
    "STRIPE_API_BASE": "https://api.stripe.com",
}
"""Every setting of both functions, as in a deployment whose metrics count no distinct values.

One that does reads the key of their hashes before its first batch: a call to Secrets Manager, which is not measured.
"""

STARTED: Final = """
import time
began, cpu_began = time.perf_counter(), time.process_time()
import {handler}
{handler}._parts()
took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
"""

FLOOR: Final = """
import time
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

TELL: Final = """
import json, resource
print(json.dumps([cpu, took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""

BUNDLE: Final = """
import pathlib, sys
from infra.stack.bundle import build
build(pathlib.Path(sys.argv[2]), name=sys.argv[1], local=True)
"""

LOOK: Final = """
import json, sys, botocore.session
made, create = [], botocore.session.Session.create_client
def look(session, service, *rest, **named):
    made.append(service)
    return create(session, service, *rest, **named)
botocore.session.Session.create_client = look
import {handler}
from metering import aws
{handler}._parts()
files = [(name, getattr(module, "__file__", None) or "") for name, module in list(sys.modules.items())]
print(json.dumps([files, made, aws.CONFIG._user_provided_options]))
"""


def main() -> None:
    """Measure both functions and print what came out."""
    arguments = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="cold-start-") as folder:
        measured = {handler: measure(handler, Path(folder)) for handler in HANDLERS}
    worst = max(measured.values(), key=lambda one: float(one["ratio_to_floor"]))
    result = {"ratio_to_floor": worst["ratio_to_floor"], "runs": RUNS, "handlers": measured}
    report(result, as_json=arguments.json)


def measure(handler: str, folder: Path) -> dict[str, Any]:
    """Return a function's medians and those of its floor; its bundle and their bytecode are put into ``folder``."""
    run = _interpreter(handler, folder)
    modules, clients, config = _needs(handler, run)
    started = STARTED.format(handler=handler) + TELL
    floor = FLOOR.format(modules=modules, clients=clients, config=config) + TELL
    run(started), run(floor)  # so that there is bytecode
    rounds = [(run(started), run(floor)) for _ in range(RUNS)]
    (cpu, wall, memory), (floor_cpu, floor_wall, floor_memory) = (
        [statistics.median(one[side][figure] for one in rounds) for figure in range(3)] for side in (0, 1)
    )
    return {
        "ratio_to_floor": round(cpu / floor_cpu, 3),
        "cpu_ms": round(1000 * cpu, 1),
        "floor_cpu_ms": round(1000 * floor_cpu, 1),
        "ms": round(1000 * wall, 1),
        "floor_ms": round(1000 * floor_wall, 1),
        "peak_rss_mb": round(memory / 1024, 1),
        "floor_peak_rss_mb": round(floor_memory / 1024, 1),
        "third_party_modules": len(modules),
        "clients": clients,
    }


def _needs(handler: str, run: Callable[[str], Any]) -> tuple[list[str], list[str], Mapping[str, Any]]:
    """Return the third-party modules that a function ends up with, its clients, and their settings."""
    files, clients, config = run(LOOK.format(handler=handler))
    ours = ("__main__", "metering", handler)
    standard = sys.stdlib_module_names
    modules = [
        name for name, file in files if file and (top := name.partition(".")[0]) not in standard and top not in ours
    ]
    return modules, clients, config


def _interpreter(handler: str, folder: Path) -> Callable[[str], Any]:
    """Bundle a function; return what runs a program beside it in a fresh interpreter and returns what it printed."""
    bundle, runtime = folder / handler, folder / f"{handler}-runtime"
    node = str(Path(sys.executable).with_name("node"))
    subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", BUNDLE, handler, str(bundle)], cwd=ROOT, env=os.environ | {"JSII_NODE": node}, check=True
    )
    runtime.mkdir()
    for name in OF_THE_RUNTIME:
        (runtime / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    environment = SETTINGS | {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{bundle}:{runtime}",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }

    def run(program: str) -> Any:
        command = [sys.executable, "-S", "-c", program]  # -S: without site-packages
        return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)  # noqa: S603 - ours

    return run


if __name__ == "__main__":
    main()

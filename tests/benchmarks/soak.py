"""How many records a second go through the deployed counting path on this machine, and whether all of them arrive.

Access-log lines are put in the deployed log group; its subscription brings them to the deployed ``record_usage``,
which counts them in the deployed table. At the end the counters are compared with a straight count of what was put.

Everything runs on the embedded AWS, one process that plays CloudWatch Logs, Lambda, DynamoDB and S3 on one core. So
what limits the rate is told, too: who used how many cores, how fast the emulator takes the same calls for a subscriber
that does nothing, and how fast the same records are counted by the function's own code.
"""

import base64
import gzip
import io
import json
import os
import random
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from infra.local.aws.emulator import Emulator
from infra.local.cloud import LocalCloud, start
from metering.counting import payloads
from metering.counting.recording import Hashing, Recorder
from metering.model import metrics
from metering.model.amounts import Amounts
from metering.model.log_format import AccessLog
from metering.model.metrics import Metric
from metering.model.periods import Hour
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from tests.benchmarks.common import parser, report

LINES_PER_CALL: Final = 2_000
"""As many as fit into the 1 MiB of a PutLogEvents call."""

SENDERS: Final = 3
MOST_CALLS_UNDER_WAY: Final = 6
"""The emulator starts a new process for each delivery that meets no idle one, so senders wait for the counters."""

KEYS: Final = 20
USERS_OF_A_KEY: Final = 3
IN_EVERY_CALL: Final = "in-every-call"
"""A key of one line of each call, so that a single query tells how many calls are counted."""

STILL_S: Final = 60.0
"""When nothing was counted for so long, nothing comes any more."""

NOTHING: Final = "def handler(event, context):\n    return None\n"


@dataclass(frozen=True, slots=True)
class Call:
    """The lines of one PutLogEvents call, and what they are to add up to, by key."""

    lines: Sequence[str]
    requests: Counter[str]
    response_bytes: Counter[str]
    messages: Counter[str]


@dataclass
class Sent:
    """What was put so far."""

    calls: list[Call] = field(default_factory=list)
    counted: int = 0
    """How many of them the counters held when they were last read."""

    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def has_room(self) -> bool:
        """Say whether one call more may be under way."""
        return len(self.calls) - self.counted < MOST_CALLS_UNDER_WAY

    @property
    def is_counted(self) -> bool:
        """Say whether everything was counted."""
        return self.counted >= len(self.calls)

    def total(self, metric: str) -> Counter[str]:
        """Return what a metric must come to, by key."""
        return sum((getattr(call, metric) for call in self.calls), Counter())


def main() -> None:
    """Run the soak and print what came out."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=60, help="how long lines are put (default 60)")
    arguments.add_argument(
        "--warm-up-seconds",
        type=float,
        default=5,
        help="how long lines are put before, until all processes run (default 5)",
    )
    arguments.add_argument(
        "--nothing-seconds",
        type=float,
        default=8,
        help="how long lines are put for a subscriber that does nothing (default 8)",
    )
    chosen = arguments.parse_args()
    with start(say=Console(file=sys.stderr)) as cloud:
        result = soak(cloud, chosen.seconds, warm_up_s=chosen.warm_up_seconds, nothing_s=chosen.nothing_seconds)
    report(result, as_json=chosen.json)


def soak(cloud: LocalCloud, seconds: float, *, warm_up_s: float, nothing_s: float) -> dict[str, Any]:
    """Put lines for some seconds, wait for the counters, and return the figures."""
    hour = Hour.containing(datetime.now(UTC))
    calls = _calls(hour, cloud.outputs.nonces, _declared(cloud), random.Random(1))
    by_function = _records_per_s_per_core(cloud, calls)
    with _subscriber_that_does_nothing(cloud.emulator) as group:
        by_emulator = _put_for(cloud.emulator, group, calls, nothing_s)
    sent = Sent()
    _put_and_count(cloud, hour, calls, warm_up_s, sent, "warm-up")  # until the emulator has its processes
    warm, before, began = sent.counted * LINES_PER_CALL, _cpu_seconds(cloud.emulator.pid), time.monotonic()
    _put_and_count(cloud, hour, calls, seconds, sent, "soak")
    took = time.monotonic() - began
    cores = {name: round((used - before[name]) / took, 2) for name, used in _cpu_seconds(cloud.emulator.pid).items()}
    totals, counted_totals = _wanted(sent), _settled(cloud, hour, sent)
    wanted, counted = totals["requests"], counted_totals["requests"]
    return {
        "records_per_s": round((counted.total() - warm) / took),
        "lost": (wanted - counted).total(),
        "twice": (counted - wanted).total(),
        "equal": totals == counted_totals,
        "records": wanted.total() - warm,
        "seconds": round(took, 1),
        "lines_per_call": LINES_PER_CALL,
        "keys": KEYS,
        "cores_used": cores,
        "records_per_s_for_a_subscriber_that_does_nothing": by_emulator,
        "records_per_s_per_core_of_the_function": by_function,
    }


def _calls(hour: Hour, nonce: str, declared: Sequence[Metric], draw: random.Random) -> list[Call]:
    """Return calls to be put again and again: the emulator gives each line a new id whenever it is put."""
    form = json.loads(AccessLog().format(nonce, metrics.declared(declared)))
    moment = int(datetime.now(UTC).timestamp() * 1000)
    made = []
    for _ in range(10):
        lines, requests, response_bytes, messages = [], Counter[str](), Counter[str](), Counter[str]()
        for number in range(LINES_PER_CALL):
            key = f"key{draw.randrange(KEYS):07d}" if number else IN_EVERY_CALL
            length, carried = draw.randrange(20_000), draw.randrange(1, 100)
            requests[key] += 1
            response_bytes[key] += length
            messages[key] += carried
            line = form | {
                "request_id": f"Fzk1aHqZIAMF{number:07d}=",
                "time": str(max(moment - number, int(hour.start.timestamp() * 1000))),
                "key": key,
                "status": "200",
                "method": "POST",
                "resource": "/messages",
                "response_length": str(length),
                "response_latency": "31",
                "integration_latency": "27",
                "authorizer.messages": str(carried),
                "authorizer.user": f"{key}-user{number % USERS_OF_A_KEY}",
            }
            lines.append(json.dumps(line, separators=(",", ":")))
        made.append(Call(lines, requests, response_bytes, messages))
    return made


def _put_and_count(  # noqa: PLR0913, PLR0917 - what is put, where, and for how long
    cloud: LocalCloud, hour: Hour, calls: Sequence[Call], seconds: float, sent: Sent, name: str
) -> None:
    """Put calls for some seconds, each sender one at least and together no more at a time than the emulator stands.

    Returns when all are counted, or nothing more is.
    """
    finish = time.monotonic() + seconds
    still_until = finish + STILL_S
    with ThreadPoolExecutor(SENDERS) as pool:
        senders = [pool.submit(_send, cloud, f"{name}-{n}", sent, calls, finish) for n in range(SENDERS)]
        while not all(sender.done() for sender in senders) or (not sent.is_counted and time.monotonic() < still_until):
            time.sleep(0.2)
            counted = cloud.deployment.counters.read(hour, [IN_EVERY_CALL]).get(IN_EVERY_CALL, Amounts()).sums
            if (calls_counted := counted.get("requests", 0)) != sent.counted:
                sent.counted, still_until = calls_counted, max(finish, time.monotonic()) + STILL_S
        for sender in senders:
            sender.result()


def _send(cloud: LocalCloud, stream: str, sent: Sent, calls: Sequence[Call], finish: float) -> None:
    logs, group = cloud.emulator.client("logs"), cloud.outputs.access_log_group
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    has_put = False
    while not (is_late := time.monotonic() >= finish) or not has_put:
        with sent.lock:
            call = calls[len(sent.calls) % len(calls)] if sent.has_room or is_late else None
            sent.calls += [call] if call else []
        if call:
            _put(logs, group, stream, call)
            has_put = True
        else:
            time.sleep(0.01)
    logs.close()


def _put_for(emulator: Emulator, group: str, calls: Sequence[Call], seconds: float) -> int:
    """Put calls for some seconds, and return how many lines a second were taken."""
    logs, put, began = emulator.client("logs"), 0, time.monotonic()
    logs.create_log_stream(logGroupName=group, logStreamName="soak")
    while time.monotonic() < began + seconds:
        _put(logs, group, "soak", calls[put % len(calls)])
        put += 1
    logs.close()
    return round(put * LINES_PER_CALL / (time.monotonic() - began))


def _put(logs: Any, group: str, stream: str, call: Call) -> None:
    now = int(time.time() * 1000)
    events = [{"timestamp": now, "message": line} for line in call.lines]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def _wanted(sent: Sent) -> dict[str, Counter[str]]:
    """Return what each metric must come to, by key."""
    totals = {name: sent.total(name) for name in ("requests", "response_bytes", "messages")}
    users = Counter(dict.fromkeys(totals["requests"], USERS_OF_A_KEY) | {IN_EVERY_CALL: 1})
    return totals | {"users": users}


def _settled(cloud: LocalCloud, hour: Hour, sent: Sent) -> dict[str, Counter[str]]:
    """Return what was counted once it is all that was put, or nothing more comes: counters are written one by one."""
    wanted, counted = _wanted(sent), _counted(cloud, hour)
    still_until = time.monotonic() + STILL_S
    while counted != wanted and time.monotonic() < still_until:
        time.sleep(0.2)
        before, counted = counted, _counted(cloud, hour)
        if counted != before:
            still_until = time.monotonic() + STILL_S
    return counted


def _counted(cloud: LocalCloud, hour: Hour) -> dict[str, Counter[str]]:
    quantities = {key: amounts.quantities() for key, amounts in cloud.deployment.counters.read(hour).items()}
    names = ("requests", "response_bytes", "messages", "users")
    return {name: Counter({key: of_key.get(name, 0) for key, of_key in quantities.items()}) for name in names}


def _records_per_s_per_core(cloud: LocalCloud, calls: Sequence[Call]) -> int:
    """Count the same lines by the function's code in this process, into a table of their own; return its CPU's rate."""
    dynamodb = cloud.deployment.client("dynamodb")
    names = [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")]
    schema = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
    dynamodb.create_table(TableName="soak", KeySchema=schema, AttributeDefinitions=names, BillingMode="PAY_PER_REQUEST")
    declared = _declared(cloud)
    recorder = Recorder(
        declared,
        tuple(cloud.outputs.nonces.split()),
        Counters(dynamodb, "soak"),
        Claims(dynamodb, "soak"),
        cloud.deployment.set_aside,
        lambda: datetime.now(UTC),
        Hashing(b"secret", cloud.deployment.ledger.holders),
    )
    deliveries = [_delivery(call, number) for number, call in enumerate(calls)]
    began = time.process_time()
    for delivery in deliveries:
        recorder.record(payloads.subscription(delivery).batch("access-log"))
    return round(len(calls) * LINES_PER_CALL / (time.process_time() - began))


def _delivery(call: Call, number: int) -> dict[str, Any]:
    events = [{"id": f"{number:028d}{n:028d}", "timestamp": 0, "message": line} for n, line in enumerate(call.lines)]
    body = {"messageType": "DATA_MESSAGE", "logGroup": "access-log", "logStream": "soak", "logEvents": events}
    return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()}}


def _declared(cloud: LocalCloud) -> tuple[Metric, ...]:
    """Return the metrics that the deployed function counts."""
    client = cloud.emulator.client("lambda")
    name = cloud.outputs.record_usage_function
    environment = client.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    client.close()
    return metrics.decode(environment["METRICS"])


@contextmanager
def _subscriber_that_does_nothing(emulator: Emulator) -> Iterator[str]:
    """Make a log group whose subscriber returns at once; yield its name."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("nothing.py", NOTHING)
    functions, logs = emulator.client("lambda"), emulator.client("logs")
    iam = emulator.client("iam")
    trust = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*"}}
    role = iam.create_role(RoleName="nothing", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    iam.close()
    made = functions.create_function(
        FunctionName="nothing",
        Runtime="python3.13",
        Role=role,
        Handler="nothing.handler",
        Code={"ZipFile": zipped.getvalue()},
    )
    logs.create_log_group(logGroupName="nothing")
    logs.put_subscription_filter(
        logGroupName="nothing", filterName="all", filterPattern="", destinationArn=made["FunctionArn"]
    )
    yield "nothing"
    logs.delete_log_group(logGroupName="nothing")
    functions.delete_function(FunctionName="nothing")
    functions.close()
    logs.close()


def _cpu_seconds(emulator: int) -> dict[str, float]:
    """Return the processor time used so far by the emulator, the functions that it runs, and this process.

    From Linux's /proc; elsewhere only this process's.
    """
    used = {"sender": time.process_time(), "emulator": 0.0, "functions": 0.0}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            values = stat.read_text().rpartition(")")[2].split()
            if int(values[2]) == emulator:  # the process group, which is named after its leader
                ticks = int(values[11]) + int(values[12])
                used["emulator" if stat.parent.name == str(emulator) else "functions"] += ticks / os.sysconf(
                    "SC_CLK_TCK"
                )
    return used


if __name__ == "__main__":
    main()

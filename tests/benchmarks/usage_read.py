"""What it takes to show a customer a month by day: read units and our own compute, on DynamoDB Local.

One customer has one key, the other has a hundred; both used four metrics in each hour of the days, and one hour is
open. ``compute_ms`` is the processor time of the whole function for one request, lowest of a few, in a process that has
answered before; ``floor_ms`` is the same calls to DynamoDB whose answers nobody looks at, ``own_ms`` what is beyond it.
``closed_ms`` is the same of a request for closed hours alone. ``plain_rows_ms`` is what botocore's own parser takes for
the rows, which :mod:`metering.stores.decoding` spares. ``first`` is a request that finds no distinct values kept.

``without_distinct`` is the same of customers that no metric counts distinct values of: what a hundred keys take ÷ what
one takes, of the processor, of its part beyond the calls, and of time. ``distinct`` is what distinct values of the open
hour take that are not kept yet: of a customer with a second key that brought nothing new, as one has that changed its
key; of one whose eight keys all brought some, the most that are looked at; and of the one with a hundred keys.

``worst`` is what the dearest requests take: a customer with a hundred keys of the longest ids, whose splits are full of
the longest values, asks each question of ever more days until it is refused. ``days`` are those that were answered,
``sure_hours`` what is promised, ``rss_mb`` the most memory that the whole process ever had, the filling of the tables
included.
"""

import json
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.config import Config

import show_usage
from metering.model.amounts import MOST_VALUES, Amounts
from metering.model.batches import TOKEN_BYTES
from metering.model.measuring import LONGEST_VALUE
from metering.model.metrics import Count, Sum, Unique
from metering.model.periods import Hour, hours
from metering.model.subjects import LONGEST_ID, customer
from metering.model.usage_row import State, Total, UsageRow
from metering.portal.agreements import Agreements
from metering.portal.bounds import Bounds
from metering.portal.charges import Charges
from metering.portal.history import History
from metering.portal.parts import Parts
from metering.portal.past_invoices import PastInvoices
from metering.portal.reading import UsageReader
from metering.portal.tokens import PortalKeys, Use, issue
from metering.settings import ShowUsageSettings
from metering.stores.aws import side_by_side
from metering.stores.claims import Claim, Claims, of_value
from metering.stores.counters import Counters
from metering.stores.holders import BEGINNING, Customer, Holder, Holding
from metering.stores.ledger import Ledger
from metering.stripe.client import StripeAccount
from tests.benchmarks.common import parser, report
from tests.doubles.dynamodb_local import DynamoDBLocal
from tests.doubles.lambdas import context, request

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

NOW: Final = datetime(2026, 11, 30, 22, 30, tzinfo=UTC)
OPEN_HOURS: Final = 1
KEYS: Final = {"one": 1, "hundred": 100}
USERS: Final = 200
DISTINCT: Final = {"changed": (2, 1, 5), "eight": (8, 8, USERS), "hundred": (100, 100, USERS)}
"""Keys, how many of them brought new values in the open hour, and how many values those are."""

KEY: Final = "k" * 64
METRICS: Final = (
    Count(name="requests", by="resource"),
    Sum(name="response_bytes", of="response_length"),
    Sum(name="messages", of="authorizer.messages"),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)
READS: Final = ("Query", "GetItem", "BatchGetItem")
ROUTES: Final = ("/items", "/items/{id}", "/messages", "/users/{id}", "/reports/{id}")
OPEN: Final = Hour(Hour.containing(NOW).number - OPEN_HOURS + 1)
LIMIT_MS: Final = 50


@dataclass(frozen=True, slots=True)
class Size:
    """How many days are read, batches of a key in an open hour, which are so many items at most, and runs."""

    days: int
    batches: int
    runs: int

    @property
    def first(self) -> Hour:
        """The first hour."""
        return Hour.containing(NOW - timedelta(days=self.days))


@dataclass
class Watch:
    """What a client sent, and what DynamoDB says that it consumed."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    units: Counter[str] = field(default_factory=Counter)
    """By the kind of items: what their partition keys begin with."""

    @contextmanager
    def on(self, client: "DynamoDBClient") -> Iterator[None]:
        """Watch a client, before anything else takes the answers; what was seen before is forgotten."""
        self.calls.clear()
        self.units.clear()
        client.meta.events.register("provide-client-params.dynamodb", self._ask)
        for name in READS:
            client.meta.events.register_first(f"before-parse.dynamodb.{name}", self._note)
        try:
            yield
        finally:
            client.meta.events.unregister("provide-client-params.dynamodb", self._ask)
            for name in READS:
                client.meta.events.unregister(f"before-parse.dynamodb.{name}", self._note)

    def _ask(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        if model.name in READS:
            self.calls.append((model.name, dict(params)))
            params["ReturnConsumedCapacity"] = "TOTAL"

    def _note(self, operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
        found = json.loads(response_dict["body"]).get("ConsumedCapacity", [])
        for one in found if isinstance(found, list) else [found]:
            self.units[f"{operation_model.name} of {one['TableName']}"] += one["CapacityUnits"]


def measure(size: Size) -> dict[str, Any]:
    """Fill the tables, ask, and return what came out."""
    with DynamoDBLocal() as dynamodb:
        client = dynamodb.client(Config(max_pool_connections=80, retries={"total_max_attempts": 2}))
        for table in ("counters", "ledger"):
            client.create_table(
                TableName=table,
                KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
                BillingMode="PAY_PER_REQUEST",
            )
        ledger, counters = Ledger(client, "ledger"), Counters(client, "counters")
        ledger.progress.advance_cursor(OPEN)
        for name, keys in KEYS.items():
            fill(ledger, counters, size, name, keys_of(name, keys))
            fill(ledger, counters, size, f"plain-{name}", keys_of(f"plain-{name}", keys), bringing=0)
        begin(client)
        plain = Ledger(dynamodb.client(), "ledger")
        found = {name: of_customer(name, ledger, plain, size) for name in KEYS}
        without = {name: of_customer(f"plain-{name}", ledger, plain, size) for name in KEYS}
        distinct = {name: of_claims(name, ledger, counters, size) for name in DISTINCT}
        dearest = worst(ledger, counters, size)
    closed = size.days * 24 - OPEN_HOURS
    units = {name: one["closed_units"] / closed for name, one in found.items()}
    return {
        "own_ms": {name: one["own_ms"] for name, one in found.items()},
        "limit_ms": LIMIT_MS,
        "ratio_to_floor": max(one["ratio_to_floor"] for one in found.values()),
        "units_per_closed_hour": {name: round(value, 3) for name, value in units.items()},
        "closed_units_ratio": round(units["hundred"] / units["one"], 3),
        "without_distinct": {
            **{
                f"{what}_ratio": round(without["hundred"][what] / without["one"][what], 2)
                for what in ("compute_ms", "own_ms", "time_ms")
            },
            **{
                name: {what: one[what] for what in ("compute_ms", "floor_ms", "own_ms", "time_ms", "calls")}
                for name, one in without.items()
            },
        },
        "distinct": distinct,
        "worst": dearest,
        **found,
    }


def keys_of(name: str, number: int) -> list[str]:
    """Return a customer's keys."""
    return [f"{name}{n:03d}" for n in range(number)]


def of_claims(name: str, ledger: Ledger, counters: Counters, size: Size) -> dict[str, Any]:
    """Fill a customer that used its keys in the open hour alone; return what its distinct values take.

    They are kept for a while: the same request takes that much less when it comes again.
    """
    keys, bringing, users = DISTINCT[name]
    customer_id = f"distinct-{name}"
    fill(
        ledger, counters, replace(size, days=0), customer_id, keys_of(customer_id, keys), bringing=bringing, users=users
    )
    first, again = Watch(), Watch()
    query = {"from": str(OPEN), "metric": "users"}
    with first.on(ledger.client):
        shown = json.loads(answered(customer_id, query)["body"])["usage"]
    with again.on(ledger.client):
        answered(customer_id, query)
    asked = [str(call.get("ExpressionAttributeValues", {}).get(":pk")) for _, call in first.calls]
    return {
        "keys": keys,
        "shown": sum(line["quantity"] for line in shown),
        "calls": len(first.calls),
        "claims_calls": sum("unique#" in pk for pk in asked),
        "claims_units": round(first.units.total() - again.units.total(), 1),
    }


def worst(ledger: Ledger, counters: Counters, size: Size) -> dict[str, Any]:
    """Fill a customer with all that is allowed; return what the dearest request takes that is answered, or is not.

    A hundred keys with the longest ids, and fifty values of a split, as long as they may be, in each hour. Each
    question is asked of ever more days.
    """
    name = "worst"
    keys = [f"{number:03d}".ljust(LONGEST_ID, "k") for number in range(100)]
    fill(ledger, counters, size, name, keys, [f"/items/{n:02d}".ljust(LONGEST_VALUE, "v") for n in range(MOST_VALUES)])
    queries: tuple[dict[str, str], ...] = (
        {},
        {"by": "hour", "format": "csv"},
        {"by": "month", "dimension": "resource"},
        {"by": "month", "dimension": "key"},
        {"by": "hour", "dimension": "key"},
    )
    answers: list[tuple[bool, float, float]] = []
    days: list[int] = []
    for query in queries:
        for number in range(1, size.days + 1):
            watch, asked = Watch(), {"from": str(Hour(OPEN.number + 1 - number * 24)), **query}
            with watch.on(ledger.client):
                began = time.process_time()
                is_answered = answer_to(name, asked)["statusCode"] == HTTPStatus.OK
                answers.append((is_answered, watch.units.total(), (time.process_time() - began) * 1000))
            if not is_answered:
                break
        days.append(number - (not is_answered))
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "days": days,
        "sure_hours": Bounds(METRICS).sure_hours(),
        "sure_hours_by_key": Bounds(METRICS).sure_hours(keys, by_key=True),
        "units": max(units for is_answered, units, _ in answers if is_answered),
        "units_refused": max((units for is_answered, units, _ in answers if not is_answered), default=0),
        "cpu_ms": round(max(cpu for _, _, cpu in answers), 1),
        "rss_mb": rss,
    }


def fill(  # noqa: PLR0913, PLR0917 - where, and what
    ledger: Ledger,
    counters: Counters,
    size: Size,
    name: str,
    keys: list[str],
    values: Sequence[str] = ROUTES,
    *,
    bringing: int | None = None,
    users: int = USERS,
) -> None:
    """Write a customer's month: closed hours as they are when Stripe has them, open ones as counters.

    So many keys are ``bringing`` new ``users`` in an open hour, or all; where none is, no metric counts any.
    """
    metrics = METRICS if bringing != 0 else [metric for metric in METRICS if not isinstance(metric, Unique)]
    bringers = keys[:bringing]
    ledger.holders.save_customer(Customer(name, name), before=None)
    for key in keys:
        ledger.holders.hand_over(Holding(key, (Holder(BEGINNING, name),)))
    by_key = {key: {metric.name: 100 for metric in metrics} for key in keys}

    def write(hour: Hour) -> None:
        posted = {
            "revision": 1,
            "state": State.POSTED,
            "posted_to": "cus_QwErTyUiOpAsDf",
            "posted_at": int(hour.end.timestamp()) + 700,
        }
        totals = {
            metric.name: Total(
                100 * len(keys),
                identifier=f"1a2b3.{name}.{metric.name}.{hour}.r1",
                split=dict.fromkeys(values, 100 * len(keys) // len(values)) if metric.name == "requests" else {},
                **posted,  # type: ignore[arg-type]
            )
            for metric in metrics
        }
        ledger.rows.save(UsageRow(customer(name), hour, totals=totals), by_key)

    side_by_side(write, hours(size.first, OPEN))

    def count(key: str) -> None:
        for hour in hours(OPEN, Hour(OPEN.number + OPEN_HOURS)):
            for number in range(size.batches):
                new = {"users": users // len(bringers)} if number == 0 and key in bringers else {}
                sums = {"requests": 50, "response_bytes": 90_000, "messages": 70}
                amounts = Amounts(sums, new, splits={"requests": dict.fromkeys(values[:5], 10)})
                counters.count(hour, key, amounts, bytes([number]) + os.urandom(TOKEN_BYTES - 2) + bytes([number]))

    side_by_side(count, keys)
    claims = Claims(counters.client, counters.table)
    for number in range(users if bringers else 0):
        key = bringers[number % len(bringers)]
        made = Claim(OPEN, os.urandom(TOKEN_BYTES), int(NOW.timestamp() * 1000))
        claims.claim({of_value("users", key, OPEN, f"{number:02x}".ljust(32, "0"), None): made})


def begin(client: "DynamoDBClient") -> None:
    """Begin the function's process upon these tables; its secrets are made up."""
    secrets = SimpleNamespace(
        get_secret_value=lambda **_: {"SecretString": KEY},
        exceptions=SimpleNamespace(ResourceNotFoundException=KeyError),
    )
    settings = ShowUsageSettings("counters", "ledger", "Metering", "portal", "stripe", "http://127.0.0.1:1")
    reader = UsageReader.of(client, "counters", "ledger", distinct=Bounds(METRICS).distinct)
    stripe = StripeAccount(lambda _: "", "Metering", "")
    charges = Charges(
        Agreements(reader.ledger.holders, stripe, time.monotonic),
        History(reader, Bounds(METRICS).most_hours(), Bounds(METRICS).sure_hours(), time.monotonic),
        METRICS,
        (),
    )
    keys = PortalKeys(cast("Any", secrets), "portal", time.monotonic)
    past = PastInvoices(reader.ledger.holders, stripe, time.monotonic)
    parts = Parts(settings.deployment, keys, reader, charges, past, METRICS, ())
    os.environ.update(
        settings.environment() | {"POWERTOOLS_SERVICE_NAME": "Metering", "POWERTOOLS_LOG_LEVEL": "WARNING"}
    )
    vars(show_usage).update(_parts=lambda: parts, _clock=lambda: NOW)


def of_customer(name: str, ledger: Ledger, plain: Ledger, size: Size) -> dict[str, Any]:
    """Ask for a customer's month by day; the client of ``plain`` leaves its answers to botocore's parser."""
    first, watch, closed = Watch(), Watch(), Watch()
    with first.on(ledger.client):
        ask(name, size)
    with watch.on(ledger.client):
        ask(name, size)
    with closed.on(ledger.client):
        ask(name, size, {"to": str(OPEN)})
    compute = lowest(lambda: ask(name, size), size.runs)
    floor = lowest(lambda: unread(ledger.client, watch.calls), size.runs)
    return {
        "compute_ms": compute,
        "floor_ms": floor,
        "own_ms": round(compute - floor, 1),
        "ratio_to_floor": round(compute / floor, 2),
        "closed_ms": lowest(lambda: ask(name, size, {"to": str(OPEN)}), size.runs),
        "time_ms": lowest(lambda: ask(name, size), size.runs, clock=time.perf_counter),
        "plain_rows_ms": lowest(lambda: list(plain.rows.of(customer(name), size.first, OPEN)), size.runs),
        "calls": len(watch.calls),
        "units": {what: round(number, 1) for what, number in sorted(watch.units.items())},
        "closed_units": closed.units["Query of ledger"],
        "first": {"calls": len(first.calls), "units": round(first.units.total(), 1)},
    }


def ask(name: str, size: Size, query: Mapping[str, str] | None = None) -> None:
    """Ask the function for a month by day."""
    answer = answered(name, {"from": str(size.first), **(query or {})})
    days = {line["period"] for line in json.loads(answer["body"])["usage"]}
    assert len(days) >= size.days


def answered(name: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return what the function answers to a customer's request for usage that is answered."""
    answer = answer_to(name, query)
    assert answer["statusCode"] == HTTPStatus.OK, answer["body"]
    return answer


def answer_to(name: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return what the function answers to a customer's request for usage."""
    token, _ = issue(KEY, deployment="Metering", customer=name, now=NOW, life=timedelta(hours=1), use=Use.SESSION)
    sent = request("GET", "/v1/usage", query, {"authorization": f"Bearer {token}"}, None)
    answer: dict[str, Any] = show_usage.handler(sent, context())
    return answer


def unread(client: "DynamoDBClient", calls: list[tuple[str, dict[str, Any]]]) -> None:
    """Make the same calls, and look at no answer."""

    def drop(response_dict: dict[str, Any], **_: Any) -> None:
        response_dict["body"] = b"{}"

    methods = {"Query": client.query, "GetItem": client.get_item, "BatchGetItem": client.batch_get_item}
    for name in READS:
        client.meta.events.register_first(f"before-parse.dynamodb.{name}", drop)
    try:
        side_by_side(lambda call: cast("Any", methods[call[0]])(**call[1]), calls)
    finally:
        for name in READS:
            client.meta.events.unregister(f"before-parse.dynamodb.{name}", drop)


def lowest(do: Callable[[], object], runs: int, *, clock: Callable[[], float] = time.process_time) -> float:
    """Return the lowest time of a few runs, in milliseconds: whatever else runs only adds to it.

    By default it is the processor time of all threads of this process.
    """
    do()
    return min(_time_of(do, clock) for _ in range(runs))


def _time_of(do: Callable[[], object], clock: Callable[[], float]) -> float:
    before = clock()
    do()
    return round((clock() - before) * 1000, 1)


def main() -> None:
    """Measure, and print what came out."""
    options = parser(__doc__)
    options.add_argument("--days", type=int, default=31, help="how many days are read (default: 31)")
    options.add_argument("--batches", type=int, default=8, help="batches of a key in the open hour (default: 8)")
    options.add_argument("--runs", type=int, default=9, help="how many runs to take the lowest of (default: 9)")
    arguments = options.parse_args()
    report(measure(Size(arguments.days, arguments.batches, arguments.runs)), as_json=arguments.json)


if __name__ == "__main__":
    main()

"""What each function does, once for every way that needs a grant: run under its role, and run again.

A function's own code runs in this process, with the settings that it was deployed with and its role's credentials.
"""

import base64
import gzip
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import msgspec
import pytest
from aws_lambda_powertools import Metrics

import check_completeness
import close_periods
import post_usage
import receive_events
import reconcile_usage
import record_usage
import show_usage
from app import METRICS, PLANS
from infra.local.demo import steps as demo
from infra.local.stripe.webhook import Webhook
from metering.model.amounts import Amounts
from metering.model.identifiers import identifier
from metering.model.metrics import USAGE_LINES, Sum, encode
from metering.model.periods import Hour
from metering.model.prices import encode as encode_plans
from metering.model.subjects import Subject, customer, key, short_id
from metering.model.usage_row import NO_STRIPE_CUSTOMER, TOO_OLD, Posting, State, Total, UsageRow
from metering.portal.api import application
from metering.portal.tokens import Use, issue
from metering.stores import aws
from metering.stores.changes import Billed, Changes, Noted
from metering.stores.claims import Claim, of_value
from metering.stores.counters import Counters
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stores.marks import Mark, new_mark, partition
from metering.stores.progress import Round
from tests.doubles.lambdas import context, request
from tests.e2e.conftest import Deployed
from tests.e2e.roles import Role, acting

SIGNING_SECRET: Final = "whsec_of_this_test"
"""The same in all tests that share a cloud: a function that runs keeps what it has read for five minutes."""

AMONG_THE_LAST: Final = "zz"
"""Customers of these tests have names after this one, so that a round through all others is no part of them."""

LONG: Final = "x" * 40
"""Makes a name too long for an identifier at Stripe, which has a hash of it: whose it is stands in the ledger."""

Again = Callable[[], None]
"""Has a function do all that it does, and asserts that it is done; a failure makes no later time fail."""

Scenario = Callable[[Deployed, "Told"], AbstractContextManager[Again]]


class Told:
    """What the account's event bus is told, by way of a queue."""

    def __init__(self, deployed: Deployed) -> None:
        self._sqs = deployed.cloud.emulator.client("sqs")
        self._events = deployed.cloud.emulator.client("events")
        self._queue = self._sqs.create_queue(QueueName="told-by-grants")["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])["Attributes"]
        self._events.put_rule(Name="told-by-grants", EventPattern=json.dumps({"source": ["metering"]}))
        self._events.put_targets(Rule="told-by-grants", Targets=[{"Id": "queue", "Arn": arn["QueueArn"]}])

    def customers(self) -> set[str]:
        """Return whose usage was told to be rejected since the last time."""
        found: set[str] = set()
        while got := self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10).get("Messages"):
            for one in got:
                found.add(json.loads(one["Body"])["detail"]["customer"])
                self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=one["ReceiptHandle"])
        return found

    def close(self) -> None:
        """Take the rule and the queue away."""
        self._events.remove_targets(Rule="told-by-grants", Ids=["queue"])
        self._events.delete_rule(Name="told-by-grants")
        self._sqs.delete_queue(QueueUrl=self._queue)
        self._sqs.close()
        self._events.close()


@contextmanager
def process(deployed: Deployed, function: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    """Begin a process of a function, under its role."""
    for module in (check_completeness, close_periods, post_usage, receive_events, reconcile_usage, record_usage):
        monkeypatch.setattr(module, "signals", Metrics(namespace="Grants"))
    with acting(deployed.cloud, function, monkeypatch) as role:
        _begin()
        yield role
    _begin()


def _begin() -> None:
    """Forget what a process keeps between two events, clients and all."""
    clients = (aws.dynamodb, aws.s3, aws.functions, aws.events, aws.secrets, aws.cloudwatch)
    for cached in (*clients, aws.queues, aws.mail, aws.apigateway):
        cached.cache_clear()
    check_completeness._sources.cache_clear()
    forget_secrets()


def forget_secrets() -> None:
    """Forget the secrets that a process has read."""
    handlers = (record_usage, close_periods, post_usage, reconcile_usage)
    for cached in (*(handler._parts for handler in handlers), receive_events._receiver):
        cached.cache_clear()
    for kept in (show_usage._parts, show_usage._cors, application):
        kept.cache_clear()


@contextmanager
def record(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Count a line with a user beside one that is set aside, a usage line, and one that is redriven.

    On the road over Firehose also an object.
    """
    os.environ["METRICS"] = _metrics(scale=0)
    outputs = deployed.cloud.outputs
    archived = _archive(deployed) if outputs.delivery_stream else None

    def again() -> None:
        forget_secrets()
        # Its key begins as the callers of a connection would, if there were one of that name.
        line = json.loads(deployed.access_line("granted:key")) | {"authorizer.user": "granted-user"}
        sent = _delivery(outputs.access_log_group, json.dumps(line, separators=(",", ":")), "not JSON")
        answer = record_usage.handler(sent, context())
        assert answer == {"read": 2, "billed": 1, "set_aside": 1}
        usage = {"id": uuid.uuid4().hex, "time": int(line["time"]), "key": "granted", "tokens": 3}
        answer = record_usage.handler(_delivery("/our/own/code", json.dumps({"usage": usage})), context())
        assert answer["billed"] == 1
        _redrive(deployed, usage | {"id": uuid.uuid4().hex, "tokens": 0.5})
        if archived:
            seen = _objects(deployed)
            notified = archived()
            record_usage.handler(notified, context(10_000))  # too little time for a chunk
            assert _objects(deployed) == seen + 1
            assert record_usage.handler(notified, context()) == {"batchItemFailures": []}

    yield again


def _metrics(*, scale: int) -> str:
    return encode([*METRICS, Sum(name="tokens", of=USAGE_LINES, scale=scale, deduplicate=True)])


def _redrive(deployed: Deployed, usage: dict[str, Any]) -> None:
    """Set a usage line aside, and count it once its metric takes such an amount, so that nothing of it waits."""
    set_aside = deployed.cloud.deployment.set_aside
    before = set(set_aside.batches())
    record_usage.handler(_delivery("/our/own/code", json.dumps({"usage": usage})), context())
    (batch,) = set(set_aside.batches()) - before
    os.environ["METRICS"] = _metrics(scale=1)
    forget_secrets()
    try:
        assert record_usage.handler({"redrive": {"batch": batch}}, context())["left"] == 0
    finally:
        os.environ["METRICS"] = _metrics(scale=0)
        forget_secrets()


@contextmanager
def close(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Close an hour again for a customer of two keys, and for a key of nobody; start a worker, and another run.

    Another hour is looked at, in which a value was claimed later. Without the cursor, as in a new deployment, and
    without the customer's keys in one item, as an older one has it.
    """
    deployment, hour = deployed.cloud.deployment, deployed.hour
    counters, ledger = deployment.counters, deployment.ledger
    name, calls = new_name(), 0
    held, nobodys = f"{name}-held", f"{name}-nobodys"
    deployed.customer(name, held, f"{name}-second")
    whose = customer(name)
    other = hour.next() if hour == hour.month_begin else Hour(hour.number - 1)
    for at, source, moment in ((hour, held, 1), (other, f"{name}-second", 2)):
        deployment.uniques.claims.claim({of_value("users", source, at, "0" * 32, None): Claim(at, bytes(12), moment)})

    def again() -> None:
        nonlocal calls
        calls += 1
        # The last: who may not write could not give back its lease either.
        for pk, sk in ((str(whose), "keys"), ("period#cursor", "close"), ("period#marks", "late")):
            ledger.client.delete_item(TableName=ledger.table, Key={"pk": {"S": pk}, "sk": {"S": sk}})
        for source in (held, nobodys):
            amounts = Amounts(sums={"requests": 1}, uniques={"users": 1} if source == held else {})
            counters.count(hour, source, amounts, os.urandom(12))
            counters.marks.mark_late(hour, key(source), new_mark())
        (row,) = ledger.rows.at(other, [whose]).values()
        unlike = Total(7, row.version + 1, State.HELD, reason="unlike the claims")
        ledger.rows.save(UsageRow(whose, other, row.version, {"users": unlike}))
        (row,) = ledger.rows.at(hour, [whose]).values()  # held until now, so that a sum has to go down
        waiting = Total(0, row.version + 1, State.HELD, reason=NO_STRIPE_CUSTOMER)
        ledger.rows.save(row.with_totals({"requests": waiting}))
        counters.client.delete_item(TableName=counters.table, Key=_mark(Mark.LATE, other, whose))
        # The worker that is started is given nothing: what it posted would change the rows that the next time reads.
        with patch.object(close_periods, "shards_of_workers", lambda _: [[]]):
            answer = close_periods.handler({}, context())
        assert answer["workers"] == 1
        assert (deployed.in_ledger(str(whose))[0], deployed.in_ledger(f"key#{nobodys}")) == (calls, (calls, "HELD"))
        assert nobodys in ledger.holders.key_ids()
        assert ledger.progress.cursor()
        (row,) = ledger.rows.at(other, [whose]).values()  # its mark was put, and dealt with in the same run or not
        assert row.totals["users"].counted == 0 or _is_marked(deployed, Mark.LATE, other, whose)
        assert _is_marked(deployed, Mark.CHECK, hour, whose)
        with patch.object(close_periods, "closers_for", lambda *_: 2):  # when nothing is left that it could do
            close_periods.handler({"post": False}, context(function=deployed.cloud.outputs.close_periods_function))

    yield again


@contextmanager
def post(deployed: Deployed, told: Told) -> Iterator[Again]:
    """Post a total, hold one without a Stripe customer and one that is too old, and have one rejected."""
    ledger, switch = deployed.cloud.deployment.ledger, {"pk": {"S": "posting"}, "sk": {"S": "switch"}}
    too_old = Hour.containing(datetime.now(UTC) - timedelta(days=35))
    before = ledger.client.get_item(TableName=ledger.table, Key=switch)["Item"]
    ledger.client.put_item(TableName=ledger.table, Item={**before, "since": {"S": str(too_old)}})
    made: list[str] = []
    try:

        def again() -> None:
            forget_secrets()
            good, poor, late, wrong = names = [add_customer(deployed, made, more) for more in ("", "", "", LONG)]
            ledger.holders.save_customer(Customer(poor, poor), before=ledger.holders.customers([poor])[poor])
            for name in names:
                dated = int(datetime.now(UTC).timestamp()) + 86_400 if name == wrong else 0  # Stripe takes no future
                total = Total(1, 1, State.PENDING, dated=dated)
                hour = too_old if name == late else deployed.hour
                ledger.rows.save(UsageRow(customer(name), hour, totals={"requests": total}))
            answer = post_usage.handler({}, context())
            while answer["leased"]:  # by a worker of the cloud's own clock
                time.sleep(0.5)
                answer = post_usage.handler({"shards": answer["leased"]}, context())
            states = [deployed.in_ledger(f"customer#{name}")[1] for name in (good, poor, wrong)]
            assert states == ["POSTED", "HELD", "REJECTED"]
            (row,) = ledger.rows.at(too_old, [customer(late)]).values()
            assert row.totals["requests"].state is State.HELD
            assert _is_marked(deployed, Mark.CHECK, too_old, customer(late))
            assert wrong in told.customers()

        yield again
    finally:
        ledger.client.put_item(TableName=ledger.table, Item=before)
        remove_customers(deployed, made)


@contextmanager
def reconcile(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Have a total posted again that Stripe lacks, carry what is less than nothing, and note an invoice.

    The local Stripe finalises invoices as its clock goes on, which all tests share: so what notes one is called here.
    """
    deployment, hour = deployed.cloud.deployment, deployed.hour
    ledger, counters, made = deployment.ledger, deployment.counters, list[str]()
    switch, too_old = (
        {"pk": {"S": "posting"}, "sk": {"S": "switch"}},
        Hour.containing(datetime.now(UTC) - timedelta(days=35)),
    )
    before = ledger.client.get_item(TableName=ledger.table, Key=switch)["Item"]
    ledger.client.put_item(TableName=ledger.table, Item={**before, "since": {"S": str(too_old)}})
    try:

        def again() -> None:
            forget_secrets()
            name = add_customer(deployed, made, "")
            totals = {"requests": Total(2, 1, State.POSTED), "messages": Total(0, 1, State.POSTED, adjusted=-3)}
            ledger.rows.save(UsageRow(customer(name), hour, totals=totals))
            counters.marks.mark_to_check(hour, customer(name))
            # Too old for Stripe, which shows nothing of it as it should be: so it is settled, and a sum goes down.
            ledger.rows.save(
                UsageRow(customer(name), too_old, totals={"requests": Total(0, 1, State.HELD, reason=TOO_OLD)})
            )
            counters.marks.mark_to_check(too_old, customer(name))
            ledger.progress.save_round(Round(name=AMONG_THE_LAST))
            current = Hour.containing(datetime.now(UTC))
            answer = reconcile_usage.handler({}, context())
            assert answer["round_over"]
            (row,) = ledger.rows.at(hour, [customer(name)]).values()
            assert row.totals["requests"].state is State.PENDING
            assert [change.amount for change in deployment.changes.of(name, hour)] == [3]
            assert _is_marked(deployed, Mark.LATE, current, customer(name))
            assert not _is_marked(deployed, Mark.CHECK, hour, customer(name))
            (settled,) = ledger.rows.at(too_old, [customer(name)]).values()
            assert settled.totals["requests"].state is State.POSTED
            client = aws.dynamodb()
            owner = Ledger(client, ledger.table).holders.owner(f"cus_{name}")
            invoice = Billed("in_granted", f"cus_{name}", "requests", str(hour), str(hour.next()), 2)
            changes = Changes(client, ledger.table, Counters(client, counters.table))
            noted = Noted("in_granted", f"cus_{name}", int(hour.start.timestamp()))
            changes.note(owner, noted)
            changes.add_billed(owner, invoice)
            changes.keep_noted(msgspec.structs.replace(noted, stripe_customer="cus_ofnobody"))
            assert [one.invoice for one in deployment.changes.billed(name)] == ["in_granted"]
            assert _is_marked(deployed, Mark.CHECK, hour, customer(name))

        yield again
    finally:
        ledger.client.put_item(TableName=ledger.table, Item=before)
        remove_customers(deployed, made)


@contextmanager
def receive(deployed: Deployed, told: Told) -> Iterator[Again]:
    """Mark a total that Stripe reports."""
    deployment, stripe, hour, secret = deployed.cloud.deployment, deployed.cloud.stripe, deployed.hour, SIGNING_SECRET
    stripe.report_errors()  # what others have left
    name = new_name() + LONG
    deployment.ledger.holders.save_customer(Customer(name, name), before=None)
    known_as = identifier("1", customer(name), "requests", hour, 1)
    at = int(hour.start.timestamp())
    deployment.stripe().post("requests", Posting(known_as, f"cus_{name}", 1, at, at))
    (event,) = stripe.report_errors()
    deployment.put_signing_secret(secret)
    body = str(deployment.stripe().call(lambda client: client.v2.core.events.retrieve(event)))  # JSON
    # Held meanwhile, so that a sum goes down when it turns out to be rejected.
    sent = Posting(known_as, f"cus_{name}", 1, at, at)
    posted = Total(1, 1, State.HELD, reason=TOO_OLD, posting=sent)
    try:

        def again() -> None:
            forget_secrets()
            (row,) = deployment.ledger.rows.at(hour, [customer(name)]).values()
            deployment.ledger.rows.save(row.with_totals({"requests": posted}))
            headers = {"stripe-signature": Webhook("", secret).sign(body)}
            answer = receive_events.handler({"headers": headers, "body": body}, context())
            assert answer["statusCode"] == 200
            assert deployed.in_ledger(f"customer#{name}") == (1, "REJECTED")
            assert name in told.customers()

        yield again
    finally:
        remove_customers(deployed, [name])


@contextmanager
def check(_deployed: Deployed, _: Told) -> Iterator[Again]:
    """Ask CloudWatch for the day's numbers."""

    def again() -> None:
        answer = check_completeness.handler({}, context())
        assert "of_lines" in answer

    yield again


@contextmanager
def show(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Show a customer of two keys, which have a user in common, what it used, and look for its invoice."""
    deployment, now = deployed.cloud.deployment, datetime.now(UTC)
    name, hour = new_name(), Hour.containing(now)
    keys = [f"{name}-one", f"{name}-two"]
    deployed.customer(name, *keys)
    for source in keys:
        amounts = Amounts(sums={"requests": 1}, uniques={"users": 1})
        deployment.counters.count(hour, source, amounts, os.urandom(12))
    secret = deployment.client("secretsmanager").get_secret_value(SecretId=deployment.outputs.portal_secret)
    deployed_as = deployment.outputs.deployment
    token, _ends = issue(
        secret["SecretString"], deployment=deployed_as, customer=name, now=now, life=timedelta(hours=1), use=Use.SESSION
    )

    def ask(path: str, **query: str) -> dict[str, Any]:
        asked = request("GET", path, query, {"authorization": f"Bearer {token}"}, None)
        return dict(show_usage.handler(asked, context()))

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as changed:
        declared = Path(folder) / "declared.json"
        declared.write_text(f'{{"metrics": {encode(METRICS)}, "plans": {encode_plans(PLANS)}}}')
        changed.setattr(show_usage, "DECLARED", declared)

        def again() -> None:
            forget_secrets()
            answer = ask("/v1/usage", **{"from": str(Hour(hour.number - 96)), "metric": "requests"})
            assert answer["statusCode"] == 200
            assert [line["quantity"] for line in json.loads(answer["body"])["usage"]] == [2]
            assert ask("/v1/invoice")["statusCode"] == 404  # Stripe was asked, and knows no subscription

        yield again


SCENARIOS: Final[dict[str, Scenario]] = {
    "RecordUsage": record,
    "PostUsage": post,
    "ClosePeriods": close,
    "ReconcileUsage": reconcile,
    "ReceiveEvents": receive,
    "CheckCompleteness": check,
    "ShowUsage": show,
}


def _mark(kind: Mark, hour: Hour, subject: Subject) -> dict[str, Any]:
    return {"pk": {"S": f"{kind}#{partition(str(subject))}"}, "sk": {"S": f"{hour}#{subject}"}}


def _is_marked(deployed: Deployed, kind: Mark, hour: Hour, subject: Subject) -> bool:
    counters = deployed.cloud.deployment.counters
    return "Item" in counters.client.get_item(TableName=counters.table, Key=_mark(kind, hour, subject))


def new_name() -> str:
    """Return a name that nobody has."""
    return f"{AMONG_THE_LAST}{uuid.uuid4().hex[:12]}"


def add_customer(deployed: Deployed, made: list[str], more: str) -> str:
    """Make a customer, whom Stripe knows, and note its name, which ends as given."""
    name = new_name() + more
    made.append(name)
    deployed.cloud.stripe.add_customer(f"cus_{name}")
    deployed.cloud.deployment.ledger.holders.save_customer(Customer(name, name, f"cus_{name}"), before=None)
    return name


def remove_customers(deployed: Deployed, names: list[str]) -> None:
    """Remove customers and all that is known of them, so that no other test finds their differences."""
    ledger = deployed.cloud.deployment.ledger
    for name in names:
        pages = ledger.client.query(
            TableName=ledger.table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"customer#{name}"}},
        )
        items = [(item["pk"]["S"], item["sk"]["S"]) for item in pages["Items"]]
        lists = [("list#customers", name), ("list#hashed", short_id(name)), (f"stripe#cus_{name}", "owner")]
        for pk, sk in [*items, *lists]:
            ledger.client.delete_item(TableName=ledger.table, Key={"pk": {"S": pk}, "sk": {"S": sk}})


def _delivery(group: str, *messages: str) -> dict[str, Any]:
    """Return what CloudWatch Logs would deliver of these lines of a log group."""
    events = [{"id": uuid.uuid4().hex, "timestamp": 0, "message": message} for message in messages]
    body = {"messageType": "DATA_MESSAGE", "logGroup": group, "logStream": "s", "logEvents": events}
    return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()}}


def _archive(deployed: Deployed) -> Callable[[], dict[str, Any]]:
    """Put an object where Firehose does, wait until it is counted, and return what notifies it, each time anew."""
    s3 = deployed.cloud.emulator.client("s3")
    bucket, name = deployed.cloud.outputs.bucket, "access-log/2026/11/22/05/granted"
    s3.put_object(Bucket=bucket, Key=name, Body=f"{deployed.access_line('archived')}\n".encode())
    s3.close()
    demo.wait_until(lambda: deployed.counted("archived") == 1)

    def notified() -> dict[str, Any]:
        found = {"bucket": {"name": bucket}, "object": {"key": name, "eTag": uuid.uuid4().hex}}
        body = json.dumps({"Records": [{"s3": found}]})
        return {"Records": [{"messageId": "m1", "body": body, "eventSource": "aws:sqs"}]}

    return notified


def _objects(deployed: Deployed) -> int:
    """Return of how many objects it is remembered how far they are recorded."""
    counters = deployed.cloud.deployment.counters
    found = counters.client.scan(
        TableName=counters.table,
        FilterExpression="begins_with(pk, :object)",
        ExpressionAttributeValues={":object": {"S": "object#"}},
    )
    return found["Count"]

"""What the functions of limits do, as :mod:`tests.e2e.grant_scenarios` has it of the others: once for every grant.

Each time with customers of its own, so that nothing of it was decided or done before.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
from aws_lambda_powertools import Metrics

import enforce_limits
import receive_events
import reconcile_usage
import set_budget
import show_usage
import watch_limits
from app import LIMITS, METRICS, PLANS
from infra.local.stripe.webhook import Webhook
from infra.operate.customers import Customers, Entry
from metering.limits import usage_plans
from metering.limits.sweeping import Sweeper
from metering.model.amounts import Amounts
from metering.model.limits import OPERATOR, Level, OfCustomer
from metering.model.metrics import encode
from metering.model.periods import Hour, due_before
from metering.model.prices import encode as encode_plans
from metering.model.subscribed import Subscribed
from metering.portal import budget
from metering.portal.tokens import Right, Use, issue
from metering.stores.agreements import Looks
from metering.stores.gate_list import Asked, GateList
from metering.stores.holders import Holder
from metering.stores.limits import Held, LimitItems
from tests.doubles.lambdas import context, request
from tests.e2e.conftest import Deployed
from tests.e2e.grant_scenarios import (
    AMONG_THE_LAST,
    SIGNING_SECRET,
    Again,
    Scenario,
    Told,
    add_customer,
    close,
    forget_secrets,
    new_name,
    remove_customers,
)

PLAN: Final = PLANS[0].with_limits(LIMITS)


def forget_limits() -> None:
    """Forget what a process of these functions keeps between two events."""
    for kept in (
        *(watch_limits._looker, watch_limits._watcher, enforce_limits._gate),
        *(set_budget._budgets, set_budget._cors, show_usage._parts, show_usage._cors),
    ):
        kept.cache_clear()


@contextmanager
def watch(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Sweep over a customer that is to be stopped, and one that comes near and leaves again."""
    limits, gate = _limits(deployed), _gate_list(deployed)
    deployment, wakes = deployed.cloud.deployment, _Wakes(deployed)
    ledger = deployment.ledger

    def again() -> None:
        forget_limits()
        wakes.taken()
        hour = Hour.containing(datetime.now(UTC))
        stopped, near = new_name(), new_name()
        for name, most in ((stopped, 10), (near, 100)):
            keys = (f"{name}-one", f"{name}-two")
            deployed.customer(name, *keys)
            for key in keys:
                deployment.counters.count(hour, key, Amounts({"requests": 45}, uniques={"users": 1}), os.urandom(12))
            limits.set(name, OfCustomer("requests", "day", most))
            limits.set(name, OfCustomer("users", "day", 1))  # by two keys: the claims say how many users there are
        limits.address(stopped, ["someone@example.com"])
        gate.client.delete_item(TableName=gate.table, Key={"pk": {"S": "sweep"}, "sk": {"S": "round"}})
        # One hour is due, so that it is looked whether its rows are written.
        ledger.client.delete_item(TableName=ledger.table, Key={"pk": {"S": "period#cursor"}, "sk": {"S": "close"}})
        ledger.progress.advance_cursor(Hour(due_before(datetime.now(UTC)).number - 1))
        with patch.object(Sweeper, "wanted_help", lambda _: 1):
            named = context(function=deployed.cloud.outputs.watch_limits_function or "")
            assert watch_limits.handler({"sweep": True}, named)["failed"] == 0
        state = limits.of(stopped).states["requests/day/customer"]
        assert (state.level, state.untold) == (Level.STOPPED, ())
        assert stopped in gate.asked()
        assert near in gate.near()
        assert gate.head()[0]
        assert wakes.taken()
        for own in limits.of(near).own:
            limits.clear(near, own)
        assert watch_limits.handler({"look": [near]}, context()) == {"looked": [near]}
        assert (near in gate.near(), dict(limits.of(near).states)) == (False, {})
        gate.done(stopped, gate.asked()[stopped])

    with (
        _declared(watch_limits),
        _sender(deployed),
        # The deployed function is asked for help, too: to look at nobody, so that it takes nothing of the round.
        patch.object(watch_limits, "HELP", {"look": []}),
        patch.object(watch_limits, "signals", Metrics(namespace="Grants", service="Grants")),
    ):
        yield again


@contextmanager
def enforce(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Take a suspended customer's key out of its plan and put it back; another key changes hands in an hour.

    It calls a connected API, too, for whose authorizer that is written.
    """
    limits, gate, ledger = _limits(deployed), _gate_list(deployed), deployed.cloud.deployment.ledger
    apigateway, wakes = deployed.cloud.emulator.client("apigateway"), _Wakes(deployed)
    plan, customers = deployed.cloud.sample["StandardPlan"], Customers(ledger, deployed.cloud.deployment.counters)

    def is_in() -> set[str]:
        return {key["id"] for key in apigateway.get_usage_plan_keys(usagePlanId=plan, limit=500)["items"]}

    def again() -> None:
        forget_limits()
        wakes.taken()
        name, now = new_name(), datetime.now(UTC)
        hour = Hour.containing(now)
        key = apigateway.create_api_key(name=name, enabled=True)["id"]
        apigateway.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
        customers.add(Entry(name, name, "", (key, f"orders:{name}")), now=now)
        held = limits.hold(name, OPERATOR, Held(int(now.timestamp())))
        gate.ask(name, Asked(Level.STOPPED, int(now.timestamp()), saved=True))
        assert enforce_limits.handler({}, context(10_000))["left"]  # too little time for a key
        assert wakes.taken()
        enforce_limits.handler({}, context())
        assert key not in is_in()
        assert gate.caller(f"orders:{name}") is not None
        assert name not in gate.asked()
        assert gate.closed_of(name) is not None
        limits.release(name, OPERATOR, held)
        other = ledger.holders.holdings([key])[key].with_holder(Holder(hour.next(), "", "test"))
        ledger.holders.hand_over(other)
        gate.ask(name, Asked(Level.OPEN, int(now.timestamp()), saved=True))
        enforce_limits.handler({}, context())
        assert key in is_in()
        assert gate.caller(f"orders:{name}") is None
        assert gate.asked()[name].at >= int(hour.end.timestamp())  # when it changes hands
        assert gate.closed_of(name) is None
        gate.done(name, gate.asked()[name])
        apigateway.delete_api_key(apiKey=key)

    with patch.object(usage_plans, "CALLS_A_SECOND", 1000.0):
        yield again
    apigateway.close()


@contextmanager
def put_budget(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Set a budget, which is another one each time."""
    limits, made = _limits(deployed), 0

    def again() -> None:
        nonlocal made
        forget_limits()
        made += 1
        name = new_name()
        limits.subscribe(name, _subscribed())
        headers = {"authorization": f"Bearer {_session(deployed, name)}", "content-type": "application/json"}
        body = json.dumps({"notify": 1000 + made, "stop": 2000 + made})
        answer = set_budget.handler(request("PUT", "/v1/budget", {}, headers, body), context())
        assert answer["statusCode"] == 200
        found = limits.budget(name)
        assert found is not None
        assert (found.notify, found.stop) == (1000 + made, 2000 + made)

    # Else a look that cannot be asked for is left to the sweep.
    with _declared(set_budget), patch.object(budget, "ERRORS", ()):
        yield again


@contextmanager
def show_limits(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Show a customer how it stands."""

    def again() -> None:
        forget_limits()
        name = new_name()
        deployed.customer(name)
        _limits(deployed).subscribe(name, _subscribed())
        headers = {"authorization": f"Bearer {_session(deployed, name)}"}
        assert show_usage.handler(request("GET", "/v1/limits", {}, headers, None), context())["statusCode"] == 200

    with _declared(show_usage):
        yield again


@contextmanager
def look_who_subscribes(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Have the hourly look write down that a customer is subscribed to nothing, which is known from then on."""
    ledger, made = deployed.cloud.deployment.ledger, list[str]()
    try:

        def again() -> None:
            forget_secrets()
            name = add_customer(deployed, made, "")
            ledger.agreements.save_looks(Looks(begun_at=int(time.time()), name=AMONG_THE_LAST))
            reconcile_usage.handler({}, context())
            assert _limits(deployed).subscribed(name) is not None

        yield again
    finally:
        remove_customers(deployed, made)


@contextmanager
def hear_who_subscribes(deployed: Deployed, _: Told) -> Iterator[Again]:
    """Be notified of a customer's subscription, and write down what it is subscribed to."""
    deployment, made = deployed.cloud.deployment, list[str]()
    deployment.put_signing_secret(SIGNING_SECRET)
    stripe = deployment.stripe()
    product = stripe.call(lambda client: client.v1.products.create({"name": "Granted"})).id
    priced: Any = {"product": product, "currency": "usd", "unit_amount": 1, "recurring": {"interval": "month"}}
    price = stripe.call(lambda client: client.v1.prices.create(priced)).id
    try:

        def again() -> None:
            forget_secrets()
            name = add_customer(deployed, made, "")
            wanted: Any = {"customer": f"cus_{name}", "items": [{"price": price}]}
            subscription = stripe.call(lambda client: client.v1.subscriptions.create(wanted)).id
            related = {"id": subscription, "type": "subscription", "url": f"/v1/subscriptions/{subscription}"}
            told = {"id": f"evt_{name}", "type": "v1.customer.subscription.created", "related_object": related}
            body = json.dumps(told)
            headers = {"stripe-signature": Webhook("", SIGNING_SECRET).sign(body)}
            assert receive_events.handler({"headers": headers, "body": body}, context())["statusCode"] == 200
            assert _limits(deployed).subscribed(name) is not None

        yield again
    finally:
        remove_customers(deployed, made)


OF_LIMITS: Final[dict[str, Scenario]] = {"WatchLimits": watch, "EnforceLimits": enforce, "SetBudget": put_budget}

WITH_LIMITS: Final[dict[str, tuple[Scenario, set[str]]]] = {
    "ClosePeriods": (close, {"NoteChangedRows"}),
    "ShowUsage": (show_limits, {"ReadLimits", "ReadBudgets"}),
    "ReconcileUsage": (look_who_subscribes, {"NoteSubscriptions"}),
    "ReceiveEvents": (hear_who_subscribes, {"NoteSubscriptions"}),
}
"""What other functions do where there are limits, and the statements that they have for it."""


class _Wakes:
    """The messages that wake the worker, which does not run by itself here."""

    def __init__(self, deployed: Deployed) -> None:
        self._sqs = deployed.cloud.emulator.client("sqs")
        self._queue = deployed.cloud.outputs.gate_queue

    def taken(self) -> int:
        """Take what is there; return how many these are."""
        taken = 0
        while found := self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10).get("Messages"):
            taken += len(found)
            for one in found:
                self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=one["ReceiptHandle"])
        return taken


@contextmanager
def _declared(handler: Any) -> Iterator[None]:
    """Put what is declared where a function looks for it."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as changed:
        declared = Path(folder) / "declared.json"
        declared.write_text(f'{{"metrics": {encode(METRICS)}, "plans": {encode_plans([PLAN])}}}')
        changed.setattr(handler, "DECLARED", declared)
        yield


@contextmanager
def _sender(deployed: Deployed) -> Iterator[None]:
    """Let SES send from the address of the deployment."""
    mail = deployed.cloud.emulator.client("sesv2")
    mail.create_email_identity(EmailIdentity=os.environ["ALERTS_FROM"])
    yield
    mail.close()


def _limits(deployed: Deployed) -> LimitItems:
    ledger = deployed.cloud.deployment.ledger
    return LimitItems(ledger.client, ledger.table)


def _gate_list(deployed: Deployed) -> GateList:
    return GateList(deployed.cloud.deployment.ledger.client, deployed.cloud.outputs.access_table or "")


def _subscribed() -> Subscribed:
    now = int(time.time())
    return Subscribed(now, "cus_any", "active", now, (PLAN.name,), "usd", "month", now, now - 3600, now + 86_400)


def _session(deployed: Deployed, name: str) -> str:
    deployment = deployed.cloud.deployment
    secret = deployment.client("secretsmanager").get_secret_value(SecretId=deployment.outputs.portal_secret)
    token, _ = issue(
        secret["SecretString"],
        deployment=deployment.outputs.deployment,
        customer=name,
        now=datetime.now(UTC),
        life=timedelta(hours=1),
        use=Use.SESSION,
        may=[Right.BUDGET],
    )
    return token

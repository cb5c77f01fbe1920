"""What an operator does with keys, and how a deployment is, on the embedded AWS."""

import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

from infra.local.demo.steps import PATIENCE_S
from infra.operate.access import Access
from infra.operate.doctor.examine import examine
from tests.e2e.conftest import Deployed
from tests.e2e.grant_scenarios import new_name

INDEPENDENT = (
    "credentials",
    "clock",
    "version",
    "log role",
    "stages",
    "subscription",
    "stream",
    "Stripe key",
    "meters",
    "keys",
)
"""What the doctor checks that other tests of this deployment do not upset."""


def status(deployed: Deployed, value: str) -> int:
    """Return the status of a call of the sample API with a key."""
    headers = {"x-api-key": value, "x-user": "operator"}
    call = urllib.request.Request(f"{deployed.cloud.gateway.url}/items", headers=headers)  # noqa: S310 - the cloud's own
    try:
        with urllib.request.urlopen(call, timeout=PATIENCE_S) as answer:  # noqa: S310 - the same
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_deployment_is_found_well(there: Deployed) -> None:
    """Stage, log, subscription or stream, Stripe's key and its meters, as they are deployed."""
    lines = [line for line in examine(there.cloud.deployment, lambda: datetime.now(UTC)) if line.check in INDEPENDENT]
    assert [line for line in lines if line.state != "ok"] == []
    checks = list(dict.fromkeys(line.check for line in lines))
    of_the_other_road = "log role" if there.road == "firehose" else "stream"
    assert checks == [one for one in INDEPENDENT if one != of_the_other_road]


def test_keys_open_and_close_as_the_operator_says(deployed: Deployed) -> None:
    """Suspended, resumed, replaced: by the answers of the API itself; and each call is its customer's."""
    name = new_name()
    key, value = deployed.cloud.add_api_key(name, plan="Standard")
    deployed.customer(name, key)
    deployment = deployed.cloud.deployment
    now = datetime.now(UTC)
    access = Access.of(deployment, lambda: now)
    customer = deployment.ledger.holders.customers([name])[name]
    assert status(deployed, value) == 200
    access.suspend(customer, now=now)
    assert status(deployed, value) == 403
    access.resume(customer, now=now)
    assert status(deployed, value) == 200
    new = access.rotate(customer, "", timedelta(hours=1), now=now).new
    assert [status(deployed, one) for one in (value, access.plans.value(new))] == [200, 200]
    assert access.finish(name, now=now + timedelta(hours=1))
    assert [status(deployed, one) for one in (value, access.plans.value(new))] == [403, 200]
    assert deployment.ledger.holders.keys_of(name) == {key, new}

"""Stripe's notifications, to the address that is open to everyone."""

import urllib.error
import urllib.request

import pytest

from infra.local.demo.steps import PATIENCE_S
from infra.operate.posting import retry
from tests.e2e.conftest import Deployed
from tests.e2e.grant_scenarios import SIGNING_SECRET, new_name


def test_a_rejected_total_is_posted_when_it_is_tried_again(deployed: Deployed) -> None:
    """I4, I7: Stripe's signed word reaches the deployed address, the cause is mended, and the total is there once."""
    cloud, name = deployed.cloud, new_name()
    deployed.customer(name, f"{name}-key", known=False)
    deployed.deliver(deployed.payload(f"{name}-key", f"{name}-key"))
    cloud.deployment.close()
    cloud.deployment.put_signing_secret(SIGNING_SECRET)
    url = cloud.deployment.reachable(cloud.outputs.notifications_url)
    unsigned = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})  # noqa: S310 - the cloud's own
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(unsigned, timeout=PATIENCE_S)  # noqa: S310 - the same
    assert deployed.in_ledger(f"customer#{name}") == (2, "POSTED")
    cloud.stripe.set_webhook(url, SIGNING_SECRET)
    cloud.stripe.report_errors()
    assert deployed.in_ledger(f"customer#{name}") == (2, "REJECTED")
    cloud.stripe.add_customer(f"cus_{name}")
    assert retry(cloud.deployment, [name]) == 1
    cloud.deployment.close()
    assert deployed.in_ledger(f"customer#{name}") == (2, "POSTED")
    assert deployed.at_stripe(name) == 2

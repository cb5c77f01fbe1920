"""`metering customers link`: what a link lets whoever has it do."""

import json

import boto3
import pytest

from metering.portal.tokens import Bearer, Right, Use, key_id, verify
from tests.doubles.outputs import outputs
from tests.integration.cli.command_line import CloudFormation, Metering, Result
from tests.integration.world import World

KEY = "k" * 64


@pytest.fixture
def linking(
    deployed: World, cloudformation: CloudFormation, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> Metering:
    """The command line of a deployment with limits, whose customer is acme."""
    told = outputs(stripe_api_base=deployed.stripe.url, access_table="access", watch_limits_function="watch-limits")
    cloudformation.add("Metering", **told.written())
    boto3.client("secretsmanager").create_secret(Name="portal-secret", SecretString=KEY)
    monkeypatch.setattr("infra.cli.link.now", deployed.clock)
    deployed.customer("acme", "key1")
    return metering


def held(world: World, link: str) -> Bearer:
    """Return whom a link is for, and what it lets them do."""
    token = link.partition("#")[2]
    return verify(token, {key_id(KEY): KEY}.get, deployment="Metering", now=world.now, use=Use.LINK)


def test_a_link_shows_and_may_set_the_budget_only_if_it_is_said(deployed: World, linking: Metering) -> None:
    """Both are said beside the link, and in JSON."""
    shows, sets = linking("customers", "link", "acme"), linking("customers", "link", "acme", "--may", "budget")
    assert held(deployed, shows.out.strip()) == Bearer("acme", frozenset())
    assert held(deployed, sets.out.strip()) == Bearer("acme", frozenset({Right.BUDGET}))
    assert "budget" not in shows.err
    assert "whoever has it may set the budget" in sets.err
    told = json.loads(linking("customers", "link", "acme", "--may", "budget", "--json").out)
    assert (told["customer"], told["may"]) == ("acme", ["budget"])


def test_no_link_may_anything_else(linking: Metering) -> None:
    """What was got and what was wanted."""
    refused = linking("customers", "link", "acme", "--may", "everything")
    assert (refused.code, refused.out) == (2, "")
    assert "'everything' is not one of 'budget'" in refused.err


def test_without_limits_no_link_may_set_a_budget(
    deployed: World, cloudformation: CloudFormation, linking: Metering
) -> None:
    """With what to do."""
    cloudformation.add("Metering", **outputs(stripe_api_base=deployed.stripe.url).written())
    assert linking("customers", "link", "acme", "--may", "budget") == Result(
        1,
        "",
        "error: this deployment has no limits: declare some in a plan, or give the stack limits=True, and deploy\n",
    )

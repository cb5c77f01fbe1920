"""Every command on a deployment whose log, tables, AWS and Stripe are full of what acts on a terminal."""

import json
from typing import Any, Final

import boto3
import msgspec
import pytest

from infra.operate import posting
from infra.operate.deployment import Deployment
from infra.outputs import METADATA
from metering.model import metrics
from metering.model.amounts import Amounts
from metering.model.connections import Connection, Form, Step
from metering.model.log_format import Api
from metering.model.metrics import Count, Sum
from metering.model.prices import PerUnit, Plan, encode
from metering.stores.connections import Connections
from tests.integration.cli.command_line import KEY, ON_A_DEPLOYMENT, CloudFormation, Metering, put_secret
from tests.integration.world import HOUR, METRICS, World

HOSTILE: Final = "\x1b]52;c;ZXZpbA==\x07\x9b2J\r\u202eemca\u2066\nok       all is well"

SHOWING: Final = {
    "connections",
    "customers list",
    "customers show",
    "customers add",
    "customers link",
    "customers portal",
    "doctor",
    "usage",
    "close",
    "set-aside list",
    "set-aside show",
    "set-aside redrive",
    "stripe plan",
    "stripe apply",
    "posting status",
    "rejected list",
}
"""The commands that show something hostile here; of the others it is seen that they write nothing of the kind."""

NEEDS: Final = {"usage": ("--by-dimension",), "recount": ("--all", "--hour", "2026-11-22T05")}
"""What some commands are given beyond, or instead of, what they need."""


@pytest.fixture
def hostile(deployed: World, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch) -> World:
    """What nobody can enter by the commands is written into the tables themselves."""
    world = deployed
    world.bill(Count(name="requests", by="authorizer.client"), Sum(name="bytes", of="response_length"))
    plan = Plan(
        name="standard", title=f"Standard {HOSTILE}", currency="usd", prices=(PerUnit(metric="requests", amount=3),)
    )
    declared = {"metrics": json.loads(metrics.encode(METRICS)), "plans": json.loads(encode([plan]))}
    cloudformation.templates["Metering"] = {"Metadata": {METADATA: declared}}
    world.customer("acme", "key1", stripe_customer="cus_acme")
    _write(world, "customer#acme", "profile", name=f"Acme {HOSTILE}", stripe_customer=f"cus_{HOSTILE}")
    world.counters.count(HOUR, "key1", Amounts({"requests": 3}, splits={"requests": {HOSTILE: 3}}), b"123456789012")
    world.record(HOSTILE, world.line(key=HOSTILE), world.line(status=HOSTILE))
    world.after_grace()
    world.run()
    put_secret(api_key=KEY)
    boto3.client("secretsmanager").create_secret(Name="portal-secret", SecretString="k" * 64)
    world.switch.turn(msgspec.structs.replace(world.switch.read(), who=HOSTILE))

    def invoke(_deployment: Deployment, name: str, sent: Any) -> dict[str, Any]:
        if "redrive" in sent:
            return {"batch": sent["redrive"]["batch"], "counted": 0, "left": 1, "reasons": {"line": HOSTILE}}
        nothing = {"written": [], "closed": [], "closed_again": 0, "unmapped": 0, "behind": 0}
        posted = dict.fromkeys(("posted", "pending", "rejected", "held"), 0)
        more = {"posting": True, "leased": [], "reasons": {HOSTILE: 1}}
        return nothing if name == "close-periods" else posted | more

    monkeypatch.setattr(Deployment, "invoke", invoke)
    rejected = posting.Rejection("acme", "requests", str(HOUR), 3, HOSTILE)
    monkeypatch.setattr(posting, "rejections", lambda *_: [rejected])
    connection = Connection(
        name="hostile",
        form=Form.OURS,
        step=Step.CONNECTED,
        log_group="/hostile",
        since=0,
        by=HOSTILE,
        api=Api.REST,
        api_id="a1b2c3",
        api_name=HOSTILE,
        stage=HOSTILE,
    )
    Connections(world.ledger.client, world.ledger.table).save(connection)
    for module in (
        "access",
        "connections",
        "customers",
        "doctor",
        "limits",
        "link",
        "posting",
        "recount",
        "top",
        "usage",
    ):
        monkeypatch.setattr(f"infra.cli.{module}.now", world.clock)
    return world


def _write(world: World, pk: str, sk: str, **attributes: str) -> None:
    world.ledger.client.update_item(
        TableName=world.ledger.table,
        Key={"pk": {"S": pk}, "sk": {"S": sk}},
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in attributes),
        ExpressionAttributeNames={f"#{name}": name for name in attributes},
        ExpressionAttributeValues={f":{name}": {"S": value} for name, value in attributes.items()},
    )


@pytest.mark.parametrize("command", ON_A_DEPLOYMENT)
def test_no_command_lets_anything_act_on_the_terminal(hostile: World, metering: Metering, command: str) -> None:
    """What it shows of it can be read; a line end in it begins no line that could be taken for the command's own."""
    given = NEEDS.get(command, ON_A_DEPLOYMENT[command])
    if command in ("set-aside show", "set-aside redrive"):
        given = tuple(hostile.set_aside.batches())[:1]
    result = metering(*command.split(), *given, stdin=KEY)
    said = result.out + result.err
    assert [one for one in said if not one.isprintable() and one != "\n"] == []
    assert [line for line in said.splitlines() if line.startswith("ok       all is well")] == []
    assert ("52;c;" in said) == (command in SHOWING), said


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("command", ON_A_DEPLOYMENT)
def test_documents_are_escaped_as_json_is(metering: Metering, command: str) -> None:
    """Whoever reads them has every letter, and a terminal has none that acts."""
    given = NEEDS.get(command, ON_A_DEPLOYMENT[command])
    said = metering(*command.split(), *given, "--json", stdin=KEY).out
    assert [one for one in said if not one.isprintable() and one != "\n"] == []
    if command == "customers list":
        assert json.loads(said)[0]["name"] == f"Acme {HOSTILE}"

"""What ``--json`` prints is described to users: each command, each field."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from infra.cli import main as cli
from infra.local.demo import limits, live
from infra.local.demo.limits import LimitsResult
from infra.operate.restore import Restored
from tests.conftest import ROOT
from tests.doubles.json_schema import COMMANDS, SCHEMA, hold
from tests.integration.cli.command_line import Metering
from tests.integration.world import World


def commands(group: Any, name: str = "") -> Iterator[str]:
    """Yield each command's words."""
    for word, child in getattr(group, "commands", {}).items():
        yield from commands(child, f"{name} {word}".strip())
    if not hasattr(group, "commands"):
        yield name


def test_every_command_is_described() -> None:
    """Each has --json; what is described is a command."""
    assert {*commands(typer.main.get_command(cli.command_line()))} == COMMANDS


def fields(schema: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each field below a schema."""
    for part, below in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if part == "properties":
            yield from ((f"{name}.{field}", said) for field, said in below.items())
        if isinstance(below, dict | list):
            yield from fields(below, f"{name}.{part}")


def test_every_field_is_described() -> None:
    """By itself, or by what it refers to, whose moments and money say in which form and unit."""
    shared = SCHEMA["$defs"]
    undescribed = [
        name
        for name, said in fields(shared, "")
        if not (said.get("description") or shared[said.get("$ref", "/").rpartition("/")[2]].get("description"))
    ]
    assert undescribed == []


def test_a_field_that_is_not_described_is_named_with_the_place_to_add_it() -> None:
    """And one that is missing, of another kind, or without a command."""
    customer = {"id": "acme", "name": "Acme", "stripe_customer": "", "access": "open", "reasons": []}
    hold(("customers", "list", "--json"), json.dumps([customer]))
    place = r"infra/cli/json_schema.json says what each command prints: add or mend '\$defs/customers list'; 0: "
    for wrong, said in (
        ({**customer, "plan": "standard"}, r".*'plan' was unexpected"),
        ({**customer, "name": None}, ""),
        ({"id": "acme", "name": "Acme"}, '"stripe_customer" is a required property'),
    ):
        with pytest.raises(AssertionError, match=place.replace("0: ", "0") + ".*" + said):
            hold(("customers", "list", "--json"), json.dumps([wrong]))
    with pytest.raises(AssertionError, match="add or mend '\\$defs/customers nonsense'"):
        hold(("customers", "nonsense", "--json"), "{}")


def test_users_are_told_where_it_is() -> None:
    """On the page of the commands, and it is no other file than the one that is held."""
    assert "(../cli/json_schema.json)" in (ROOT / "infra" / "operate" / "README.md").read_text()


def test_what_is_restored_is_described(metering: Metering, deployed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it is an end-to-end test."""
    del deployed
    monkeypatch.setattr("infra.cli.restore.restore", lambda *_, **__: Restored(3, 1, "2026-11-22T05", 1))
    assert metering("restore", "restored", "--json").json()["written"] == 3


def test_what_the_demo_prints_is_described(metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits, and with pages; without either it is played end to end."""
    well = LimitsResult(
        "subscription", 10, 30, 12, 12, 2, 5, {"seconds": 1.5, "notes": ["one"]}, {}, {"it stops": True}, {"total": 2.5}
    )
    monkeypatch.setattr(limits, "run", lambda **_: well)
    assert metering("demo", "--limits", "--json").json()["counted"] == 12

    def run(*, ready: Any, **_: Any) -> Any:
        ready({"acme": "http://127.0.0.1:1/#token"})
        return well

    monkeypatch.setattr(live, "run", run)
    monkeypatch.setattr("infra.cli.local._heed_signals", lambda: None)
    assert json.loads(metering("demo", "--page", "--json").out) == {"links": {"acme": "http://127.0.0.1:1/#token"}}

"""Keys that are rotated, customers that are suspended and resumed: on an API Gateway that conflicts as AWS's does."""

import stat
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.operate.access import Access
from infra.operate.access_notes import AccessNotes
from infra.operate.customers import Customers
from infra.operate.deployment import Deployment
from infra.operate.doctor.ledger import check_closed
from metering.limits.gate import Gate as KeysGate
from metering.limits.keys import PlanKeys
from metering.limits.usage_plans import UsagePlans
from metering.model.limits import Level, LimitState
from metering.model.log_format import Api
from metering.model.periods import Hour
from metering.stores.gate_list import GateList
from metering.stores.limits import LimitItems
from tests.doubles.dying import Dying, KilledError, Life
from tests.doubles.outputs import outputs
from tests.integration.operator_commands import WHO, Operator, Said
from tests.integration.world import HOUR, World


@dataclass
class Gate:
    """acme with two keys in a plan, globex with one, and an API Gateway to ask."""

    world: World
    operator: Operator
    client: Any
    plan: str
    keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for customer, names in {"acme": ("first", "second"), "globex": ("other",)}.items():
            for name in names:
                self.keys[name] = self.add_key(name)
            self.world.customer(customer, *(self.keys[name] for name in names))

    def add_key(self, name: str) -> str:
        """Make a key in the plan."""
        made: str = self.client.create_api_key(name=name, enabled=True)["id"]
        self.client.create_usage_plan_key(usagePlanId=self.plan, keyId=made, keyType="API_KEY")
        return made

    def admitted(self, plan: str = "") -> set[str]:
        """Return the keys of a plan, as API Gateway knows them."""
        return {key["id"] for key in self.client.get_usage_plan_keys(usagePlanId=plan or self.plan)["items"]}

    def all_keys(self) -> set[str]:
        """Return every key there is."""
        return {key["id"] for key in self.client.get_api_keys()["items"]}

    def run(self, *arguments: str) -> Said:
        """Run a command of the customers' that succeeds."""
        said = self.operator.run("customers", *arguments)
        assert said.code == 0, said.err
        return said

    def shown(self) -> list[list[str]]:
        """Return the words of each line that shows acme."""
        return [line.split() for line in self.run("show", "acme").out.splitlines()]

    def rotate(self, *arguments: str) -> Any:
        """Rotate acme's first key."""
        return self.run("rotate-key", "acme", "--key", self.keys["first"], *arguments, "--json").document

    def access(self) -> Access:
        """Return the verbs of a process that lives."""
        return self.dying(0)

    def dying(self, after: int, *, limits: bool = False) -> Access:
        """Return the verbs of a process that dies after so many writes, on a deployment with limits or without."""
        life = Life(after, accepted=True)
        dynamodb: Any = Dying(self.world.ledger.client, life)
        ledger = type(self.world.ledger)(dynamodb, "ledger")
        plans = UsagePlans(Dying(self.client, life))
        items, keys = LimitItems(dynamodb, "ledger"), PlanKeys(plans, "Metering")
        asked = GateList(dynamodb, "access") if limits else None
        return Access(
            plans,
            KeysGate(items, ledger.holders, keys, self.world.clock, asked),
            AccessNotes(dynamodb, "ledger"),
            ledger,
            Customers(ledger, self.world.counters),
            "Metering",
            lambda: WHO,
        )


@pytest.fixture
def gate(world: World, usage_plans: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gate:
    """The world's customers and their keys; commands see the world's time."""
    operator = Operator(world, monkeypatch, capsys)
    for module in ("access", "customers", "keys"):
        monkeypatch.setattr(f"infra.cli.{module}.now", world.clock)
    return Gate(world, operator, usage_plans, usage_plans.create_usage_plan(name="Standard")["id"])


# --- rotating --------------------------------------------------------------------------------------------------------


def test_a_new_key_takes_the_place_of_the_old_one_which_stays_valid_for_the_overlap(gate: Gate) -> None:
    """Both are in the plan, and both are the customer's."""
    done = gate.rotate()
    assert gate.admitted() == {*gate.keys.values(), done["new"]}
    assert (done["old"], done["plans"]) == (gate.keys["first"], [gate.plan])
    assert done["old_valid_until"] == "2026-11-23T05:30Z"
    held = gate.world.ledger.holders.holdings([done["new"]])[done["new"]]
    assert [holder.customer for holder in held.holders] == ["acme"]
    assert gate.client.get_api_key(apiKey=done["new"], includeValue=True)["value"] == done["value"]


def test_the_old_key_leaves_its_plan_when_its_time_is_over_and_not_before(gate: Gate) -> None:
    """By --finish, for all customers or for one."""
    new = gate.rotate("--overlap", "90m")["new"]
    gate.world.now += timedelta(minutes=89)
    assert gate.run("rotate-key", "--finish").out == "nothing to change\n"
    assert gate.keys["first"] in gate.admitted()
    gate.world.now += timedelta(minutes=1)
    assert gate.run("rotate-key", "globex", "--finish").out == "nothing to change\n"
    assert gate.run("rotate-key", "--finish").out == (
        f"key {gate.keys['first']} of acme opens nothing any more: {new} took over\n"
    )
    assert gate.admitted() == {gate.keys["second"], gate.keys["other"], new}
    assert gate.run("rotate-key", "--finish").out == "nothing to change\n"


def test_without_an_overlap_the_old_key_is_out_at_once(gate: Gate) -> None:
    """Also while an earlier overlap runs, since a key may turn out to be stolen."""
    first = gate.rotate()
    done = gate.rotate("--overlap", "0")
    assert (done["new"], done["old_valid_until"]) == (first["new"], None)
    assert gate.keys["first"] not in gate.admitted()
    assert gate.operator.run("customers", "rotate-key", "acme", "--key", gate.keys["first"]).err == (
        f"error: the key {gate.keys['first']} is in no usage plan, so that a new one could not take its place there\n"
    )


def test_a_key_that_was_replaced_is_not_shown_as_one_that_opens_something(gate: Gate) -> None:
    """Until when it does, and that it does no more; it is the customer's still, for what comes late of its usage."""
    gate.rotate("--overlap", "1h")
    first = gate.keys["first"]
    shown = {key["key"]: key for key in gate.run("show", "acme", "--json").document["keys"]}
    assert shown[first] == {
        "key": first,
        "name": None,
        "customer": "acme",
        "from": None,
        "to": None,
        "excluded": None,
        "replaced": False,
        "valid_until": "2026-11-22T06:30Z",
        "access": "open",
        "reasons": [],
    }
    assert [first, "the", "beginning", "now", "opens", "until", "2026-11-22T06:30Z"] in gate.shown()
    gate.world.now += timedelta(hours=1)
    gate.run("rotate-key", "--finish")
    shown = {key["key"]: key for key in gate.run("show", "acme", "--json").document["keys"]}
    assert (shown[first]["replaced"], shown[first]["to"]) == (True, None)
    assert [key["replaced"] for name, key in shown.items() if name != first] == [False, False]
    assert [first, "the", "beginning", "now", "replaced:", "opens", "nothing"] in gate.shown()


def test_customers_are_listed_with_what_closes_their_keys(gate: Gate) -> None:
    """As the gateway was left; whoever is open shows no reason."""
    gate.run("suspend", "globex")
    listed = {one["id"]: (one["access"], one["reasons"]) for one in gate.run("list", "--json").document}
    assert listed == {"acme": ("open", []), "globex": ("stopped", ["operator"])}
    assert gate.run("list").out.splitlines()[2].rstrip().endswith("  stopped because of operator")
    gate.run("resume", "globex")
    assert [one["access"] for one in gate.run("list", "--json").document] == ["open", "open"]


def test_keys_are_listed_with_whose_they_are_and_what_closes_them(gate: Gate) -> None:
    """Suspended, replaced, excluded, or nobody's; a customer's also after they changed hands."""
    gate.run("suspend", "globex")
    new = gate.rotate("--overlap", "0")["new"]
    first, second, other = gate.keys.values()
    gate.operator.run("keys", "exclude", "health", "--reason", "health check")
    gate.world.ledger.holders.list_key("unknown")
    gate.run("add", "globex", "--key", second, "--from", "2026-11-22T05")
    listed = {key["key"]: key for key in gate.operator.run("keys", "list", "--json").document["keys"]}
    assert {name: (key["customer"], key["access"], key["reasons"]) for name, key in listed.items()} == {
        first: ("acme", "open", []),
        new: ("acme", "open", []),
        second: ("globex", "stopped", ["operator"]),
        other: ("globex", "stopped", ["operator"]),
        "health": (None, "open", []),
        "unknown": (None, "open", []),
    }
    assert (listed[first]["replaced"], listed["health"]["excluded"]) == (True, "health check")
    states = {line.split()[0]: line.rstrip() for line in gate.operator.run("keys", "list").out.splitlines()}
    assert states[first].endswith("  replaced: opens nothing")
    assert states[other].endswith("  stopped because of operator")
    assert states["health"].endswith("  not billed: health check")
    assert states["unknown"].endswith("  nobody's: what is used by it is held")
    of_acme = gate.operator.run("keys", "list", "acme", "--json").document["keys"]
    assert {key["key"]: (key["to"], key["access"]) for key in of_acme} == {
        first: (None, "open"),
        new: (None, "open"),
        second: ("2026-11-22T05", None),
    }


def test_a_list_of_keys_is_narrowed_and_gone_on_with(gate: Gate) -> None:
    """It says where."""
    gate.operator.run("keys", "exclude", "health", "--reason", "health check")
    gate.operator.run("keys", "exclude", "load", "--reason", "load test")
    assert [key["key"] for key in gate.operator.run("keys", "list", "--excluded", "--json").document["keys"]] == [
        "health",
        "load",
    ]
    first = gate.operator.run("keys", "list", "--excluded", "--most", "1")
    assert (len(first.out.splitlines()), first.err) == (2, "1 key shown; there are more: --after health\n")
    rest = gate.operator.run("keys", "list", "--excluded", "--after", "health")
    assert (rest.out.splitlines()[1].split()[0], rest.err) == ("load", "1 key\n")
    everyone = gate.operator.run("keys", "list", "--most", "3", "--json").document
    assert everyone["more_after"] == everyone["keys"][-1]["key"]
    assert gate.operator.run("keys", "list", "acme", "--excluded").code == 2
    assert gate.operator.run("keys", "list", "nobody").err.startswith("error: there is no customer 'nobody'")


def test_rotating_again_while_the_old_key_is_valid_changes_nothing(gate: Gate) -> None:
    """The same new key, the same end: also without naming the key, and never a later end."""
    first, there = gate.rotate("--overlap", "1h"), gate.all_keys()
    gate.world.now += timedelta(minutes=10)
    value = f"its value: {gate.client.get_api_key(apiKey=first['new'], includeValue=True)['value']}"
    assert [gate.run("rotate-key", "acme").out.splitlines()[-1] for _ in range(2)] == [value, value]
    assert gate.rotate("--overlap", "7d") == first
    assert gate.run("rotate-key", "acme", "--json").document == first
    assert gate.all_keys() == there


@pytest.mark.parametrize("writes", range(1, 14))
def test_a_rotation_that_dies_anywhere_leaves_one_new_key_and_is_made_good(gate: Gate, writes: int) -> None:
    """I2. And at no moment is there a key in a plan that belongs to nobody."""
    before = gate.all_keys()
    customer = gate.world.ledger.holders.customers(["acme"])["acme"]
    try:
        gate.dying(writes).rotate(customer, gate.keys["first"], timedelta(hours=1), now=gate.world.now)
    except KilledError:
        died = True
    else:
        died = False
    holdings = gate.world.ledger.holders.holdings(gate.admitted())
    assert all(holding.holders for holding in holdings.values())
    done = gate.rotate("--overlap", "0")
    assert gate.all_keys() - before == {done["new"]}
    assert gate.admitted() == {gate.keys["second"], gate.keys["other"], done["new"]}
    assert died == (writes < 13), "the last one is beyond what a rotation writes"


def test_a_customer_with_several_keys_says_which_one(gate: Gate) -> None:
    """The sentence names them; a customer with one need not."""
    said = gate.operator.run("customers", "rotate-key", "acme")
    assert (said.code, said.out) == (1, "")
    assert "acme has 2 keys that could be rotated; say which with --key: " in said.err
    assert gate.run("rotate-key", "globex", "--json").document["old"] == gate.keys["other"]


def test_only_a_key_of_the_customers_own_is_rotated(gate: Gate) -> None:
    """Not one of another customer's, and not one that was handed over."""
    gate.world.customer("initech", gate.keys["second"], since=HOUR)
    for key in (gate.keys["other"], gate.keys["second"]):
        assert f"acme holds no key {key!r}" in gate.operator.run("customers", "rotate-key", "acme", "--key", key).err


def test_the_value_goes_to_the_operator_alone(gate: Gate, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """I8. On stdout once, or into a new file that nobody else can read; never into a log."""
    caplog.set_level("DEBUG", logger="infra")
    file = tmp_path / "key"
    there = gate.rotate("--to", str(file))
    value = file.read_text().strip()
    assert value == gate.client.get_api_key(apiKey=there["new"], includeValue=True)["value"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (there["value_in"], "value" in there) == (str(file), False)
    shown = gate.run("rotate-key", "acme", "--key", gate.keys["first"])
    assert (shown.out.count(value), shown.err) == (1, "")
    assert value not in caplog.text
    again = gate.operator.run("customers", "rotate-key", "acme", "--key", gate.keys["first"], "--to", str(file))
    assert again.err.startswith(f"error: {file} cannot be made: name a new file")


# --- suspending and resuming -----------------------------------------------------------------------------------------


def test_a_suspended_customers_keys_open_nothing_and_come_back_into_the_same_plans(gate: Gate) -> None:
    """Each into its own; nobody else's are touched, and doing it twice is harmless."""
    trial = gate.client.create_usage_plan(name="Trial")["id"]
    gate.client.create_usage_plan_key(usagePlanId=trial, keyId=gate.keys["second"], keyType="API_KEY")
    out = gate.run("suspend", "acme").out
    assert f"key {gate.keys['first']} is out of the usage plan {gate.plan}\n" in out
    assert (gate.admitted(), gate.admitted(trial)) == ({gate.keys["other"]}, set())
    assert gate.run("suspend", "acme", "--json").document["changed"] == []
    assert f"key {gate.keys['first']} is in the usage plan {gate.plan} again\n" in gate.run("resume", "acme").out
    assert (gate.admitted(), gate.admitted(trial)) == ({*gate.keys.values()}, {gate.keys["second"]})
    assert gate.run("resume", "acme").out == "nothing to change\n"


@pytest.mark.parametrize("writes", range(1, 9))
def test_a_suspension_that_dies_anywhere_is_made_good(gate: Gate, writes: int) -> None:
    """By suspending again; and by resuming at once nothing is lost either."""
    customer = gate.world.ledger.holders.customers(["acme"])["acme"]
    for then in ("suspend", "resume"):
        try:
            gate.dying(writes).suspend(customer, now=gate.world.now)
        except KilledError:
            assert writes < 8
        gate.run(then, "acme")
        assert gate.admitted() == ({gate.keys["other"]} if then == "suspend" else {*gate.keys.values()})
        gate.run("resume", "acme")


@pytest.mark.parametrize("writes", range(1, 9))
def test_a_resumption_that_dies_anywhere_is_made_good(gate: Gate, writes: int) -> None:
    """By resuming again."""
    gate.run("suspend", "acme")
    try:
        gate.dying(writes).resume(gate.world.ledger.holders.customers(["acme"])["acme"], now=gate.world.now)
    except KilledError:
        assert writes < 8
    gate.run("resume", "acme")
    assert gate.admitted() == {*gate.keys.values()}
    assert gate.world.ledger.holders.keys_of("acme") == {gate.keys["first"], gate.keys["second"]}


def test_late_records_of_a_suspended_customer_count(gate: Gate) -> None:
    """Its usage follows through to the ledger."""
    gate.run("suspend", "acme")
    gate.world.record(gate.world.line(key=gate.keys["first"]))
    gate.world.after_grace()
    gate.world.close()
    assert gate.world.in_ledger("customer#acme")["requests"][0] == 1


def test_a_key_that_changed_hands_meanwhile_stays_as_it_is(gate: Gate) -> None:
    """The new holder decides about it."""
    gate.run("suspend", "acme")
    gate.world.customer("initech", gate.keys["second"], since=HOUR)
    assert f"key {gate.keys['second']} belongs to acme no longer and stays out\n" in gate.run("resume", "acme").out
    assert gate.admitted() == {gate.keys["first"], gate.keys["other"]}


def test_a_key_that_was_deleted_meanwhile_is_said(gate: Gate) -> None:
    """The other keys come back."""
    gate.run("suspend", "acme")
    gate.client.delete_api_key(apiKey=gate.keys["second"])
    said = gate.run("resume", "acme").out
    assert f"key {gate.keys['second']} could not be put into the usage plan {gate.plan}: one of them is gone" in said
    assert gate.admitted() == {gate.keys["first"], gate.keys["other"]}


def test_suspending_and_rotating_do_not_undo_each_other(gate: Gate) -> None:
    """A suspended customer gets no new key, and an old key that is over does not come back."""
    new = gate.rotate("--overlap", "1h")["new"]
    gate.run("suspend", "acme")
    said = gate.operator.run("customers", "rotate-key", "acme", "--key", gate.keys["second"])
    assert said.err == "error: acme is suspended: resume it first with 'metering customers resume acme'\n"
    gate.world.now += timedelta(hours=1)
    gate.run("rotate-key", "--finish")
    gate.run("resume", "acme")
    assert gate.admitted() == {gate.keys["second"], gate.keys["other"], new}


def test_a_customer_without_a_key_in_a_plan_cannot_be_suspended_here(gate: Gate) -> None:
    """As where an authorizer says who calls."""
    gate.world.customer("initech", "caller-17")
    said = gate.operator.run("customers", "suspend", "initech")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: no key of initech is in a usage plan")


def test_a_customer_that_there_is_not_is_said(gate: Gate) -> None:
    """Nothing is asked of API Gateway."""
    for command in ("suspend", "resume", "rotate-key"):
        assert "there is no customer 'nobody'" in gate.operator.run("customers", command, "nobody").err


def test_a_deployments_access_is_that_of_its_tables_and_its_name(gate: Gate) -> None:
    """The derived name begins with the deployment's, since accounts have many keys."""
    deployment: Deployment = gate.operator.deployment
    assert Access.of(deployment, gate.world.clock).deployment == "Metering"
    assert gate.rotate()["name"] == f"Metering-acme-after-{gate.keys['first']}"


# --- beside limits ---------------------------------------------------------------------------------------------------


REACHED = "limit:requests/day:2026-11-22T00"


@pytest.fixture
def limited(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The same, of a deployment that has limits."""
    client = gate.operator.deployment.client
    deployment = Deployment(client, outputs(access_table="access", stripe_api_base=gate.world.stripe.url))
    vars(deployment)["declared"] = {"access_log": {"api": Api.REST.value}}
    monkeypatch.setattr(type(gate.operator), "deployment", property(lambda _: deployment))
    return gate


def stopped(gate: Gate, customer: str, level: Level = Level.STOPPED) -> None:
    """Let a limit of this day close a customer's keys, or no longer."""
    limits, hour = LimitItems(gate.world.ledger.client, "ledger"), Hour.containing(gate.world.now)
    begin = Hour(hour.number - hour.number % 24)
    before = limits.of(customer).states.get("requests/day", LimitState())
    since = int(gate.world.now.timestamp())
    state = LimitState(str(begin), str(Hour(begin.number + 24)), level=level, since=since, version=before.version)
    limits.save_state(customer, "requests/day", state)


def test_who_is_resumed_stays_closed_as_long_as_a_limit_says_so(limited: Gate) -> None:
    """And is told why; suspending again touches no key, and says that."""
    gate = limited
    stopped(gate, "acme")
    gate.run("suspend", "acme")
    shown = gate.run("show", "acme", "--json").document
    assert [(reason["name"], reason["access"]) for reason in shown["reasons"]] == [
        (REACHED, "stopped"),
        ("operator", "stopped"),
    ]
    assert gate.run("resume", "acme").out.splitlines() == [
        "acme is suspended no longer",
        f"acme is stopped because of {REACHED} since 2026-11-22T05:30:00Z until 2026-11-23T00:00:00Z",
    ]
    assert gate.admitted() == {gate.keys["other"]}
    assert gate.run("suspend", "acme").out.splitlines()[0] == "acme is suspended, and its keys were closed already"
    stopped(gate, "acme", Level.OPEN)
    gate.run("resume", "acme")
    assert gate.admitted() == {*gate.keys.values()}


def test_a_caller_of_a_connected_api_is_suspended_for_its_authorizer_to_see(limited: Gate) -> None:
    """I9: and it is said that no usage plan closes it; with it goes the item."""
    gate, caller = limited, "orders:auth0|x"
    gate.run("add", "initech", "--name", "Initech", "--key", caller)
    left = (
        f"key {caller} is left as it is: no usage plan closes it: it is refused only if its API's authorizer reads the "
        "Access table"
    )
    access = GateList(gate.world.ledger.client, "access")
    assert gate.run("suspend", "initech").out.replace("\n", " ").strip() == left
    assert (access.caller(caller) or {})["why"] == {"S": "operator"}
    assert left in gate.run("show", "initech").out.replace("\n", " ")
    assert gate.run("show", "initech", "--json").document["left"] == {caller: left.partition(": ")[2]}
    assert gate.run("resume", "initech").out == "initech is suspended no longer\n"
    assert access.caller(caller) is None
    assert gate.run("show", "initech", "--json").document["left"] == {}


def test_a_caller_of_a_connected_api_can_be_given_away_and_excluded_and_not_rotated(gate: Gate) -> None:
    """It is an id as any other, and no API key that another could take the place of."""
    hour = str(Hour.containing(gate.world.now))
    assert "orders:auth0|x" in gate.run("add", "initech", "--name", "Initech", "--key", "orders:auth0|x").out
    said = gate.operator.run("customers", "rotate-key", "initech", "--key", "orders:auth0|x")
    assert (said.code, said.out) == (1, "")
    assert said.err.replace("\n", " ").startswith("error: orders:auth0|x is no API key, but what an API calls somebody")
    assert gate.run("add", "hooli", "--name", "Hooli", "--key", "orders:auth0|x", "--from", hour).out
    shown = gate.run("show", "hooli", "--json").document["keys"]
    assert [key["key"] for key in shown] == ["orders:auth0|x"]
    later = str(Hour.containing(gate.world.now).next())
    said = gate.operator.run("keys", "exclude", "orders:auth0|x", "--reason", "health check", "--from", later)
    assert (said.code, said.err) == (0, "")


def test_a_new_key_stays_closed_with_the_others_and_opens_with_them(limited: Gate) -> None:
    """Rotated while a limit stops the customer: the new key goes where the old one belongs, once nothing holds."""
    gate = limited
    stopped(gate, "acme")
    gate.dying(0, limits=True).gate.bring("acme")
    done = gate.rotate("--overlap", "1h")
    assert (gate.admitted(), done["plans"]) == ({gate.keys["other"]}, [gate.plan])
    gate.world.now += timedelta(hours=1)
    gate.run("rotate-key", "--finish")
    stopped(gate, "acme", Level.OPEN)
    gate.dying(0, limits=True).gate.bring("acme")
    assert gate.admitted() == {gate.keys["second"], gate.keys["other"], done["new"]}


def test_whoever_is_given_a_key_while_suspended_gets_it_closed_and_gives_one_away_open(gate: Gate) -> None:
    """By `customers add`; a key that is nobody's any more stays as it is, which is said."""
    gate.run("suspend", "acme")
    hour = str(Hour.containing(gate.world.now))
    said = gate.run("add", "acme", "--name", "Acme", "--key", gate.keys["other"], "--from", hour).out
    assert f"key {gate.keys['other']} is out of the usage plan {gate.plan}\n" in said
    said = gate.run("add", "initech", "--name", "Initech", "--key", gate.keys["first"], "--from", hour).out
    assert f"key {gate.keys['first']} is in the usage plan {gate.plan} again\n" in said
    assert gate.admitted() == {gate.keys["first"]}
    said = gate.operator.run("keys", "exclude", gate.keys["second"], "--reason", "health check", "--from", hour).out
    assert f"key {gate.keys['second']} stays closed: whoever held it was, and now it is nobody's\n" in said
    assert gate.admitted() == {gate.keys["first"]}


def test_a_customer_that_an_earlier_version_suspended_is_resumed(gate: Gate) -> None:
    """Its items are an earlier version's; rotating is refused as ever."""
    for name in ("first", "second"):
        item = {"pk": {"S": "customer#acme"}, "sk": {"S": f"suspended#{gate.keys[name]}"}, "version": {"N": "1"}}
        gate.world.ledger.client.put_item(TableName="ledger", Item=item | {"plans": {"L": [{"S": gate.plan}]}})
        gate.client.delete_usage_plan_key(usagePlanId=gate.plan, keyId=gate.keys[name])
    assert "stopped because of operator" in gate.run("show", "acme").out
    assert "acme is suspended" in gate.operator.run("customers", "rotate-key", "acme", "--key", gate.keys["first"]).err
    assert f"key {gate.keys['first']} is in the usage plan {gate.plan} again\n" in gate.run("resume", "acme").out
    assert gate.admitted() == {*gate.keys.values()}
    assert gate.run("show", "acme", "--json").document["reasons"] == []


@pytest.mark.parametrize("writes", range(1, 14))
def test_what_a_command_leaves_the_worker_makes_good_where_there_are_limits(gate: Gate, writes: int) -> None:
    """It is asked before the reason is written, and again after it."""
    customer = gate.world.ledger.holders.customers(["acme"])["acme"]
    for verb in ("suspend", "resume"):
        died = False
        try:
            getattr(gate.dying(writes, limits=True), verb)(customer, now=gate.world.now)
        except KilledError:
            died = True
        worker = gate.dying(0, limits=True).gate
        worker.run("worker", gate.world.now + timedelta(minutes=10))
        is_held = bool(LimitItems(gate.world.ledger.client, "ledger").of("acme").held)
        assert gate.admitted() == ({gate.keys["other"]} if is_held else {*gate.keys.values()})
        assert died or is_held == (verb == "suspend")
        assert GateList(gate.world.ledger.client, "access").asked() == {}


def test_doctor_says_whose_keys_are_closed_and_whose_are_left(gate: Gate) -> None:
    """Where there is no lane, whoever should be slowed stays open, and that is no secret."""
    deployment = Deployment(lambda name, **_: boto3.client(name), outputs(access_table="access"))
    assert [*check_closed(Deployment(deployment.client, outputs()), gate.world.now)] == []
    stopped(gate, "acme")
    gate.dying(0, limits=True).gate.bring("acme")
    (found,) = check_closed(deployment, gate.world.now)
    why = "limit:requests/day:2026-11-22T00 since 2026-11-22T05:30:00Z until 2026-11-23T00:00:00Z"
    said = f"the keys of 1 customer are closed, as they should be: acme stopped because of {why}"
    assert (found.state, found.said) == ("ok", said)
    stopped(gate, "globex", Level.SLOWED)
    gate.dying(0, limits=True).gate.bring("globex")
    (found,) = check_closed(deployment, gate.world.now)
    assert (found.state, found.said) == ("warning", "keys are left as they are that should be closed, of globex")
    assert "is left as it is: its usage plans are gone, or have no stage\n" in gate.run("show", "globex").out

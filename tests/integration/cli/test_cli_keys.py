"""API keys by commands: named by their ids, and never by their values."""

from pathlib import Path

import boto3
import pytest

from infra.outputs import METADATA
from tests.doubles.aws import Account
from tests.doubles.usage_plans import UsagePlansOfAws
from tests.integration.cli.command_line import AS_IT_WAS, CloudFormation, Metering, Result
from tests.integration.world import HOUR, World

VALUE = "09f355a1ddaf4861ab67b7b55fbf6f9e"
MADE = "Ab3d" + "xY7q" * 9
"""One as API Gateway makes them."""

REFUSED = (
    "09f3... has 32 characters, as an API key's value (the secret) has: give the key's id, which has ten lower-case "
    "letters and digits"
)
NO_NAME = "09f3... looks like a key's value (the secret), which stands nowhere: give another name, or write it in parts"
ACME = ("customers", "add", "acme", "--name", "Acme")


def declare(cloudformation: CloudFormation, **access_log: str) -> None:
    """Say what kind of API the deployment has."""
    cloudformation.templates["Metering"] = {"Metadata": {METADATA: {"access_log": access_log}}}


@pytest.fixture
def gateway(deployed: World, cloudformation: CloudFormation, aws: Account) -> UsagePlansOfAws:
    """A deployment whose REST API bills by API keys, and an API Gateway to ask."""
    assert deployed
    declare(cloudformation, api="rest")
    aws.services["apigateway"] = there = UsagePlansOfAws()
    return there


def stored() -> str:
    """Return all that is in the tables."""
    client = boto3.client("dynamodb")
    return str([client.scan(TableName=table)["Items"] for table in ("ledger", "counters")])


@pytest.mark.parametrize(
    "command",
    [
        (*ACME, "--key", "id00000001", "--key", VALUE),
        (*ACME, "--key", VALUE, "--from", "2026-11-22T05"),
        ("keys", "exclude", VALUE, "--reason", "health check"),
        ("customers", "rotate-key", "known", "--key", VALUE),
    ],
)
def test_a_keys_value_is_refused_and_neither_stored_nor_printed_nor_sent_anywhere(
    gateway: UsagePlansOfAws, metering: Metering, command: tuple[str, ...]
) -> None:
    """I8: CloudTrail would hold it, too, if API Gateway were asked for it."""
    assert metering("customers", "add", "known", "--name", "Known").code == 0
    before, asked = stored(), len(gateway.called)
    assert metering(*command) == Result(1, "", f"error: {REFUSED}\n")
    assert (stored(), len(gateway.called)) == (before, asked)


def test_a_file_with_a_keys_value_is_not_imported(gateway: UsagePlansOfAws, metering: Metering, tmp_path: Path) -> None:
    """I8: the line is named with everything that is wrong elsewhere, and never the value."""
    assert not gateway.called
    file = tmp_path / "customers.csv"
    file.write_text(f"id,name,stripe_customer,keys\nacme,Acme,,{VALUE}\n a,Bad,,\nglobex,Globex,,{VALUE}\n")
    refused = metering("customers", "import", str(file))
    assert refused.err.splitlines() == [
        f"error: nothing was imported from {file}:",
        f"  line 2: {REFUSED}",
        "  line 3: a customer's id is 1 to 128 printable characters, no space around them, not '-', got ' a'",
        f"  line 4: {REFUSED}",
    ]
    assert (refused.code, refused.out) == (1, "")
    assert VALUE not in stored()


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize(
    "command",
    [
        ("customers", "show", MADE),
        ("customers", "add", "acme", MADE),
        ("customers", "rotate-key", "acme", MADE),
        ("keys", "create", "acme", "--plan", MADE),
        ("usage", MADE),
    ],
)
def test_a_value_in_any_other_place_is_not_printed_either(metering: Metering, command: tuple[str, ...]) -> None:
    """I8: as API Gateway makes them, by any error."""
    assert metering(*ACME).code == 0
    refused = metering(*command)
    assert refused.code > 0
    assert ("Ab3d..." in refused.err, MADE[4:] in refused.out + refused.err) == (True, False)


def test_keys_that_commas_part_are_no_key(gateway: UsagePlansOfAws, metering: Metering, tmp_path: Path) -> None:
    """Nobody would be billed for what is used by either; one that an older version took is still that."""
    assert not gateway.called
    file = tmp_path / "customers.csv"
    file.write_text('id,name,stripe_customer,keys\nacme,Acme,,"abcdefghij,klmnopqrst"\n')
    said = "is no key's id: in a file spaces part several keys, elsewhere each has its --key"
    assert metering("customers", "import", str(file)).err.splitlines()[1:] == [f"  line 2: 'abcd...' {said}"]
    assert metering(*ACME, "--key", "k1;k2") == Result(1, "", f"error: 'k1;k2' {said}\n")


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("given", [f" {VALUE}", VALUE * 5])
def test_a_value_that_is_not_even_an_id_is_not_printed_either(metering: Metering, given: str) -> None:
    """I8: a space beside it, or more of it than an id has."""
    refused = metering(*ACME, "--key", given)
    assert refused.code == 1
    assert VALUE not in refused.err


def test_a_key_that_api_gateway_does_not_know_is_said(gateway: UsagePlansOfAws, metering: Metering) -> None:
    """It may have been deleted with usage left to bill; one that is in the ledger is not asked for again."""
    known = gateway.create_api_key(name="acme", enabled=True)["id"]
    assert metering(*ACME, "--key", known).err == ""
    unknown = metering(*ACME, "--key", "nosuchkey1")
    assert unknown == Result(
        0,
        "key nosuchkey1 belongs to acme\n",
        "note: API Gateway knows no key nosuchkey1 in this account and Region: look whether that is the key's id\n",
    )
    assert metering(*ACME, "--key", "nosuchkey1") == Result(0, "nothing to change\n", "")


def test_many_keys_are_looked_for_in_the_list_of_all(
    gateway: UsagePlansOfAws, metering: Metering, tmp_path: Path
) -> None:
    """A call for 500, at API Gateway's 5 a second (I10)."""
    known = [gateway.create_api_key(name=f"k{number}", enabled=True)["id"] for number in range(600)]
    file = tmp_path / "customers.csv"
    unknown = [f"unknown{number:03}" for number in range(7)]
    file.write_text(f"id,name,stripe_customer,keys\nacme,Acme,,{' '.join(known[:590] + unknown)}\n")
    before = len(gateway.called)
    assert metering("customers", "import", str(file)).err == (
        "note: API Gateway knows none of the keys unknown000, unknown001, unknown002, unknown003, unknown004 and 2 "
        "more in this account and Region: look whether that is the key's id\n"
    )
    assert [name for _, name in gateway.called[before:]] == ["get_api_keys", "get_api_keys"]


def test_where_api_gateway_may_not_be_asked_the_key_is_given_all_the_same(
    gateway: UsagePlansOfAws, metering: Metering
) -> None:
    """It is said."""
    gateway.refusals += [0] * 6
    said = metering(*ACME, "--key", "nosuchkey1")
    assert said.code == 0
    assert said.err == (
        "note: whether API Gateway knows the keys could not be checked: API Gateway wanted fewer calls 6 times: "
        "try again later\n"
    )


@pytest.mark.parametrize(
    ("access_log", "caller"),
    [
        ({"api": "http", "caller": "authorizer.claims.sub"}, "auth0|5f7c8ec7b4d9f2006e1a2b3c"),
        ({"api": "websocket", "caller": "authorizer.user"}, "us-east-1:b1f2c3d4-0000-4000-8000-5c6d7e8f9a0b"),
        ({"api": "rest", "caller": "authorizer.claims.sub"}, "5f7c8ec7-b4d9-4f20-86e1-a2b3c4d5e6f7"),
        ({"api": "rest"}, "orders:5f7c8ec7b4d9f2006e1a2b3c"),
    ],
)
def test_a_caller_is_never_taken_for_a_keys_value(
    gateway: UsagePlansOfAws,
    cloudformation: CloudFormation,
    metering: Metering,
    access_log: dict[str, str],
    caller: str,
) -> None:
    """Where no API key says who calls, and at a connected API, ids are as long as they like."""
    declare(cloudformation, **access_log)
    assert metering(*ACME, "--key", caller) == Result(0, f"customer acme added\nkey {caller} belongs to acme\n", "")
    assert not gateway.called


@pytest.mark.usefixtures("gateway")
def test_what_usage_came_by_is_an_id_however_long(deployed: World, metering: Metering) -> None:
    """Of a key's own, and of a customer that is billed by it: said again, it changes nothing."""
    deployed.record(deployed.line(key=VALUE))
    deployed.after_grace()
    deployed.run()
    assert metering(*ACME, "--key", VALUE).code == 0
    deployed.run()
    assert metering(*ACME, "--key", VALUE).out.startswith("nothing to change\n")


@pytest.mark.usefixtures("gateway")
def test_a_value_that_an_older_version_took_is_refused_when_it_is_given_again(
    deployed: World, metering: Metering
) -> None:
    """With the way to get rid of it."""
    deployed.customer("acme", VALUE)
    told = f"error: {REFUSED}; 'metering keys forget 09f3...' takes out what was stored\n"
    assert metering(*ACME, "--key", VALUE) == Result(1, "", told)


@pytest.mark.usefixtures("gateway")
def test_a_value_that_was_stored_is_shown_masked_and_forgotten(deployed: World, metering: Metering) -> None:
    """I8: it need not be written once more to be taken out."""
    deployed.customer("acme", "id00000001", VALUE)
    shown = metering("customers", "show", "acme")
    assert [line.split()[0] for line in shown.out.splitlines()[2:]] == ["09f3...", "id00000001"]
    assert shown.err == "note: 09f3... is a key's value (the secret): 'metering keys forget 09f3...' takes it out\n"
    assert VALUE not in metering("customers", "show", "acme", "--json").out
    for whose in ([], ["acme"]):
        first = metering("keys", "list", *whose, "--most", "1", "--json").json()
        assert ([key["key"] for key in first["keys"]], first["more_after"]) == (["09f3..."], "09f3...")
        rest = metering("keys", "list", *whose, "--after", first["more_after"], "--json").json()
        assert ([key["key"] for key in rest["keys"]], rest["more_after"]) == (["id00000001"], None)
    assert metering("keys", "forget", "09f3...") == Result(0, "key 09f3... is forgotten\n", "")
    assert metering("keys", "forget", VALUE, "--json").json() == {"changed": [], "hours_to_close_again": 0}
    assert VALUE not in stored()
    keys = metering("customers", "show", "acme", "--json").json()["keys"]
    assert keys == [{"key": "id00000001", "from": None, "to": None, **AS_IT_WAS}]


@pytest.mark.usefixtures("gateway")
def test_a_key_that_a_customer_held_twice_is_not_cut_by_the_list(deployed: World, metering: Metering) -> None:
    """What --after goes on with begins behind all of it."""
    for name, since in (("acme", None), ("globex", HOUR), ("acme", HOUR.next())):
        deployed.customer(name, "id00000001", since=since)
    deployed.customer("acme", "id00000002")
    first = metering("keys", "list", "acme", "--most", "1", "--json").json()
    assert [(key["key"], key["from"]) for key in first["keys"]] == [
        ("id00000001", None),
        ("id00000001", "2026-11-22T06"),
    ]
    rest = metering("keys", "list", "acme", "--after", first["more_after"], "--json").json()
    assert ([key["key"] for key in rest["keys"]], rest["more_after"]) == (["id00000002"], None)


@pytest.mark.usefixtures("gateway")
def test_a_key_gets_a_name_and_another_and_none(deployed: World, metering: Metering) -> None:
    """The same again changes nothing."""
    deployed.customer("acme", "id00000001")
    assert metering("keys", "name", "id00000001", "CI").out == "key id00000001 of acme is called 'CI'\n"
    assert metering("keys", "name", "id00000001", "CI").out == "nothing to change\n"
    assert metering("customers", "show", "acme").out.splitlines()[2].split() == [
        "id00000001",
        "CI",
        "the",
        "beginning",
        "now",
        "open",
    ]
    assert metering("customers", "show", "acme", "--json").json()["keys"][0]["name"] == "CI"
    assert metering("keys", "name", "id00000001", "").out == "key id00000001 of acme has no name\n"
    assert metering("customers", "show", "acme", "--json").json()["keys"][0]["name"] is None


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("nobodys", "CI", "the key nobodys belongs to no customer, and a name is for its customer to read"),
        ("ours", "CI", "the key ours is not billed (health check), and a name is for its customer to read"),
        (
            "id00000001",
            "C\nI",
            "a key's name is 1 to 60 printable characters, no space around it, got 'C\\nI'",
        ),
        (
            "id00000001",
            f"CI {VALUE}",
            NO_NAME,
        ),
        (VALUE, "CI", REFUSED),
    ],
)
def test_what_is_no_name_of_a_customers_key_is_refused(
    deployed: World, metering: Metering, key: str, name: str, said: str
) -> None:
    """I8: a key's value is neither stored nor printed."""
    deployed.customer("acme", "id00000001")
    assert metering("keys", "exclude", "ours", "--reason", "health check").code == 0
    before = stored()
    refused = metering("keys", "name", key, name)
    assert (refused.code, refused.out, refused.err.splitlines()[-1]) == (1, "", f"error: {said}")
    assert stored() == before

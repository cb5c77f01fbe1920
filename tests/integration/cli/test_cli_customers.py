"""Customers, their keys, and who is not billed, by commands."""

from pathlib import Path

import pytest

from tests.integration.cli.command_line import Metering, Result
from tests.integration.world import World


def test_a_customer_is_added_listed_and_shown(deployed: World, metering: Metering) -> None:
    """I5: what was written is what is read."""
    assert metering(
        "customers", "add", "acme", "--name", "Acme", "--stripe-customer", "cus_1", "--key", "key1", "--key", "key2"
    ) == Result(0, "customer acme added\nkey key1 belongs to acme\nkey key2 belongs to acme\n", "")
    assert deployed.ledger.holders.owner("cus_1") == "acme"
    assert metering("customers", "list", "--json").json() == [
        {"id": "acme", "name": "Acme", "stripe_customer": "cus_1"}
    ]
    assert metering("customers", "show", "acme", "--json").json() == {
        "id": "acme",
        "name": "Acme",
        "stripe_customer": "cus_1",
        "keys": [{"key": "key1", "from": None, "to": None}, {"key": "key2", "from": None, "to": None}],
    }


@pytest.mark.usefixtures("deployed")
def test_adding_the_same_again_says_that_nothing_changes(metering: Metering) -> None:
    """I2."""
    command = ("customers", "add", "acme", "--name", "Acme", "--key", "key1")
    assert metering(*command, "--json").json() == {
        "changed": ["customer acme added", "key key1 belongs to acme"],
        "hours_to_close_again": 0,
    }
    assert metering(*command) == Result(0, "nothing to change\n", "")
    assert metering(*command, "--json").json() == {"changed": [], "hours_to_close_again": 0}


@pytest.mark.usefixtures("deployed")
def test_a_key_that_changes_hands_is_shown_with_its_hours(metering: Metering) -> None:
    """I5: for both customers."""
    metering("customers", "add", "acme", "--name", "Acme", "--key", "key1")
    refused = metering("customers", "add", "globex", "--name", "Globex", "--key", "key1")
    assert refused == Result(
        1, "", "error: the key key1 belongs to the customer 'acme': say with --from HOUR when it changes hands\n"
    )
    metering("customers", "add", "globex", "--name", "Globex", "--key", "key1", "--from", "2026-11-22T05")
    assert metering("customers", "show", "acme", "--json").json()["keys"] == [
        {"key": "key1", "from": None, "to": "2026-11-22T05"}
    ]
    shown = metering("customers", "show", "globex").out.splitlines()
    assert shown[0] == "globex: Globex, Stripe customer none yet"
    assert [line.split() for line in shown[1:]] == [["key", "from", "to"], ["key1", "2026-11-22T05", "now"]]


def test_what_is_closed_again_is_counted(deployed: World, metering: Metering) -> None:
    """I1: usage from before a key had a customer."""
    deployed.record(deployed.line())
    deployed.after_grace()
    deployed.run()
    result = metering("customers", "add", "acme", "--name", "Acme", "--key", "key1")
    assert result.out.splitlines()[-1] == "1 closed hours are closed again at the next tick, or by 'metering close'"


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("name", ["Acme [red]", "[/nothing]", ":star: Inc.", "Ünïcode 株式会社"])
def test_any_name_is_shown_as_it_is(metering: Metering, name: str) -> None:
    """A name is no markup."""
    metering("customers", "add", "acme", "--name", name)
    assert name in metering("customers", "show", "acme").out
    assert name in metering("customers", "list").out


@pytest.mark.usefixtures("deployed")
def test_a_row_is_one_line_for_a_pipe(metering: Metering) -> None:
    """However long its ids are."""
    name, key = "n" * 200, "k" * 64
    metering("customers", "add", "c" * 40, "--name", name, "--stripe-customer", "cus_" + "s" * 60, "--key", key)
    assert metering("customers", "list").out.splitlines()[1].split() == ["c" * 40, name, "cus_" + "s" * 60]
    assert metering("customers", "show", "c" * 40).out.splitlines()[2].split()[0] == key


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("command", ["customers show", "usage"])
@pytest.mark.parametrize("name", ["nobody", "a b", "x" * 41, ""])
def test_an_unknown_customer_is_said_in_a_sentence(metering: Metering, command: str, name: str) -> None:
    """Also one whose id no customer could have."""
    assert metering(*command.split(), name) == Result(
        1, "", f"error: there is no customer {name!r}: 'metering customers list' shows them\n"
    )


@pytest.mark.usefixtures("deployed")
def test_an_empty_list_is_no_error(metering: Metering) -> None:
    """The word for people goes to stderr."""
    assert metering("customers", "list") == Result(0, "", "nothing there\n")
    assert metering("customers", "list", "--json") == Result(0, "[]\n", "")
    assert metering("usage", "--json") == Result(0, "[]\n", "")


@pytest.mark.usefixtures("deployed")
def test_a_key_is_excluded(metering: Metering) -> None:
    """I1: nobody is billed for our own health checks."""
    command = ("keys", "exclude", "key1", "--reason", "health check")
    assert metering(*command) == Result(0, "key key1 is not billed\n", "")
    assert metering(*command, "--json").json() == {"changed": [], "hours_to_close_again": 0}
    assert metering("keys", "exclude", "-", "--reason", "x") == Result(
        1, "", "error: a key's id is 1 to 128 printable characters, no space around them, not '-', got '-'\n"
    )


@pytest.mark.usefixtures("deployed")
def test_a_file_of_customers_is_imported(metering: Metering, tmp_path: Path) -> None:
    """Twice, which changes nothing more."""
    file = tmp_path / "customers.csv"
    file.write_text("id,name,stripe_customer,keys\nacme,Acme,cus_1,key1 key2\nglobex,Globex,,\n")
    assert metering("customers", "import", str(file)).out.splitlines() == [
        "customer acme added",
        "key key1 belongs to acme",
        "key key2 belongs to acme",
        "customer globex added",
    ]
    again = metering("customers", "import", str(file), "--json").json()
    assert again == {"changed": [], "hours_to_close_again": 0}


def test_a_file_with_a_bad_line_is_not_imported_at_all(deployed: World, metering: Metering, tmp_path: Path) -> None:
    """I5: each bad line is named; the good ones wait."""
    metering("customers", "add", "umbrella", "--name", "Umbrella", "--key", "taken")
    file = tmp_path / "customers.csv"
    file.write_text("id,name,stripe_customer,keys\nacme,Acme,,key1\n a,Bad,,\nglobex,Globex\nhooli,Hooli,,taken\n")
    assert metering("customers", "import", str(file), "--json") == Result(
        1,
        "",
        f"error: nothing was imported from {file}:\n"
        "  line 3: a customer's id is 1 to 128 printable characters, no space around them, not '-', got ' a'\n"
        "  line 4: 4 columns are wanted\n"
        "  line 5: the key taken belongs to the customer 'umbrella': say with --from HOUR when it changes hands\n",
    )
    assert list(deployed.ledger.holders.customer_ids()) == ["umbrella"]


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("content", ["id,name\xff".encode("latin-1"), "id,name".encode("utf-16")])
def test_a_file_that_is_no_utf8_is_said_in_a_sentence(metering: Metering, tmp_path: Path, content: bytes) -> None:
    """As some spreadsheets write it."""
    file = tmp_path / "customers.csv"
    file.write_bytes(content)
    assert metering("customers", "import", str(file)) == Result(
        1, "", f"error: {file} must be a CSV file in UTF-8, got something else\n"
    )

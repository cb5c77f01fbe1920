"""Customers, their keys, and who is not billed, by commands."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from infra.operate.customers import Change, Customers, Entry
from infra.operate.rights import FUNCTIONS
from metering.model.periods import Hour
from metering.stripe.client import StripeRejectedError
from metering.stripe.meters import Meter, StripeMeters
from tests.integration.cli.command_line import AS_IT_WAS, Metering, Result
from tests.integration.world import World

UNASKED = "note: no Stripe key is connected yet, so that nobody was asked whether Stripe knows the Stripe customer\n"


def connect(metering: Metering) -> None:
    """Put the Stripe key in the secret."""
    assert metering("stripe", "connect", stdin="sk_test_local").code == 0


def test_a_stripe_customer_must_be_one_that_stripe_knows(deployed: World, metering: Metering) -> None:
    """As soon as it can be asked; nothing is written otherwise, unless it is not to be asked."""
    connect(metering)
    add = ("customers", "add", "acme", "--name", "Acme", "--key", "key1")
    refused = metering(*add, "--stripe-customer", "cus_typo")
    assert refused == Result(1, "", "error: Stripe does not know the customer cus_typo: No such customer: 'cus_typo'\n")
    assert metering("customers", "list", "--json").json() == []
    deployed.stripe.add_customer("cus_1")
    assert metering(*add, "--stripe-customer", "cus_1").code == 0
    assert metering(*add, "--stripe-customer", "cus_1") == Result(0, "nothing to change\n", "")
    assert metering(*add, "--stripe-customer", "cus_typo", "--unchecked").out == "customer acme changed\n"


def test_the_functions_key_which_may_not_read_customers_tells_whether_there_is_one(
    deployed: World, metering: Metering
) -> None:
    """By what their meters hold."""
    deployed.stripe._api._keys |= {"rk_test_functions"}
    deployed.stripe._api._rights = {"rk_test_functions": FUNCTIONS}
    assert metering("stripe", "connect", stdin="rk_test_functions").code == 0
    add = ("customers", "add", "acme", "--name", "Acme")
    refused = metering(*add, "--stripe-customer", "cus_typo")
    assert refused.err == "error: Stripe does not know the customer cus_typo: No such customer: 'cus_typo'\n"
    deployed.stripe.add_customer("cus_1")
    assert metering(*add, "--stripe-customer", "cus_1").code == 0


def test_what_stripe_says_instead_of_an_answer_is_told_and_the_customer_is_added(
    deployed: World, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another refusal says nothing of the customer; and the hour that is asked for is one of now."""
    deployed.stripe._api._keys |= {"rk_test_functions"}
    deployed.stripe._api._rights = {"rk_test_functions": FUNCTIONS}
    assert metering("stripe", "connect", stdin="rk_test_functions").code == 0
    asked: list[Hour] = []

    def refuse(_: StripeMeters, _meter: Meter, _customer: str, first: Hour, end: Hour) -> None:
        asked.extend((first, end))
        raise StripeRejectedError("The meter is being moved.")

    monkeypatch.setattr(StripeMeters, "totals", refuse)
    monkeypatch.setattr("infra.cli.customers.now", deployed.clock)
    added = metering("customers", "add", "acme", "--name", "Acme", "--stripe-customer", "cus_1")
    told = "note: whether Stripe knows cus_1 could not be checked: The meter is being moved.\n"
    assert added == Result(0, "customer acme added\n", told)
    assert asked == [Hour.containing(deployed.clock() - timedelta(hours=1)), Hour.containing(deployed.clock())]


def test_a_known_stripe_customer_is_not_asked_for_again(deployed: World, metering: Metering) -> None:
    """It may be gone by now, and its customer be given a key all the same."""
    connect(metering)
    deployed.customer("acme", stripe_customer="cus_1")
    calls = deployed.stripe.calls
    add = ("customers", "add", "acme", "--name", "Acme", "--stripe-customer", "cus_1", "--key", "key1")
    assert metering(*add).out == "key key1 belongs to acme\n"
    assert deployed.stripe.calls == calls


def test_a_file_with_a_stripe_customer_that_there_is_not_is_not_imported(
    deployed: World, metering: Metering, tmp_path: Path
) -> None:
    """Each is named with its line."""
    connect(metering)
    deployed.stripe.add_customer("cus_1")
    file = tmp_path / "customers.csv"
    file.write_text("id,name,stripe_customer,keys\nacme,Acme,cus_1,key1\nglobex,Globex,cus_typo,\n")
    refused = metering("customers", "import", str(file))
    assert refused.err == (
        f"error: nothing was imported from {file}:\n"
        "  line 3: Stripe does not know the customer cus_typo: No such customer: 'cus_typo'\n"
    )
    assert metering("customers", "list", "--json").json() == []
    assert metering("customers", "import", str(file), "--unchecked").code == 0


def test_a_customer_gets_a_link_to_stripes_portal(deployed: World, metering: Metering) -> None:
    """Back to our own page, or to where one says."""
    connect(metering)
    deployed.customer("acme", stripe_customer="cus_1")
    printed = metering("customers", "portal", "acme")
    assert printed.out.startswith("https://billing.stripe.com/p/session/")
    shown = metering("customers", "portal", "acme", "--return-url", "https://acme.example", "--json").json()
    assert shown["customer"] == "acme"
    assert shown["url"].startswith("https://billing.stripe.com/p/session/")


def test_a_customer_is_added_listed_and_shown(deployed: World, metering: Metering) -> None:
    """I5: what was written is what is read."""
    assert metering(
        "customers", "add", "acme", "--name", "Acme", "--stripe-customer", "cus_1", "--key", "key1", "--key", "key2"
    ) == Result(0, "customer acme added\nkey key1 belongs to acme\nkey key2 belongs to acme\n", UNASKED)
    assert deployed.ledger.holders.owner("cus_1") == "acme"
    assert metering("customers", "list", "--json").json() == [
        {"id": "acme", "name": "Acme", "stripe_customer": "cus_1", "access": "open", "reasons": []}
    ]
    assert metering("customers", "show", "acme", "--json").json() == {
        "id": "acme",
        "name": "Acme",
        "stripe_customer": "cus_1",
        "keys": [
            {"key": "key1", "from": None, "to": None, **AS_IT_WAS},
            {"key": "key2", "from": None, "to": None, **AS_IT_WAS},
        ],
        "access": "open",
        "reasons": [],
        "left": {},
    }


@pytest.mark.usefixtures("deployed")
def test_a_known_customer_needs_no_name_and_a_slip_does_not_rename_it(metering: Metering) -> None:
    """Neither of the name, nor of the id; a new one needs a name, which is wrong use."""
    missing = metering("customers", "add", "acme", "--key", "key1")
    assert (missing.code, missing.err.splitlines()[0]) == (
        2,
        "error: there is no customer 'acme' yet: give a new one a --name",
    )
    assert metering("customers", "add", "acme", "--name", "Acme").code == 0
    assert metering("customers", "add", "acme", "--key", "key1") == Result(0, "key key1 belongs to acme\n", "")
    refused = metering("customers", "add", "acme", "--name", "Globex", "--key", "key2")
    told = "error: the customer 'acme' is called 'Acme', not 'Globex': --rename changes that\n"
    assert refused == Result(1, "", told)
    assert metering("customers", "show", "acme", "--json").json()["keys"] == [
        {"key": "key1", "from": None, "to": None, **AS_IT_WAS}
    ]
    assert metering("customers", "add", "acme", "--name", "Globex", "--rename").out == "customer acme changed\n"
    assert metering("customers", "list", "--json").json()[0]["name"] == "Globex"


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
        {**AS_IT_WAS, "key": "key1", "from": None, "to": "2026-11-22T05", "access": None}
    ]
    shown = metering("customers", "show", "globex").out.splitlines()
    assert shown[0] == "globex: Globex, Stripe customer none yet"
    assert [line.split() for line in shown[1:]] == [
        ["key", "name", "from", "to", "state"],
        ["key1", "2026-11-22T05", "now", "open"],
    ]


def test_what_is_closed_again_is_counted(deployed: World, metering: Metering) -> None:
    """I1: usage from before a key had a customer."""
    deployed.record(deployed.line())
    deployed.after_grace()
    deployed.run()
    result = metering("customers", "add", "acme", "--name", "Acme", "--key", "key1")
    assert result.out.splitlines()[-1] == "1 closed hour is closed again at the next tick, or by 'metering close'"


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
    assert metering("customers", "list").out.splitlines()[1].split() == ["c" * 40, name, "cus_" + "s" * 60, "open"]
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
def test_a_customer_without_keys_is_said_to_have_none(metering: Metering) -> None:
    """And how it gets one."""
    assert metering("customers", "add", "acme", "--name", "Acme").code == 0
    assert metering("customers", "show", "acme") == Result(
        0,
        "acme: Acme, Stripe customer none yet\n"
        "it has no keys: 'metering keys create acme --plan PLAN' makes one, 'metering customers add acme --key KEY' "
        "gives it one that there is\n",
        "",
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
    imported = metering("customers", "import", str(file))
    assert imported.err == UNASKED
    assert imported.out.splitlines() == [
        "customer acme added",
        "key key1 belongs to acme",
        "key key2 belongs to acme",
        "customer globex added",
    ]
    again = metering("customers", "import", str(file), "--json")
    assert (again.code, again.out) == (0, '{\n  "changed": [],\n  "hours_to_close_again": 0\n}\n')


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
        "  line 5: the key taken belongs to the customer 'umbrella': say by 'metering customers add' with --from HOUR "
        "when it changes hands\n",
    )
    assert list(deployed.ledger.holders.customer_ids()) == ["umbrella"]


def test_an_import_that_was_stopped_is_looked_at_and_goes_on(
    deployed: World, metering: Metering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much is there already is said before, and where it was stopped; looking writes nothing."""
    file = tmp_path / "customers.csv"
    rows = [f"c{number};Customer {number};;key{number}" for number in range(5)]
    file.write_text("\n".join(["Id;Name;Stripe customer;Keys", *rows]) + "\n")
    dry_run = ("customers", "import", str(file), "--dry-run")
    assert metering(*dry_run).out == (
        "of 5 customers 5 would be added and 0 changed, 0 are there already; 5 keys would be given; "
        "nothing was written\n"
    )
    assert list(deployed.ledger.holders.customer_ids()) == []
    add = Customers.add

    def stop_at_the_third(customers: Customers, entry: Entry, *, now: datetime) -> Change:
        if entry.id == "c2":
            raise KeyboardInterrupt
        return add(customers, entry, now=now)

    with monkeypatch.context() as patched:
        patched.setattr(Customers, "add", stop_at_the_third)
        stopped = metering("customers", "import", str(file))
    assert (stopped.code, stopped.err.splitlines()[-1]) == (
        130,
        "stopped: importing, 2 of 5 done; what was done stays, and the same command again goes on from there",
    )
    metering("customers", "add", "c3", "--name", "Another")
    assert metering(*dry_run, "--rename", "--json").json() == {
        "dry_run": True,
        "added": 2,
        "changed": 1,
        "there": 2,
        "keys": 3,
    }
    refused = metering("customers", "import", str(file))
    assert refused.err.endswith(
        "  line 5: the customer 'c3' is called 'Another', not 'Customer 3': --rename changes that\n"
    )
    again = metering("customers", "import", str(file), "--rename")
    assert again.err == "note: 2 of 5 customers of the file are there already\n"
    assert len(again.out.splitlines()) == 6
    assert metering(*dry_run, "--json").json()["there"] == 5


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("content", ["id,name\xff".encode("latin-1"), "id,name".encode("utf-16")])
def test_a_file_that_is_no_utf8_is_said_in_a_sentence(metering: Metering, tmp_path: Path, content: bytes) -> None:
    """As some spreadsheets write it."""
    file = tmp_path / "customers.csv"
    file.write_bytes(content)
    assert metering("customers", "import", str(file)) == Result(
        1,
        "",
        f"error: {file} must be a CSV file in UTF-8, got something else: have the spreadsheet save it as 'CSV UTF-8'\n",
    )

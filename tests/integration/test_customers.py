"""Customers and keys: every rule is checked before anything is written, and what a change concerns is closed again."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import boto3
import pytest

from infra.operate.customer_file import COLUMNS, read_csv
from infra.operate.customers import Change, Customers, Entry
from infra.operate.deployment import OperatorError
from metering.model.periods import Hour
from metering.model.subjects import Subject
from metering.stores.counters import Counters
from metering.stores.holders import BEGINNING, Customer, Holder, Holders, Holding
from metering.stores.ledger import Ledger
from metering.stores.marks import Mark
from metering.stores.table import RowChangedError
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.world import HOUR, World


def dying_marks(world: World) -> Counters:
    """Return the counters of a process that dies when it marks an hour."""
    return Counters(cast("Any", Dying(world.counters.client, Life(1))), world.counters.table)


class RacingHolders(Holders):
    """Holders among whom another operator is faster: what was read is changed before it is written."""

    def of_keys(self, keys: Iterable[str], *, consistent: bool = True) -> dict[str, Holding]:
        """Read who holds keys; then key1 is given to somebody else."""
        read = super().of_keys(keys, consistent=consistent)
        rival = Holders(self.client, self.table)
        if "key1" in read and not rival.of_keys(["key1"])["key1"].version:
            rival.hand_over(read["key1"].with_holder(Holder(BEGINNING, "rival")))
        return read

    def customers(self, names: Any) -> dict[str, Customer]:
        """Read customers; then acme gets another name."""
        read = super().customers(names)
        if "acme" in read and read["acme"].name == "Acme":
            rival = Holders(self.client, self.table)
            rival.save_customer(Customer("acme", "Acme of the rival", ""), before=read["acme"])
        return read


class RacingLedger(Ledger):
    """A ledger with such holders."""

    @property
    def holders(self) -> Holders:
        """Return them."""
        return RacingHolders(self.client, self.table)


def add(world: World, name: str, *keys: str, stripe_customer: str = "", since: Hour | None = None) -> Change:
    """Add a customer and return what was changed."""
    entry = Entry(name, name.capitalize(), stripe_customer, keys, since)
    return Customers(world.ledger, world.counters).add(entry, now=world.now)


def exclude(world: World, key: str, reason: str = "health check", since: Hour | None = None) -> Change:
    """Exclude a key and return what was changed."""
    return Customers(world.ledger, world.counters).exclude(key, reason=reason, since=since, now=world.now)


def marks(world: World) -> set[tuple[str, str]]:
    """Return the hours that are to be closed again, and for whom."""
    return {(str(mark.hour), str(mark.subject)) for mark in world.counters.marks.of_kind(Mark.LATE)}


def everything(world: World) -> list[Any]:
    """Return every item of both tables but for what makes a mark unique."""
    client = boto3.client("dynamodb")
    assert world.ledger.table == "ledger"
    items = [item for table in ("ledger", "counters") for item in client.scan(TableName=table)["Items"]]
    return sorted(({**item, "mark": {}} for item in items), key=str)


def use(world: World, hour: Hour, *keys: str) -> None:
    """Record one request of each key in an hour, close it, and deal with every mark."""
    world.now = hour.end + timedelta(minutes=10)
    time = str(int(hour.start.timestamp() * 1000))
    world.record(*[world.line(key=key, time=time) for key in keys])
    world.run()
    world.run()
    assert marks(world) == set()


# --- adding ----------------------------------------------------------------------------------------------------------


def test_a_customer_is_added_with_its_stripe_customer_and_keys(world: World) -> None:
    """In sentences, as the command line prints them."""
    change = add(world, "acme", "key1", "key2", stripe_customer="cus_1")
    assert change.said == ["customer acme added", "key key1 belongs to acme", "key key2 belongs to acme"]
    assert world.ledger.holders.customers(["acme"]) == {"acme": Customer("acme", "Acme", "cus_1")}
    assert world.ledger.holders.owner("cus_1") == "acme"
    assert world.ledger.holders.keys_of("acme") == {"key1", "key2"}
    assert world.ledger.holders.holdings(["key1"])["key1"].holders == (Holder(BEGINNING, "acme"),)


def test_adding_the_same_again_changes_nothing(world: World) -> None:
    """I2: not one item, and it says so."""
    add(world, "acme", "key1", stripe_customer="cus_1")
    before = everything(world)
    assert add(world, "acme", "key1", stripe_customer="cus_1") == Change([], 0)
    assert everything(world) == before


def test_a_key_given_twice_is_given_once(world: World) -> None:
    """The second time says the same."""
    assert add(world, "acme", "key1", "key1").said == ["customer acme added", "key key1 belongs to acme"]


def test_adding_without_a_stripe_customer_keeps_the_one_there_is(world: World) -> None:
    """To give a customer a further key one need not know its Stripe customer."""
    add(world, "acme", stripe_customer="cus_1")
    assert add(world, "acme", "key2").said == ["key key2 belongs to acme"]
    assert world.ledger.holders.customers(["acme"])["acme"].stripe_customer == "cus_1"


def test_a_customer_gets_another_name(world: World) -> None:
    """It is the same customer."""
    add(world, "acme")
    customers = Customers(world.ledger, world.counters)
    assert customers.add(Entry("acme", "Acme Inc."), now=world.now).said == ["customer acme changed"]
    assert world.ledger.holders.customers(["acme"])["acme"].name == "Acme Inc."


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            Entry("", "Acme"),
            "a customer's id is 1 to 128 printable characters, no space around them, not '-', got ''",
        ),
        (
            Entry(" a", "Acme"),
            "a customer's id is 1 to 128 printable characters, no space around them, not '-', got ' a'",
        ),
        (
            Entry("a\tb", "Acme"),
            "a customer's id is 1 to 128 printable characters, no space around them, not '-', got 'a\\tb'",
        ),
        (
            Entry("a" * 129, "Acme"),
            f"a customer's id is 1 to 128 printable characters, no space around them, not '-', got '{'a' * 129}'",
        ),
        (Entry("acme", ""), "a name is 1 to 200 printable characters, no space around it, got ''"),
        (Entry("acme", " Acme"), "a name is 1 to 200 printable characters, no space around it, got ' Acme'"),
        (Entry("acme", "A\nB"), "a name is 1 to 200 printable characters, no space around it, got 'A\\nB'"),
        (Entry("acme", "Acme", "acme"), "a Stripe customer is written cus_..., got 'acme'"),
        (Entry("acme", "Acme", "cus_"), "a Stripe customer is written cus_..., got 'cus_'"),
        (Entry("acme", "A\u202eB"), "a name is 1 to 200 printable characters, no space around it, got 'A\\u202eB'"),
        (
            Entry("acme", "Acme", "", ("key1", "-")),
            "a key's id is 1 to 128 printable characters, no space around them, not '-', got '-'",
        ),
    ],
)
def test_a_malformed_entry_is_refused_and_nothing_is_written(world: World, entry: Entry, sentence: str) -> None:
    """I5: what is in the ledger is well-formed."""
    before = everything(world)
    with pytest.raises(OperatorError) as caught:
        Customers(world.ledger, world.counters).add(entry, now=world.now)
    assert str(caught.value) == sentence
    assert everything(world) == before


# --- who holds a key -------------------------------------------------------------------------------------------------


def test_a_key_of_another_customer_is_refused_unless_it_is_said_when_it_changes_hands(world: World) -> None:
    """I5: history stays right, so nothing else of the command is done either."""
    add(world, "acme", "key1")
    before = everything(world)
    with pytest.raises(OperatorError) as caught:
        add(world, "globex", "key2", "key1", stripe_customer="cus_2")
    assert (
        str(caught.value) == "the key key1 belongs to the customer 'acme': say with --from HOUR when it changes hands"
    )
    assert everything(world) == before


def test_a_key_changes_hands_at_an_hour(world: World) -> None:
    """I5: before it, usage is the former customer's; from then on the new one's."""
    add(world, "acme", "key1")
    assert add(world, "globex", "key1", since=HOUR).said == [
        "customer globex added",
        "key key1 belongs to globex from 2026-11-22T05 on",
    ]
    holding = world.ledger.holders.holdings(["key1"])["key1"]
    before = holding.at(Hour.parse("2026-11-22T04"))
    assert before is not None
    assert before.customer == "acme"
    assert holding.at(HOUR) == Holder(HOUR, "globex")


@pytest.mark.parametrize("since", ["2026-11-22T04", "2026-11-22T05"])
def test_a_key_changes_hands_later_than_the_last_time(world: World, since: str) -> None:
    """I5: a history is only ever added to."""
    add(world, "acme", "key1")
    add(world, "globex", "key1", since=HOUR)
    before = everything(world)
    with pytest.raises(OperatorError) as caught:
        add(world, "initech", "key1", since=Hour.parse(since))
    assert str(caught.value) == (
        f"the key key1 belongs to the customer 'globex' since 2026-11-22T05: --from must be a later hour, got {since}"
    )
    assert everything(world) == before


def test_a_key_goes_back_to_its_former_customer(world: World) -> None:
    """From a later hour on."""
    add(world, "acme", "key1")
    add(world, "globex", "key1", since=HOUR)
    add(world, "acme", "key1", since=HOUR.next())
    holders = world.ledger.holders.holdings(["key1"])["key1"].holders
    assert [holder.customer for holder in holders] == ["acme", "globex", "acme"]


def test_a_key_changes_hands_at_most_60_days_ago(world: World) -> None:
    """I5: an older hour changes by adjustment only."""
    add(world, "acme", "key1")
    world.now = HOUR.end + timedelta(days=60)
    before = everything(world)
    with pytest.raises(OperatorError, match=r"^--from must lie within the last 60 days, got 2026-11-22T05$"):
        add(world, "globex", "key1", since=HOUR)
    assert everything(world) == before
    assert add(world, "globex", "key1", since=HOUR.next()).said[1:] == [
        "key key1 belongs to globex from 2026-11-22T06 on"
    ]


def test_every_refusal_is_said_at_once(world: World) -> None:
    """An operator mends them in one go."""
    add(world, "acme", "key1", "key2", stripe_customer="cus_1")
    with pytest.raises(OperatorError) as caught:
        add(world, "globex", "key1", "key2", stripe_customer="cus_1")
    assert str(caught.value) == (
        "the key key1 belongs to the customer 'acme': say with --from HOUR when it changes hands; "
        "the key key2 belongs to the customer 'acme': say with --from HOUR when it changes hands; "
        "the Stripe customer cus_1 belongs to the customer 'acme' already"
    )


def test_a_stripe_customer_of_another_is_refused_and_nothing_is_half_done(world: World) -> None:
    """I4: two customers that post to one would overwrite each other."""
    add(world, "acme", stripe_customer="cus_1")
    before = everything(world)
    with pytest.raises(OperatorError, match=r"^the Stripe customer cus_1 belongs to the customer 'acme' already$"):
        add(world, "globex", "key2", stripe_customer="cus_1")
    assert everything(world) == before


# --- excluding -------------------------------------------------------------------------------------------------------


def test_an_excluded_key_is_billed_to_nobody(world: World) -> None:
    """I1: it is kept with its reason all the same."""
    assert exclude(world, "key1").said == ["key key1 is not billed"]
    use(world, HOUR, "key1")
    assert world.in_ledger("key#key1") == {"requests": (1, "HELD"), "bytes": (10, "HELD")}
    row = world.ledger.rows.at(HOUR, [Subject.parse("key#key1")])[Subject.parse("key#key1")]
    assert row.totals["requests"].reason == "not billed: health check"


def test_excluding_again_changes_nothing(world: World) -> None:
    """I2: not one item."""
    exclude(world, "key1")
    before = everything(world)
    assert exclude(world, "key1", reason="our own probe") == Change([], 0)
    assert everything(world) == before


def test_a_customers_key_is_excluded_from_an_hour_on_only(world: World) -> None:
    """I5: what it was billed for before stays."""
    add(world, "acme", "key1")
    with pytest.raises(
        OperatorError,
        match=r"^the key key1 belongs to the customer 'acme': say with --from HOUR when it changes hands$",
    ):
        exclude(world, "key1")
    assert exclude(world, "key1", since=HOUR).said == ["key key1 is not billed from 2026-11-22T05 on"]


def test_an_excluded_key_is_given_to_a_customer_from_an_hour_on_only(world: World) -> None:
    """I5: and the refusal names the reason."""
    exclude(world, "key1")
    with pytest.raises(
        OperatorError,
        match=r"^the key key1 is not billed \(health check\): say with --from HOUR when it changes hands$",
    ):
        add(world, "acme", "key1")
    assert add(world, "acme", "key1", since=HOUR).said[1:] == ["key key1 belongs to acme from 2026-11-22T05 on"]


@pytest.mark.parametrize("reason", ["", "two\nlines", "x" * 201])
def test_an_excluded_key_needs_a_reason(world: World, reason: str) -> None:
    """I5: in one line."""
    with pytest.raises(OperatorError, match=r"^say in --reason, in one line, why the key is not billed$"):
        exclude(world, "key1", reason=reason)
    assert world.ledger.holders.holdings(["key1"])["key1"].version == 0


def test_a_malformed_key_cannot_be_excluded(world: World) -> None:
    """It could not be in the log either."""
    with pytest.raises(
        OperatorError,
        match=r"^a key's id is 1 to 128 printable characters, no space around them, not '-', got 'a '$",
    ):
        exclude(world, "a ")


# --- marks -----------------------------------------------------------------------------------------------------------


def test_naming_a_key_marks_exactly_the_hours_in_which_it_was_used(world: World) -> None:
    """I5: not the hours between, not the hours of other keys."""
    use(world, HOUR, "key1", "key2")
    use(world, HOUR.next(), "key2")
    use(world, HOUR.next().next(), "key1")
    assert add(world, "acme", "key1").marks == 2
    assert marks(world) == {("2026-11-22T05", "key#key1"), ("2026-11-22T07", "key#key1")}


def test_a_key_that_changes_hands_marks_the_former_customers_hours_from_then_on(world: World) -> None:
    """I5: the hours before are not touched."""
    add(world, "acme", "key1", stripe_customer="cus_1")
    world.stripe.add_customer("cus_1")
    for hour in (HOUR, HOUR.next(), HOUR.next().next()):
        use(world, hour, "key1")
    assert add(world, "globex", "key1", since=HOUR.next()).marks == 2
    assert marks(world) == {
        (hour, subject) for hour in ("2026-11-22T06", "2026-11-22T07") for subject in ("customer#acme", "key#key1")
    }
    world.run()
    assert world.in_ledger("customer#acme", HOUR)["requests"] == (1, "POSTED")
    assert world.in_ledger("customer#acme", HOUR.next())["requests"] == (0, "POSTED")
    assert world.in_ledger("customer#globex", HOUR.next())["requests"] == (1, "HELD")


def test_a_hand_over_in_the_future_marks_nothing(world: World) -> None:
    """I5: nothing that is closed changes."""
    add(world, "acme", "key1")
    use(world, HOUR, "key1")
    assert add(world, "globex", "key1", since=Hour.parse("2026-12-01T00")).marks == 0
    assert marks(world) == set()


def test_a_stripe_customer_marks_exactly_the_hours_that_wait_for_it(world: World) -> None:
    """I1: what was held is billed."""
    add(world, "acme", "key1")
    add(world, "globex", "key2")
    use(world, HOUR, "key1", "key2")
    use(world, HOUR.next(), "key2")
    assert world.in_ledger("customer#acme")["requests"] == (1, "HELD")
    world.stripe.add_customer("cus_1")
    change = add(world, "acme", stripe_customer="cus_1")
    assert (change.said, change.marks) == (["customer acme changed"], 1)
    assert marks(world) == {("2026-11-22T05", "customer#acme")}
    world.run()
    assert world.at_stripe("cus_1") == 1


def test_hours_of_more_than_60_days_ago_are_not_marked(world: World) -> None:
    """I5: their counters may be gone; closing again would bill zero."""
    use(world, HOUR, "key1")
    world.now = HOUR.end + timedelta(days=62)
    assert add(world, "acme", "key1").marks == 0


def test_a_crash_before_the_marks_is_mended_by_the_same_command(world: World) -> None:
    """I1: the hand-over is written, the marks are not; nothing else would ever put them."""
    add(world, "acme", "key1")
    use(world, HOUR, "key1")
    entry = Entry("globex", "Globex", "", ("key1",), HOUR)
    with pytest.raises(KilledError):
        Customers(world.ledger, dying_marks(world)).add(entry, now=world.now)
    assert world.ledger.holders.holdings(["key1"])["key1"].holders[-1] == Holder(HOUR, "globex")
    assert marks(world) == set()
    change = Customers(world.ledger, world.counters).add(entry, now=world.now)
    assert (change.said, change.marks) == ([], 1)
    assert marks(world) == {("2026-11-22T05", "customer#acme"), ("2026-11-22T05", "key#key1")}
    world.run()
    assert world.in_ledger("customer#globex")["requests"] == (1, "HELD")
    assert world.in_ledger("customer#acme")["requests"][0] == 0


def test_a_crash_before_the_marks_of_an_exclusion_is_mended_by_the_same_command(world: World) -> None:
    """I5: the customer would go on being billed for the key."""
    add(world, "acme", "key1")
    use(world, HOUR, "key1")
    dying = Customers(world.ledger, dying_marks(world))
    with pytest.raises(KilledError):
        dying.exclude("key1", reason="health check", since=HOUR, now=world.now)
    assert exclude(world, "key1", since=HOUR).marks == 1
    world.run()
    assert world.in_ledger("customer#acme")["requests"][0] == 0
    assert world.in_ledger("key#key1")["requests"] == (1, "HELD")


# --- two operators at once -------------------------------------------------------------------------------------------


def test_a_key_that_another_operator_gives_away_meanwhile_is_refused(world: World) -> None:
    """I5: the one who was faster stands."""
    racing = Customers(RacingLedger(world.ledger.client, "ledger"), world.counters)
    with pytest.raises(OperatorError, match=r"^the key key1 was changed by somebody else just now: try again$"):
        racing.add(Entry("globex", "Globex", "", ("key1",)), now=world.now)
    assert [holder.customer for holder in world.ledger.holders.holdings(["key1"])["key1"].holders] == ["rival"]


def test_a_customer_that_another_operator_changes_meanwhile_is_refused(world: World) -> None:
    """I5: the one who was faster stands."""
    add(world, "acme")
    racing = Customers(RacingLedger(world.ledger.client, "ledger"), world.counters)
    with pytest.raises(OperatorError) as caught:
        racing.add(Entry("acme", "Acme of mine"), now=world.now)
    assert str(caught.value) == (
        "the customer 'acme' or its Stripe customer was changed by somebody else just now: "
        "look at it with 'metering customers show' and try again"
    )
    assert world.ledger.holders.customers(["acme"])["acme"].name == "Acme of the rival"


class Twice:
    """A client of DynamoDB whose every write is sent twice; the second one's answer is the caller's."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.sent = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if name not in ("put_item", "update_item", "transact_write_items"):
            return found

        def write(**arguments: Any) -> Any:
            self.sent += 1
            found(**arguments)
            return found(**arguments)

        return write


def test_two_operators_who_say_the_same_both_succeed(world: World) -> None:
    """I2: also how boto3's own retry after a read timeout looks."""
    client = Twice(world.ledger.client)
    world.ledger = Ledger(cast("Any", client), "ledger")
    assert add(world, "acme", "key1").said == ["customer acme added", "key key1 belongs to acme"]
    assert client.sent >= 2
    assert world.ledger.holders.holdings(["key1"])["key1"].holders == (Holder(BEGINNING, "acme"),)
    assert world.ledger.holders.customers(["acme"])["acme"].name == "Acme"


# --- a file of customers ---------------------------------------------------------------------------------------------

HEADER = "id,name,stripe_customer,keys\n"


def csv(folder: Path, text: str | bytes) -> Path:
    """Write a file."""
    file = folder / "customers.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def problems(world: World, file: Path) -> dict[int, list[str]]:
    """Return what is wrong with each line that something is wrong with."""
    entries, unread = read_csv(file)
    found = unread | Customers(world.ledger, world.counters).check(entries, now=world.now)
    return {line: said for line, said in found.items() if said}


def test_a_file_is_read_by_its_header(tmp_path: Path) -> None:
    """In any order of columns; a Stripe customer and keys may be missing."""
    text = 'name,keys,id,stripe_customer\nAcme,key1 key2,acme,cus_1\n"Globex, Inc.",,globex,\n'
    assert read_csv(csv(tmp_path, text)) == (
        {2: Entry("acme", "Acme", "cus_1", ("key1", "key2")), 3: Entry("globex", "Globex, Inc.")},
        {},
    )


@pytest.mark.parametrize("text", [HEADER + "acme,Åkme,,key1\n", HEADER.replace("\n", "\r\n") + "acme,Åkme,,key1"])
def test_a_file_from_a_spreadsheet_is_read(tmp_path: Path, text: str) -> None:
    """With a byte order mark, with either line ending, and without the last one."""
    entries, unread = read_csv(csv(tmp_path, text.encode("utf-8-sig")))
    assert (entries, unread) == ({2: Entry("acme", "Åkme", "", ("key1",))}, {})


def test_lines_keep_their_numbers_behind_empty_ones(tmp_path: Path) -> None:
    """As an editor shows them."""
    entries, _ = read_csv(csv(tmp_path, HEADER + "\n\nacme,Acme,,\n"))
    assert list(entries) == [4]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "got nothing"),
        ("id,name\nacme,Acme\n", "missing: stripe_customer, keys"),
        ("id;name;Stripe customer;keys;Plan\n", "unknown: 'Plan'"),
        ("id,name,stripe_customer,keys,,plan\n", "unknown: '', 'plan'"),
        ("id,name,name,stripe_customer,keys\n", "twice: name"),
        ("acme,Acme,cus_1,key1\n", f"missing: {', '.join(COLUMNS)}; unknown: 'acme', 'Acme', 'cus_1', 'key1'"),
    ],
)
def test_a_file_with_other_columns_is_refused_and_they_are_named(tmp_path: Path, text: str, wrong: str) -> None:
    """Also one without a header."""
    wanted = f"the columns must be id, name, stripe_customer, keys; {wrong}"
    assert read_csv(csv(tmp_path, text)) == ({}, {1: [wanted]})


@pytest.mark.parametrize(
    "text",
    [
        'ID;Name;Stripe Customer;Keys\nacme;"Acme; Inc, ""A""";cus_1;key1 key2\n',
        'keys\tid\tNAME\tStripe_customer\nkey1 key2\tacme\t"Acme; Inc, ""A"""\tcus_1\n',
        'id,name,stripe_customer,keys,,\n,,,,,\nacme,"Acme; Inc, ""A""",cus_1,"key1\nkey2",,\n,,,,,\n',
    ],
)
def test_a_file_is_read_as_spreadsheets_write_it(tmp_path: Path, text: str) -> None:
    """Semicolons, tabs, columns in any case and order, empty rows and columns, and cells in quotes."""
    entries, unread = read_csv(csv(tmp_path, text.replace("\n", "\r\n").encode("utf-8-sig")))
    assert unread == {}
    assert [*entries.values()] == [Entry("acme", 'Acme; Inc, "A"', "cus_1", ("key1", "key2"))]


def test_what_stands_beside_the_columns_is_named(tmp_path: Path) -> None:
    """It would be lost without a word."""
    _, unread = read_csv(csv(tmp_path, "id,name,stripe_customer,keys,\nacme,Acme,,key1,gold\n"))
    assert unread == {2: ["4 columns are wanted"]}


def test_a_header_alone_is_a_file_without_customers(tmp_path: Path) -> None:
    """Nothing is wrong with it."""
    assert read_csv(csv(tmp_path, HEADER)) == ({}, {})


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """The command says which file and what is wanted."""
    with pytest.raises(UnicodeDecodeError):
        read_csv(csv(tmp_path, (HEADER + "acme,Åkme,,\n").encode("latin-1")))


def test_a_quote_that_is_never_closed_is_named(tmp_path: Path) -> None:
    """It would swallow the rest of the file."""
    entries, unread = read_csv(csv(tmp_path, HEADER + 'acme,"Acme,,\nglobex,Globex,,\n'))
    assert entries == {}
    assert list(unread.values()) == [["not CSV: unexpected end of data"]]


def test_each_bad_line_is_named_with_its_number_and_everything_wrong_with_it(world: World, tmp_path: Path) -> None:
    """The whole file is checked: form, duplicates within it, and what belongs to others."""
    add(world, "umbrella", "taken", stripe_customer="cus_taken")
    text = HEADER + (
        "acme,Acme,cus_1,key1\n"  # 2
        " a,,cus-2,-\n"  # 3
        "globex,Globex\n"  # 4
        "initech,Initech,,,\n"  # 5
        "acme,Acme again,,key1\n"  # 6
        "hooli,Hooli,cus_1,taken\n"  # 7
        "piper,Piper,cus_taken,\n"  # 8
        "good,Good,,key9\n"  # 9
        "double,Double,,key10 key10\n"  # 10
    )
    by_adding = "say by 'metering customers add' with --from HOUR when it changes hands"
    assert problems(world, csv(tmp_path, text)) == {
        3: [
            "a customer's id is 1 to 128 printable characters, no space around them, not '-', got ' a'",
            "a name is 1 to 200 printable characters, no space around it, got ''",
            "a Stripe customer is written cus_..., got 'cus-2'",
            "a key's id is 1 to 128 printable characters, no space around them, not '-', got '-'",
        ],
        4: ["4 columns are wanted"],
        5: ["4 columns are wanted"],
        6: ["the customer 'acme' is given on line 2 already", "the key 'key1' is given on line 2 already"],
        7: [
            "the Stripe customer 'cus_1' is given on line 2 already",
            f"the key taken belongs to the customer 'umbrella': {by_adding}",
        ],
        8: ["the Stripe customer cus_taken belongs to the customer 'umbrella' already"],
        10: ["the key 'key10' is given on line 10 already"],
    }


def test_checking_a_file_writes_nothing(world: World, tmp_path: Path) -> None:
    """I5: not even for its good lines."""
    before = everything(world)
    assert problems(world, csv(tmp_path, HEADER + "acme,Acme,cus_1,key1\n")) == {}
    assert everything(world) == before


# --- names of keys ---------------------------------------------------------------------------------------------------


def test_a_key_is_called_what_its_customer_knows_it_by(world: World) -> None:
    """By the operator's words, which are taken away again by none; a key without a name has an empty one."""
    add(world, "acme", "key1", "key2")
    holders = world.ledger.holders
    holders.name_key("acme", "key1", "CI")
    assert holders.names_of("acme") == {"key1": "CI", "key2": ""}
    assert (holders.few_keys_of("acme", 2), holders.few_keys_of("acme", 1)) == ({"key1": "CI", "key2": ""}, None)
    holders.name_key("acme", "key1", "")
    assert holders.names_of("acme") == {"key1": "", "key2": ""}


def test_who_gets_a_key_does_not_see_what_the_customer_before_called_it(world: World) -> None:
    """I6: a name is text about one customer, who keeps it for the hours that the key was its own."""
    add(world, "acme", "key1")
    world.ledger.holders.name_key("acme", "key1", "Acme's own")
    add(world, "globex", "key1", since=HOUR.next())
    assert world.ledger.holders.names_of("globex") == {"key1": ""}
    add(world, "acme", "key1", since=HOUR.next().next())
    assert world.ledger.holders.names_of("acme") == {"key1": "Acme's own"}


def test_what_a_customer_never_held_gets_no_name(world: World) -> None:
    """No pointer is made by that, nor comes back to a key that is forgotten."""
    add(world, "acme", "key1")
    with pytest.raises(RowChangedError):
        world.ledger.holders.name_key("acme", "key2", "CI")
    assert world.ledger.holders.keys_of("acme") == {"key1"}

"""Who is billed: customers, and who holds which key from which hour on. In the Ledger table.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| customer | ``customer#<id>`` | ``profile`` | ``name``, ``stripe_customer`` |
| key once held | ``customer#<id>`` | ``key#<key>`` | ``name`` if it has one (where to look; its own item says when) |
| all its keys | ``customer#<id>`` | ``keys`` | ``keys``: these, and ``-``; some of too many |
| key | ``key#<key>`` | ``holders`` | ``version``, ``holders``: who holds it from which hour on |
| owner | ``stripe#<cus_...>`` | ``owner`` | ``customer``: the one that posts to this Stripe customer |
| directory | ``list#customers``, ``list#keys`` | id | (none) |
| short id | ``list#hashed`` | ``~<hash>`` | ``customer``: the one that identifiers at Stripe name so |

A key's whole history is one item, so that the holders of 100 keys are one read; a hand-over is one conditional write.
So are the keys of a customer: those of 100 customers are one read. Where that item is missing, as it is for customers
of a version that did not write it, the pointers say the same, by a query for each.

A key's name is the customer's, who reads it: whoever gets the key later does not. An older version leaves it where it
is, and takes it off a key that comes back to a customer who had it before.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from metering.model.log_format import MISSING
from metering.model.periods import Hour
from metering.model.subjects import (
    HASHED,
    Kind,
    Subject,
    customer,
    key,
    short_id,
    source_of_customer,
    source_of_key,
    subject_of_source,
)
from metering.stores.aws import Item, from_item, side_by_side, to_item
from metering.stores.table import RowChangedError, Table, item_key, item_there, unchanged

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

BEGINNING: Final = Hour(0)
"""From when a key's first holder holds it: usage that was counted before anyone was named is theirs."""

MOST_HELD: Final = 200
"""Keys of a customer that one item names; at 512 bytes, a longest id's, these are 100 KB."""

_HASHED: Final = "list#hashed"
_KEYS: Final = "keys"


@dataclass(frozen=True, slots=True)
class Customer:
    """Who is billed; ``stripe_customer`` is empty until there is one."""

    id: str
    name: str
    stripe_customer: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Who holds a key from the hour ``since`` on: a customer, or nobody with the reason why it is not billed."""

    since: Hour
    customer: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Holding:
    """A key's history as it was read: its holders in order of time. ``version`` 0 means that it has none yet.

    ``key`` is empty for a customer whose usage came without a key.
    """

    key: str
    holders: tuple[Holder, ...] = ()
    version: int = 0

    def at(self, hour: Hour) -> Holder | None:
        """Return who held the key in an hour, or None."""
        return next((holder for holder in reversed(self.holders) if holder.since <= hour), None)

    def with_holder(self, holder: Holder) -> Self:
        """Return the history with one holder more, from a later hour than all before."""
        return type(self)(self.key, (*self.holders, holder), self.version)


@dataclass(frozen=True, slots=True)
class Holders:
    """The verbs of customers and keys. Errors of DynamoDB are raised as they are; reads are consistent."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def of_keys(self, keys: Iterable[str], *, consistent: bool = True) -> dict[str, Holding]:
        """Return each key's history."""
        wanted = list(keys)
        places = {(str(key(name)), "holders"): name for name in wanted}
        found = self._items.read(places, _read_holding, consistent=consistent)
        return {name: found.get(name) or Holding(name) for name in wanted}

    def holdings(self, sources: Iterable[str], *, consistent: bool = True) -> dict[str, Holding]:
        """Return each source's history; a customer whose usage came without a key holds its own name for ever."""
        wanted = {source: subject_of_source(source) for source in sources}
        held = self.of_keys(by_kind(wanted.values(), Kind.KEY), consistent=consistent)
        return {
            source: held[subject.id] if subject.kind is Kind.KEY else Holding("", (Holder(BEGINNING, subject.id),))
            for source, subject in wanted.items()
        }

    def keys_of(self, name: str) -> set[str]:
        """Return every key that a customer holds or has ever held."""
        return {*self.names_of(name)}

    def names_of(self, name: str) -> dict[str, str]:
        """Return what each key is called that a customer holds or has ever held; empty if it has no name."""
        return dict(map(_read_pointer, self._items.query(str(customer(name)), beginning="key#")))

    def held_by(self, name: str, hour: Hour) -> list[str]:
        """Return the keys that a customer holds in an hour, in their order."""
        holdings = self.of_keys(sorted(self.keys_of(name)))
        return [key for key, holding in holdings.items() if mapped_to(holding, hour) == customer(name)]

    def keys_of_each(
        self, names: Iterable[str], known: Iterable[Holding] = (), *, consistent: bool = True
    ) -> dict[str, set[str]]:
        """Return every key that each of these customers holds or has ever held.

        100 customers are one read. One whose item is missing is a query, and gets it, and so is one in whose item a key
        is missing that it is ``known`` to have held: an older version gave it. One who held more than
        :data:`MOST_HELD` is a query each time.
        """
        wanted = list(names)
        least: dict[str, set[str]] = {}
        for holding in known:
            for holder in holding.holders:
                least.setdefault(holder.customer, set()).add(holding.key)
        items = {(str(customer(name)), _KEYS): name for name in wanted}
        found = self._items.read(items, lambda item: {*item["keys"]["SS"]} - {MISSING}, consistent=consistent)
        lacking = {name for name in wanted if name not in found or not least.get(name, set()) <= found[name]}
        full = {name for name in wanted if len(found.get(name, ())) > MOST_HELD}
        queried = dict(zip(lacking | full, side_by_side(self.keys_of, lacking | full), strict=True))
        side_by_side(lambda name: self._add_held(name, queried[name]), lacking - full)
        return found | queried

    def sources_of(self, name: str) -> set[str]:
        """Return every source whose usage may be a customer's: its own name, and the keys that it has ever held."""
        return {source_of_customer(name), *map(source_of_key, self.keys_of(name))}

    def name_of(self, name: str, of_key: str) -> str:
        """Return what one key of a customer is called."""
        return self.names_of_each([(name, of_key)])[name, of_key]

    def names_of_each(self, held: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return what each of these customers' keys is called; 100 are one read."""
        places = {(str(customer(name)), str(key(of_key))): (name, of_key) for name, of_key in held}
        return dict.fromkeys(places.values(), "") | self._items.read(places, lambda item: _read_pointer(item)[1])

    def few_keys_of(self, name: str, most: int) -> dict[str, str] | None:
        """Return what each key is called that a customer holds or has ever held; None if they are more than ``most``.

        One read, which is not consistent; a key without a name has an empty one.
        """
        found, _ = self._items.some(str(customer(name)), between=("key#", "key$"), most=most + 1)
        return dict(map(_read_pointer, found)) if len(found) <= most else None

    def first_keys_of(self, name: str, most: int) -> tuple[list[str], bool]:
        """Return the first ``most`` keys that a customer holds or has ever held, and whether those are all."""
        items = self._items.query(str(customer(name)), beginning="key#", most=most + 1)
        found = [key for key, _ in map(_read_pointer, items)]
        return found[:most], len(found) <= most

    def hand_over(self, holding: Holding) -> None:
        """Write a key's history; raise RowChangedError if it is not as it was read.

        The customer's pointer to the key is written first, then the key among all of the customer's: one that it does
        not hold is harmless there, a held key that is missing would be missed when an hour is closed.
        """
        newest = holding.holders[-1]
        if newest.customer:
            self._point_to(newest.customer, holding.key)
            self._list_held(newest.customer, holding.key)
        self.list_key(holding.key)
        history = [
            {"since": str(holder.since), "customer": holder.customer, "reason": holder.reason}
            for holder in holding.holders
        ]
        item = to_item({"version": holding.version + 1, "holders": history})
        self._items.put_as_read({**item_key(str(key(holding.key)), "holders"), **item}, version=holding.version)

    def _point_to(self, name: str, new: str) -> None:
        """Write a customer's pointer to a key; one that is there keeps its name."""
        with suppress(self.client.exceptions.ConditionalCheckFailedException):
            self.client.put_item(
                TableName=self.table, Item=item_key(str(customer(name)), str(key(new))), **unchanged(0)
            )

    def name_key(self, name: str, of_key: str, called: str) -> None:
        """Say what a customer's key is called, or with an empty text that it has no name.

        Raises RowChangedError if the customer holds no such key, nor ever did.
        """
        try:
            self.client.update_item(
                TableName=self.table,
                Key=item_key(str(customer(name)), str(key(of_key))),
                UpdateExpression="SET #name = :name",
                ConditionExpression="attribute_exists(#pk)",
                ExpressionAttributeNames={"#pk": "pk", "#name": "name"},
                ExpressionAttributeValues={":name": {"S": called}},
            )
        except self.client.exceptions.ConditionalCheckFailedException as error:
            raise RowChangedError(f"{name} holds no such key, nor ever did") from error

    def _list_held(self, name: str, new: str) -> None:
        """Enter a key, which has its pointer, among all that a customer ever held."""
        try:
            self.client.update_item(
                TableName=self.table,
                Key=item_key(str(customer(name)), _KEYS),
                UpdateExpression="ADD #keys :new",
                ConditionExpression="attribute_exists(#keys) AND size(#keys) <= :most",
                ExpressionAttributeNames={"#keys": "keys"},
                ExpressionAttributeValues={":new": {"SS": [new]}, ":most": {"N": str(MOST_HELD + 1)}},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self.client.exceptions.ConditionalCheckFailedException as error:
            if not item_there(error):
                self._add_held(name, self.keys_of(name))

    def _add_held(self, name: str, keys: Iterable[str]) -> None:
        """Enter the keys to which a customer has pointers, or as many as say that they are too many.

        The item only grows, so that a replay changes nothing, and whoever reads it finds each key whose pointer was
        there before it was made. A set cannot be empty; what is no id stands in it for that.
        """
        self.client.update_item(
            TableName=self.table,
            Key=item_key(str(customer(name)), _KEYS),
            UpdateExpression="ADD #keys :keys",
            ExpressionAttributeNames={"#keys": "keys"},
            ExpressionAttributeValues={":keys": {"SS": [MISSING, *sorted(keys)[: MOST_HELD + 1]]}},
        )

    def customers(self, names: Iterable[str]) -> dict[str, Customer]:
        """Return those of the customers that exist."""
        return self._items.read({(str(customer(name)), "profile"): name for name in names}, _read_customer)

    def id_of(self, short: str) -> str:
        """Return the customer's id that an identifier at Stripe spells so; empty for a hash that is nobody's."""
        if not short.startswith(HASHED):
            return short
        found = self._items.get(_HASHED, short)
        return found["customer"]["S"] if found else ""

    def customer_ids(self, after: str = "", *, most: int = 0) -> Iterator[str]:
        """Yield the id of every customer in order, or of those after one; with ``most``, of so many at most."""
        return (item["sk"]["S"] for item in self._items.query("list#customers", after=after, most=most))

    def key_ids(self, after: str = "", *, most: int = 0) -> list[str]:
        """Return the id of every key that was ever held, or used without a customer; with ``most``, of the first.

        In their order, or those of them that come after one.
        """
        return [item["sk"]["S"] for item in self._items.query("list#keys", after=after, most=most)]

    def is_listed(self, name: str) -> bool:
        """Say whether a key is in the directory."""
        return self._items.get("list#keys", name) is not None

    def list_key(self, name: str) -> None:
        """Enter a key in the directory; entering it again changes nothing."""
        self._items.put(item_key("list#keys", name))

    def save_customer(self, after: Customer, *, before: Customer | None) -> None:
        """Write a customer and its claim on a Stripe customer, in one transaction.

        Raises RowChangedError if the customer is not as it was read, or the Stripe customer belongs to another.
        """
        item = to_item({"name": after.name, "stripe_customer": after.stripe_customer})
        as_read: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(#pk)"}
        as_read["ExpressionAttributeNames"] = {"#pk": "pk"}
        if before is not None:
            as_read = {
                "ConditionExpression": "#name = :name AND #stripe_customer = :stripe_customer",
                "ExpressionAttributeNames": {"#name": "name", "#stripe_customer": "stripe_customer"},
                "ExpressionAttributeValues": to_item(
                    {":name": before.name, ":stripe_customer": before.stripe_customer}
                ),
            }
        put = {"TableName": self.table, "Item": {**item_key(str(customer(after.id)), "profile"), **item}, **as_read}
        entry = {"TableName": self.table, "Item": item_key("list#customers", after.id)}
        writes = [{"Put": put}, {"Put": entry}]
        if (short := short_id(after.id)) != after.id:
            writes.append(self._items.putting({**item_key(_HASHED, short), "customer": {"S": after.id}}))
        if after.stripe_customer:
            writes.append({"Put": self._claim(after)})
        self._items.transact(*writes)

    def owner(self, stripe_customer: str) -> str:
        """Return the customer that posts to a Stripe customer, or an empty string."""
        found = self._items.get(f"stripe#{stripe_customer}", "owner")
        return found["customer"]["S"] if found else ""

    def _claim(self, owner: Customer) -> dict[str, Any]:
        free_or_ours = "attribute_not_exists(#pk) OR #customer = :customer"
        return {
            "TableName": self.table,
            "Item": {**item_key(f"stripe#{owner.stripe_customer}", "owner"), "customer": {"S": owner.id}},
            "ConditionExpression": free_or_ours,
            "ExpressionAttributeNames": {"#pk": "pk", "#customer": "customer"},
            "ExpressionAttributeValues": {":customer": {"S": owner.id}},
        }


def _read_pointer(item: Item) -> tuple[str, str]:
    """Return a key, and what it is called."""
    return item["sk"]["S"].removeprefix("key#"), item["name"]["S"] if "name" in item else ""


def _read_holding(item: Item) -> Holding:
    values = from_item(item)
    holders = [
        Holder(Hour.parse(holder["since"]), holder["customer"], holder["reason"]) for holder in values["holders"]
    ]
    return Holding(Subject.parse(values["pk"]).id, tuple(holders), values["version"])


def _read_customer(item: Item) -> Customer:
    return Customer(Subject.parse(item["pk"]["S"]).id, item["name"]["S"], item["stripe_customer"]["S"])


def mapped_to(holding: Holding, hour: Hour) -> Subject | None:
    """Return the customer that a key's usage of an hour belongs to, or None."""
    holder = holding.at(hour)
    return customer(holder.customer) if holder is not None and holder.customer else None


def by_kind(subjects: Iterable[Subject], kind: Kind) -> list[str]:
    """Return the ids of the subjects of one kind."""
    return [subject.id for subject in subjects if subject.kind is kind]

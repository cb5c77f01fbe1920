"""What was entered by mistake, taken out of the Ledger table: a key, or a customer, of whom nothing was used."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from metering.model.subjects import customer, key, short_id
from metering.stores.aws import to_item
from metering.stores.holders import Customer, Holding
from metering.stores.table import Table, item_key, unchanged

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

_MOST: Final = 40
"""Items of a customer that are looked at on either side of its keys; whoever has more was billed."""


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The verbs. Each writes all of it, or nothing, and raises RowChangedError if it is not as it was read."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def forget_key(self, holding: Holding) -> None:
        """Forget a key: its history, the pointers of who held it, and its entry in the directory.

        To be said of a key that no row has usage of. It is refused, too, while an item of one of its customers is
        being made.
        """
        names = sorted({holder.customer for holder in holding.holders if holder.customer})
        listed = self._items.read({(str(customer(name)), "keys"): name for name in names}, lambda _: True)
        writes: list[dict[str, Any]] = [
            {"Delete": {**self._at(str(key(holding.key)), "holders"), **unchanged(holding.version)}},
            {"Delete": self._at("list#keys", holding.key)},
        ]
        for name in names:
            writes.append({"Delete": self._at(str(customer(name)), str(key(holding.key)))})
            there = {"ConditionExpression": "attribute_exists(#keys)", "ExpressionAttributeNames": {"#keys": "keys"}}
            out_of_it = {
                "UpdateExpression": "DELETE #keys :gone",
                "ExpressionAttributeValues": {":gone": {"SS": [holding.key]}},
            }
            place = self._at(str(customer(name)), "keys")
            writes.append(
                {"Update": {**place, **out_of_it, **there}}
                if name in listed
                else {"ConditionCheck": {**place, **unchanged(0)}}
            )
        self._items.transact(*writes)

    def beside_keys(self, name: str) -> list[str]:
        """Return what is written of a customer beside its keys, by the items' sort keys; some of what is too much."""
        pk = str(customer(name))
        return [
            item["sk"]["S"]
            for between in (("!", "key#"), ("key$", "~"))
            for item in self._items.query(pk, between=between, most=_MOST)
        ]

    def forget_customer(self, before: Customer, beside: Iterable[str]) -> None:
        """Forget a customer without keys: what is written ``beside`` them, its claim at Stripe, and the directory's."""
        pk = str(customer(before.id))
        writes: list[dict[str, Any]] = [{"Delete": self._at(pk, sk)} for sk in beside if sk != "profile"]
        as_read = {
            "ConditionExpression": "#name = :name AND #stripe_customer = :stripe_customer",
            "ExpressionAttributeNames": {"#name": "name", "#stripe_customer": "stripe_customer"},
            "ExpressionAttributeValues": to_item({":name": before.name, ":stripe_customer": before.stripe_customer}),
        }
        writes += [
            {"Delete": {**self._at(pk, "profile"), **as_read}},
            {"Delete": self._at("list#customers", before.id)},
        ]
        if (short := short_id(before.id)) != before.id:
            writes.append({"Delete": self._at("list#hashed", short)})
        if before.stripe_customer:
            free_or_ours = {
                "ConditionExpression": "attribute_not_exists(#pk) OR #customer = :customer",
                "ExpressionAttributeNames": {"#pk": "pk", "#customer": "customer"},
                "ExpressionAttributeValues": to_item({":customer": before.id}),
            }
            writes.append({"Delete": {**self._at(f"stripe#{before.stripe_customer}", "owner"), **free_or_ours}})
        self._items.transact(*writes)

    def _at(self, pk: str, sk: str) -> dict[str, Any]:
        return {"TableName": self.table, "Key": item_key(pk, sk)}

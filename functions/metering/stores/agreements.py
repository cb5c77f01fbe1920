"""What customers' subscriptions bill, as Stripe showed them last, and what the round of these looks found.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| subscriptions | ``customer#<id>`` | ``subscriptions`` | ``shown``: JSON, a :class:`Shown` |
| accepted | ``customer#<id>`` | ``unbilled`` | the fields of :class:`Accepted` |
| round of looks | ``period#unbilled`` | ``round`` | ``looks``: JSON, a :class:`Looks` |

In the Ledger table. Why nobody pays for an hour is not kept with its row: it follows from this one item, for an hour of
any age, and changes with it, while the row goes on to converge at Stripe (I4).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from metering.model.subjects import customer
from metering.model.unbilled import Agreed, WhyUnbilled
from metering.stores.aws import Item, from_item, to_item
from metering.stores.table import Table, item_key

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

MOST_NAMED: Final = 10
"""How many customers a round names for each reason."""

_ROUND: Final = ("period#unbilled", "round")
_SK: Final = "subscriptions"


class Shown(msgspec.Struct, frozen=True):
    """What a customer's subscriptions bill, by Stripe customer, as Stripe said ``at`` a moment (seconds since 1970).

    That is one Stripe customer, but for usage that was posted to another one before.
    """

    at: int
    agreed: dict[str, tuple[Agreed, ...]]


class Accepted(msgspec.Struct, frozen=True):
    """That a person has decided that nobody is to be asked about what a customer used ``before`` an hour.

    ``who`` did so (an ARN) ``at`` a moment in seconds since 1970.
    """

    before: str
    reason: str
    who: str
    at: int


class Unpaid(msgspec.Struct, frozen=True, omit_defaults=True):
    """What nobody pays for one reason: how many customers' hours, of how many customers, and the first ones' ids."""

    hours: int = 0
    customers: int = 0
    named: tuple[str, ...] = ()

    def and_of(self, name: str, hours: int) -> "Unpaid":
        """Return it with one customer more."""
        return Unpaid(self.hours + hours, self.customers + 1, (*self.named, name)[:MOST_NAMED])


Found = dict[WhyUnbilled, Unpaid]


class Looks(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a round of looks is: ``name`` is the last customer that was looked at, empty when the round is over.

    ``found`` is what it has found so far, ``before`` what the whole round before it did. Moments are in seconds since
    1970.
    """

    name: str = ""
    begun_at: int = 0
    found: Found = {}
    before: Found = {}

    def with_customer(self, name: str, hours: Mapping[WhyUnbilled, int]) -> "Looks":
        """Return it after the look at one customer more, of whom nobody pays so many hours, by reason."""
        found = self.found | {why: self.found.get(why, Unpaid()).and_of(name, number) for why, number in hours.items()}
        return msgspec.structs.replace(self, name=name, found=found)

    def hours(self) -> dict[WhyUnbilled, int]:
        """Return how many customers' hours nobody pays, by reason: of the last whole round, or of this if it is more.

        So what a round finds first is told at once, and what is put right when the next one is over.
        """
        return {why: unpaid.hours for why, unpaid in self.unpaid().items()}

    def unpaid(self) -> Found:
        """Return what nobody pays, by reason."""
        both = {why: (self.before.get(why, Unpaid()), self.found.get(why, Unpaid())) for why in WhyUnbilled}
        known = {why: max(two, key=lambda unpaid: unpaid.hours) for why, two in both.items()}
        return {why: unpaid for why, unpaid in known.items() if unpaid.hours}


@dataclass(frozen=True, slots=True)
class Agreements:
    """The verbs. Errors of DynamoDB are raised as they are."""

    client: "DynamoDBClient"
    table: str

    @property
    def _items(self) -> Table:
        return Table(self.client, self.table)

    def of(self, names: Iterable[str]) -> Mapping[str, Shown]:
        """Return what the customers' subscriptions bill, of those that were looked at."""
        wanted = {(str(customer(name)), _SK): name for name in names}
        return self._items.read(wanted, _read, consistent=False)

    def save(self, name: str, shown: Shown) -> None:
        """Write what Stripe said of a customer; whoever writes last, the next round writes it anew."""
        text = msgspec.json.encode(shown).decode()
        self._items.put({**item_key(str(customer(name)), _SK), "shown": {"S": text}})

    def accepted(self, name: str) -> Accepted | None:
        """Return up to where what nobody pays of a customer is accepted, or None."""
        found = self._items.get(str(customer(name)), "unbilled")
        return msgspec.convert(from_item(found), Accepted) if found else None

    def accept(self, name: str, accepted: Accepted) -> None:
        """Write up to where it is accepted; the last word counts."""
        values = to_item(msgspec.structs.asdict(accepted))
        self._items.put({**item_key(str(customer(name)), "unbilled"), **values})

    def looks(self) -> Looks:
        """Return how far the round is, and what it found."""
        found = self._items.get(*_ROUND)
        return msgspec.json.decode(found["looks"]["S"], type=Looks) if found else Looks()

    def save_looks(self, looks: Looks) -> None:
        """Write how far the round is; of two runs at once the last one wins, and a customer is looked at twice."""
        self._items.put({**item_key(*_ROUND), "looks": {"S": msgspec.json.encode(looks).decode()}})


def _read(item: Item) -> Shown:
    return msgspec.json.decode(item["shown"]["S"], type=Shown)

"""The Ledger table: what is billed, to whom, and how far. Known to its parts alone.

What only an operator's commands keep there is in ``infra/operate/access_notes.py``; ``reading.py`` reads many rows at
once.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| customer | ``customer#<id>`` | ``profile`` | ``name``, ``stripe_customer`` |
| key once held | ``customer#<id>`` | ``key#<key>`` | (none: where to look; the key's own item says when) |
| usage | ``customer#<id>``, ``key#<key>`` | ``usage#<hour>`` | ``version``, ``totals``, ``only_key``, ``pending`` |
| usage by key | ``customer#<id>`` | ``keys#<hour>`` | ``counted``: JSON, quantities by key and metric |
| key | ``key#<key>`` | ``holders`` | ``version``, ``holders``: who holds it from which hour on |
| owner | ``stripe#<cus_...>`` | ``owner`` | ``customer``: the one that posts to this Stripe customer |
| period | ``period#<hour>`` | ``close`` | ``state``, ``written_at``, ``closed_at``, ``customers``, ``unmapped`` |
| cursor | ``period#cursor`` | ``close`` | ``hour``: every hour before it is closed |
| invoices | ``period#invoices`` | ``seen`` | ``at``: up to when finalised invoices are noted |
| round | ``period#reconciled`` | ``round`` | the fields of :class:`Round` |
| directory | ``list#customers``, ``list#keys`` | id | (none) |

The sparse index ``pending`` lists the rows that have a pending total under ``pending#<shard>``, and the other ones that
have a rejected total under ``rejected#<shard>``.

A key's whole history is one item, so that the holders of 100 keys are one read; a hand-over is one conditional write.
Usage rows are never deleted: a row that is not there has never been written.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.stores.holders import Holders
from metering.stores.progress import Progress
from metering.stores.rows import Rows

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient


@dataclass(frozen=True, slots=True)
class Ledger:
    """The table, by its parts; beside them stand ``changes.py`` and ``switch.py``."""

    client: "DynamoDBClient"
    table: str

    @property
    def rows(self) -> Rows:
        """What is billed of each customer's hour."""
        return Rows(self.client, self.table)

    @property
    def holders(self) -> Holders:
        """Who is billed, and for which keys."""
        return Holders(self.client, self.table)

    @property
    def progress(self) -> Progress:
        """How far closing, carrying and comparing have got."""
        return Progress(self.client, self.table)

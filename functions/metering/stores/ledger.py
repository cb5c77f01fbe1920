"""The Ledger table, by its parts: what is billed, to whom, and how far.

Beside them stand ``changes.py`` and ``switch.py``, and what only an operator's commands keep there,
``infra/operate/access_notes.py``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.stores.agreements import Agreements
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

    @property
    def agreements(self) -> Agreements:
        """What customers' subscriptions bill, as Stripe showed them last."""
        return Agreements(self.client, self.table)

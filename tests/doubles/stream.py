"""The stream of the Counters table: what DynamoDB tells of each write of an item, with both images.

As DynamoDB Streams writes it (API reference, "Record" and "StreamRecord"), and Lambda hands it over: an event is
``{"Records": [...]}``. Nothing of ``ttl`` expires here.
"""

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tests.doubles.dynamodb import Item, Tables

ARN: Final = (
    "arn:aws:dynamodb:us-east-1:123456789012:table/Metering-Counters1A2B3C4D-EXAMPLE/stream/2026-11-01T00:00:00.000"
)

Record = dict[str, Any]


def record(before: Item | None, after: Item, *, number: int = 1, at: int = 0) -> Record:
    """Return what is told of an item's write."""
    images = {"NewImage": _as_json(after)} | ({"OldImage": _as_json(before)} if before else {})
    return {
        "eventID": f"{number:032x}",
        "eventName": "MODIFY" if before else "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": at,
            "Keys": {name: after[name] for name in ("pk", "sk")},
            **images,
            "SequenceNumber": f"{number:021d}",
            "SizeBytes": 512,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        "eventSourceARN": ARN,
    }


def _as_json(item: Item) -> Item:
    """Return an item as JSON has it: bytes in Base64."""
    return {
        name: {"BS": [b64encode(value).decode() for value in attribute["BS"]]} if "BS" in attribute else attribute
        for name, attribute in item.items()
    }


class Streamed(Tables):
    """Tables in memory; ``told`` are the records of what was written into the counters."""

    def __init__(self, names: Sequence[str] = ("counters", "ledger", "access"), at: datetime | None = None) -> None:
        super().__init__(names)
        self.told: list[Record] = []
        self._at = int(at.timestamp()) if at else 0

    def take(self) -> list[Record]:
        """Return what was told since it was last taken."""
        told, self.told = self.told, []
        return told

    def _put(self, table: str, item: Item) -> None:
        before = self._get(table, item)
        super()._put(table, item)
        if table == "counters":
            self.told.append(record(before, item, number=len(self.told) + 1, at=self._at))

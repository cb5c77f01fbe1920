"""What DynamoDB Local says that requests consumed, and a table to count in; shared by two benchmarks."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from botocore.config import Config

from metering.stores.counters import Counters
from tests.benchmarks.units import refused_units
from tests.doubles.dynamodb_local import DynamoDBLocal

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

WRITES: Final = ("UpdateItem", "PutItem", "TransactWriteItems")
_TABLE: Final = "counters"


@dataclass
class Capacity:
    """Write and read units by operation, as each answer says."""

    units: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def watch(self, client: "DynamoDBClient") -> None:
        """Ask for the consumed capacity with each of a client's requests, and add up the answers."""
        events = client.meta.events
        for operation in (*WRITES, "GetItem", "BatchGetItem"):
            events.register(f"provide-client-params.dynamodb.{operation}", _ask)
            events.register(f"after-call.dynamodb.{operation}", self._note)

    @property
    def written(self) -> float:
        """Write units."""
        return sum(self.units[operation] for operation in WRITES)

    def _note(self, parsed: dict[str, Any], model: Any, **_: Any) -> None:
        self.calls[model.name] += 1
        found = parsed.get("ConsumedCapacity", {})
        for one in found if isinstance(found, list) else [found]:
            self.units[model.name] += one.get("CapacityUnits", 0)
        if parsed.get("Error", {}).get("Code") == "ConditionalCheckFailedException":
            self.units[model.name] += refused_units(parsed)


def _ask(params: dict[str, Any], **_: Any) -> None:
    params["ReturnConsumedCapacity"] = "TOTAL"


def fresh_counters(dynamodb: DynamoDBLocal) -> tuple[Counters, Capacity]:
    """Return counters in a new, empty table, and what they will consume."""
    client = dynamodb.client(Config(max_pool_connections=64, retries={"mode": "standard", "total_max_attempts": 4}))
    if _TABLE in client.list_tables()["TableNames"]:
        client.delete_table(TableName=_TABLE)
    client.create_table(
        TableName=_TABLE,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    capacity = Capacity()
    capacity.watch(client)
    return Counters(client, _TABLE), capacity

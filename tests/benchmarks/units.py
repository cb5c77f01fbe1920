"""What calls of AWS amount to, as AWS bills them, by the sizes of the items."""

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from metering.stores.lean_calls import LeanCall
from tests.doubles.item_size import size_of


@dataclass
class Units:
    """What calls of AWS amount to, as AWS bills them. Watches clients."""

    writes: float = 0
    reads: float = 0
    first_writes: list[int] = field(default_factory=list)
    """The size of each counter as its first batch makes it, without the batch's token."""

    calls: Counter[str] = field(default_factory=Counter)
    _local: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _listed: dict[str, bool] = field(default_factory=dict)

    def watch(self, client: Any) -> None:
        """Count every call of a client from now on, also those that do not go by boto3's way."""
        client.meta.events.register("provide-client-params.*.*", self._before)
        client.meta.events.register("after-call.*.*", self._after)
        for name, call in [*vars(client).items()]:
            if isinstance(call, LeanCall):
                setattr(client, name, partial(self.call, client.meta.method_to_api_mapping[name], call))

    def clear(self) -> None:
        """Begin anew."""
        self.writes, self.reads = 0, 0
        self.first_writes.clear()
        self.calls.clear()

    def _before(self, params: Mapping[str, Any], **_: Any) -> None:
        self._local.params = params

    def _after(self, model: Any, parsed: Mapping[str, Any], **_: Any) -> None:
        self._note(model.name, self._local.params, parsed)

    def call(self, operation: str, call: Callable[..., Any], **params: Any) -> Any:
        """Make a call, and note it unless boto3, to which it was left, has done so."""
        self._local.params = None
        answer: Any = {}
        try:
            answer = call(**params)
        except ClientError as error:
            answer = error.response
            raise
        finally:
            if self._local.params is None:
                self._note(operation, params, answer)
        return answer

    def _note(self, operation: str, params: Mapping[str, Any], parsed: Mapping[str, Any]) -> None:
        with self._lock:
            self.calls[operation] += 1
            match operation:
                case "UpdateItem":
                    if "Error" in parsed:
                        self.writes += refused_units(parsed)
                        return
                    values = params["ExpressionAttributeValues"]
                    names = params["ExpressionAttributeNames"]
                    amounts = {names[f"#{name[1:]}"]: values[name] for name in values if f"#{name[1:]}" in names}
                    self.first_writes.append(size_of(params["Key"]) + size_of(amounts) + len("batches"))
                    self.writes += max(1, math.ceil(self.first_writes[-1] / 1024))
                case "PutItem":
                    self.writes += math.ceil(size_of(params["Item"]) / 1024) + self._index_writes(params["Item"])
                case "DeleteItem":
                    self.writes += 1
                case "GetItem" | "Query":
                    found = sum(map(size_of, parsed.get("Items", [])))
                    self.reads += max(1, math.ceil(found / 4096)) * (1 if params.get("ConsistentRead") else 0.5)
                case "BatchGetItem":
                    self.reads += sum(len(asked["Keys"]) for asked in params["RequestItems"].values())

    def _index_writes(self, item: Mapping[str, Any]) -> int:
        """An item's entry in the index of what is pending is written when it comes and when it goes."""
        name = f"{item['pk']['S']} {item['sk']['S']}"
        was, self._listed[name] = self._listed.get(name, False), "pending" in item
        return int(was != self._listed[name])


def refused_units(answer: Mapping[str, Any]) -> int:
    """Return what a write costs whose condition did not hold, and whose answer says nothing of it.

    It costs a write of the item that refused it (Developer Guide, "Read and write operations": a failed conditional
    write consumes write units). The answer holds the item where it was asked for; a counter without splits has 1 KB.
    """
    return max(1, math.ceil(size_of(answer.get("Item", {})) / 1024))

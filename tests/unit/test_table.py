"""Reads of many keys: what DynamoDB leaves unprocessed is asked for again, later and not for ever."""

from typing import Any

import pytest

from metering.stores.table import ATTEMPTS, UnprocessedError, batch_get

KEYS = [("a", "1"), ("b", "1"), ("c", "1")]


class Busy:
    """A client that answers one key a call."""

    def __init__(self, answers: int) -> None:
        self.left = answers
        self.asked: list[int] = []

    def batch_get_item(self, *, RequestItems: Any) -> Any:  # noqa: N803 - boto3's name
        """Answer the first key, and leave the others."""
        (table,) = RequestItems
        first, *others = RequestItems[table]["Keys"]
        self.asked.append(1 + len(others))
        if not self.left:
            return {"Responses": {}, "UnprocessedKeys": RequestItems}
        self.left -= 1
        left = {table: {"Keys": others, "ConsistentRead": True}} if others else {}
        return {"Responses": {table: [first]}, "UnprocessedKeys": left}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which is waited for; each as long as it may be."""
    made: list[float] = []
    monkeypatch.setattr("metering.stores.table.time.sleep", made.append)
    monkeypatch.setattr("metering.stores.table.random.uniform", lambda _least, most: most)
    return made


def read(client: Busy) -> list[Any]:
    """Read the keys."""
    double: Any = client
    return batch_get(double, "table", KEYS, consistent=True)


def test_what_is_left_is_asked_for_after_pauses_that_grow(pauses: list[float]) -> None:
    """And only that."""
    client = Busy(3)
    assert [item["pk"]["S"] for item in read(client)] == ["a", "b", "c"]
    assert client.asked == [3, 2, 1]
    assert pauses == [0.05, 0.1]


def test_what_is_left_for_good_is_said(pauses: list[float]) -> None:
    """I10: no read goes on for ever; whoever asked fails, and is run again."""
    client = Busy(1)
    with pytest.raises(UnprocessedError, match="table: 2 of 3 keys were left unprocessed 8 times"):
        read(client)
    assert len(client.asked) == ATTEMPTS
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2]


def test_pauses_are_drawn_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that many who were refused together do not come again together."""
    drawn: list[tuple[float, ...]] = []
    monkeypatch.setattr("metering.stores.table.time.sleep", lambda _seconds: None)

    def draw(*bounds: float) -> float:
        drawn.append(bounds)
        return 0.0

    monkeypatch.setattr("metering.stores.table.random.uniform", draw)
    read(Busy(3))
    assert drawn == [(0, 0.05), (0, 0.1)]

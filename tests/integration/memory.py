"""DynamoDB in memory, which `tests/faults` holds against AWS's own engine: a hundred times as fast as moto."""

from datetime import UTC, datetime
from threading import RLock
from typing import Any

from tests.faults.money_table import Pages, Tables


class Memory:
    """A client of empty tables, for many threads."""

    def __init__(self) -> None:
        self._tables = Tables(now=lambda: 0.0, lag=lambda: 0.0)
        self._turn = RLock()
        self.exceptions = self._tables.exceptions

    def __getattr__(self, name: str) -> Any:
        do = getattr(self._tables, name)

        def call(**arguments: Any) -> Any:
            with self._turn:
                return do(**arguments)

        return call

    def describe_table(self, *, TableName: str) -> dict[str, Any]:  # noqa: N803 - as DynamoDB names it
        """Say that a table was made just now."""
        return {"Table": {"TableName": TableName, "CreationDateTime": datetime.now(UTC)}}

    def scan(self, *, TableName: str) -> dict[str, Any]:  # noqa: N803 - as DynamoDB names it
        """Return every item."""
        return {"Items": list(self._tables.scan(TableName))}

    def get_paginator(self, name: str) -> Pages:
        """Return what reads every page."""
        assert name == "query"
        return Pages(self.query)

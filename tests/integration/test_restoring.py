"""Restoring the ledger: what stays as it is, whatever the backup says; the whole of it is an end-to-end test."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from infra.operate import restore as restoring
from infra.operate.deployment import Deployment
from metering.model.connections import Step
from metering.stores.connections import Connections
from tests.doubles.aws import Client
from tests.doubles.dynamodb import Tables
from tests.doubles.outputs import outputs
from tests.integration.connected import ORDERS


def test_what_is_connected_stays_so_whatever_the_backup_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1, I7: else its lines would be lost, and read for usage lines, which any caller could write there."""
    told = replace(outputs(), access_table=None)
    tables = Tables((told.ledger_table, "restored"))
    client: Any = Client("dynamodb", tables)
    now, then = Connections(client, told.ledger_table), Connections(client, "restored")
    for connections in (then, now):
        connections.save(ORDERS)
        connections.save(msgspec.structs.replace(ORDERS, name="gone", log_group="/gone"))
    items = msgspec.structs.replace(ORDERS, name="items", log_group="/items")
    now.save(items)
    now.save(msgspec.structs.replace(ORDERS, step=Step.DISCONNECTED, until=ORDERS.since + 1, version=1))
    for item in [*tables.items(told.ledger_table)]:
        if "gone" in item["sk"]["S"]:
            tables.delete_item(TableName=told.ledger_table, Key={name: item[name] for name in ("pk", "sk")})
    for name in ("_check_stopped", "_check_table"):
        monkeypatch.setattr(restoring, name, lambda *_: None)
    monkeypatch.setattr(restoring, "_epoch", lambda _: 1)
    for _ in range(2):
        restoring.restore(Deployment(lambda *_, **__: client, told), "restored", progress=lambda pieces, _: pieces)
        assert {one.name: (one.log_group, one.step) for one in now.all()} == {
            "gone": ("/gone", Step.CONNECTED),
            "items": ("/items", Step.CONNECTED),
            "orders": (ORDERS.log_group, Step.DISCONNECTED),
        }
        assert [one.until for one in now.of_log_group(ORDERS.log_group)] == [ORDERS.since + 1]
        assert len(now.of_log_group("/items")) == len(now.of_log_group("/gone")) == 1
        assert len(now.ever()) == 3

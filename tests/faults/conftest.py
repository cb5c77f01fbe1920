"""What lets schedules be played on DynamoDB Local."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.dynamodb_local import DynamoDBLocal, table_definition


@pytest.fixture(scope="session")
def on_dynamodb_local(
    dynamodb_local: DynamoDBLocal, template: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """What lets schedules be played on AWS's own engine, on tables as the template defines them."""
    definitions: Path = tmp_path_factory.mktemp("schedules") / "tables.json"
    definitions.write_text(json.dumps({name: table_definition(template, name) for name in ("Counters", "Ledger")}))
    return ["--dynamodb", str(dynamodb_local.port), "--definitions", str(definitions)]

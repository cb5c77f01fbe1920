"""The walls of the house: each holds, and each falls when a forbidden import is put in."""

import ast
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import grimp
import pytest
from importlinter import configuration
from importlinter.api import read_configuration
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract

from tests.conftest import ROOT

PLANTED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "metering-layers": (
        ("metering.billing.closing", "metering.portal.reading"),
        ("metering.counting.recording", "metering.billing.closing"),
        ("metering.stores.table", "metering.stripe.meters"),
        ("metering.stores.rows", "metering.billing.closing"),
        ("metering.model.metrics", "metering.stores.table"),
        ("metering.layout", "metering.model.periods"),
    ),
    "model-is-pure": (
        ("metering.model.periods", "time"),
        ("metering.model.prices", "boto3"),
        ("metering.model.measuring", "threading"),
    ),
    "metering-knows-no-infra": (
        ("metering.stores.table", "infra.outputs"),
        ("metering.billing.closing", "close_periods"),
    ),
    "stripe-alone-talks-to-stripe": (("metering.billing.receiving", "stripe"),),
    "stores-alone-make-clients": (
        ("metering.counting.completeness", "boto3"),
        ("metering.billing.posting", "botocore"),
    ),
    "infra-layers": (
        ("infra.outputs", "infra.operate.deployment"),
        ("infra.operate.top", "infra.stack.alarms"),
        ("infra.stack.alarms", "infra.operate.deployment"),
        ("infra.operate.customers", "infra.local.cloud"),
        ("infra.local.cloud", "infra.cli.shared"),
    ),
    "stack-is-cdk-alone": (
        ("infra.stack.portal", "metering.portal.charges"),  # which reads the stores
        ("infra.stack.alarms", "botocore"),
        ("infra.stack.billing", "close_periods"),
    ),
    "local-stripe-is-its-own": (
        ("infra.local.stripe.price", "metering.model.prices"),
        ("infra.local.stripe.api", "stripe"),
    ),
    "recount-is-a-second-way": (
        ("infra.operate.recount.raw_lines", "metering.model.access_log"),
        ("infra.operate.recount.raw_formats", "metering.model.foreign_format"),
        ("infra.operate.recount.raw_connected", "metering.model.line_forms"),
        ("infra.operate.recount.raw_log", "metering.counting.payloads"),
        ("infra.operate.recount.raw_usage_lines", "metering.model.usage_lines"),
        ("infra.operate.recount.raw_usage_frames", "metering.model.usage_frames"),
        ("infra.operate.recount.raw_lines", "record_usage"),  # through which the reader that counts can be reached
    ),
    "tests-layers": (
        ("tests.faults.play", "tests.integration.world"),
        ("tests.doubles.clock", "tests.unit.test_prices"),
        ("tests.doubles.clock", "tests.conftest"),
    ),
    "product-knows-no-tests": (
        ("infra.local.cloud", "tests.doubles.clock"),
        ("infra.operate.top", "show_usage"),
    ),
}
"""For each contract what it forbids, each by itself."""

CONTRACTS: Final[Mapping[str, type[ForbiddenContract] | type[LayersContract]]] = {
    "forbidden": ForbiddenContract,
    "layers": LayersContract,
}


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """What pyproject.toml says of the walls."""
    configuration.configure()
    return dict(read_configuration(str(ROOT / "pyproject.toml")))


@pytest.fixture(scope="module")
def house(settings: dict[str, Any]) -> grimp.ImportGraph:
    """Who imports whom."""
    session = settings["session_options"]
    return grimp.build_graph(*session["root_packages"], include_external_packages=True, cache_dir=None)


def holds(name: str, house: grimp.ImportGraph, settings: dict[str, Any]) -> bool:
    """Say whether a contract holds."""
    (options,) = [options for options in settings["contracts_options"] if options["id"] == name]
    contract = CONTRACTS[options["type"]](options["name"], settings["session_options"], options)
    return contract.check(house, verbose=False).kept


def test_every_contract_is_tried(settings: dict[str, Any]) -> None:
    """None is there that nobody saw fail."""
    assert {options["id"] for options in settings["contracts_options"]} == set(PLANTED)


@pytest.mark.parametrize("name", PLANTED)
def test_a_wall_holds(name: str, house: grimp.ImportGraph, settings: dict[str, Any]) -> None:
    """As the code stands."""
    assert holds(name, deepcopy(house), settings)


@pytest.mark.parametrize(
    ("name", "importer", "imported"), [(name, *planted) for name in PLANTED for planted in PLANTED[name]]
)
def test_a_wall_falls_with_a_forbidden_import(
    name: str, importer: str, imported: str, house: grimp.ImportGraph, settings: dict[str, Any]
) -> None:
    """It is no wall that cannot."""
    changed = deepcopy(house)
    assert importer in changed.modules  # it is not renamed meanwhile
    changed.add_import(importer=importer, imported=imported)
    assert not holds(name, changed, settings)


@pytest.mark.parametrize(
    ("name", "room"),
    [("metering-layers", "metering.helpers"), ("infra-layers", "infra.utils"), ("tests-layers", "tests.support")],
)
def test_a_room_that_has_no_place_is_noticed(
    name: str, room: str, house: grimp.ImportGraph, settings: dict[str, Any]
) -> None:
    """Whoever adds one says where it stands."""
    changed = deepcopy(house)
    changed.add_module(room)
    assert not holds(name, changed, settings)


PURE: Final = {
    *(
        "ast",
        "bisect",
        "calendar",
        "collections",
        "dataclasses",
        "datetime",
        "decimal",
        "difflib",
        "enum",
        "functools",
        "hashlib",
        "itertools",
        "json",
    ),
    *("math", "metering", "msgspec", "operator", "re", "typing", "unicodedata"),
}
"""What the model may import: nothing that knows a machine, a network, a clock or a thread."""


def imported(file: Path) -> set[str]:
    """Return the top-level names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_model_is_made_of_what_is_pure() -> None:
    """A list of what is forbidden would never be whole."""
    for file in sorted((ROOT / "functions" / "metering" / "model").glob("*.py")):
        assert imported(file) <= PURE, file.name


def test_the_model_asks_no_clock() -> None:
    """Time is an argument: whoever plays a month in a second gets the same answers."""
    asking = [
        f"{file.name}:{node.lineno}"
        for file in sorted((ROOT / "functions" / "metering" / "model").glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in {"now", "today", "utcnow"}
    ]
    assert asking == []


@pytest.mark.parametrize("file", sorted((ROOT / "functions").glob("*.py")), ids=lambda file: file.name)
def test_a_handler_imports_the_rooms_and_powertools(file: Path) -> None:
    """No SDK, no infrastructure, no other handler: it decodes, calls one verb and encodes."""
    standard = {"base64", "binascii", "collections", "dataclasses", "datetime", "functools", "json", "pathlib", "time"}
    assert imported(file) <= {*standard, "typing", "aws_lambda_powertools", "metering", "msgspec"}


def test_the_app_imports_the_stack_alone() -> None:
    """What a user edits knows one room of ours."""
    assert imported(ROOT / "app.py") <= {"aws_cdk", "cdk_nag", "infra"}
    assert re.findall(r"^from (infra\S*) import", (ROOT / "app.py").read_text(), re.MULTILINE) == ["infra.stack"]

"""README.md against the program: what it names exists, and what exists is named."""

import inspect
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from infra.cli.main import app
from infra.stack.alarms import Alarms
from infra.stack.metering import MeteringStack
from metering.model import metrics
from metering.model.log_format import MEASURED_FIELDS, AccessLog
from metering.model.usage_lines import Report, UsageLineReader
from metering.model.usage_row import State
from metering.signals import Signal

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> dict[str, list[str]]:
    """Return every command with its options."""
    found: dict[str, list[str]] = {}

    def walk(group: TyperGroup, name: str) -> None:
        for child, command in group.commands.items():
            if isinstance(command, TyperGroup):
                walk(command, f"{name} {child}")
            else:
                found[f"{name} {child}"] = [
                    option for param in command.params for option in param.opts if option.startswith("--")
                ]

    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    walk(group, "metering")
    return found


def test_every_command_is_named() -> None:
    """By its last words, since one row may hold two."""
    missing = [name for name in commands() if name.removeprefix("metering ") not in README]
    assert missing == []


def test_every_option_is_named() -> None:
    """Wherever it stands."""
    options = {option for options in commands().values() for option in options}
    assert {option for option in options if option not in README} == set()


def test_every_option_that_is_named_exists() -> None:
    """Outside of what belongs to other programs."""
    known = {option for options in commands().values() for option in options}
    known |= {"--help", "--all", "--schedules", "--seed"}
    ours = re.sub(r"`aws [^`]*`", "", README)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", ours)) <= known


def test_every_metric_and_state_is_named() -> None:
    """What the functions tell, and what an operator sees."""
    assert [name for name in [*Signal, *State] if f"`{name}`" not in README] == []


def test_every_setting_of_the_stack_is_named() -> None:
    """Its keyword arguments."""
    settings = [
        name
        for name, parameter in inspect.signature(MeteringStack.__init__).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    assert settings
    assert [name for name in settings if f"`{name}`" not in README] == []


def test_every_alarm_and_measured_field_is_named() -> None:
    """With what it asks of a person, and its unit."""
    alarms = re.findall(r'self\._alarm\(\s*"(\w+)"', inspect.getsource(Alarms))
    assert len(alarms) == 20
    assert [name for name in alarms if f"\n#### {name}\n" not in README] == []
    assert [name for name in MEASURED_FIELDS if f"`{name}`" not in README] == []


def test_every_test_that_a_promise_names_exists() -> None:
    """A guarantee is worth what its test is."""
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", README)
    assert len(named) > 10
    assert [name for name in named if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("folder", ["functions", "functions/metering", "infra"])
def test_every_file_is_in_the_map(folder: str) -> None:
    """A reader finds each thing in the file that the map names."""
    files = [path.name for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]
    assert files
    assert [name for name in files if name not in README] == []


def test_the_readmes_metrics_are_valid_and_its_names_are_ours() -> None:
    """The example can be pasted into app.py."""
    (example,) = re.findall(r"```python\nMETRICS = (\(.*?\n\))\n```", README, re.DOTALL)
    names = {name: getattr(metrics, name) for name in ("Count", "Sum", "Unique", "Max", "USAGE_LINES")}
    metrics.check(eval(example, names), AccessLog())  # noqa: S307 - our own README


def test_the_readmes_usage_line_is_one() -> None:
    """The example can be pasted into a program."""
    (example,) = re.findall(r"```json\n(\{.*\})\n```", README)
    reader = UsageLineReader(
        datetime(2026, 11, 22, 5, 30, tzinfo=UTC), (metrics.Sum(name="job_minutes", of=metrics.USAGE_LINES, scale=2),)
    )
    found = reader.read(example)
    assert isinstance(found, Report)
    assert (found.source, found.amounts) == ("@acme", {"job_minutes": 1250})

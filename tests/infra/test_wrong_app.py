"""What whoever edits app.py sees of a mistake in it: a sentence, and no traceback."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from infra.stack.__main__ import main

ROOT = Path(__file__).parents[2]


def run(monkeypatch: pytest.MonkeyPatch, app: Path, source: str) -> str:
    """Return how it ends that the CDK CLI runs an app of this source."""
    app.write_text(source)
    monkeypatch.setattr(sys, "argv", ["__main__.py", str(app)])
    monkeypatch.chdir(app.parent)  # where CDK would write
    with pytest.raises(SystemExit) as ended:
        main()
    return str(ended.value.code)  # what sys.exit() is given is printed on stderr, and the code is 1


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ('amount="0.04"', "amount=0.04", ": the plan 'standard': 'requests', tier 2: an amount is never a float"),
        ('metric="users"', 'metric="userz"', ": the plan 'standard' has a price for 'userz'"),
        ('currency="usd"', 'currency="dollars"', ": the plan 'standard': a currency is three lower-case letters"),
        ('name="users"', 'name="Users"', ": a metric's name is up to 32 lower-case letters, digits and '_'"),
        ("limits = LIMITS if", "limits = (Limit('calls', 1),) if not", ": the plan 'standard' has a limit of 'calls'"),
        ("else AccessLog()", "else AccessLog(Api.HTTP)", ": an HTTP API has no API keys: say who is billed"),
        ("road=Road(", "portal_concurrency=-1, road=Road(", ": portal_concurrency must be a whole number"),
        ("Tier(up_to=10_000", "Tier(upto=10_000", ", line N: Unexpected keyword argument 'upto'"),
        ("PLANS = (", "PLANS = (OTHERS,", ", line N: name 'OTHERS' is not defined"),
        ("    Package,", "    Packages,", ", line N: cannot import name 'Packages' from 'infra.stack'"),
    ],
)
def test_a_mistake_in_app_py_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    """A price, a metric, a limit, a setting, a slip of the keyboard: got and wanted, and where it stands."""
    source = (ROOT / "app.py").read_text()
    assert right in source
    app = tmp_path / "app.py"
    ended = run(monkeypatch, app, source.replace(right, wrong, 1))
    assert re.sub(r"line \d+", "line N", ended).startswith(f"error: {app}{said}")
    assert "\n" not in ended


def test_the_line_is_that_of_the_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As an editor numbers them."""
    app = tmp_path / "app.py"
    ended = run(monkeypatch, app, "from infra.stack import Tier\n\nTier(upto=1)\n")
    assert ended == f"error: {app}, line 3: Unexpected keyword argument 'upto'"


def test_what_is_no_mistake_of_the_apps_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody has to find it."""
    with pytest.raises(json.JSONDecodeError):
        run(monkeypatch, tmp_path / "app.py", "import json\njson.loads('x')\n")
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, tmp_path / "app.py", "1 / 0\n")


def test_the_cdk_cli_runs_the_app_so() -> None:
    """As cdk.json tells it to."""
    command = json.loads((ROOT / "cdk.json").read_text())["app"]
    assert shlex.split(command) == ["uv", "run", "--frozen", "python", "-m", "infra.stack", "app.py"]

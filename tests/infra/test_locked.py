"""All that is fetched and run, here or at a deployment, is named by its version, and by its content where possible."""

import json
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from infra.local import npm
from infra.local.aws.emulator import SERVING
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SAM = Path(__file__).with_name("sam.py.lock")
NPM = (npm.CDK, ROOT / "tests" / "npm")
EXACT = re.compile(r"[a-z-]+==[0-9.]+")


@pytest.mark.parametrize("lock", [ROOT / "uv.lock", SERVING.with_name("serving.py.lock"), SAM])
def test_every_package_of_python_is_locked_to_its_content(lock: Path) -> None:
    """Nothing is installed whose hash differs, neither for the project nor for what has an environment of its own."""
    packages = [package for package in tomllib.loads(lock.read_text())["package"] if "registry" in package["source"]]
    files = list(chain.from_iterable([*package.get("wheels", []), package.get("sdist", {})] for package in packages))
    assert len(packages) > 10
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", file["hash"]) for file in files if file)


def test_what_builds_this_package_is_named_exactly() -> None:
    """It runs with the credentials of whoever deploys: the backend, and all that it needs."""
    constraints = PROJECT["tool"]["uv"]["build-constraint-dependencies"]
    assert [named for named in constraints if not EXACT.fullmatch(named)] == []
    backend = {re.split("[<>=]", wanted)[0] for wanted in PROJECT["build-system"]["requires"]}
    assert backend <= {named.partition("==")[0] for named in constraints}


@pytest.mark.parametrize("folder", NPM, ids=lambda folder: folder.name)
def test_every_package_of_npm_is_locked_to_its_content(folder: Path) -> None:
    """`npm ci` installs nothing whose integrity differs, and what is asked for is one version."""
    asked = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert locked.pop("")["dependencies"] == asked
    assert [version for version in asked.values() if not re.fullmatch(r"[0-9.]+", version)] == []
    assert [name for name, package in locked.items() if not package["integrity"].startswith("sha512-")] == []


def test_what_npm_cannot_install_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing half installed is left to be used by the next one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "package.json").write_text('{"dependencies": {"left": "1.0.0"}}')
    (tmp_path / "package-lock.json").write_text('{"lockfileVersion": 3, "packages": {}}')
    with pytest.raises(npm.NpmError, match=r"npm could not install what .*package-lock\.json names: .+"):
        npm.installed(tmp_path)
    assert list((tmp_path / "cache" / "serverless-metering").iterdir()) == []


def test_ci_runs_the_uv_that_is_locked() -> None:
    """A newer one would be fetched unseen."""
    packages = {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert f"pip install --quiet uv=={packages['uv']['version']}\n" in (ROOT / ".ci" / "run").read_text()


def test_nothing_is_fetched_by_a_name_alone() -> None:
    """By none of the ways to run a package without a lock, nor by the newest version."""
    ways = r"\b(npx|uvx|uv tool run|pipx run)\b|@latest"
    found = subprocess.run(  # noqa: S603  git, with our own arguments
        ["git", "grep", "-nE", ways, "--", ".", ":!tests/infra/test_locked.py", ":!.github/CHANGELOG.md"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (1, "")

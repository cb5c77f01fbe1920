"""The zip: what is in it, for whom it is built, and that the same commit gives the same bytes."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infra.stack.bundle import ROOT, build

BOTH = {"metering", "aws_lambda_powertools", "jmespath", "msgspec", "typing_extensions.py"}
CHECKS = {"jwt", "pydantic", "pydantic_core", "annotated_types", "typing_inspection", "mimeparse.py"}
STRIPE = {"stripe", "requests", "certifi", "charset_normalizer", "idna", "urllib3"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of post_usage's zip, as they are deployed."""
    target = tmp_path_factory.mktemp("bundle")
    build(target, name="post_usage", local=False)
    return target


def _names(bundle: Path) -> set[str]:
    return {entry.name for entry in bundle.iterdir() if not entry.name.endswith(".dist-info")}


def test_post_usage_holds_its_locked_dependencies(bundle: Path) -> None:
    """Nothing slips in unseen: whatever is here is code that runs with the function's grants."""
    assert _names(bundle) == BOTH | STRIPE | {"post_usage.py"}


@pytest.mark.parametrize("name", ["reconcile_usage", "receive_events"])
def test_what_talks_to_stripe_holds_its_sdk(tmp_path: Path, name: str) -> None:
    """And the same as post_usage."""
    build(tmp_path, name=name, local=False)
    assert _names(tmp_path) == BOTH | STRIPE | {f"{name}.py"}


@pytest.mark.parametrize(
    "name", ["record_usage", "check_completeness", "close_periods", "watch_limits", "enforce_limits"]
)
def test_what_never_talks_to_stripe_holds_no_stripe(tmp_path: Path, name: str) -> None:
    """Three quarters of the bytes are Stripe's SDK."""
    build(tmp_path, name=name, local=False)
    assert _names(tmp_path) == BOTH | {f"{name}.py"}


def test_show_usage_holds_what_it_is_given_and_what_checks_requests(tmp_path: Path) -> None:
    """The page and what app.py declares are in this zip alone."""
    build(
        tmp_path, name="show_usage", local=False, more={"declared.json": b"{}", "page/index.html": b"<!doctype html>"}
    )
    assert _names(tmp_path) == BOTH | STRIPE | CHECKS | {"show_usage.py", "declared.json", "page"}
    assert (tmp_path / "page" / "index.html").read_bytes() == b"<!doctype html>"


def test_who_checks_tokens_holds_what_does(tmp_path: Path) -> None:
    """A budget's are signed by a shared key, an HTTP API's by its issuer's own, which takes cryptography."""
    budget, calls = tmp_path / "budget", tmp_path / "calls"
    build(budget, name="set_budget", local=False)
    assert _names(budget) == BOTH | CHECKS | {"set_budget.py"}
    build(calls, name="authorize_calls", local=False)
    assert _names(calls) - {"_cffi_backend.cpython-313-aarch64-linux-gnu.so", "cffi", "pycparser"} == BOTH | {
        *("authorize_calls.py", "jwt", "cryptography")
    }


def test_it_holds_no_boto3(bundle: Path) -> None:
    """Lambda's runtime brings it with bytecode, which is twice as fast to import."""
    assert not (bundle / "boto3").exists()
    assert not (bundle / "botocore").exists()


def test_it_holds_nothing_that_differs_from_machine_to_machine(bundle: Path) -> None:
    """No bytecode, no scripts with this machine's paths, no records of an installation, no lock."""
    unwanted = [
        path
        for path in bundle.rglob("*")
        if path.name in {"__pycache__", "bin", "RECORD", "INSTALLER", "REQUESTED", "direct_url.json", ".lock"}
        or path.suffix == ".pyc"
    ]
    assert unwanted == []


def test_it_holds_our_sources_unchanged(bundle: Path) -> None:
    """The folder functions/ is the zip's root."""
    ours = {path.relative_to(ROOT / "functions") for path in (ROOT / "functions" / "metering").glob("*.py")}
    assert ours
    assert all((bundle / path).read_bytes() == (ROOT / "functions" / path).read_bytes() for path in ours)


def test_it_is_built_for_python_3_13_on_arm64(bundle: Path) -> None:
    """Whatever machine it is built on."""
    extensions = {path.name for path in bundle.rglob("*.so")}
    assert "_core.cpython-313-aarch64-linux-gnu.so" in extensions
    assert not {name for name in extensions if "aarch64" not in name}


def test_two_builds_are_the_same(bundle: Path, tmp_path: Path) -> None:
    """An unchanged commit uploads and deploys nothing."""
    build(tmp_path, name="post_usage", local=False)
    assert _digest(tmp_path) == _digest(bundle)


def test_everyone_may_read_what_is_zipped(bundle: Path, tmp_path: Path) -> None:
    """Lambda runs the zip as another user: a private umask on the machine that builds it changes nothing."""
    private = (
        "import os, pathlib, sys; os.umask(0o077); from infra.stack.bundle import build; "
        "target = pathlib.Path(sys.argv[1], 'private'); target.mkdir(); "
        "build(target, name='post_usage', local=False, more={'page/index.html': b'<!doctype html>'})"
    )
    path = os.pathsep.join((str(ROOT), str(ROOT / "functions")))
    subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-c", private, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}, check=True
    )
    modes = _modes(tmp_path / "private")
    assert modes["page"] == modes["."] == modes["metering/model"] == 0o755
    assert modes["page/index.html"] == modes["post_usage.py"] == modes["stripe/__init__.py"] == 0o644
    assert set(modes.values()) == {0o644, 0o755}
    added = {"page", "page/index.html"}
    assert {name: mode for name, mode in modes.items() if name not in added} == _modes(bundle)


def test_a_local_build_runs_on_this_machine(tmp_path: Path) -> None:
    """The emulator's functions are processes of this machine."""
    build(tmp_path, name="record_usage", local=True)
    where = "import msgspec._core, metering.model.access_log; print(msgspec._core.__file__)"
    found = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-B", "-S", "-c", where],
        env={"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(tmp_path))


def _modes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))
    }


def _digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }

"""What ``metering local`` starts, of a cloud that is none."""

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra.cli.local import try_it
from infra.local import cloud
from tests.integration.cli.command_line import Metering

ADDRESS = cloud.Address("x", "x", "x", "x", "x", "x", "x", "x", 7200)


class Cloud(cloud.LocalCloud):
    """A cloud that runs already, and notes who it may send e-mail as."""

    address = ADDRESS
    context: Mapping[str, str] = {"local": "true", "road": "subscription"}
    emulator: Any = None
    deployment: Any = SimpleNamespace(connections=SimpleNamespace(all=list))

    def __init__(self, senders: list[str]) -> None:
        self.senders = senders

    def let_send(self, address: str) -> None:
        """Note it."""
        self.senders.append(address)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """With what clouds were started, and who they may send e-mail as; each is stopped at once."""
    noted: list[dict[str, Any]] = []

    @contextmanager
    def start(*, say: Any, **settings: Any) -> Iterator[Cloud]:
        del say
        noted.append({**settings, "senders": []})
        yield Cloud(noted[-1]["senders"])

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cloud, "start", start)
    monkeypatch.setattr(cloud, "_ANNOUNCEMENT", tmp_path / "local.json")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(time, "sleep", interrupt)
    return noted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), {"road": "subscription", "alerts_from": None, "back": timedelta(hours=2), "senders": []}),
        (
            ("--limits", "--road", "firehose"),
            {
                "road": "firehose",
                "alerts_from": "metering@example.com",
                "back": timedelta(0),
                "senders": ["metering@example.com"],
            },
        ),
    ],
)
def test_local_has_limits_and_a_clock_that_is_right_if_they_are_asked_for(
    metering: Metering, started: list[dict[str, Any]], options: Any, wanted: Any
) -> None:
    """Else its clock is back, so that hours can be closed at once, and it has what app.py declares."""
    result = metering("local", "--json", *options)
    assert (result.code, json.loads(result.out)["api_url"]) == (0, "x")
    assert started == [wanted]


def test_local_says_where_things_are_and_what_to_type(metering: Metering) -> None:
    """Lines that can be copied as they are, comments being none in some shells."""
    result = metering("local")
    assert (result.code, result.err) == (0, "ready; commands reach it with --local; Ctrl-C stops it\n")
    where, _, typed = result.out.partition("\n\nTo try it, in another terminal and this folder; ")
    assert "api_url            x" in where
    assert "clock_back_s       7200" in where
    typed, _, again = typed.partition("\n\nAfter an edit of app.py, ")
    assert typed.splitlines()[1:] == try_it(ADDRESS)
    assert again.splitlines()[1:] == [
        (
            "AWS_PROFILE= AWS_ENDPOINT_URL=x AWS_REGION=x AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x "
            "uv run cdk deploy Metering -c local=true -c road=subscription"
        ),
        "uv run metering stripe apply --local",
    ]
    assert 'curl -H "x-api-key: $(cat $keys/acme)" -H "x-user: u1" x/items' in typed
    assert not any("#" in line for line in try_it(ADDRESS))


def test_nothing_is_closed_at_once_where_the_clock_is_right() -> None:
    """An hour is over when it is: no line says otherwise."""
    assert try_it(replace(ADDRESS, clock_back_s=0)) == try_it(ADDRESS)[:-2]


@pytest.mark.parametrize("command", [("local",), ("demo", "--page")])
def test_a_second_one_is_refused_before_it_starts_anything(
    metering: Metering, started: list[dict[str, Any]], command: tuple[str, ...]
) -> None:
    """With the process to stop; the first is still there for commands."""
    with cloud.alone():
        result = metering(*command)
        assert started == []
        assert (result.code, result.out) == (1, "")
        assert result.err == (
            f"error: another 'metering local' or 'demo --page' runs from this folder, as process {os.getpid()}: use it "
            f"with --local, or stop it first by Ctrl-C where it runs, or by 'kill {os.getpid()}'\n"
        )
        starting = f"error: 'metering local' is still starting, as process {os.getpid()}: wait for its 'ready'\n"
        assert metering("usage", "--local").err == starting
    assert metering("local", "--json").code == 0
    assert metering("usage", "--local").err.startswith("error: no 'metering local' is running")


def test_one_that_was_killed_is_in_nobodys_way(metering: Metering) -> None:
    """What it wrote down is still there, with a process id that somebody else may have by now."""
    cloud._ANNOUNCEMENT.write_text(json.dumps({"pid": os.getppid()}))
    assert metering("local", "--json").code == 0

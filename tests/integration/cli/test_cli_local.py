"""What ``metering local`` starts, of a cloud that is none."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from infra.local import cloud
from tests.integration.cli.command_line import Metering

ADDRESS = cloud.Address("x", "x", "x", "x", "x", "x", "x", "x", 7200)


class Cloud(cloud.LocalCloud):
    """A cloud that runs already, and notes who it may send e-mail as."""

    address = ADDRESS
    emulator: Any = None
    deployment: Any = SimpleNamespace(connections=SimpleNamespace(all=list))

    def __init__(self, senders: list[str]) -> None:
        self.senders = senders

    def let_send(self, address: str) -> None:
        """Note it."""
        self.senders.append(address)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), {"road": "subscription", "alerts_from": None, "back": timedelta(hours=2)}),
        (
            ("--limits", "--road", "firehose"),
            {"road": "firehose", "alerts_from": "metering@example.com", "back": timedelta(0)},
        ),
    ],
)
def test_local_has_limits_and_a_clock_that_is_right_if_they_are_asked_for(
    metering: Metering, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, options: Any, wanted: Any
) -> None:
    """Else its clock is back, so that hours can be closed at once, and it has what app.py declares."""
    started, sending = [], list[str]()

    @contextmanager
    def start(*, say: Any, **settings: Any) -> Iterator[Cloud]:
        del say
        started.append(settings)
        yield Cloud(sending)

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cloud, "start", start)
    monkeypatch.setattr(cloud, "_ANNOUNCEMENT", tmp_path / "local.json")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(time, "sleep", interrupt)
    result = metering("local", "--json", *options)
    assert (result.code, json.loads(result.out)["api_url"]) == (0, "x")
    assert (started, sending) == ([wanted], ["metering@example.com"] if "--limits" in options else [])

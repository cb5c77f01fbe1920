"""What stands in front of connected stages on the embedded AWS, for as long as they are connected."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from msgspec.structs import replace

from infra.local.aws.emulator import Emulator
from infra.local.fronts import Fronts
from metering.model.connections import Connection, Form, Step
from metering.model.log_format import Api
from tests.e2e.test_emulator_websocket import make_api

TWO_HOURS = timedelta(hours=2)


@pytest.fixture(scope="module")
def chat() -> Iterator[tuple[Emulator, Connection]]:
    """An emulator with a WebSocket API, and the connection of its stage."""
    with Emulator() as emulator:
        yield (
            emulator,
            Connection(
                name="chat",
                form=Form.THEIRS,
                step=Step.CONNECTED,
                log_group="access",
                since=1,
                by="arn:me",
                api=Api.WEBSOCKET,
                api_id=make_api(emulator).api_id,
                stage="v1",
                caller="authorizer.user",
            ),
        )


def test_there_is_one_for_as_long_as_a_stage_is_connected(chat: tuple[Emulator, Connection]) -> None:
    """Another one where it is connected anew; none of a log group of usage lines, or before all is done."""
    emulator, connection = chat
    said: list[str] = []
    with Fronts(emulator, TWO_HOURS, said.append) as fronts:
        fronts.be_of([replace(connection, step=Step.CONNECTING), replace(connection, name="jobs", form=Form.USAGE)])
        assert fronts.addresses == {}
        fronts.be_of([connection])
        first = fronts.addresses["chat"]
        fronts.be_of([connection])
        assert fronts.addresses == {"chat": first}
        fronts.be_of([replace(connection, since=2)])
        assert fronts.addresses["chat"] != first
        fronts.be_of([replace(connection, step=Step.DISCONNECTED)])
        assert fronts.addresses == {}
    assert said[0] == f"chat takes requests at {first}, where its access log is written"
    assert len(said) == 2


def test_a_stage_that_cannot_be_called_is_told_once(chat: tuple[Emulator, Connection]) -> None:
    """It is gone, or somebody has taken its access log away; the others are there."""
    emulator, connection = chat
    said: list[str] = []
    gone, silent = replace(connection, name="gone", api_id="nowhere"), replace(connection, name="mute", stage="silent")
    with Fronts(emulator, TWO_HOURS, said.append) as fronts:
        for _ in range(2):
            fronts.be_of([gone, silent, connection])
            assert list(fronts.addresses) == ["chat"]
    assert sorted(line.partition(",")[0] for line in said)[1:] == ["gone is connected", "mute is connected"]
    assert len(said) == 3

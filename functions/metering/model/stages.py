"""Stages that write the access log, as the function that compares them is told of them. Pure."""

from collections.abc import Sequence

import msgspec

from metering.model.connections import Connection
from metering.model.log_format import Api


class Stage(msgspec.Struct, frozen=True):
    """A stage that writes the access log: its API's name, or its id if it is an HTTP API (as CloudWatch's metrics)."""

    kind: Api
    api: str
    name: str

    @property
    def dimensions(self) -> dict[str, str]:
        """The dimensions of its metrics (API Gateway Developer Guide, "Amazon API Gateway dimensions and metrics")."""
        return {"ApiName" if self.kind is Api.REST else "ApiId": self.api, "Stage": self.name}


def connected(connection: Connection) -> Stage:
    """Return the stage of a connection; ValueError for a log group of usage lines.

    CloudWatch takes out of a REST API's name what is not ASCII, and knows one of which nothing is left by its id (API
    Gateway Developer Guide, "Dimensions and metrics").
    """
    kind = connection.log.api
    name = connection.api_name.encode("ascii", "ignore").decode() if kind is Api.REST else ""
    return Stage(kind, name or connection.api_id, connection.stage)


def encode(stages: Sequence[Stage]) -> str:
    """Return stages as they stand in the function's environment."""
    return msgspec.json.encode(stages).decode()


def decode(text: str) -> tuple[Stage, ...]:
    """Read what :func:`encode` wrote; nothing means that there is none."""
    return msgspec.json.decode(text, type=tuple[Stage, ...]) if text else ()

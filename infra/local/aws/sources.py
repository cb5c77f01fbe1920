"""Where an authorizer finds who calls: a header or a parameter of the query, as each kind of API writes it."""

import re
from dataclasses import dataclass
from typing import Final, Self

from aiohttp import web

WRITTEN: Final = re.compile(r"(?:method\.request|\$request|route\.request)\.(header|querystring)\.(.+)")


@dataclass(frozen=True, slots=True)
class Source:
    """An identity source: `method.request.header.x-user` of a REST API, `$request.header.x-user` of an HTTP API.

    A WebSocket API writes `route.request.header.x-user`. Kinds that are not played here have no name, and no value in
    any request.
    """

    place: str = ""
    name: str = ""

    @classmethod
    def read(cls, written: str) -> Self:
        """Read one as an authorizer has it."""
        found = WRITTEN.fullmatch(written.strip())
        return cls(*found.groups()) if found else cls()

    def value(self, request: web.Request) -> str:
        """Return what a request has there: the last of several, or nothing."""
        values = request.headers if self.place == "header" else request.query
        return values.getall(self.name, [""])[-1] if self.name else ""

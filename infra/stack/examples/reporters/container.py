"""A server in a container that people stay connected to: a line for each minute of a session.

Who is billed is the customer whom the server authenticated when the session began. A minute's id is its number and the
id that the server, never the caller, gave the session: with ``deduplicate=True`` it counts once, however often it is
told, also by a server that takes the session over.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple


class Session(NamedTuple):
    """An open connection; ``began`` is in milliseconds since 1970."""

    id: str
    customer: str
    began: int


def tell(sessions: Iterable[Session], now: int) -> None:
    """Log the minute that each session is in; call it every half a minute."""
    for session in sessions:
        minute = (now - session.began) // 60_000
        usage = {"id": f"{session.id}-{minute}", "time": now, "customer": session.customer, "minutes": 1}
        print(json.dumps({"usage": usage}), flush=True)

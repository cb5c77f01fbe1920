"""How commands speak to people."""

import re
from typing import Final

_ONE_OF_MANY: Final = re.compile(
    r"(?<![\w.,:/+-])1 (?!(?:is|was|has|does|its|this|less|address|status|bytes|s)\b)[a-z]+s\b"
)
"""Such as "1 customers"; in an amount of a metric (requests 1, bytes 10) the name comes first."""


def read_aloud(said: str) -> None:
    """Fail where one thing is called things: :func:`infra.operate.words.count` says it right."""
    assert not (found := _ONE_OF_MANY.search(said)), f"{found[0]!r} in {said!r}: say it by infra/operate/words.py"

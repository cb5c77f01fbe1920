r"""Claims of a token that stand in quotes of their own: how a REST API's JWT authorizer tells them. Pure.

"Access logs receive each claim as JSON text" (API Gateway Developer Guide, "Pass JWT claims to your integration"): the
claim ``ann`` as ``"ann"``, where a Cognito authorizer tells it as ``ann``. Whether the log escapes these quotes is said
nowhere. So in a line of ours ``"key":""ann""`` and ``"key":"\"ann\""`` are read alike.

Who calls is told with its quotes: where an authorizer tells a claim as it is, one who is called ``"ann"``, as Cognito
lets anybody be called, would otherwise be billed to ``ann`` (I7). What a metric reads has none: a number is a number.
"""

import re
from typing import Final

import msgspec

from metering.model.connections import NAME_PATTERN

_CLAIM: Final = r"authorizer\.claims\.[A-Za-z0-9_:]+"
_BEFORE: Final = rf"(?:{NAME_PATTERN}:)?"
"""The name of a connection, which a caller's key begins with."""

_TEXT: Final = r'"(?:[^"\\]|\\.)*+"'
_QUOTED: Final = re.compile(rf'("(?:key":"{_BEFORE}|{_CLAIM}":"))({_TEXT})"(?=[,}}])')


def is_claim(field: str) -> bool:
    """Say whether a field of a line of ours holds a token's claim, which a metric reads."""
    return re.fullmatch(_CLAIM, field) is not None


def with_escaped_claims(line: str) -> str:
    """Return a line of ours in which the quotes that a claim itself has are escaped, as JSON has them."""
    return _QUOTED.sub(_escaped, line)


def bare(text: str) -> str:
    """Return a claim without quotes of its own."""
    told = _told(text) if re.fullmatch(_TEXT, text) else None
    return text if told is None else told


def _escaped(found: re.Match[str]) -> str:
    if _told(found[2]) is None:
        return found[0]
    text = found[2].replace("\\", "\\\\").replace('"', r"\"")
    return f'{found[1]}{text}"'


def _told(text: str) -> str | None:
    """Return what JSON text tells, or None if it is none."""
    try:
        return msgspec.json.decode(text, type=str)
    except (msgspec.DecodeError, UnicodeError):
        return None

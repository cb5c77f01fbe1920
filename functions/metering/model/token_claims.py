r"""Claims of a token that stand in quotes of their own: how a REST API's JWT authorizer tells them. Pure.

"Access logs receive each claim as JSON text" (API Gateway Developer Guide, "Pass JWT claims to your integration"): the
claim ``ann`` as ``"ann"``, where a Cognito authorizer tells it as ``ann``. Whether the log escapes these quotes is said
nowhere. So in a line of ours ``"key":"ann"``, ``"key":""ann""`` and ``"key":"\"ann\""`` are read alike.

Nobody gains by it (I7): who could add quotes to a claim of its own could as well claim to be somebody else.
"""

import re
from typing import Final

import msgspec

from metering.model.connections import NAME_PATTERN

_CLAIM: Final = r"authorizer\.claims\.[A-Za-z0-9_:]+"
_BEFORE: Final = rf"(?:{NAME_PATTERN}:)?"
"""The name of a connection, which a caller's key begins with."""

_QUOTED: Final = re.compile(rf'("(?:key|{_CLAIM})":"{_BEFORE})"((?:[^"\\]|\\.)*+)""(?=[,}}])')
_TEXT: Final = re.compile(rf'({_BEFORE})("(?:[^"\\]|\\.)*+")')


def may_be_claim(field: str) -> bool:
    """Say whether a field of a line of ours may hold a token's claim."""
    return field == "key" or re.fullmatch(_CLAIM, field) is not None


def with_bare_claims(line: str) -> str:
    """Return a line of ours whose claims, as far as they stand in quotes of their own, have these no more."""
    return _QUOTED.sub(r'\1\2"', line)


def bare(text: str) -> str:
    """Return a claim without quotes of its own that were escaped in the line."""
    found = _TEXT.fullmatch(text)
    try:
        return found[1] + msgspec.json.decode(found[2], type=str) if found else text
    except (msgspec.DecodeError, UnicodeError):
        return text

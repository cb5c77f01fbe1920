"""Subjects: whom usage is written down for, a customer or a key that has none. Pure.

An id is whatever an identity provider or an operator gives: ``a1b2c3d4e5``, ``auth0|5f7c8ec7``, ``us-east-1:…``,
``acme.com``. Three spellings of it are made here, and nowhere else:

| spelling | where | of ``acme.com`` | of ``a@b c`` |
| --- | --- | --- | --- |
| subject | the Ledger table, marks | ``customer#acme.com`` | ``customer#a@b c`` |
| source | the Counters table, set-aside entries | ``@acme.com`` | ``@a%40b%20c`` |
| short id | identifiers at Stripe | ``~``, and 32 hex digits of its hash | the same |
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self, TypeGuard

from metering.model.log_format import MISSING

LONGEST_ID: Final = 128
"""With four bytes a character, an id takes half of what a sort key may hold (1,024 bytes)."""

ID_RULE: Final = f"1 to {LONGEST_ID} printable characters, no space around them, not {MISSING!r}"

_SPACES: Final = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
"""Spaces that look like the plain one or like none: Japanese and French names are written with some."""

_JOINERS: Final = "\u200c\u200d"
"""Zero-width non-joiner and joiner: Persian and Indic words, and emoji made of several, cannot be written without."""

_UNSEEN: Final = (
    "\x00-\x1f\x7f-\x9f\u2028\u2029"  # control signs and line ends
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff"  # what formats, turns or hides, and what is reserved for that
    "\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff"  # halves of a pair, and what everyone gives a meaning of its own
)
"""Signs that nobody sees: the categories Cc, Cf, Cs, Co, Zl and Zp of Unicode 15.1 ("General Category Values").

They are written down here because each version of Python has the tables of another Unicode: whoever reads what was
stored is to find the ids that whoever stored it did. A sign that is not assigned yet is as good as any.
"""

_UNSEEN_IN_A_NAME: Final = re.compile(f"[{_UNSEEN}]")
_UNSEEN_IN_AN_ID: Final = re.compile(f"[{_UNSEEN}{_SPACES}{_JOINERS}]")


def is_id(text: object) -> TypeGuard[str]:
    """Say whether this can be the id of a key or of a customer: :data:`ID_RULE`.

    With a space around it, it would look like another; ``-`` is how the access log writes that there is none.
    """
    return (
        isinstance(text, str)
        and 0 < len(text) <= LONGEST_ID
        and is_printable(text)
        and text.strip() == text
        and text != MISSING
    )


def is_printable(text: str) -> bool:
    """Say whether each sign of a text can be seen, or is the plain space; in any version of Python the same."""
    return _UNSEEN_IN_AN_ID.search(text) is None


def is_name(text: str, longest: int) -> bool:
    """Say whether a text can be a name: one line for people to read, which cannot turn the direction of another."""
    return 0 < len(text) <= longest and text.strip() == text and _UNSEEN_IN_A_NAME.search(text) is None


class Kind(StrEnum):
    """The two kinds of subject."""

    CUSTOMER = "customer"
    KEY = "key"


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """A customer or a key, written ``customer#acme`` or ``key#a1b2c3``. What is no id raises ValueError."""

    kind: Kind
    id: str

    def __post_init__(self) -> None:
        if not is_id(self.id):
            raise ValueError(f"the id of a {self.kind} must be {ID_RULE}, got {self.id[:80]!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` writes."""
        kind, _, name = text.partition("#")
        return cls(Kind(kind), name)

    def __str__(self) -> str:
        return f"{self.kind}#{self.id}"


def customer(name: str) -> Subject:
    """Return the customer with this id."""
    return Subject(Kind.CUSTOMER, name)


def key(name: str) -> Subject:
    """Return the API key with this id."""
    return Subject(Kind.KEY, name)


_CUSTOMER_SIGN: Final = "@"
"""Stands before a customer's id where the counters otherwise name a key."""

_ESCAPES: Final = {ord(sign): f"%{ord(sign):02X}" for sign in f' !"#%{_CUSTOMER_SIGN}'}
"""``#`` parts a source from what follows it, so it and all that sorts before it is escaped: then sources sort as the
items that begin with them do, and no item of one lies among those of another."""


def source_of_key(name: str) -> str:
    """Return what the counters call a key: its id, with a few signs escaped."""
    return name.translate(_ESCAPES)


def source_of_customer(name: str) -> str:
    """Return what the counters call a customer whose usage was reported without a key: ``@acme``."""
    return f"{_CUSTOMER_SIGN}{name.translate(_ESCAPES)}"


def source_of(subject: Subject) -> str:
    """Return what the counters call a subject."""
    return source_of_customer(subject.id) if subject.kind is Kind.CUSTOMER else source_of_key(subject.id)


def subject_of_source(source: str) -> Subject:
    """Return the subject that a source of usage stands for by itself: a key, or the customer that it names."""
    name = re.sub("%([0-9A-F]{2})", lambda escape: chr(int(escape[1], 16)), source.removeprefix(_CUSTOMER_SIGN))
    return customer(name) if source.startswith(_CUSTOMER_SIGN) else key(name)


def key_of_source(source: str) -> str:
    """Return the key that a source of usage names, or an empty string for a customer."""
    subject = subject_of_source(source)
    return subject.id if subject.kind is Kind.KEY else ""


HASHED: Final = "~"
"""How a short id begins that is a hash."""


def short_id(name: str) -> str:
    """Return an id as it stands in identifiers of at most 100 characters: itself if it is plain, else its hash."""
    if re.fullmatch("[A-Za-z0-9_-]{1,40}", name):
        return name
    return f"{HASHED}{hashlib.sha256(name.encode()).hexdigest()[:32]}"

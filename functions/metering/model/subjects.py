"""Subjects: whom usage is written down for, a customer or a key that has none. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

ID_PATTERN: Final = r"[A-Za-z0-9_-]{1,64}"
"""What the id of an API key looks like here: it becomes part of the keys of tables."""

CUSTOMER_ID_PATTERN: Final = r"[A-Za-z0-9_-]{1,40}"
"""Bounded, so that an identifier at Stripe keeps within its 100 characters."""


class Kind(StrEnum):
    """The two kinds of subject."""

    CUSTOMER = "customer"
    KEY = "key"


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """A customer or a key, written ``customer#acme`` or ``key#a1b2c3``. An id of another form raises ValueError."""

    kind: Kind
    id: str

    def __post_init__(self) -> None:
        pattern = CUSTOMER_ID_PATTERN if self.kind is Kind.CUSTOMER else ID_PATTERN
        if not re.fullmatch(pattern, self.id):
            raise ValueError(f"the id of a {self.kind} must match {pattern}, got {self.id[:80]!r}")

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
"""Stands before the id of a customer where the counters otherwise name a key; no key's id may hold it."""


def source_of_customer(name: str) -> str:
    """Return what the counters call a customer whose usage was reported without a key: ``@acme``."""
    return f"{_CUSTOMER_SIGN}{name}"


def customer_of_source(source: str) -> str | None:
    """Return the customer that a source of usage names itself, or None for a key."""
    return source.removeprefix(_CUSTOMER_SIGN) if source.startswith(_CUSTOMER_SIGN) else None


def key_of_source(source: str) -> str:
    """Return the key that a source of usage names, or an empty string for a customer."""
    return source if customer_of_source(source) is None else ""


def subject_of_source(source: str) -> Subject:
    """Return the subject that a source of usage stands for by itself: a key, or the customer that it names."""
    named = customer_of_source(source)
    return key(source) if named is None else customer(named)

"""Subjects: whom usage is written down for, a customer or a key that has none. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from metering.access_log import ID_PATTERN

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

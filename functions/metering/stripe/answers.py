"""What Stripe's refusals mean, each once: by their codes, and by Stripe's words where a refusal has no code of its own.

Stripe may change the words of an error without a new version, its codes not ("Versioning": what it holds compatible).
So where a code says it, the code decides.
"""

from dataclasses import dataclass
from typing import Final

RESOURCE_MISSING: Final = "resource_missing"
"""The code of whatever is not there: the parameter, or the words, say what (Stripe docs, "Error codes")."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that Stripe says: by one of its ``codes``, of a parameter ``missing`` there, or in these ``words``."""

    codes: frozenset[str]
    words: str
    missing: str = ""

    def is_said_by(self, message: str, code: str, param: str) -> bool:
        """Say whether an error with this message, code and parameter means it."""
        if code in self.codes or (self.missing and (code, param) == (RESOURCE_MISSING, self.missing)):
            return True
        return self.words in message.lower()


DUPLICATE: Final = Refusal(frozenset({"duplicate_meter_event"}), "already exists with identifier")
"""Stripe has an event of this identifier.

v2 documents the code ("Create a meter event"); v1 answers 400 without any: "An event already exists with identifier
X." (observed by others in 2026).
"""

NO_METER: Final = Refusal(frozenset({"no_meter", "archived_meter"}), "no active meter")
"""No active meter has this event's name.

v2 documents the codes; v1 answers 400, 'No active meter found for event name "X"' (observed by others in 2026).
"""

UNKNOWN_CUSTOMER: Final = Refusal(frozenset({"meter_event_customer_not_found"}), "no such customer", missing="customer")
"""Stripe knows no such customer: an id that is wrong, deleted, or of the other mode.

The code is that of error reports, and of v2; v1 answers ``resource_missing``, "No such customer: 'X'", and names the
parameter (observed for years).
"""

ONE_AT_A_TIME: Final = frozenset({"lock_timeout", "too_many_concurrent_requests"})
"""Codes of a call that was refused since another one is at work for the same customer and meter: v1's, with 429 (Stripe
docs, "Rate limits"), and v2's, with 409 ("Create a meter event")."""

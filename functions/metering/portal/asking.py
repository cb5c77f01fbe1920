"""Asking Stripe about customers, seldom: what it answered is kept, and while it has trouble it is left alone.

That there is nothing, or that Stripe gave no answer, is kept, too: neither pages that stay open nor an attacker with a
link can make more than a few calls a minute for a customer, and while Stripe has trouble a process asks it once in ten
seconds. Whoever has had an answer is then shown that one, with its age.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from metering.portal.kept import keep
from metering.stores.holders import Holders
from metering.stripe.client import StripeAccount, StripeBusyError, StripeRejectedError, StripeUnavailableError


class Answer(Protocol):
    """What Stripe answered about a customer."""

    @property
    def stands_until(self) -> datetime | None:
        """Until when it may stand in for another one; None for good."""


A = TypeVar("A", bound=Answer)

KEPT_S: Final = 60
"""Seconds for which Stripe's answers about a customer are kept."""

REFUSED_S: Final = 30
"""Seconds for which a customer without a subscription, or about whom Stripe gave no answer, is not asked for again."""

BREAK_S: Final = 10
"""Seconds for which nothing at all is asked after a call that Stripe did not answer."""

MOST_KEPT: Final = 200


class NotSubscribedError(Exception):
    """The customer has no subscription to a plan, so that nothing is invoiced."""


@dataclass(slots=True)
class Break:
    """Until when Stripe is left alone by all who ask."""

    until: float = 0.0


@dataclass(frozen=True, slots=True)
class _Kept(Generic[A]):
    answer: A | None
    why_not: NotSubscribedError | StripeUnavailableError | StripeRejectedError | None
    until: float


@dataclass(slots=True)
class Asking(ABC, Generic[A]):
    """Asks Stripe about customers. ``clock`` counts seconds; ``pause`` is shared by all that ask. For one thread."""

    holders: Holders
    stripe: StripeAccount
    clock: Callable[[], float]
    pause: Break = field(default_factory=Break)
    _kept: dict[str, _Kept[A]] = field(default_factory=dict)

    @abstractmethod
    def ask(self, name: str, now: datetime) -> A:
        """Ask about a customer; raise NotSubscribedError, or what Stripe's trouble was."""

    def of(self, name: str, now: datetime) -> A:
        """Return what Stripe answered about a customer; raise NotSubscribedError, or what Stripe's trouble was."""
        kept = self._kept.get(name)
        if kept is None or kept.until <= self.clock():
            kept = self._renewed(name, kept, now)
        keep(self._kept, name, kept, MOST_KEPT)
        if kept.answer is not None:
            return kept.answer
        raise (kept.why_not or NotSubscribedError(name)).with_traceback(None)

    def _renewed(self, name: str, kept: _Kept[A] | None, now: datetime) -> _Kept[A]:
        """Ask Stripe, unless it is left alone for now; what was known before stands in for an answer."""
        before = kept.answer if kept is not None else None
        if before is not None and before.stands_until is not None and before.stands_until <= now:
            before = None
        at = self.clock()
        if at < self.pause.until:
            return _Kept(before, StripeUnavailableError("Stripe gave no answer a moment ago"), self.pause.until)
        try:
            return _Kept(self.ask(name, now), None, at + KEPT_S)
        except NotSubscribedError as error:
            return _Kept(None, error, at + REFUSED_S)
        except StripeRejectedError as error:
            return _Kept(before, error, at + REFUSED_S)
        except StripeUnavailableError as error:
            at = self.clock()
            if not (isinstance(error, StripeBusyError) and error.alone):
                self.pause.until = at + BREAK_S
            return _Kept(before, error, at + REFUSED_S)

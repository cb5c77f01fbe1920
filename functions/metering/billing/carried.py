"""Carried: what a run of carrying did, and what it left to a subscription or to a person."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Carried:
    """What a run carried."""

    invoices: int = 0
    """Invoices that are new, or newly void."""

    carried: int = 0
    """Changes written into the current hour."""

    held: int = 0
    """Differences that wait for a subscription, or for a person; and invoices that cannot be read."""

    doubtful: int = 0
    """Those of them that a person has to look at."""

    reasons: list[str] = field(default_factory=list)

    odd: int = 0
    """Customers of whom Stripe refuses to say anything, for a reason that is theirs alone (I6)."""

    cut_short: str = ""
    """Why the run ended before all was looked at."""

    def add(self, more: "Carried") -> None:
        """Add what was carried since."""
        self.invoices += more.invoices
        self.carried += more.carried
        self.held += more.held
        self.doubtful += more.doubtful
        self.reasons += more.reasons
        self.odd += more.odd

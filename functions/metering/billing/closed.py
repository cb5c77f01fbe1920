"""Closed: what a run of closing did, and what kept something from being closed."""

from collections import Counter
from dataclasses import dataclass, field

from aws_lambda_powertools import Logger

from metering.billing.writing import Wrote
from metering.model.periods import Hour
from metering.stores.marks import PARTITIONS
from metering.stores.table import RowChangedError, TooMuchError

logger = Logger(child=True)


@dataclass(slots=True)
class Closed:
    """What a run of closing did."""

    written: list[Hour] = field(default_factory=list)
    closed: list[Hour] = field(default_factory=list)
    again: int = 0
    """Late marks that were dealt with."""

    unmapped: int = 0
    """Keys without a customer that were closed for the first time."""

    void: int = 0
    """Corrections that became void."""

    behind: int = 0
    """Due hours that are not closed."""

    pending: set[Hour] = field(default_factory=set)
    """Hours with a row that this run left pending; the index may not show it yet."""

    pieces: Counter[Hour] = field(default_factory=Counter)
    """How many pieces of each hour this run has closed."""

    @property
    def alone(self) -> set[Hour]:
        """Hours that no other run has closed a piece of: what is pending there, this one knows."""
        return {hour for hour in self.written if self.pieces[hour] == PARTITIONS}

    unposted: set[Hour] = field(default_factory=set)
    """Written hours in which something waits for Stripe, as far as was asked."""

    errors: list[Exception] = field(default_factory=list)

    def note(self, hour: Hour, wrote: Wrote) -> None:
        """Note what was written of an hour, and what is left; what is only too much for now is no error."""
        for subject, error in wrote.left.items():
            logger.warning("a subject is closed later", hour=str(hour), subject=str(subject), reason=str(error))
            if not isinstance(error, RowChangedError | TooMuchError):
                self.errors.append(error)
        self.void += wrote.void
        if wrote.pending:
            self.pending.add(hour)

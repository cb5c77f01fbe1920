"""Compared: one line of a recount's report, and what it is made from."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from infra.operate.recount.in_force import Declared
from infra.operate.recount.raw_log import HourTally
from metering.model.metrics import USAGE_LINES, Max, Metric, Sum
from metering.model.periods import Hour
from metering.model.subjects import Subject
from metering.model.usage_row import Change, UsageRow


@dataclass(frozen=True, slots=True)
class ReadHour:
    """What is compared of an hour: what was in force, what was counted of it for anybody, and whose its sources are."""

    hour: Hour
    declared: Declared
    known: Collection[str]
    owners: Mapping[str, Subject]
    tally: HourTally
    is_written: bool

    def sources_of(self, subject: Subject) -> frozenset[str]:
        """Return the sources that a subject's usage came from."""
        return frozenset(source for source, owner in self.owners.items() if owner == subject)


@dataclass(frozen=True, slots=True)
class Compared:
    """One line of the report; ``period`` is an hour, or a month for distinct values.

    ``subject`` is a customer, or a key that has none. ``ledger`` is what is billed, None where there is no row.
    ``stale`` are the hours that the ledger holds with another count than the counters have now. A correction is to be
    entered in the hour ``at``, of which ``against`` was counted. ``fixed`` says that what was to be mended is; ``note``
    why not, or what else is to be known; ``refused`` why nobody may mend it by a recount.
    """

    period: str
    subject: Subject
    metric: str
    recounted: int
    counted: int
    ledger: int | None
    corrected: int
    waiting: int
    at: Hour
    against: int
    stale: Sequence[Hour] = ()
    fixed: bool = False
    note: str = ""
    refused: str = ""
    void: bool = False
    """Whether a correction is void, and nobody has looked again since."""

    changes: Sequence[Change] = field(default=(), repr=False)
    """What stood beside the metric's count in the hour ``at``."""

    metrics: Sequence[Metric] = field(default=(), repr=False)
    """What was in force."""

    seen: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The ids of the hour's records, with their sources."""

    sources: Collection[str] = field(default=(), repr=False)
    """Those of the subject."""

    @property
    def difference(self) -> int:
        """What nothing explains: more than nothing was not counted, less than nothing was counted too often."""
        return self.recounted - self.counted - self.corrected - self.waiting

    @property
    def stays(self) -> bool:
        """Whether the ledger will not end at what was recounted unless something is done."""
        return (bool(self.difference) or bool(self.stale)) and not self.fixed

    def with_note(self, why: str) -> "Compared":
        """Return it with one thing more to be known."""
        return replace(self, note="; ".join(filter(None, (self.note, why))))

    def refusing(self, why: str) -> "Compared":
        """Return it with the reason why a recount may not mend it."""
        return replace(self.with_note(why), refused=why)


def corrections(changes: Iterable[tuple[Hour, Change]], metric: str, counted: Mapping[Hour, int]) -> tuple[int, str]:
    """Return the sum of what recounts have corrected, as far as it is valid, and a note on what is void."""
    made = [(hour, change) for hour, change in changes if change.metric == metric and is_correction(change)]
    note = "; ".join(
        f"void: the correction of {change.amount:+} made against a count of {change.if_counted}"
        for change in voided(made, counted)
    )
    return sum(change.amount for hour, change in made if not change.is_void(counted.get(hour, 0))), note


def is_correction(change: Change) -> bool:
    """Say whether a recount made a change; those of version 1.0.0 are known by the count that they are bound to."""
    return (change.recount or change.if_counted is not None) and not change.carry


def voided(made: Sequence[tuple[Hour, Change]], counted: Mapping[Hour, int]) -> list[Change]:
    """Return those of a metric's corrections that are void, and after which no other was made that is valid."""
    void = [change for hour, change in made if change.is_void(counted.get(hour, 0))]
    latest = max((change.at for hour, change in made if not change.is_void(counted.get(hour, 0))), default=-1)
    return [change for change in void if change.at > latest]


def stale(rows: Iterable[UsageRow], metric: str, counted: Mapping[Hour, int]) -> list[Hour]:
    """Return the hours of which the ledger holds another count."""
    closed = {row.hour: row.totals[metric].counted for row in rows if metric in row.totals}
    return [hour for hour in sorted({*closed, *counted}) if closed.get(hour, 0) != counted.get(hour, 0)]


def is_of_usage_lines(metric: Metric) -> bool:
    """Say whether a metric measures what your own code logs."""
    return isinstance(metric, Sum | Max) and metric.of == USAGE_LINES


def explained(missing: int, waiting: int) -> int:
    """Return how much of what is missing waits among what was set aside."""
    return min(max(0, missing), waiting)

"""Mending: what a recount found is corrected beside the counters, once, and stays right whatever comes later."""

from dataclasses import replace
from datetime import datetime
from typing import Final

from infra.operate.adjusting import LARGEST, counted, next_id
from infra.operate.deployment import Deployment
from infra.operate.recount.compared import Compared
from metering.model.metrics import Count, Metric, Sum, meters_of
from metering.model.usage_row import Change
from metering.stores.accounted import Accounted
from metering.stores.marks import new_mark
from metering.stores.table import RowChangedError

LOWERS: Final = "it would lower the bill: with --lower it does"
LOOKED_AT: Final = "a correction is void, and nothing is missing any more"
_AGAIN: Final = "something was counted or corrected meanwhile: recount it again"


def mend(deployment: Deployment, line: Compared, who: str, now: datetime, *, lower: bool) -> Compared:
    """Mend what a line says, and return it with a note that this is done, or why not.

    A correction of sums stands for all records that the archive holds: others may count later, and these do not
    (:mod:`metering.stores.accounted`). That a correction is void, and nothing is missing, is written down as one of
    nothing. One of peaks or distinct values, or of very many records, is bound to the count
    that it was made against, and void once another is counted.
    """
    if line.refused:
        return line
    if line.difference or line.void:
        why = _unwanted(line, lower=lower) or _correct(deployment, line, who, now)
        if why:
            return line.with_note(why)
    for hour in line.stale:
        deployment.counters.marks.mark_late(hour, line.subject, new_mark())
    note = LOOKED_AT if line.void and not line.difference else line.note
    return replace(line, fixed=line.stays, note=note)


def _unwanted(line: Compared, *, lower: bool) -> str:
    if abs(line.difference) > LARGEST:
        return f"a correction is by at most 10^12, got {line.difference}"
    return LOWERS if line.difference < 0 and not lower else ""


def _correct(deployment: Deployment, line: Compared, who: str, now: datetime) -> str:
    """Write the correction; return why not, if the hour is no longer as it was compared."""
    name, hour = line.subject.id, line.at
    known_as = next_id(line.changes)
    records = {
        source: [record for record, whose in line.seen.items() if whose == source] for source in sorted(line.sources)
    }
    by_records = _metric_by_records(line)
    accounted = Accounted(deployment.client("dynamodb"), deployment.outputs.counters_table)
    writes = accounted.adding(hour, by_records, known_as, records) if by_records else None
    change = Change(
        id=known_as,
        metric=line.metric,
        amount=line.difference,
        reason=f"recount of {line.period}: the archive holds {line.recounted}, counted were {line.counted}",
        who=who,
        at=int(now.timestamp()),
        if_counted=line.against if writes is None else None,
        recount=True,
    )
    if counted(deployment, name, line.metric, hour, now) != line.against:
        return _AGAIN
    try:
        deployment.changes.add(name, hour, change, *(writes or ()))
    except RowChangedError:
        return _AGAIN
    return ""


def _metric_by_records(line: Compared) -> str:
    """Return the name of the metric of a line, if each record adds to it whatever others do; else nothing."""
    return next((one.name for one in line.metrics if line.metric in meters_of(one).values() and _adds_up(one)), "")


def _adds_up(metric: Metric) -> bool:
    return isinstance(metric, Count) or (isinstance(metric, Sum) and not metric.deduplicate)

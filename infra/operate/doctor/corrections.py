"""Whether what recounts have corrected still holds."""

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby, islice
from typing import Final

from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import Finding, ok, warning
from infra.operate.recount.compared import is_correction, voided
from metering.model.metrics import Unique
from metering.model.periods import LAST_CHANGE, Hour
from metering.model.subjects import customer
from metering.stores.aws import side_by_side

MOST_CUSTOMERS: Final = 500
"""So many are looked at: for each a read of its changes of 61 days, and of the rows of hours that were corrected."""

_MOST_NAMED: Final = 10


def check_corrections(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Name the hours of which a correction is void, because another count is there than it was made against (I9)."""
    names = [*islice(deployment.ledger.holders.customer_ids(), MOST_CUSTOMERS + 1)]
    found = side_by_side(lambda name: _void(deployment, name, now), names[:MOST_CUSTOMERS])
    void = [finding for some in found for finding in some]
    yield from void[:_MOST_NAMED]
    if len(void) > _MOST_NAMED:
        yield warning(f"{len(void) - _MOST_NAMED:,} more corrections are void", "mend these, then run this again")
    if not void:
        first = f" of the first {MOST_CUSTOMERS:,} customers: metering recount --all looks at every one"
        yield ok(f"no correction is void{first * (len(names) > MOST_CUSTOMERS)}")


def _void(deployment: Deployment, name: str, now: datetime) -> list[Finding]:
    first, end = Hour.containing(now - LAST_CHANGE).next(), Hour.containing(now).next()
    made = [(hour, one) for hour, one in deployment.changes.between(name, first, end) if is_correction(one)]
    made.sort(key=lambda pair: (pair[0], pair[1].metric))
    findings = []
    for (hour, metric), some in groupby(made, key=lambda pair: (pair[0], pair[1].metric)):
        (row,) = deployment.ledger.rows.at(hour, [customer(name)]).values()
        counted = row.totals[metric].counted if metric in row.totals else 0
        if voided([*some], {hour: counted}):
            distinct = any(isinstance(one, Unique) and one.name == metric for one in deployment.declared_metrics)
            which = f"--from {hour.month_begin}" if distinct else f"--hour {hour}"
            said = f"the correction of {name}'s {metric} in {hour} is void: {counted:,} are counted now"
            findings.append(warning(said, f"metering recount {name} {which}, then the same with --fix"))
    return findings

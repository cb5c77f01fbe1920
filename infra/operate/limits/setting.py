"""Limits of customers, as an operator sets and sees them: beside what plans declare, and with what has acted.

What is set is one conditional write; whatever dies then, the same command again changes what is left to change. It
acts when the customer is looked at, which a command asks for at once and the sweep does by itself
(:mod:`metering.limits`). What was used in a window is never reset by it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from infra.operate.deployment import Deployment, OperatorError, check_reason
from infra.operate.words import count
from metering.model.hints import one_of
from metering.model.limit_checks import MOST_LIMITS, LimitError, check_most, check_refusals
from metering.model.limits import SPEND, Applying, Level, OfCustomer, Reason, applying, level_by
from metering.model.prices import limits_of
from metering.model.subscribed import PERS
from metering.stores.aws import side_by_side
from metering.stores.limits import LimitItems, OfOne
from metering.stores.table import RowChangedError

NO_LIMITS: Final = "this deployment has no limits: declare some in a plan, or give the stack limits=True, and deploy"

SWEEP: Final = "the sweep looks at everybody within 15 minutes"

MOST_ADDRESSES: Final = 10

_AT_ONCE: Final = 100
"""Customers that are looked at before the next ones are: two reads each, side by side."""

_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}", re.ASCII
)
"""An address as browsers take it, of a domain with a dot (HTML Living Standard, "Valid e-mail address")."""

_LONGEST_ADDRESS: Final = 254


def items_of(deployment: Deployment) -> LimitItems:
    """Return what is known of customers' limits; raise OperatorError if the deployment has none."""
    if deployment.outputs.watch_limits_function is None:
        raise OperatorError(NO_LIMITS)
    return LimitItems(deployment.client("dynamodb"), deployment.outputs.ledger_table)


def set_limit(deployment: Deployment, name: str, wanted: OfCustomer) -> list[str]:
    """Let a customer stop at a limit of its own, beside its plans'; say what changed.

    Raises OperatorError, before anything is written, for one that cannot act.
    """
    items = items_of(deployment)
    _check(deployment, wanted)
    try:
        check_refusals(deployment.declared_metrics, f"the limit of {name}")
    except LimitError as error:
        raise OperatorError(str(error)) from error
    return _save(items, items.of(name), wanted)


def raise_limit(deployment: Deployment, name: str, wanted: OfCustomer) -> list[str]:
    """Put another number in the place of a plan's limit for one customer, whose steps stay; say what changed.

    ``wanted.per`` may be left empty where the plan has one limit of the metric. Raises OperatorError if it has none,
    or no smaller one.
    """
    items = items_of(deployment)
    _check_metric(deployment, wanted.metric)
    known = items.of(name)
    raised = _to_be_raised(deployment, known, wanted)
    wanted = msgspec.structs.replace(wanted, per=raised.per, raised=True)
    _check(deployment, wanted)
    if wanted.most <= raised.most:
        raise OperatorError(
            f"{raised.why} gives {raised.most:,} {raised.name} already, got {wanted.most:,}: raise it beyond that, or "
            "set a smaller limit with 'metering limits set'"
        )
    return _save(items, known, wanted)


def _to_be_raised(deployment: Deployment, known: OfOne, wanted: OfCustomer) -> Applying:
    """Return the one limit of a customer's plans that is meant; raise OperatorError if that is not clear."""
    plans = known.subscribed.plans if known.subscribed else ()
    declared = applying(limits_of(deployment.declared_plans, plans), [], None, datetime.fromtimestamp(wanted.at, UTC))
    there = [limit for limit in declared if limit.metric == wanted.metric and wanted.per in ("", limit.per)]
    if len(there) == 1:
        return there[0]
    which = f"say which with --per: {', '.join(limit.per for limit in there)}"
    if not there:
        which = "'metering limits set' gives it one of its own"
    has = f"{known.name} is on {', '.join(plans)}, which has"
    if not plans:
        has = f"no plan of {known.name} is known, so that it has"
    per = f" per {wanted.per}" * bool(wanted.per)
    raise OperatorError(f"{has} {count(len(there), 'limit')} of {wanted.metric}{per} that could be raised; {which}")


def clear_limits(deployment: Deployment, name: str, metric: str, per: str) -> list[str]:
    """Take back what was set and raised of a metric for one customer, in one window or in all; say what changed."""
    items = items_of(deployment)
    there = [one for one in items.of(name).own if one.metric == metric and per in ("", one.per)]
    if not there:
        _check_metric(deployment, metric)
    for one in there:
        try:
            items.clear(name, one)
        except RowChangedError as error:
            raise _changed(name) from error
    return [f"{name}: {in_words(one)} applies no longer" for one in there]


def look(deployment: Deployment, name: str) -> str:
    """Have a customer looked at, so that what was changed acts at once; say why it was not, or nothing."""
    function = deployment.outputs.watch_limits_function or ""
    try:
        looked = deployment.invoke(function, {"look": [name]}).get("looked", [])
    except (OperatorError, ClientError, BotoCoreError) as error:
        return f"{name} could not be looked at just now, {SWEEP}: {error}"
    return "" if name in looked else f"{name} could not be looked at just now, {SWEEP}"


@dataclass(frozen=True, slots=True)
class Limited:
    """A customer that has limits of its own, or whose keys are not open, and why."""

    customer: str
    own: Sequence[OfCustomer]
    reasons: Sequence[Reason]
    left_at: Level = Level.OPEN
    """How far the gateway was left closed: a while longer than there is a reason."""

    @property
    def level(self) -> Level:
        """How far its keys are closed, or are about to be."""
        return max(level_by(self.reasons), self.left_at)


def limited(deployment: Deployment, now: datetime, *, after: str = "") -> Iterator[Limited]:
    """Yield who has limits of its own or is not open, in the order of their ids, from those ``after`` one.

    Each customer that is passed costs a query and a read; whoever has enough stops.
    """
    items = items_of(deployment)
    names = deployment.ledger.holders.customer_ids(after)
    while some := [*islice(names, _AT_ONCE)]:
        for known in side_by_side(items.of, some):
            own = [one for one in known.own if one.holds(now)]
            found = Limited(known.name, own, known.reasons(now), known.gate.felt)
            if found.own or found.level is not Level.OPEN:
                yield found


def write_addresses(deployment: Deployment, name: str, addresses: Sequence[str]) -> None:
    """Write whom e-mail about a customer's limits goes to; raise OperatorError, which repeats none, for no address."""
    items = items_of(deployment)
    if len(addresses) > MOST_ADDRESSES:
        raise OperatorError(f"a customer has up to {MOST_ADDRESSES} addresses, got {len(addresses)}")
    for number, address in enumerate(addresses, 1):
        if len(address) > _LONGEST_ADDRESS or not _ADDRESS.fullmatch(address):
            raise OperatorError(f"an address is written name@example.com; number {number} of those given is not")
    items.address(name, dict.fromkeys(addresses))


def in_words(one: OfCustomer) -> str:
    """Say what is set for a customer."""
    until = f" until {moment(one.until)}" if one.until else ""
    what = "the plan's limit, raised to" if one.raised else "a stop at"
    return f"{what} {one.most:,} {one.metric} per {one.per}{until}"


def moment(seconds: int) -> str:
    """Write a moment in seconds since 1970."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _check(deployment: Deployment, wanted: OfCustomer) -> None:
    """Raise OperatorError for what cannot act."""
    check_reason(wanted.reason)
    _check_metric(deployment, wanted.metric)
    if wanted.per not in PERS:
        raise OperatorError(f"a limit is per {one_of(wanted.per, PERS)}, got {wanted.per!r}")
    if wanted.metric == SPEND and wanted.per != "period":
        raise OperatorError(f"what is spent is counted per period, which is what invoices are for; got {wanted.per!r}")
    if wanted.until and wanted.until <= wanted.at:
        raise OperatorError(f"a limit ends in the future, got {moment(wanted.until)}")
    try:
        check_most(wanted.most, "a limit is a whole number")
    except LimitError as error:
        raise OperatorError(str(error)) from error


def _check_metric(deployment: Deployment, metric: str) -> None:
    known = [*deployment.metrics, SPEND]
    if metric not in known:
        raise OperatorError(f"there is no metric {metric!r}: write {one_of(metric, known)}")


def _save(items: LimitItems, known: OfOne, wanted: OfCustomer) -> list[str]:
    """Write a customer's limit; the same again changes nothing, and boto3 may have met its own write."""
    before = _there(known.own, wanted)
    if before is not None and _says(before) == _says(wanted):
        return []
    if before is None and len(known.own) >= MOST_LIMITS:
        raise OperatorError(
            f"{known.name} has {count(len(known.own), 'limit')} of its own, and may have no more: clear one"
        )
    try:
        items.set(known.name, msgspec.structs.replace(wanted, version=before.version if before else 0))
    except RowChangedError as error:
        now_there = _there(items.of(known.name).own, wanted)
        if now_there is None or _says(now_there) != _says(wanted):
            raise _changed(known.name) from error
    return [f"{known.name}: {in_words(wanted)}"]


def _there(own: Iterable[OfCustomer], wanted: OfCustomer) -> OfCustomer | None:
    return next((one for one in own if one.known_as == wanted.known_as), None)


def _says(one: OfCustomer) -> tuple[int, int, str]:
    return one.most, one.until, one.reason


def _changed(name: str) -> OperatorError:
    return OperatorError(f"somebody else has just changed the limits of {name}: look at them, and try again")

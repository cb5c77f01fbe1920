"""Which limits can act: what cannot is refused when the app is synthesised, with what to write instead. Pure."""

from collections.abc import Sequence
from typing import Final, get_args

from metering.model.hints import one_of
from metering.model.limits import MOST_PERCENT, SPEND, AnyLimit, Limit, Slow, Spend, Step, Stop, name_of, written
from metering.model.metrics import BILLED_STATUSES, Metric, meters
from metering.model.prices import Plan, explain, terms
from metering.model.subscribed import PERS

MOST: Final = 10**15
"""Of units, or of the currency's smallest unit: as far as a price's tier can reach."""

MOST_LIMITS: Final = 20
MOST_STEPS: Final = 20
"""So many limits of a plan, and steps of a limit: each customer keeps how every one of them stands."""

REFUSED: Final = "403"
"""What a caller gets whose key is in no usage plan, or whom an authorizer refuses: the status of INVALID_API_KEY and of
ACCESS_DENIED (API Gateway Developer Guide, "Gateway response types")."""


class LimitError(ValueError):
    """A limit that cannot act; the message says what to write instead."""


def check(plan: Plan, metrics: Sequence[Metric]) -> None:
    """Raise LimitError for the first limit of a plan, whose prices are checked, that cannot act with these metrics."""
    where = f"the plan {plan.name!r}"
    if not isinstance(plan.limits, tuple | list):
        raise LimitError(f"{where}: limits are a tuple, write ({_short(plan.limits)},)")
    if len(plan.limits) > MOST_LIMITS:
        raise LimitError(f"{where} has {len(plan.limits)} limits: {MOST_LIMITS} are the most")
    seen: set[str] = set()
    for limit in plan.limits:
        _check_limit(limit, meters(metrics), where)
        name = name_of(limit)
        if name in seen:
            what = f"amounts of {SPEND}" if isinstance(limit, Spend) else f"limits of {limit.metric!r} per {limit.per}"
            raise LimitError(f"{where} has two {what}: give one of them the steps of both")
        seen.add(name)
        if isinstance(limit, Spend):
            _check_fees(limit, plan, where)
    if any(can_stop(limit) for limit in plan.limits):
        check_refusals(metrics, where)


def can_stop(limit: AnyLimit) -> bool:
    """Say whether a limit may take a customer's keys out of their plans."""
    return any(isinstance(step, Stop) for step in limit.at) or (isinstance(limit, Spend) and limit.customer_may_stop)


def slows(limit: AnyLimit) -> bool:
    """Say whether a limit is to slow a customer's keys."""
    return any(isinstance(step, Slow) for step in limit.at)


def check_refusals(metrics: Sequence[Metric], where: str) -> None:
    """Raise LimitError if a metric bills calls that a stop refuses: a client that goes on calling would pay for that.

    ``where`` says in which plan, or for whom, there is a stop.
    """
    for metric in metrics:
        if REFUSED in metric.statuses:
            left = tuple(status for status in metric.statuses if status != REFUSED)
            raise LimitError(
                f"{where}: a stop refuses calls with {REFUSED}, and {metric.name!r} would bill these: "
                f"write statuses={left or BILLED_STATUSES!r} there, or leave the stop out"
            )
        if "4xx" in metric.statuses:
            raise LimitError(
                f"{where}: a stop refuses calls with {REFUSED}, and {metric.name!r} would bill these by '4xx': write "
                "in its statuses the codes that you mean, such as '400' and '404', or leave the stop out"
            )


def warnings(plans: Sequence[Plan], *, minutes_old: bool) -> list[str]:
    """Say which limits act late, where counts are ``minutes_old``, as they are on the road over Firehose."""
    return [
        f"the plan {plan.name!r}: {name_of(limit)} has a Stop and no Slow below it, and counts are minutes old on the "
        "road over Firehose: what is used until then goes beyond the limit. Write for example at=(Slow(90), Stop(100))"
        for plan in plans
        for limit in plan.limits
        if minutes_old and stops_unslowed(limit.at)
    ]


def stops_unslowed(steps: Sequence[Step]) -> bool:
    """Say whether some of these steps stops, and none slows."""
    return any(isinstance(step, Stop) for step in steps) and not any(isinstance(step, Slow) for step in steps)


def _check_limit(limit: AnyLimit, known: Sequence[str], where: str) -> None:
    match limit:
        case Limit():
            if limit.metric not in known:
                hint = "Spend(amount)" if limit.metric == SPEND else one_of(str(limit.metric), known)
                raise LimitError(f"{where} has a limit of {limit.metric!r}, which is no metric: write {hint}")
            if limit.metric == SPEND:
                raise LimitError(f"{where}: a limit of {SPEND!r} is one of money: give that metric another name")
            where = f"{where}: the limit of {limit.metric!r}"
            if limit.per not in PERS:
                raise LimitError(f"{where} is per {one_of(str(limit.per), PERS)}, got {limit.per!r}")
            check_most(limit.units, f"{where} is a whole number of units")
        case Spend():
            where = f"{where}: what may be spent"
            check_most(limit.amount, f"{where} is a whole amount of the currency's smallest unit")
            if type(limit.customer_may_stop) is not bool:
                raise LimitError(f"{where}: customer_may_stop is True or False, got {limit.customer_may_stop!r}")
        case _:  # types say that it cannot be, and who writes app.py need not check them
            raise LimitError(f"{where}: a limit is a Limit or a Spend, got {_short(limit)}")
    _check_steps(limit.at, where)


def check_most(most: object, what: str) -> None:
    """Raise LimitError for what is no number of units, or amount, that could be reached."""
    if type(most) is not int or not 1 <= most <= MOST:
        raise LimitError(f"{what} from 1 to 10^15, got {_short(most)}")


def _check_steps(steps: Sequence[Step], where: str) -> None:
    kinds = ", ".join(kind.__name__ for kind in get_args(Step))
    if isinstance(steps, get_args(Step)):
        raise LimitError(f"{where}: at is a tuple of steps, write at=({_short(steps)},)")
    if not isinstance(steps, tuple | list) or not steps or not all(isinstance(step, get_args(Step)) for step in steps):
        raise LimitError(f"{where}: at holds one or more of {kinds}, such as (Notify(80), Stop(100)); got {steps!r}")
    if len(steps) > MOST_STEPS:
        raise LimitError(f"{where} has {len(steps)} steps: {MOST_STEPS} are the most")
    for step in steps:
        if type(step.at) is not int or not 1 <= step.at <= MOST_PERCENT:
            raise LimitError(f"{where}: a step is at a whole percentage from 1 to {MOST_PERCENT}, got {step!r}")
    if twice := [step for number, step in enumerate(steps) if step in steps[:number]]:
        raise LimitError(f"{where} has the step {twice[0]!r} twice: leave one out")
    stop = min((step.at for step in steps if isinstance(step, Stop)), default=MOST_PERCENT + 1)
    if late := [step for step in steps if isinstance(step, Slow) and step.at >= stop]:
        raise LimitError(f"{where}: {late[0]!r} never acts, since {Stop(stop)!r} comes first: put it below {stop}")


def _check_fees(limit: Spend, plan: Plan, where: str) -> None:
    """Refuse what is closed by the plan's fees alone, before anything is used."""
    fees = sum(line.amount for price in terms(plan).values() for line in explain(price, 0))
    for step in limit.at:
        if isinstance(step, Slow | Stop) and fees * 100 >= limit.amount * step.at:
            raise LimitError(
                f"{where}: its fees alone come to {fees}, which is {written(step)} of {limit.amount}, so that nobody "
                "could ever call: write a larger amount, since fees are spent, too"
            )


def _short(given: object) -> str:
    return repr(given)[:80]

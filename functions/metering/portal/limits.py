"""How a customer stands with its limits: what is used and left, when that resets, and why its keys are closed.

What is used is what its page shows; which limits apply, and what has acted, are the items that decide about its keys.
Nothing is asked of Stripe: a subscription's prices are those that were seen last.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from metering.model.limits import SPEND, Applying, Budget, Level, Origin, Reason, applying, level_by, may_stop, written
from metering.model.metrics import Metric, scales_of
from metering.model.prices import Plan, Price, asked_for, decimals_of, limits_of
from metering.model.subscribed import Subscribed, Window, window_of
from metering.portal.history import ByHour, History
from metering.portal.tokens import Bearer, Right
from metering.stores.limits import LimitItems, OfOne

NO_LIMITS: Final = "this deployment has no limits"


@dataclass(slots=True)
class Limits:
    """Works out how customers stand. Raises AddingUpError until a long period is read. For one thread."""

    items: LimitItems
    history: History
    metrics: Sequence[Metric]
    plans: Sequence[Plan]

    def of(self, bearer: Bearer, now: datetime) -> dict[str, Any]:
        """Return how the customer of a token stands; amounts in the currency's smallest unit."""
        known = self.items.of(bearer.customer)
        declared = limits_of(self.plans, known.subscribed.plans if known.subscribed else ())
        windows = {
            limit: window_of(limit.per, now, known.subscribed)
            for limit in applying(declared, known.own, known.budget, now)
        }
        reasons = known.reasons(now)
        currency = known.subscribed.currency if known.subscribed else ""
        return {
            "customer": bearer.customer,
            "access": _access(known, reasons).name.lower(),
            "reasons": [_reason(reason) for reason in reasons],
            "currency": currency or None,
            "decimals": decimals_of(currency),
            "limits": self._limits(known, windows, now),
            "budget": shown_budget(bearer, known.budget, may_stop=may_stop(limit for _, limit in declared)),
        }

    def _limits(self, known: OfOne, windows: Mapping[Applying, Window], now: datetime) -> list[dict[str, Any]]:
        if not windows:
            return []
        # One read of the span that holds them all: it is the invoice's where the period is the longest of them.
        span = min(one.begin for one in windows.values()), max(one.end for one in windows.values())
        by_hour = self.history.of(known.name, *span, now)
        scales = scales_of(self.metrics)
        limits = []
        for limit, window in windows.items():
            used = used_of(limit, by_hour, window, known.subscribed)
            state = known.states.get(limit.name)
            acted = state.acted if state and state.is_of(window) else {}
            beside = {"scale": scales.get(limit.metric, 0), "at_least": _is_unpriced(limit, known.subscribed)}
            limits.append(shown_limit(limit, window, used, acted, _in_words(limit)) | beside)
        return limits


def used_of(limit: Applying, by_hour: ByHour, window: Window, subscribed: Subscribed | None) -> int:
    """Return what was used of a limit in a window: units, or what these cost."""
    used: Counter[str] = Counter()
    for hour, of_hour in by_hour.items():
        if window.begin <= hour < window.end:
            used.update(of_hour)
    if limit.metric != SPEND:
        return used[limit.metric]
    prices = subscribed.prices if subscribed else ()
    return asked_for([msgspec.json.decode(price, type=Price) for price in prices], used)


def shown_budget(bearer: Bearer, budget: Budget | None, *, may_stop: bool) -> dict[str, Any]:
    """Return a budget as it is answered: whether it may stop is the plan's affair, who may set it the token's."""
    return {
        "notify": (budget and budget.notify) or None,
        "stop": (budget and budget.stop) or None,
        "may_stop": may_stop,
        "may_set": Right.BUDGET in bearer.may,
    }


def shown_limit(
    limit: Applying, window: Window, used: int | None, acted: Mapping[str, int], in_words: str
) -> dict[str, Any]:
    """Return a limit as it is answered; ``used`` is None where that is not known, ``in_words`` say where it comes from.

    ``acted`` says of steps, by how they are written, when they did, in seconds since 1970.
    """
    return {
        "limit": limit.name,
        "metric": limit.metric,
        "per": limit.per,
        "window": {"from": str(window.begin), "to": str(window.end)},
        "most": limit.most,
        "used": used,
        "remaining": None if used is None else max(0, limit.most - used),
        "percent": None if used is None else (used * 100 // limit.most if limit.most else 100),
        "source": limit.origin.value,
        "source_in_words": in_words,
        "steps": [
            {
                "does": step.__struct_config__.tag,
                "percent": step.at,
                "at": limit.threshold(step),
                "acted_at": moment(acted.get(written(step), 0)),
            }
            for step in limit.steps
        ],
    }


def _is_unpriced(limit: Applying, subscribed: Subscribed | None) -> bool:
    """Say if some of what is spent is not known, since the subscription has prices like none that can be declared."""
    return limit.metric == SPEND and subscribed is not None and bool(subscribed.unpriced)


def _in_words(limit: Applying) -> str:
    """Say to a customer where a limit comes from, without the operator's reasons, which are for the operator."""
    match limit.origin:
        case Origin.PLAN:
            return limit.why.partition(":")[0]  # no plan's name has a colon
        case Origin.CUSTOMER:
            return "set for you by whoever bills you"
        case Origin.BUDGET:
            return "your own budget"


def _access(known: OfOne, reasons: Sequence[Reason]) -> Level:
    """Return how far access is closed; where the gate found nothing to slow keys by, they are open, and only told."""
    level, gate = level_by(reasons), known.gate
    is_told_only = level is gate.level is Level.SLOWED and gate.felt is Level.OPEN
    return Level.OPEN if is_told_only else level


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "name": reason.name,
        "access": reason.level.name.lower(),
        "since": moment(reason.since),
        "until": moment(reason.until),
    }


def moment(seconds: int) -> str | None:
    """Write a moment in seconds since 1970; 0 is none."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None

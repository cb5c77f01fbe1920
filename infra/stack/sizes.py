"""How much memory and time each function has; with memory comes processor, a whole one at 1,769 MB."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_WHOLE: Final = 1769
"""Of so many MB on, a function has a processor of its own (Lambda Developer Guide, "Memory")."""

_MEMORY: Final = (128, 10_240)
_TIMES: Final = (120, 900)
"""Lambda's own bounds (Lambda quotas); but a run that stops in time, and leaves the rest to the next, needs some."""


@dataclass(frozen=True, slots=True)
class Size:
    """A function's memory, in MB, and its time limit, in seconds."""

    memory: int
    timeout: int = 300


DEFAULTS: Final[Mapping[str, Size]] = {
    "record_usage": Size(512),
    "close_periods": Size(_WHOLE),  # its work is a processor's, and costs the same with a whole one as with a half
    "post_usage": Size(_WHOLE),  # that is what bounds the calls that one worker makes in a second
    "reconcile_usage": Size(1024),
    "receive_events": Size(512, 25),  # a notification comes again; whoever calls its open address holds no more
    "check_completeness": Size(256),
    "show_usage": Size(_WHOLE, 10),  # somebody waits for each answer; what Stripe may take to fail comes to a second
    "watch_limits": Size(512, 120),  # a sweep ends by itself before the next one begins
    "enforce_limits": Size(1024),  # it runs seldom, and each second until it has begun lets calls of a stopped key pass
    "set_budget": Size(512, 10),
    "authorize_calls": Size(512, 9),  # every caller waits for it, when no answer is kept
}

_ANSWERS: Final = {"receive_events": (1, 25), "show_usage": (1, 29), "set_budget": (1, 29), "authorize_calls": (1, 9)}
"""Bounds of the time of those that somebody waits for: API Gateway for 30 seconds at most, 10 of an authorizer."""


def sizes_of(given: Mapping[str, Size] | None) -> Mapping[str, Size]:
    """Return the size of every function: as given, or the default; raise ValueError for one that is out of bounds."""
    for name, size in (given or {}).items():
        if name not in DEFAULTS:
            raise ValueError(f"sizes names {name!r}; the functions are {', '.join(DEFAULTS)}")
        for what, got, (least, most) in (
            ("memory, in MB,", size.memory, _MEMORY),
            ("timeout, in seconds,", size.timeout, _ANSWERS.get(name, _TIMES)),
        ):
            if not (type(got) is int and least <= got <= most):
                raise ValueError(f"the {what} of {name} must be {least} to {most:,}, got {got!r}")
    return {**DEFAULTS, **(given or {})}

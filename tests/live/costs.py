"""What a live run costs: counted as it goes, at the prices of US East (N. Virginia) without any free tier.

From each service's pricing page at aws.amazon.com, November 2026. Where a run cannot know how much of something AWS
will bill, it takes what cannot be exceeded.
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

BOUND: Final = 1.00
"""Dollars that a run may cost; it stops before it costs more."""

HOURS_OF_A_MONTH: Final = 730

# For each call that the run makes, by service; management calls cost nothing, S3's the price of a PUT.
CALLS: Final = {
    "s3": 0.005 / 1e3,
    "secretsmanager": 0.05 / 1e4,
    "cloudwatch": 0.01 / 1e3,
    "dynamodb": 0.625 / 1e6 * 2,  # a write, in a transaction
    "lambda": 0.20 / 1e6 + 300 * 0.0000133334 / 60,  # each as if it were five seconds of a gigabyte
    "firehose": 0.029 / 1024 * 4,  # 4 MiB, the largest batch
}

# A request passes API Gateway, its authorizer and backend, and is logged, delivered, counted and set down.
REQUEST: Final = 3.50 / 1e6 + 2 * (0.20 / 1e6 + 0.0000133334) + 2_000 / 1e9 * 0.50 + 3 * 0.625 / 1e6

# A connection of ten minutes: it is made, sends a message and ends; its authorizer and backend run, and log, each time.
EVENT: Final = 1.00 / 1e6 + 0.20 / 1e6 + 0.0000133334 + 2_000 / 1e9 * 0.50
SOCKET: Final = 4 * EVENT + 10 * 0.25 / 1e6

# What is there for as long as the run: by the month, prorated by the hour.
MONTHLY: Final = {"alarm": 0.10, "secret": 0.40, "metric": 0.30, "dashboard": 3.00}
THERE: Final = {"alarm": 30, "secret": 4, "metric": 30, "dashboard": 1}
"""How many of them at most a deployment has: held to the template by a test."""

TICKS_AN_HOUR: Final = 12 + 3
"""Runs of the clock's functions: closing every five minutes, and the hourly ones."""

TICK: Final = 10 * 0.0000133334 + 0.20 / 1e6


@dataclass
class Costs:
    """What was used so far; ``seconds`` is for how long it has been there."""

    began: float = field(default_factory=time.monotonic)
    calls: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    sockets: int = 0
    deployments: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, session: Any) -> None:
        """Count the calls of a session's clients."""
        session.events.register("after-call", self._note)

    def _note(self, model: Any, **_: Any) -> None:
        with self._lock:
            self.calls[model.service_model.service_name] += 1

    def dollars(self) -> float:
        """Return what the run has cost at most."""
        hours = int((time.monotonic() - self.began) // 3600) + 1  # metrics and secrets are billed by whole hours
        there = sum(MONTHLY[what] * THERE[what] for what in THERE) / HOURS_OF_A_MONTH * hours * max(self.deployments, 1)
        called = sum(CALLS.get(service, 0.0) * times for service, times in self.calls.items())
        ticks = TICKS_AN_HOUR * hours * TICK * max(self.deployments, 1)
        return there + called + ticks + self.requests * REQUEST + self.sockets * SOCKET

    def check(self) -> None:
        """Raise OverflowError where the run would go beyond its bound."""
        if (spent := self.dollars()) > BOUND:
            raise OverflowError(f"the run has cost up to ${spent:.2f}, more than the ${BOUND:.2f} that it may")

    def as_json(self) -> dict[str, Any]:
        """Return what was used, and what it costs."""
        used = {"requests": self.requests, "sockets": self.sockets, "deployments": self.deployments}
        return {"dollars": round(self.dollars(), 4), "bound": BOUND, "used": used, "calls": dict(self.calls)}

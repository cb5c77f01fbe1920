"""How fast the gate acts: a probe key is taken out of its usage plan and put back, while it is called.

API Gateway documents nowhere how long either takes to be felt. What is measured is from the beginning of the management
call to the first of some answers in a row that agree, since not every part of API Gateway learns of it at once.
"""

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final

from infra.operate.customers import Customers
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.limits.bound import Measured, save_measured
from metering.limits.usage_plans import Put, UsagePlan, UsagePlans
from metering.model.periods import Hour
from metering.model.subjects import source_of_key

AGREEING: Final = 5
"""So many answers in a row say that a change is felt; the moment is that of the first of them."""

PATIENCE_S: Final = 300.0
"""Seconds after which a change that is not felt is given up."""

QUIET_S: Final = {"subscription": 20.0, "firehose": 330.0}
"""Seconds without a new count after which the last of the probe's calls is taken for counted, by the road.

Firehose holds lines back for 300 seconds as the stack has it.
"""

PAUSE_S: Final = 0.05
"""Between two calls: twenty in a second. One that is throttled has a key that is known, so it is not refused."""

LOOK_EVERY_S: Final = 0.5
"""Between two reads of the counters."""

_TIMEOUT_S: Final = 30

Ask = Callable[[str, str], int]
"""Calls an address with a key's value, and returns the status of the answer."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What measures, on a deployment in the account and Region of its API. ``clock`` counts seconds."""

    deployment: Deployment
    plans: UsagePlans
    ask: Ask
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def measure(self, url: str, plan: str, *, samples: int, now: datetime) -> Measured:
        """Measure so many times, keep what came out, and return it.

        Raises OperatorError where it is not clear which plan, or where the address is not refused to a key that is in
        none and answered to one that is in it. The probe's key is made once, and billed to nobody; in the end it is in
        no plan, whatever happens.
        """
        chosen = self._plan(plan)
        began = self.clock()
        closed, opened = [], []
        with self._key(now) as (key, value):

            def counted() -> int:
                return self._counted(key, now, now + timedelta(seconds=self.clock() - began))

            # Whatever an earlier run left behind is gone, and was felt to be, before anything is measured.
            self._felt(lambda: self._take_out(key), url, value, refused=True)
            before = counted()
            for _ in range(samples):
                opened.append(self._felt(lambda: self._put_in(chosen, key), url, value, refused=False))
                closed.append(self._felt(lambda: self.plans.take_out(chosen.id, key), url, value, refused=True))
            counted_s = self._until_counted(counted, before)
        measured = Measured(
            at=int(now.timestamp()),
            where="emulator" if self.deployment.embedded_at else "aws",
            samples=samples,
            closed_p50_ms=percentile(closed, 50),
            closed_p99_ms=percentile(closed, 99),
            opened_p50_ms=percentile(opened, 50),
            opened_p99_ms=percentile(opened, 99),
            counted_ms=round(counted_s * 1000),
        )
        save_measured(self.deployment, measured)
        return measured

    def _plan(self, named: str) -> UsagePlan:
        """Return the usage plan of this name or id; of several that are no lanes, one is to be named."""
        lanes = {lane.id for lane in self.plans.lanes(self.deployment.outputs.deployment)}
        there = [plan for plan in self.plans.all() if plan.id not in lanes and plan.stages]
        chosen = [plan for plan in there if named in ("", plan.id, plan.name)]
        if len(chosen) != 1:
            found = ", ".join(f"{plan.name} ({plan.id})" for plan in there) or "none that has a stage"
            got = f"got {named!r}, which {len(chosen)} of them are" if named else "got none"
            raise OperatorError(f"name one of the API's usage plans with --plan, {got}; there are: {found}")
        return chosen[0]

    @contextmanager
    def _key(self, now: datetime) -> Iterator[tuple[str, str]]:
        """Make the probe's key, or take the one that an earlier run has made; it is in no plan at the end."""
        name = f"{self.deployment.outputs.deployment}-probe"
        key = self.plans.make_key(name, "Measures how fast usage metering's limits act; it is billed to nobody.")
        customers = Customers(self.deployment.ledger, self.deployment.counters)
        customers.exclude(key, reason="measures how fast limits act", since=None, now=now)
        try:
            yield key, self.plans.value(key)
        finally:
            self._take_out(key)

    def _take_out(self, key: str) -> None:
        """Take the probe's key out of every plan that it is in, also of one that an earlier run died in."""
        for plan in self.plans.of(key):
            self.plans.take_out(plan.id, key)

    def _put_in(self, plan: UsagePlan, key: str) -> None:
        put = self.plans.put(plan.id, key)
        if put is not Put.DONE:
            raise OperatorError(
                f"the probe's key {key} cannot be put into {plan.name}: it, or the plan, is {put.value}; try again"
            )

    def _counted(self, key: str, begin: datetime, now: datetime) -> int:
        """Return how much is counted of a key from the hour before one moment to that after another, as clocks differ.

        Of what, does not matter.
        """
        hours = range(Hour.containing(begin).number - 1, Hour.containing(now).number + 2)
        found = [self.deployment.counters.read(Hour(hour), [source_of_key(key)]) for hour in hours]
        return sum(sum(amounts.sums.values()) for counted in found for amounts in counted.values())

    def _until_counted(self, counted: Callable[[], int], before: int) -> float:
        """Return how many seconds after the last call the counters stopped growing: all of its calls are in them.

        Raises OperatorError where nothing is counted at all: the API's log does not come here.
        """
        quiet = QUIET_S[self.deployment.outputs.road]
        began = last = self.clock()
        seen = before
        while self.clock() - began < PATIENCE_S + quiet and (seen == before or self.clock() - last < quiet):
            if (amount := counted()) != seen:
                seen, last = amount, self.clock()
            self.sleep(LOOK_EVERY_S)
        if seen == before:
            raise OperatorError("none of the probe's calls was counted: does this API write the deployment's log?")
        return last - began

    def _felt(self, act: Callable[[], object], url: str, value: str, *, refused: bool) -> float:
        """Return how many seconds after the beginning of an act it was felt."""
        began = self.clock()
        act()
        first, agreed = began, 0
        while True:
            at = self.clock()
            is_refused = self.ask(url, value) == HTTPStatus.FORBIDDEN
            if is_refused is refused:
                first = first if agreed else at
                agreed += 1
                if agreed == AGREEING:
                    return first - began
            else:
                agreed = 0
            if self.clock() - began > PATIENCE_S:
                wanted = "refused" if refused else "answered"
                raise OperatorError(
                    f"{url} was not {wanted} within {PATIENCE_S:.0f} s: does it ask for an API key, and is it in a "
                    "stage of the plan?"
                )
            self.sleep(PAUSE_S)


def percentile(seconds: Sequence[float], percent: int) -> int:
    """Return the nearest-rank percentile of durations, in milliseconds; 99 of few is the longest."""
    ranked = sorted(seconds)
    return round(ranked[max(0, -(-len(ranked) * percent // 100) - 1)] * 1000)


def call(url: str, value: str, headers: Mapping[str, str] | None = None) -> int:
    """Call an address with a key, and with other headers that the API may want; return the answer's status."""
    if not url.startswith(("https://", "http://127.0.0.1:")):
        raise OperatorError(f"an address is written https://..., got {url!r}")
    request = urllib.request.Request(url, headers={**(headers or {}), "x-api-key": value})  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError as error:
        raise OperatorError(f"{url} does not answer: {error}") from error

"""API Gateway's usage plans: who is in which, by calls that leave the account's deployments room.

A key that is in no usage plan of a stage gets 403 wherever a method needs a key, so plans are what opens and closes. A
*lane* is a usage plan with a small throttle that the API's stack makes for customers who are slowed; it is known by its
tag, or by its name where it has no tags.

A key is in one plan of a stage at most (API Gateway Developer Guide, "Usage plans and API keys for REST APIs in API
Gateway"): whoever moves one takes it out before it puts it in.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeVar

from metering.layout import LANE_NAME, LANE_TAG
from metering.stripe.pacing import Pace

SHORTEST_VALUE: Final = 20
"""Characters that a key's value has at least (API Gateway Developer Guide, "API Gateway API key file format": "20 to
128 characters"); ids, which API Gateway chooses, have ten lower-case letters and digits."""

CALLS_A_SECOND: Final = 5.0
"""Of the account's 10 management calls a second (API Gateway quotas), which every deployment needs as well."""

_KEPT: Final = 300.0
"""Seconds for which all plans are kept: lanes come and go with deployments."""

_PAGE: Final = 500
_ATTEMPTS: Final = 6

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Throttle:
    """How many calls of a key a usage plan lets in: ``rate`` a second, ``burst`` at once; best effort at AWS."""

    rate: float
    burst: int


@dataclass(frozen=True, slots=True)
class UsagePlan:
    """A usage plan. A stage is written ``<API>/<stage>``; ``throttle`` is None where it has none."""

    id: str
    name: str
    stages: frozenset[str] = frozenset()
    throttle: Throttle | None = None
    lane_of: str = ""
    """The deployment whose tag it bears; empty if it bears none."""

    def is_lane(self, deployment: str) -> bool:
        """Say whether it is a lane of a deployment's."""
        if self.lane_of:
            return self.lane_of == deployment
        return self.name.startswith(f"{deployment}-{LANE_NAME}")


class UnavailableError(Exception):
    """API Gateway kept asking for fewer calls: try again later."""


class Put(Enum):
    """How putting a key into a plan ended."""

    DONE = "done"
    GONE = "gone"
    """There is no such plan or key any more."""

    IN_THE_WAY = "in the way"
    """The key is in another plan of the same stage, or was a moment ago."""


@dataclass(slots=True)
class _Kept:
    """All plans as they were listed ``at`` a moment."""

    plans: list[UsagePlan] = field(default_factory=list)
    at: float | None = None
    lock: Any = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class UsagePlans:
    """The verbs, of one client. Its errors are raised as they are, but where it wants fewer calls: that is waited out.

    All who share a process share one ``pace``; ``clock`` is in seconds.
    """

    client: Any
    pace: Pace = field(default_factory=lambda: Pace(CALLS_A_SECOND))
    clock: Callable[[], float] = time.monotonic
    _kept: _Kept = field(default_factory=_Kept, repr=False)

    def all(self, *, fresh: bool = False) -> list[UsagePlan]:
        """Return every usage plan of the account and Region, as of some minutes ago at most, or ``fresh``."""
        with self._kept.lock:
            if fresh or self._kept.at is None or self.clock() - self._kept.at >= _KEPT:
                self._kept.plans = self._listed()
                self._kept.at = self.clock()
            return self._kept.plans

    def lanes(self, deployment: str, *, fresh: bool = False) -> list[UsagePlan]:
        """Return a deployment's lanes."""
        return [plan for plan in self.all(fresh=fresh) if plan.is_lane(deployment)]

    def of(self, key: str) -> list[UsagePlan]:
        """Return the plans that a key is in, by id; none for what is no key of API Gateway's.

        API Gateway lists those of one key; each is looked at as well, since the emulator lists them all.
        """
        if is_caller(key) or looks_like_value(key):
            return []
        try:
            there = self._listed(keyId=key)
        except (self.client.exceptions.NotFoundException, self.client.exceptions.BadRequestException):
            return []
        return sorted((plan for plan in there if self.holds(plan.id, key)), key=lambda plan: plan.id)

    def holds(self, plan: str, key: str) -> bool:
        """Say whether a key is in a plan."""
        try:
            self._call(self.client.get_usage_plan_key, usagePlanId=plan, keyId=key)
        except self.client.exceptions.NotFoundException:
            return False
        return True

    def put(self, plan: str, key: str) -> Put:
        """Put a key into a plan, where it may be already."""
        try:
            self._call(self.client.create_usage_plan_key, usagePlanId=plan, keyId=key, keyType="API_KEY")
        except self.client.exceptions.NotFoundException:
            return Put.GONE
        except self.client.exceptions.ConflictException:
            return Put.DONE if self.holds(plan, key) else Put.IN_THE_WAY
        return Put.DONE

    def take_out(self, plan: str, key: str) -> bool:
        """Take a key out of a plan; return whether it was in it."""
        try:
            self._call(self.client.delete_usage_plan_key, usagePlanId=plan, keyId=key)
        except self.client.exceptions.NotFoundException:
            return False
        return True

    def make_key(self, name: str, description: str) -> str:
        """Return the id of the key of this name, which is made if there is none.

        API Gateway lets keys share a name. Should two runs at once have made one each, both take the older one, and
        the other stays in no plan.
        """
        there = [key for key in self._pages(self.client.get_api_keys, nameQuery=name) if key["name"] == name]
        if there:
            return str(min(there, key=lambda key: (key["createdDate"], key["id"]))["id"])
        made = self._call(self.client.create_api_key, name=name, description=description, enabled=True)
        return str(made["id"])

    def is_key(self, key: str) -> bool:
        """Say whether there is a key of this id."""
        try:
            self._call(self.client.get_api_key, apiKey=key)
        except (self.client.exceptions.NotFoundException, self.client.exceptions.BadRequestException):
            return False
        return True

    def keys(self) -> set[str]:
        """Return the ids of all keys of the account and Region, 500 by a call: 10,000, unless AWS allows more."""
        return {key["id"] for key in self._pages(self.client.get_api_keys)}

    def value(self, key: str) -> str:
        """Return a key's value, the secret: for the operator alone, never for a log (I8)."""
        return str(self._call(self.client.get_api_key, apiKey=key, includeValue=True)["value"])

    def _listed(self, **of: str) -> list[UsagePlan]:
        return [_read(item) for item in self._pages(self.client.get_usage_plans, **of)]

    def _pages(self, ask: Callable[..., dict[str, Any]], **arguments: Any) -> list[dict[str, Any]]:
        """Return what is on all pages; each is a call."""
        found: list[dict[str, Any]] = []
        where: dict[str, str] = {}
        while True:
            page = self._call(ask, limit=_PAGE, **arguments, **where)
            found += page.get("items", [])
            if not page.get("position"):
                return found
            where = {"position": page["position"]}

    def _call(self, ask: Callable[..., T], **arguments: Any) -> T:
        """Ask at its turn; where API Gateway wants fewer calls, wait longer each time and go on.

        Some answers say how many seconds (API Gateway API reference, "CreateUsagePlanKey").
        """
        for _ in range(_ATTEMPTS):
            self.pace.wait(float("inf"))
            try:
                answer = ask(**arguments)
            except self.client.exceptions.TooManyRequestsException as error:
                refusal: Any = error
                after = str(refusal.response.get("retryAfterSeconds") or "")
                self.pace.refused(float(after) if after.isdecimal() else None)
                continue
            self.pace.went_well()
            return answer
        raise UnavailableError(f"API Gateway wanted fewer calls {_ATTEMPTS} times: try again later")


def is_caller(key: str) -> bool:
    """Say whether a key is what a connected API calls somebody, ``orders:ann``: no API key's id has a colon."""
    return ":" in key


def looks_like_value(key: str) -> bool:
    """Say whether this can be a key's value, the secret, and cannot be an id of API Gateway's or a caller.

    Nobody asks API Gateway for one: CloudTrail would hold it (I8).
    """
    return len(key) >= SHORTEST_VALUE and not is_caller(key)


def _read(item: dict[str, Any]) -> UsagePlan:
    throttle = item.get("throttle") or {}
    return UsagePlan(
        item["id"],
        item.get("name", ""),
        frozenset(f"{stage['apiId']}/{stage['stage']}" for stage in item.get("apiStages", [])),
        Throttle(float(throttle["rateLimit"]), int(throttle["burstLimit"]))
        if {"rateLimit", "burstLimit"} <= throttle.keys()
        else None,
        item.get("tags", {}).get(LANE_TAG, ""),
    )


def lanes_for(lanes: Iterable[UsagePlan], stages: frozenset[str]) -> list[UsagePlan] | None:
    """Return lanes that together cover all of the stages, each once, and open no other; None if there are none such.

    A lane with a further stage would open to a key what its own plans did not.
    """
    chosen: list[UsagePlan] = []
    open_still = stages
    for lane in sorted(lanes, key=lambda lane: (-len(lane.stages), lane.id)):
        if lane.stages and lane.stages <= open_still:
            chosen.append(lane)
            open_still -= lane.stages
    return chosen if not open_still else None

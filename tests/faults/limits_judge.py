"""The judge of the side of limits: says where a limit has acted wrongly.

What it promises, and checks by a count of its own from the schedule's lines, sharing nothing with the code that looks
and acts but the items' attributes. What operators, customers and Stripe have said it takes from the tables.

- **Open if and only if no reason holds**: some calm minutes after everything else, each key of a customer is in all of
  its home plans, in a lane for each of them that has one, or in none, by the reasons that hold then.
- **Once**: whatever threshold is reached then has acted in its window, and was told under its one id. What was never
  reached, of that limit in that window, was not told, nor anything of a window that was over. What has acted stays so
  until its window ends, unless the ledger was restored or its limit is no longer there. Where nothing fails or dies,
  each id is told once, by one e-mail.
- **Nobody else is touched**: no call to API Gateway is about a key of a customer without limits.
- **Homes**: what is remembered of a key never includes a lane.
- **At rest**: nobody is asked for, nothing is to be told, no lease is held; who is said to be closed is, and who
  is said to be near may reach something.
"""

import hashlib
import itertools
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from metering.model.limits import Limit, Spend
from metering.model.periods import CLOCK_SKEW, Hour
from metering.stores.aws import Item, from_item
from tests.doubles.clock import Clock
from tests.doubles.usage_plans import UsagePlansOfAws
from tests.faults.counted import Adjust, holders_in
from tests.faults.limits_aws import Bus, Mail, Streaming, UsagePlan, plans_of
from tests.faults.limits_schedule import LIMITED, UNLIMITED, Schedule
from tests.faults.stage import LIFE_S

OPEN, SLOWED, STOPPED = range(3)
_LEVELS: Final = {"notify": OPEN, "slow": SLOWED, "stop": STOPPED}
_KINDS: Final = ("Access reopened", "Access slowed", "Access stopped")

ByHour = Mapping[tuple[str, int], int]
"""What was used, by metric and hour's number."""

SLACK_S: Final = LIFE_S + 2 * CLOCK_SKEW.total_seconds()
"""So long what began before a window's end may still be under way."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A limit that applies to a customer, in the window from the hour ``begin`` up to ``end``."""

    name: str
    metric: str
    begin: int
    end: int
    most: int
    steps: tuple[tuple[str, int], ...]

    def threshold(self, percent: int) -> int:
        """Return the least that reaches so many percent."""
        return -(-self.most * percent // 100)


@dataclass
class Judge:
    """Knows a schedule and what it was played with."""

    schedule: Schedule
    world: Clock
    backing: Streaming
    bus: Bus
    mail: Mail
    gateway: UsagePlansOfAws
    asked_about: set[str] = field(default_factory=set)
    """The keys that calls to API Gateway were about."""

    lowest: dict[tuple[str, str, int, str], int] = field(default_factory=dict)
    """The least that ever reached a step, by customer, limit, beginning of its window and step."""

    acted: dict[tuple[str, str, str], dict[str, int]] = field(default_factory=dict)
    adjusted: set[Adjust] = field(default_factory=set)
    """The adjustments that may ever have been made."""

    ever: dict[str, set[str]] = field(default_factory=dict)
    """Which keys each customer has ever held."""

    _noted: float = 0.0

    # --- what is said ------------------------------------------------------------------------------------------------

    def _said(self, name: str) -> dict[str, Any]:
        """Return a customer's items, by their sort keys."""
        tables, ledger = self.backing.tables, self.backing.ledger
        items = (*tables.of(ledger, f"limits#{name}"), *tables.of(ledger, f"budget#{name}"))
        return {
            item["sk"]["S"]: json.loads(item["value"]["S"]) if "value" in item else from_item(item) for item in items
        }

    def standings(self, name: str, now: float, said: Mapping[str, Any] | None = None) -> list[Standing]:
        """Return the limits that apply to a customer, each in the window that runs."""
        said = self._said(name) if said is None else said
        plans = {plan.name: plan for plan in self.schedule.plans}
        subscribed = said.get("subscribed") or {}
        own = {
            sk.removeprefix("set#"): one
            for sk, one in said.items()
            if sk.startswith("set#") and (not one.get("until") or now < one["until"])
        }
        found: dict[str, tuple[str, str, int, tuple[tuple[str, int], ...]]] = {}
        may_stop = False
        for plan in subscribed.get("plans", ()):
            for limit in plans[plan].limits:
                metric, most = (limit.metric, limit.units) if isinstance(limit, Limit) else ("spend", limit.amount)
                may_stop |= isinstance(limit, Spend) and limit.customer_may_stop
                known_as = f"{metric}/{limit.per}"
                steps = tuple((type(step).__name__.lower(), step.at) for step in limit.at)
                new = (metric, limit.per, most, steps)
                if known_as not in found or _tightness(most, steps) < _tightness(*found[known_as][2:]):
                    found[known_as] = new
        for known_as, one in own.items():
            raised = found.get(known_as.removesuffix("/raised"))
            if one.get("raised") and raised:
                found[known_as.removesuffix("/raised")] = (*raised[:2], max(raised[2], one["most"]), raised[3])
            elif not one.get("raised"):
                found[f"{known_as}/customer"] = (one["metric"], one["per"], one["most"], (("stop", 100),))
        budget = said.get("budget") or {}
        if budget.get("notify"):
            found["budget/notify"] = ("spend", "period", budget["notify"], (("notify", 100),))
        if budget.get("stop") and may_stop:
            found["budget/stop"] = ("spend", "period", budget["stop"], (("stop", 100),))
        return [
            Standing(known_as, metric, *_window(per, now, subscribed), most, steps)
            for known_as, (metric, per, most, steps) in found.items()
        ]

    def note(self) -> None:
        """Take note of what reaches a step now, by what is said now; twice within half a minute is the same."""
        if self.world.now - self._noted >= 30:
            self._noted = self.world.now
            for name in LIMITED:
                self.note_one(name)

    def note_one(self, name: str) -> None:
        """Take note of what reaches a step of one customer's limits, at any time at which somebody may look."""
        said = self._said(name)
        for shift in (-CLOCK_SKEW.total_seconds() / 2, 0, CLOCK_SKEW.total_seconds() / 2):
            for one in self.standings(name, self.world.now + shift, said):
                for kind, percent in one.steps:
                    step = (name, one.name, one.begin, f"{kind}:{percent}")
                    least = one.threshold(percent)
                    self.lowest[step] = min(least, self.lowest.get(step, least))

    # --- what was used -----------------------------------------------------------------------------------------------

    def holders(self) -> dict[str, list[tuple[int, str]]]:
        """Return who holds each key since which hour, as operators have said."""
        return holders_in(self.backing)

    def _by_hour(self, name: str, batches: Iterable[int]) -> ByHour:
        """Return what a customer used of each metric in each hour: every line once, and what was adjusted."""
        used: Counter[tuple[str, int]] = Counter()
        holders = self.holders()
        for number in batches:
            for line in self.schedule.batches[number]:
                if held_by(holders.get(line.key, []), line.hour.number) == name:
                    used["requests", line.hour.number] += 1
                    used["bytes", line.hour.number] += line.bytes
        for item in self.backing.tables.of(self.backing.ledger, f"customer#{name}"):
            if item["sk"]["S"].startswith("change#"):
                _, hour, metric, _ = item["sk"]["S"].split("#", 3)
                used[metric, Hour.parse(hour).number] += int(item["amount"]["N"])
        return {cell: max(0, amount) for cell, amount in used.items()}

    def _used(self, by_hour: ByHour, metric: str, begin: int, end: int, plans: int) -> int:
        """Return how many units of a metric were used, or what so many plans, which ask for the same, ask for all."""
        if metric != "spend":
            return sum(n for (one, hour), n in by_hour.items() if one == metric and begin <= hour < end)
        requests, size = (self._used(by_hour, one, begin, end, plans) for one in ("requests", "bytes"))
        return plans * (40 + 10 * requests + (max(0, size - 1000) + 1) // 2)  # half a cent is rounded up

    def _most_used(self, name: str, metric: str, begin: int, end: int, batches: Iterable[int]) -> int:
        """Return the most that a customer can ever have used: with every key that it ever held, and what was added."""
        most: Counter[tuple[str, int]] = Counter()
        for number in batches:
            for line in self.schedule.batches[number]:
                if line.key in self.ever.get(name, ()):
                    most["requests", line.hour.number] += 1
                    most["bytes", line.hour.number] += line.bytes
        for one in self.adjusted:
            if one.customer == name:
                most[one.metric, one.hour.number] += max(0, one.amount)
        return self._used(most, metric, begin, end, len(self.schedule.plans))

    # --- at any time -------------------------------------------------------------------------------------------------

    def never(self) -> Iterator[str]:
        """Say what may never be, whatever is under way."""
        for key in sorted(self.asked_about):
            if self.schedule.mapped.get(key) == UNLIMITED and key not in self.ever_limited():
                yield f"API Gateway was asked about {key}, whose customer has no limits"
        lanes = {plan.id for plan in self.schedule.usage_plans if plan.lane}
        for item in self.backing.items(self.backing.ledger):
            if item["pk"]["S"].startswith("home#") and lanes & {*json.loads(item["value"]["S"]).get("plans", ())}:
                yield f"a lane is remembered as the home of {item['pk']['S']}: {item['value']['S']}"

    def ever_limited(self) -> set[str]:
        """Return the keys that a customer with limits ever held."""
        return {key for name, keys in self.ever.items() if name != UNLIMITED for key in keys}

    def written(self, before: Item | None, after: Item) -> Iterator[str]:
        """Say what a write of the ledger takes back: what acted in a window acts once."""
        if before is None or not after["sk"]["S"].startswith("state#"):
            return
        was, now = (json.loads(item["value"]["S"]) for item in (before, after))
        untold = {told["step"] for told in was.get("untold", ())}  # of a limit that is cleared before it was told
        if (was.get("begin"), was.get("end")) == (now.get("begin"), now.get("end")):
            for step, at in was.get("acted", {}).items():
                if (
                    step not in (() if now.get("level") or now.get("untold") else untold)
                    and now.get("acted", {}).get(step) != at
                ):
                    yield f"{step} of {after['pk']['S']} {after['sk']['S']} had acted at {at}: {now}"

    # --- in the end --------------------------------------------------------------------------------------------------

    def final(self, recorded: Collection[int], begun: Collection[int]) -> list[str]:
        """Say what is wrong once calm has returned."""
        wrong = [*self.never(), *self._at_rest(recorded)]
        for name in LIMITED:
            if self.ever.get(name):
                wrong += self._customer(name, recorded)
        return [*wrong, *self._told(begun)]

    def _customer(self, name: str, recorded: Collection[int]) -> Iterator[str]:
        said = self._said(name)
        reasons = {"operator": STOPPED} if "held#operator" in said else {}
        if said.get("subscribed", {}).get("status") == "past_due":
            reasons["unpaid"] = STOPPED
        yield from self._thresholds(name, said, self._by_hour(name, recorded), reasons)
        level = max(reasons.values(), default=OPEN)
        for key in self._keys_of(name):
            yield from self._key(key, name, level, reasons)
        closed = {item["sk"]["S"] for item in self.backing.items(self.backing.access) if item["pk"]["S"] == "closed"}
        if (name in closed) != (level > OPEN):
            yield f"{name} is at {level} for {reasons}, and is {'not ' * (name not in closed)}among the closed"
        if said.get("gate", {}).get("level", OPEN) != level:
            yield f"{name} is at {level} for {reasons}, and the gate says {said.get('gate')}"
        yield from self._last_word(name, level, said.get("gate", {}))

    def _thresholds(
        self, name: str, said: Mapping[str, Any], by_hour: ByHour, reasons: dict[str, int]
    ) -> Iterator[str]:
        """Say what has not acted that is reached, or was not told; what closes is a reason."""
        told = {detail["id"] for _, _, detail in self._events()}
        for one in self.standings(name, self.world.now, said):
            used = self._used(by_hour, one.metric, one.begin, one.end, _plans_in(said))
            window, state = str(Hour(one.begin)), said.get(f"state#{one.name}", {})
            for kind, percent in one.steps:
                if used < one.threshold(percent):
                    continue
                step = f"{kind}:{percent}"
                if state.get("begin") != window or step not in state.get("acted", {}):
                    yield f"{name} used {used} of {one.most} {one.name} in {window}, and {step} did not act: {state}"
                if id_of(name, one.name, window, step) not in told:
                    yield f"{name} used {used} of {one.most} {one.name} in {window}, and {step} was not told"
                if _LEVELS[kind]:
                    reasons[one.name] = max(_LEVELS[kind], reasons.get(one.name, OPEN))

    def _last_word(self, name: str, level: int, gate: Mapping[str, Any]) -> Iterator[str]:
        """Say which change of a customer's access was not told, or whether the newest is not what is felt."""
        if self.schedule.restores:
            return
        events = {detail["id"]: kind for _, kind, detail in self._events() if detail["customer"] == name}
        numbers = range(1, gate.get("changes", 0) + 1)
        if missing := [number for number in numbers if id_of(name, "access", str(number)) not in events]:
            yield f"of {name}'s access the changes {missing} of {gate['changes']} were not told"
        there = [plans_of(self.gateway, key) for key in self._keys_of(name)]
        lanes = {plan.id for plan in self.schedule.usage_plans if plan.lane}
        felt = level if there and (level != SLOWED or any(plans & lanes for plans in there)) else OPEN
        last = events.get(id_of(name, "access", str(gate.get("changes", 0))), _KINDS[OPEN])
        if last != _KINDS[felt]:
            yield f"the last word about {name} is {last!r}, and it is at {felt}"

    def _keys_of(self, name: str) -> list[str]:
        """Return the keys that a customer holds now."""
        hour = int(self.world.now // 3600)
        return [key for key, held in sorted(self.holders().items()) if held_by(held, hour) == name]

    def _key(self, key: str, name: str, level: int, reasons: Mapping[str, int]) -> Iterator[str]:
        there, rotations, first = plans_of(self.gateway, key), self._rotations(), key
        while first in rotations:
            first = rotations[first]
        home = self.schedule.homes[first]
        if {key, first} & self._under_way():
            return
        if key in rotations.values():
            if there and not self.schedule.restores:
                yield f"{key} of {name}, whose place another one has taken, is still in {sorted(there)}"
            return
        if not self._is_at(there, home, level):
            why = sorted(reasons) or "no reason"
            yield f"{key} of {name} is in {sorted(there)} of {sorted(home)}, and is to be at {level} for {why}"

    def _is_at(self, there: Collection[str], home: Iterable[str], level: int) -> bool:
        """Say whether a key is in its home plans, in none, or in lanes for those of its plans that have some."""
        if level != SLOWED:
            return there == (set(home) if level == OPEN else set())
        plans = {plan.id: plan for plan in self.schedule.usage_plans}
        lanes = [plan for plan in self.schedule.usage_plans if plan.lane]
        stages = sorted({stage for one in home for stage in plans[one].stages})
        if not _covers(lanes, stages):
            return there == set(home)
        return all(plans[one].lane for one in there) and _stages(plans[one] for one in there) == stages

    def _rotations(self) -> dict[str, str]:
        """Return the key that each new one has taken the place of, which its name says."""
        names = {key: str(made["name"]) for key, made in self.gateway.keys.items() if "-after-" in made["name"]}
        return {key: name.rpartition("-after-")[2] for key, name in names.items()}

    def _under_way(self) -> set[str]:
        """Return the keys, old and new, of rotations that were not finished: a command was refused."""
        notes = map(from_item, self.backing.tables.of(self.backing.ledger, "rotations"))
        return {key for note in notes for key in (note["old"], note["new"])}

    def _at_rest(self, recorded: Collection[int]) -> Iterator[str]:
        for item in self.backing.items(self.backing.access):
            pk, sk = item["pk"]["S"], item["sk"]["S"]
            if pk == "gate" and json.loads(item["value"]["S"])["at"] <= self.world.now:
                yield f"{sk} is still asked for: {item}"
            elif pk == "lease" and int(item["until"]["N"]) > self.world.now:
                yield f"a lease is left: {item}"
            elif pk == "near" and not self._may_be_near(sk, recorded):
                yield f"{sk} is said to be near a limit: {item['value']['S']}"
        for item in self.backing.items(self.backing.ledger):
            if item["pk"]["S"].startswith("limits#") and "value" in item:
                value = json.loads(item["value"]["S"])
                if isinstance(value, dict) and value.get("untold") and self._runs(value):
                    yield f"{item['pk']['S']} {item['sk']['S']} is still to be told: {value['untold']}"

    def _may_be_near(self, name: str, recorded: Collection[int]) -> bool:
        """Say whether of some step that is not reached a fifth or less is left; for long nobody has used anything."""
        by_hour, said = self._by_hour(name, recorded), self._said(name)
        for one in self.standings(name, self.world.now, said):
            used = self._used(by_hour, one.metric, one.begin, one.end, _plans_in(said))
            for _, percent in one.steps:
                least = one.threshold(percent)
                if used < least and (least - used) * 5 <= least:
                    return True
        return False

    def _runs(self, state: Mapping[str, Any]) -> bool:
        """Say whether what is to be told is of a window that runs; it is too late for any other."""
        return "end" not in state or Hour.parse(state["end"]).start.timestamp() > self.world.now

    def _events(self) -> Iterator[tuple[float, str, dict[str, Any]]]:
        for at, entry in self.bus.told:
            yield at, entry["DetailType"], json.loads(entry["Detail"])

    def _told(self, begun: Collection[int]) -> Iterator[str]:
        ids: Counter[str] = Counter()
        for at, kind, detail in self._events():
            ids[detail["id"]] += 1
            if kind == "Threshold reached":
                yield from self._threshold(at, detail, begun)
        if self.schedule.is_quiet():
            yield from (f"{one} was told {count} times" for one, count in ids.items() if count > 1)
            sent = Counter(json.dumps(message, sort_keys=True, default=str) for _, message in self.mail.sent)
            yield from (f"an e-mail went {count} times: {one}" for one, count in sent.items() if count > 1)

    def _threshold(self, at: float, detail: Mapping[str, Any], begun: Collection[int]) -> Iterator[str]:
        name, limit, step = detail["customer"], detail["limit"], f"{detail['step']}:{detail['percent']}"
        begin, end = (Hour.containing(datetime.fromisoformat(detail["window"][one])) for one in ("from", "to"))
        window = str(begin)
        if detail["id"] != id_of(name, limit, window, step):
            yield f"the id of {detail} is not derived from what it is about"
        if not begin.start.timestamp() - SLACK_S <= at <= end.start.timestamp() + SLACK_S:
            yield f"{step} of {limit} of {name} in {window} was told at {datetime.fromtimestamp(at, UTC)}"
        least = self.lowest.get((name, limit, begin.number, step))
        most = self._most_used(name, detail["metric"], begin.number, end.number, begun)
        if least is None or most < least:
            yield f"{step} of {limit} of {name} in {window} was told, and was never reached: {most} of {least}"


def _tightness(most: int, steps: Sequence[tuple[str, int]]) -> tuple[bool, int, int]:
    """Return what is less for a limit that stops earlier; of those that stop nobody, for one of less."""
    stops = [-(-most * percent // 100) for kind, percent in steps if kind == "stop"]
    return not stops, min(stops, default=0), most


def _plans_in(said: Mapping[str, Any]) -> int:
    return len(said.get("subscribed", {}).get("plans", ()))


def _covers(lanes: Sequence[UsagePlan], stages: list[str]) -> bool:
    """Say whether some of the lanes together have these stages, each once, and no other."""
    some = itertools.chain.from_iterable(itertools.combinations(lanes, n) for n in range(1, len(lanes) + 1))
    return any(_stages(chosen) == stages for chosen in some)


def _stages(plans: Iterable[UsagePlan]) -> list[str]:
    return sorted(stage for plan in plans for stage in plan.stages)


def held_by(held: list[tuple[int, str]], hour: int) -> str:
    """Return who holds a key in an hour, or an empty string."""
    found = [name for since, name in held if since <= hour]
    return found[-1] if found else ""


def id_of(*about: str) -> str:
    """Return the id of the event of a threshold, or of a change of access, as it is documented."""
    return hashlib.sha256("|".join(about).encode()).hexdigest()[:32]


def _window(per: str, now: float, subscribed: Mapping[str, Any]) -> tuple[int, int]:
    """Return the first hour of the window that runs, and the one after its last."""
    hour = int(now // 3600)
    if per == "hour":
        return hour, hour + 1
    if per == "day":
        return hour - hour % 24, hour - hour % 24 + 24
    if per == "period" and subscribed.get("end"):
        ends = [subscribed["begin"] // 3600, subscribed["end"] // 3600]
        while ends[-1] <= hour:
            ends.append(_a_month_after(ends[-1]))
        at = bisect_right(ends, hour)
        return ends[at - 1], ends[at]
    first = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    begin = int(first.timestamp() // 3600)
    return begin, _a_month_after(begin)


def _a_month_after(hour: int) -> int:
    moment = datetime.fromtimestamp(hour * 3600, UTC)
    later = moment.replace(year=moment.year + moment.month // 12, month=moment.month % 12 + 1)
    return int(later.timestamp() // 3600)

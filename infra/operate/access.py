"""Who may call: keys that are rotated, and customers that are suspended and resumed, by the gate that limits act by.

A customer's keys are open if and only if no reason holds (:mod:`metering.limits.gate`). To suspend is to let the
operator's reason hold, to resume is to let it go; each then brings the customer's keys to where all of its reasons ask
for. Where there are limits, the worker at the gate is asked as well, so that it makes good what a command left.

Every verb may die at any point and be run again: what is to be done is written down before it is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from infra.operate.access_notes import AccessNotes, Rotation
from infra.operate.customers import Customers, Entry
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.limits.setting import moment
from metering.limits.gate import Brought, Gate, UnsettledError
from metering.limits.keys import CallerKeys, Keys, NotAsWantedError, PlanKeys
from metering.limits.usage_plans import UnavailableError, UsagePlans, is_caller
from metering.model.limits import OPERATOR, Level, Reason
from metering.model.periods import Hour
from metering.model.subjects import short_id
from metering.stores.gate_list import GateList
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stores.limits import Held, Home, LimitItems
from metering.stores.table import RowChangedError


@dataclass(frozen=True, slots=True)
class Changed:
    """What a command did, in sentences, and the reasons for which the customer's keys are closed after it."""

    said: list[str]
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotated:
    """The key that takes another one's place; ``until`` is when the old one leaves the plans, None if it has."""

    customer: str
    old: str
    new: str
    name: str
    plans: tuple[str, ...]
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Access:
    """The verbs, on a deployment in the same account and Region as its API. ``who`` acts is asked where it is noted."""

    plans: UsagePlans
    gate: Gate
    notes: AccessNotes
    ledger: Ledger
    customers: Customers
    deployment: str
    who: Callable[[], str]

    @classmethod
    def of(cls, deployment: Deployment, clock: Callable[[], datetime]) -> "Access":
        """Return that of a deployment."""
        dynamodb, outputs = deployment.client("dynamodb"), deployment.outputs
        plans = UsagePlans(deployment.client("apigateway"))
        asked = GateList(dynamodb, outputs.access_table) if outputs.access_table else None
        keys: Keys = PlanKeys(plans, outputs.deployment, None if asked is None else CallerKeys(asked))
        if asked is not None and not deployment.access_log.api.bills_by_key:
            keys = CallerKeys(asked, deployment.connections.has_caller)
        return cls(
            plans,
            Gate(LimitItems(dynamodb, outputs.ledger_table), deployment.ledger.holders, keys, clock, asked),
            AccessNotes(dynamodb, outputs.ledger_table),
            deployment.ledger,
            Customers(deployment.ledger, deployment.counters),
            outputs.deployment,
            deployment.who,
        )

    def suspend(self, customer: Customer, *, now: datetime) -> Changed:
        """Let the operator's reason hold, so that all of a customer's keys open nothing; say which are out.

        Raises OperatorError if it holds no key that is or was in a usage plan, or that an authorizer can look for.
        """
        self.gate.adopt(customer.id)
        if not self._can_be_closed(customer, now):
            raise OperatorError(
                f"no key of {customer.id} is in a usage plan, so that there is nothing to take it out of: "
                "where API keys open nothing, your authorizer must refuse the customer"
            )
        held = self.gate.limits.of(customer.id).held.get(OPERATOR)
        self.gate.ask(customer.id, Level.STOPPED)
        if held is None:
            self._changing(customer, lambda: self.gate.limits.hold(customer.id, OPERATOR, self._hold(now)))
        brought = self._bring(customer.id)
        said = _out(brought) + _left(brought)
        if held is None and not said:
            said = [f"{customer.id} is suspended, and its keys were closed already"]
        return Changed(said, brought.reasons)

    def resume(self, customer: Customer, *, now: datetime) -> Changed:
        """Let the operator's reason go, and put the customer's keys back where they belong, unless another holds.

        A key that has changed hands since stays out, and a plan that was deleted is said.
        """
        self.gate.adopt(customer.id)
        held = self.gate.limits.of(customer.id).held.get(OPERATOR)
        self.gate.ask(customer.id)
        if held is not None:
            self._changing(customer, lambda: self.gate.limits.release(customer.id, OPERATOR, held))
        brought = self._bring(customer.id)
        said = _into(brought)
        if held is not None:
            said += [
                f"key {key} belongs to {customer.id} no longer and stays out" for key in self._lost(customer.id, now)
            ]
            said += [f"{customer.id} is suspended no longer"] * (bool(brought.reasons) or not said)
        return Changed(said, brought.reasons)

    def holders_of(self, keys: Iterable[str]) -> set[str]:
        """Return every customer that holds any of the keys, or once did."""
        holdings = self.ledger.holders.of_keys(dict.fromkeys(keys)).values()
        return {holder.customer for holding in holdings for holder in holding.holders if holder.customer}

    def settle(self, keys: Sequence[str], *, now: datetime) -> list[str]:
        """Bring keys that are new, or have changed hands, to where their holders' reasons ask for; say what was done.

        Whoever gets a key while its keys are closed gets it closed; from whom is closed, open. Where no reason holds
        and no key was ever closed, nothing is asked of API Gateway.
        """
        if not keys:
            return []
        said, closed = [], {key for key, home in self.gate.limits.homes(keys).items() if home.level is not Level.OPEN}
        for name in sorted(self.holders_of(keys)):
            self.gate.adopt(name)
            if closed or self.gate.reasons(name):
                self.gate.ask(name)
                brought = self._bring(name)
                said += _out(brought) + _into(brought)
        hour, holdings = Hour.containing(now), self.ledger.holders.of_keys(sorted(closed))
        nobodys = [key for key, holding in holdings.items() if not (holder := holding.at(hour)) or not holder.customer]
        return said + [f"key {key} stays closed: whoever held it was, and now it is nobody's" for key in nobodys]

    def rotate(self, customer: Customer, old: str, overlap: timedelta, *, now: datetime) -> Rotated:
        """Give a customer a new key in the place of ``old``, or of its only one, which stays valid for ``overlap``.

        The new key is the customer's in the ledger before it opens anything, so that no call of it is ever unmapped.
        Run again after it died, it goes on with the same new key, whose name at API Gateway is derived from the old
        one's id; its customer knows both by one name. Run
        again while the old one is still valid, it can end that earlier, and never later.
        Where a limit has closed the customer's keys, the new one stays closed with them, and opens with them.
        Raises OperatorError if the customer is suspended, or it is not clear which key is meant.
        """
        self.gate.adopt(customer.id)
        if OPERATOR in self.gate.limits.of(customer.id).held:
            raise OperatorError(
                f"{customer.id} is suspended: resume it first with 'metering customers resume {customer.id}'"
            )
        rotation = self._begin(customer, old, now)
        name = f"{self.deployment}-{short_id(customer.id)}-after-{rotation.old}"
        if not rotation.new:
            new = self.plans.make_key(name, f"{customer.name}: takes the place of {rotation.old}")
            rotation = self._write(msgspec.structs.replace(rotation, new=new))
        self.customers.add(Entry(customer.id, customer.name, "", (rotation.new,)), now=now)
        if not rotation.until and (called := self.ledger.holders.name_of(customer.id, rotation.old)):
            self.ledger.holders.name_key(customer.id, rotation.new, called)
        if not rotation.until and not self.bring_new(customer, rotation.new, rotation.plans):
            raise OperatorError(
                f"the new key {rotation.new} could not be put into each of the usage plans "
                f"{', '.join(rotation.plans)}: look at them in API Gateway, then run this again"
            )
        wanted = int((now + overlap).timestamp())
        if not rotation.until or wanted < rotation.until:
            rotation = self._write(msgspec.structs.replace(rotation, until=wanted))
        until = datetime.fromtimestamp(rotation.until, UTC)
        is_over = until <= now
        if is_over:
            self._finish(rotation)
        return Rotated(customer.id, rotation.old, rotation.new, name, rotation.plans, until=None if is_over else until)

    def finish(self, name: str, *, now: datetime) -> list[str]:
        """Take old keys out of their usage plans whose overlap is over, of one customer or of all; say which."""
        said = []
        for rotation in self.notes.rotations(name):
            if rotation.is_due(now):
                self._finish(rotation)
                said.append(
                    f"key {rotation.old} of {rotation.customer} opens nothing any more: {rotation.new} took over"
                )
        return said

    def _begin(self, customer: Customer, old: str, now: datetime) -> Rotation:
        """Return the rotation that is under way, or a new one, written down."""
        under_way = {one.old: one for one in self.notes.rotations(customer.id)}
        taking_over = {one.new for one in under_way.values()}
        held = self._keys(customer.id, now)
        if not old and len(under_way) == 1:
            (old,) = under_way
        if not old:
            candidates = [key for key in held if key not in taking_over and self.home_of(key)]
            if len(candidates) != 1:
                which = (
                    f"say which with --key: {', '.join(candidates)}" if candidates else "it has none in a usage plan"
                )
                raise OperatorError(f"{customer.id} has {len(candidates)} keys that could be rotated; {which}")
            (old,) = candidates
        if old in under_way:
            return under_way[old]
        if old not in held:
            raise OperatorError(
                f"{customer.id} holds no key {old!r}: 'metering customers show {customer.id}' lists them"
            )
        if is_caller(old):
            raise OperatorError(f"{old} is no API key, but what an API calls somebody: no new one can take its place")
        plans = self.home_of(old)
        if not plans:
            raise OperatorError(f"the key {old} is in no usage plan, so that a new one could not take its place there")
        return self._write(Rotation(customer.id, old, plans))

    def bring_new(self, customer: Customer, new: str, plans: tuple[str, ...]) -> bool:
        """Say that a new key belongs into these plans, and bring it to where the reasons ask for it to be.

        It is said to be closed as yet, so that whoever brings it puts it there. Returns False if that cannot be done.
        """
        home = self.gate.limits.homes([new]).get(new, Home())
        after = msgspec.structs.replace(home, plans=plans, level=Level.STOPPED)
        self._changing(customer, lambda: self.gate.limits.save_home(new, after))
        brought = self._bring(customer.id)
        return not any(moved.lost for moved in brought.moved if moved.key == new)

    def _finish(self, rotation: Rotation) -> None:
        """Take the old key out of every plan that it is in, and of what a later reopening would put it back into."""
        self.gate.adopt(rotation.customer)
        home = self.gate.limits.homes([rotation.old]).get(rotation.old, Home())
        if not home.retired:
            # Written first: a worker that is opening the key just now meets it, and takes the key out again.
            try:
                self.gate.limits.save_home(rotation.old, msgspec.structs.replace(home, plans=(), retired=True))
            except RowChangedError as error:
                raise OperatorError(f"the key {rotation.old} is being opened or closed just now: try again") from error
        for plan in self.plans.of(rotation.old):
            self.plans.take_out(plan.id, rotation.old)
        self.notes.end(rotation)

    def home_of(self, key: str) -> tuple[str, ...]:
        """Return the usage plans that a key is in, or goes back into if it is closed; never a lane."""
        home = self.gate.limits.homes([key]).get(key, Home())
        here = {plan.id for plan in self.plans.of(key) if not plan.is_lane(self.deployment)}
        return tuple(sorted(here if home.level is Level.OPEN else here | {*home.plans}))

    def _can_be_closed(self, customer: Customer, now: datetime) -> bool:
        """Say whether there is anything to close: a key in a plan, or what an authorizer may look for in the table."""
        keys, closed_by = self._keys(customer.id, now), self.gate.keys
        if isinstance(closed_by, CallerKeys):
            return bool(keys)
        has_table = isinstance(closed_by, PlanKeys) and closed_by.callers is not None
        return any((has_table and is_caller(key)) or self.home_of(key) for key in keys)

    def _bring(self, name: str) -> Brought:
        """Bring a customer's keys, in a command's words where that fails."""
        try:
            return self.gate.bring(name)
        except UnsettledError as error:
            raise OperatorError(f"somebody else is suspending or resuming {name} just now: try again") from error
        except (NotAsWantedError, UnavailableError) as error:
            raise OperatorError(str(error)) from error
        except ExceptionGroup as failures:
            words = "; ".join(map(str, failures.exceptions))
            raise OperatorError(f"not every key of {name} could be brought, try again: {words}") from failures

    def _lost(self, name: str, now: datetime) -> list[str]:
        """Return the keys that a customer held once and that are still closed for that."""
        ever = sorted(self.ledger.holders.keys_of(name))
        held = {*self._keys(name, now)}
        homes = self.gate.limits.homes(ever) if ever else {}
        return [key for key in ever if key not in held and key in homes and homes[key].level is not Level.OPEN]

    def _hold(self, now: datetime) -> Held:
        return Held(int(now.timestamp()), "suspended by the operator", self.who())

    def _keys(self, name: str, now: datetime) -> Sequence[str]:
        """Return the keys that a customer holds in the current hour."""
        return self.ledger.holders.held_by(name, Hour.containing(now))

    def _changing(self, customer: Customer, change: Callable[[], object]) -> None:
        try:
            change()
        except RowChangedError as error:
            raise OperatorError(f"somebody else is suspending or resuming {customer.id} just now: try again") from error
        self.gate.ask(customer.id, saved=True)

    def _write(self, after: Rotation) -> Rotation:
        try:
            return self.notes.write(after)
        except RowChangedError as error:
            raise OperatorError(
                f"somebody else is rotating the key {after.old} of {after.customer} just now: try again"
            ) from error


def _out(brought: Brought) -> list[str]:
    """Say which keys are out of which plans."""
    return [
        f"key {moved.key} is out of the usage plan{'s' * (len(moved.out) > 1)} {', '.join(moved.out)}"
        for moved in brought.moved
        if moved.out
    ]


def _left(brought: Brought) -> list[str]:
    """Say which keys are not as they should be, and why."""
    return [f"key {moved.key} is left as it is: {moved.left}" for moved in brought.moved if moved.left]


def _into(brought: Brought) -> list[str]:
    """Say which keys are in which plans again, or could not be put there."""
    said = []
    for moved in brought.moved:
        if moved.into:
            said.append(
                f"key {moved.key} is in the usage plan{'s' * (len(moved.into) > 1)} {', '.join(moved.into)} again"
            )
        said += [
            f"key {moved.key} could not be put into the usage plan {plan}: one of them is gone, or the key is in "
            "another plan of the same stage"
            for plan in moved.lost
        ]
    return said


def in_words(reason: Reason) -> str:
    """Say how far a reason closes keys, and since when: ``stopped because of operator since 2026-11-22T05:30:00Z``."""
    until = f" until {moment(reason.until)}" if reason.until else ""
    return f"{reason.level.name.lower()} because of {reason.name} since {moment(reason.since)}{until}"


def reason_as_json(reason: Reason) -> dict[str, str | None]:
    """Return a reason as ``--json`` shows it."""
    return {
        "name": reason.name,
        "access": reason.level.name.lower(),
        "since": moment(reason.since),
        "until": moment(reason.until) if reason.until else None,
    }

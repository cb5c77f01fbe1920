"""Who may call: keys that are rotated, and customers that are suspended and resumed, by API Gateway's usage plans.

A key that is in no usage plan of a stage gets 403 wherever a method needs a key. So plans, and not the key's own
switch, are what opens and closes: what a key has used stays its customer's, and late records of it still count.

Every verb may die at any point and be run again: what is to be done is written down first
(:mod:`infra.operate.access_notes`), and putting a key into a plan, or taking it out, does nothing where that is done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from infra.operate.access_notes import AccessNotes, Rotation, Suspension
from infra.operate.customers import Customers, Entry
from infra.operate.deployment import Deployment, OperatorError
from metering.limits.usage_plans import UsagePlans
from metering.model.periods import Hour
from metering.model.subjects import short_id
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stores.table import RowChangedError


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
    """The verbs, on a deployment in the same account and Region as its API."""

    plans: UsagePlans
    notes: AccessNotes
    ledger: Ledger
    customers: Customers
    deployment: str

    @classmethod
    def of(cls, deployment: Deployment) -> "Access":
        """Return that of a deployment."""
        return cls(
            UsagePlans(deployment.client("apigateway")),
            AccessNotes(deployment.client("dynamodb"), deployment.outputs.ledger_table),
            deployment.ledger,
            Customers(deployment.ledger, deployment.counters),
            deployment.outputs.deployment,
        )

    def suspend(self, customer: Customer, *, now: datetime) -> list[str]:
        """Take all of a customer's keys out of their usage plans; say which.

        Raises OperatorError if it holds no key that is or was in one.
        """
        said: list[str] = []
        noted = self.notes.suspensions(customer.id)
        for key in self._keys(customer, now):
            before = noted.get(key, Suspension(key))
            plans = {*before.plans, *self._plans_of(key)}
            if not plans:
                continue
            # What was remembered stays: the run that wrote it took out some of it, or all.
            after = msgspec.structs.replace(before, plans=tuple(sorted(plans)))
            noted[key] = after if after == before else self._remember(customer, after)
            out = [plan for plan in noted[key].plans if self.plans.holds(plan, key) and self.plans.take_out(plan, key)]
            if out:
                said.append(f"key {key} is out of the usage plan{'s' * (len(out) > 1)} {', '.join(out)}")
        if not noted:
            raise OperatorError(
                f"no key of {customer.id} is in a usage plan, so that there is nothing to take it out of: "
                "where API keys open nothing, your authorizer must refuse the customer"
            )
        return said

    def resume(self, customer: Customer, *, now: datetime) -> list[str]:
        """Put a suspended customer's keys back into the usage plans that they were taken out of; say which.

        A key that has changed hands since stays out, and a plan that was deleted is said.
        """
        said: list[str] = []
        held = set(self._keys(customer, now))
        for key, noted in sorted(self.notes.suspensions(customer.id).items()):
            if key in held:
                back = [plan for plan in noted.plans if self.plans.put(plan, key)]
                if back:
                    said.append(f"key {key} is in the usage plan{'s' * (len(back) > 1)} {', '.join(back)} again")
                said += [
                    f"key {key} could not be put into the usage plan {plan}: one of them is gone, or the key is in "
                    "another plan of the same stage"
                    for plan in noted.plans
                    if plan not in back
                ]
            else:
                said.append(f"key {key} belongs to {customer.id} no longer and stays out")
            self.notes.forget(customer.id, noted)
        return said

    def rotate(self, customer: Customer, old: str, overlap: timedelta, *, now: datetime) -> Rotated:
        """Give a customer a new key in the place of ``old``, or of its only one, which stays valid for ``overlap``.

        The new key is the customer's in the ledger before it opens anything, so that no call of it is ever unmapped.
        Run again after it died, it goes on with the same new key, whose name is derived from the old one's id. Run
        again while the old one is still valid, it can end that earlier, and never later.
        Raises OperatorError if the customer is suspended, or it is not clear which key is meant.
        """
        if self.notes.suspensions(customer.id):
            raise OperatorError(
                f"{customer.id} is suspended: resume it first with 'metering customers resume {customer.id}'"
            )
        rotation = self._begin(customer, old, now)
        name = f"{self.deployment}-{short_id(customer.id)}-after-{rotation.old}"
        if not rotation.new:
            new = self.plans.make_key(name, f"{customer.name}: takes the place of {rotation.old}")
            rotation = self._write(msgspec.structs.replace(rotation, new=new))
        self.customers.add(Entry(customer.id, customer.name, "", (rotation.new,)), now=now)
        if not rotation.until and not all(self.plans.put(plan, rotation.new) for plan in rotation.plans):
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
        held = self._keys(customer, now)
        if not old and len(under_way) == 1:
            (old,) = under_way
        if not old:
            candidates = [key for key in held if key not in taking_over and self._plans_of(key)]
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
        plans = tuple(self._plans_of(old))
        if not plans:
            raise OperatorError(f"the key {old} is in no usage plan, so that a new one could not take its place there")
        return self._write(Rotation(customer.id, old, plans))

    def _finish(self, rotation: Rotation) -> None:
        """Take the old key out of every plan that it is in, and of what a later resume would put it back into."""
        noted = self.notes.suspensions(rotation.customer).get(rotation.old)
        if noted:
            self.notes.forget(rotation.customer, noted)
        for plan in {*rotation.plans, *self._plans_of(rotation.old)}:
            if self.plans.holds(plan, rotation.old):
                self.plans.take_out(plan, rotation.old)
        self.notes.end(rotation)

    def _plans_of(self, key: str) -> list[str]:
        return [plan.id for plan in self.plans.of(key)]

    def _keys(self, customer: Customer, now: datetime) -> Sequence[str]:
        """Return the keys that a customer holds in the current hour."""
        hour = Hour.containing(now)
        holdings = self.ledger.holders.of_keys(sorted(self.ledger.holders.keys_of(customer.id)))
        return [
            key for key, holding in holdings.items() if (holder := holding.at(hour)) and holder.customer == customer.id
        ]

    def _remember(self, customer: Customer, after: Suspension) -> Suspension:
        try:
            return self.notes.remember(customer.id, after)
        except RowChangedError as error:
            raise OperatorError(f"somebody else is suspending or resuming {customer.id} just now: try again") from error

    def _write(self, after: Rotation) -> Rotation:
        try:
            return self.notes.write(after)
        except RowChangedError as error:
            raise OperatorError(
                f"somebody else is rotating the key {after.old} of {after.customer} just now: try again"
            ) from error

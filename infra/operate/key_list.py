"""The keys of a deployment, or of one customer: whose each is, what it is called, and whether anything closes it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Final

from infra.operate.access_notes import AccessNotes
from infra.operate.deployment import Deployment
from infra.operate.keys import CUT, bills_by_key, is_value, masked_key
from metering.limits.gate import reasons_of_one
from metering.limits.usage_plans import looks_like_value
from metering.model.limits import Level
from metering.model.periods import Hour
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.holders import BEGINNING, Holder, Holding
from metering.stores.limits import Home, LimitItems

_AT_ONCE: Final = 100
"""Keys that are one read."""

_NOBODY: Final = Holder(BEGINNING)


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key, and who holds it from an hour up to another, the first and the last of which may be open.

    ``id`` is how it is stored, which may be a value; ``key`` is that as it may be shown. One of nobody's has neither a
    ``customer`` nor a reason why it is ``excluded``. ``access`` is that of whoever holds it now.
    """

    id: str
    key: str
    name: str
    customer: str
    since: Hour | None
    to: Hour | None
    excluded: str
    access: "KeyAccess | None"

    def as_json(self) -> dict[str, str | bool | list[str] | None]:
        """Return it as commands print it."""
        access = self.access or KeyAccess()
        until = access.valid_until
        return {
            "key": self.key,
            "name": self.name or None,
            "customer": self.customer or None,
            "from": str(self.since) if self.since else None,
            "to": str(self.to) if self.to else None,
            "excluded": self.excluded or None,
            "replaced": access.replaced,
            "valid_until": f"{until:%Y-%m-%dT%H:%MZ}" if until else None,
            "access": access.level.name.lower() if self.access else None,
            "reasons": list(access.reasons),
        }

    def state(self) -> str:
        """Say in some words how it stands with whoever holds it now."""
        if self.access is None:
            return ""
        words = [f"not billed: {self.excluded}"] if self.excluded else []
        if not self.excluded and not self.customer:
            words = ["nobody's: what is used by it is held"]
        return "; ".join(words + self.access.words()) or "open"


@dataclass(frozen=True, slots=True)
class KeyAccess:
    """How far a key is closed at the gateway, and for which of its customer's reasons.

    One that is ``replaced`` is its customer's still, for what was used by it, and opens nothing; one that is being
    replaced opens until ``valid_until``.
    """

    level: Level = Level.OPEN
    reasons: tuple[str, ...] = ()
    replaced: bool = False
    valid_until: datetime | None = None

    def words(self) -> list[str]:
        """Say what keeps the key from opening the API, or will."""
        if self.replaced:
            return ["replaced: opens nothing"]
        words = []
        if self.level is not Level.OPEN:
            words.append(self.level.name.lower() + f" because of {', '.join(self.reasons)}" * bool(self.reasons))
        if self.valid_until:
            words.append(f"opens until {self.valid_until:%Y-%m-%dT%H:%MZ}")
        return words


@dataclass(frozen=True, slots=True)
class KeyList:
    """The keys of a deployment at a moment; a piece of them is read when its first one is asked for."""

    deployment: Deployment
    now: datetime

    def of_all(self, after: str = "") -> Iterator[ListedKey]:
        """Yield every key as it stands now, in the order of their ids, or those after one."""
        after = self._meant(after)
        while names := self.deployment.ledger.holders.key_ids(after, most=_AT_ONCE):
            yield from self._listed(names)
            after = names[-1]

    def of_customer(self, customer: str, after: str = "") -> Iterator[ListedKey]:
        """Yield the keys that a customer holds, has held or is to hold, each time by itself."""
        after = self._meant(after)
        names = sorted(name for name in self.deployment.ledger.holders.names_of(customer) if name > after)
        return chain.from_iterable(self._listed(piece, customer) for piece in in_pieces(names, _AT_ONCE))

    def _listed(self, names: Iterable[str], customer: str = "") -> list[ListedKey]:
        """Look at a piece: three reads, and one of each customer whose keys are closed."""
        ledger = self.deployment.ledger
        holdings = ledger.holders.of_keys(names)
        access = self._access(holdings, customer)
        spans = [(of, *span) for of in holdings.values() for span in self._spans(of, customer)]
        called = ledger.holders.names_of_each((holder.customer, of.key) for of, holder, _ in spans if holder.customer)
        return [
            ListedKey(
                of.key,
                self._shown(of),
                called.get((holder.customer, of.key), ""),
                holder.customer,
                None if holder.since == BEGINNING else holder.since,
                to,
                holder.reason,
                access[of.key] if holder is self._present(of) else None,
            )
            for of, holder, to in spans
        ]

    def _access(self, holdings: dict[str, Holding], customer: str) -> dict[str, KeyAccess]:
        dynamodb, table = self.deployment.client("dynamodb"), self.deployment.outputs.ledger_table
        limits = LimitItems(dynamodb, table)
        homes = limits.homes(holdings)
        ending = {one.old: one.until for one in AccessNotes(dynamodb, table).rotations(customer) if one.until}
        closed = {key for key, home in homes.items() if home.level is not Level.OPEN}
        customers = sorted({self._present(holdings[key]).customer for key in closed} - {""})
        found = side_by_side(lambda one: reasons_of_one(limits, one, self.now), customers)
        reasons = dict(zip(customers, found, strict=True))
        return {
            key: KeyAccess(
                homes.get(key, Home()).level,
                tuple(reason.name for reason in reasons.get(self._present(of).customer, ()) if key in closed),
                homes.get(key, Home()).retired,
                datetime.fromtimestamp(ending[key], UTC) if key in ending else None,
            )
            for key, of in holdings.items()
        }

    def _spans(self, of: Holding, customer: str) -> Iterator[tuple[Holder, Hour | None]]:
        """Yield who holds a key and up to when: a customer each time, or whoever holds it now."""
        if not customer:
            hour = Hour.containing(self.now)
            yield self._present(of), next((holder.since for holder in of.holders if holder.since > hour), None)
            return
        ends = [*(holder.since for holder in of.holders[1:]), None]
        yield from (span for span in zip(of.holders, ends, strict=False) if span[0].customer == customer)

    def _present(self, of: Holding) -> Holder:
        """Return who holds a key now; nobody if nobody does, or nobody does yet."""
        return of.at(Hour.containing(self.now)) or _NOBODY

    def _meant(self, after: str) -> str:
        """Return the key after which a list goes on: one that was shown masked is a value that begins so."""
        beginning = after.removesuffix(CUT)
        if beginning == after:
            return after
        near = self.deployment.ledger.holders.key_ids(beginning, most=_AT_ONCE)
        return next((name for name in near if masked_key(name) == after), after)

    def _shown(self, of: Holding) -> str:
        """Return a key as it is shown: masked if it is a value, which an older version took for an id (I8)."""
        if looks_like_value(of.key) and bills_by_key(self.deployment) and is_value(self.deployment.ledger, of):
            return masked_key(of.key)
        return of.key

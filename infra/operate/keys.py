"""API keys as operators name them: by their ids. A key's value, which opens the API, is taken nowhere (I8).

API Gateway is never asked whether something is a key's value: its calls, with the id that they ask for, are written
into CloudTrail (API Gateway Developer Guide, "Log calls to Amazon API Gateway APIs with AWS CloudTrail"), and the value
would stand there. There is no need to: a value has 20 characters at least, an id has ten.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from infra.operate.deployment import Deployment, OperatorError
from metering.limits.usage_plans import UnavailableError, UsagePlans, is_caller, looks_like_value
from metering.model.log_format import API_KEY
from metering.model.periods import Hour
from metering.model.subjects import customer, is_id, is_name, key
from metering.stores.holders import Holding
from metering.stores.ledger import Ledger
from metering.stores.rows import OTHER_KEYS
from metering.stores.table import RowChangedError

CUT: Final = "..."
_SHOWN: Final = 4
_ASKED_ONE_BY_ONE: Final = 25
"""More keys than these, at 5 calls a second, are looked for in the list of all, of 500 to a call."""

_NAMED: Final = 5
_LONGEST_NAME: Final = 60
_FOR_EVER: Final = Hour.parse("9999-12-31T00")


@dataclass(frozen=True, slots=True)
class LookedAt:
    """What was found of keys that an operator gave: why some are ``refused``, by key, and what else to say."""

    refused: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def bills_by_key(deployment: Deployment) -> bool:
    """Say whether the deployment's own API bills by API Gateway's keys; not if an older version left that unsaid."""
    try:
        access_log = deployment.access_log
    except OperatorError:
        return False
    return access_log.variable == API_KEY


def masked_key(name: str) -> str:
    """Return a key as it may be shown: of what may be a value the first four characters."""
    return f"{name[:_SHOWN]}{CUT}" if looks_like_value(name) else name


def is_value(ledger: Ledger, holding: Holding) -> bool:
    """Say whether a key of a deployment that bills by API keys is a value, and not what usage came by."""
    return looks_like_value(holding.key) and used_in(ledger, holding) is None


def check_name(called: str) -> None:
    """Raise OperatorError for what a key cannot be called: its customer reads it, and a value never stands there (I8).

    A word as long as a value, with a digit in it, may be one; who writes it in parts may use any words.
    """
    if not is_name(called, _LONGEST_NAME):
        raise OperatorError(
            f"a key's name is 1 to {_LONGEST_NAME} printable characters, no space around it, got {called[:80]!r}"
        )
    for word in called.split():
        if looks_like_value(word) and any(map(str.isdigit, word)):
            raise OperatorError(
                f"{masked_key(word)} looks like a key's value (the secret), which stands nowhere: give another name, "
                "or write it in parts"
            )


def name_key(ledger: Ledger, name: str, called: str, *, now: datetime) -> list[str]:
    """Say what the customer that holds a key calls it, or with an empty text that it has no name; say what was done.

    Raises OperatorError for a name that cannot be, and a key that no customer holds.
    """
    if called:
        check_name(called)
    holding = ledger.holders.of_keys([name])[name] if is_id(name) else Holding(name)
    holder = holding.at(Hour.containing(now))
    if holder is None or not holder.customer:
        whose = f"is not billed ({holder.reason})" if holder else "belongs to no customer"
        raise OperatorError(f"the key {masked_key(name)} {whose}, and a name is for its customer to read")
    if ledger.holders.name_of(holder.customer, name) == called:
        return []
    try:
        ledger.holders.name_key(holder.customer, name, called)
    except RowChangedError as error:
        raise OperatorError(f"the key {masked_key(name)} was forgotten just now") from error
    return [f"key {masked_key(name)} of {holder.customer} " + (f"is called {called!r}" if called else "has no name")]


def used_in(ledger: Ledger, holding: Holding) -> Hour | None:
    """Return an hour in which a row of the ledger has usage of a key: its own, or that of a customer who held it then.

    Where a customer used more keys in an hour than are told apart, what cannot be a value may be among the others.
    """
    own = next(ledger.rows.of(key(holding.key), Hour(0), _FOR_EVER), None)
    if own is not None:
        return own.hour
    named = {holding.key} if looks_like_value(holding.key) else {holding.key, OTHER_KEYS}
    ends = [*(holder.since for holder in holding.holders[1:]), _FOR_EVER]
    for holder, end in zip(holding.holders, ends, strict=False):
        if not holder.customer:
            continue
        whose = customer(holder.customer)
        alone = (row.hour for row in ledger.rows.of(whose, holder.since, end) if row.only_key == holding.key)
        among = (hour for hour, by_key in ledger.rows.by_key(whose, holder.since, end) if named & by_key.keys())
        if (hour := next(chain(alone, among), None)) is not None:
            return hour
    return None


def look_at(deployment: Deployment, names: Iterable[str]) -> LookedAt:
    """Look at what was given as ids of keys; where API keys say who calls, and nowhere else.

    A value is refused. Of those that are new to the ledger API Gateway is asked; one that it does not know may have
    been deleted with usage left to bill, so that it is only said.
    """
    given = [name for name in dict.fromkeys(names) if not is_caller(name)]
    if not given or not bills_by_key(deployment):
        return LookedAt()
    ledger = deployment.ledger
    holdings = ledger.holders.of_keys(name for name in given if is_id(name))
    refused = {
        name: _refusal(holdings.get(name) or Holding(name))
        for name in given
        if (is_value(ledger, holdings[name]) if name in holdings else looks_like_value(name))
    } | {
        name: f"{masked_key(name)!r} is no key's id: in a file spaces part several keys, elsewhere each has its --key"
        for name in given
        if {",", ";"} & {*name} and not (name in holdings and holdings[name].holders)
    }
    new = [name for name, holding in holdings.items() if not holding.holders and not refused]
    return LookedAt(refused, _unknown(UsagePlans(deployment.client("apigateway")), new))


def check_keys(deployment: Deployment, *names: str) -> list[str]:
    """Return what to say of keys that are given by their ids; raise OperatorError if one is a value."""
    looked_at = look_at(deployment, names)
    if looked_at.refused:
        raise OperatorError("; ".join(looked_at.refused.values()))
    return looked_at.notes


def _refusal(holding: Holding) -> str:
    shown = masked_key(holding.key)
    return (
        f"{shown} has {len(holding.key)} characters, as an API key's value (the secret) has: give the key's id, which "
        "has ten lower-case letters and digits"
    ) + f"; 'metering keys forget {shown}' takes out what was stored" * bool(holding.holders)


def _unknown(plans: UsagePlans, names: list[str]) -> list[str]:
    """Say which keys API Gateway does not know, or why that could not be learned."""
    if not names:
        return []
    try:
        if len(names) <= _ASKED_ONE_BY_ONE:
            unknown = [name for name in names if not plans.is_key(name)]
        else:
            there = plans.keys()
            unknown = [name for name in names if name not in there]
    except (ClientError, BotoCoreError, UnavailableError) as error:
        return [f"whether API Gateway knows the keys could not be checked: {error}"]
    if not unknown:
        return []
    named = ", ".join(map(masked_key, unknown[:_NAMED])) + f" and {len(unknown) - _NAMED} more" * (
        len(unknown) > _NAMED
    )
    no = "no key" if len(unknown) == 1 else "none of the keys"
    return [f"API Gateway knows {no} {named} in this account and Region: look whether that is the key's id"]

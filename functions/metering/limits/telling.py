"""Telling who reached a threshold, by an event on the account's bus and an e-mail, and whose access changed.

At least once: whoever dies in between tells again, by the same id. Two looks do not both tell, since who is about to
has taken that for :data:`TAKEN_FOR` by the write by which the threshold acted.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec
from aws_lambda_powertools import Logger

from metering.model.limits import SPEND, Applying, LimitState, Notify, Origin, Reason, Slow, Step, Stop, Told
from metering.model.prices import in_money, written
from metering.model.subscribed import Window
from metering.signals import ACCESS_REOPENED, ACCESS_SLOWED, ACCESS_STOPPED, LIMITS_SOURCE, THRESHOLD_REACHED
from metering.stores.aws import ERRORS, code_of, in_pieces
from metering.stores.limits import Gate, OfOne

logger = Logger(child=True)

TAKEN_FOR: Final = timedelta(minutes=2)

_AT_ONCE: Final = 10  # PutEvents' limit

_ACCESS: Final = {"open": ACCESS_REOPENED, "slowed": ACCESS_SLOWED, "stopped": ACCESS_STOPPED}

_WHOSE: Final = {
    Origin.PLAN: "your plan's limit",
    Origin.CUSTOMER: "the limit that was set for you",  # what for is the operator's own note
    Origin.BUDGET: "your own budget",
}

_FOR_GOOD: Final = frozenset(
    {"AccountSuspendedException", "BadRequestException", "MailFromDomainNotVerifiedException", "MessageRejected"}
)
"""Errors of SES that the same e-mail meets again, and so many others with it (SES API v2, "SendEmail")."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event about a customer's limits; ``detail`` is documented (functions/README.md)."""

    kind: str
    id: str
    detail: Mapping[str, Any]


def event_id(*parts: object) -> str:
    """Return the id of an event, which follows from what it is about: whoever tells it again does so by the same."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]


def put_events(bus: Any, events: Iterable[Event]) -> set[str]:
    """Put events on the default bus and return the ids of those that it took; ``bus`` is boto3's client."""
    taken_by_bus: set[str] = set()
    for piece in in_pieces([*events], _AT_ONCE):
        entries = [
            {
                "Source": LIMITS_SOURCE,
                "DetailType": event.kind,
                "Detail": json.dumps({"id": event.id, **event.detail}),
            }
            for event in piece
        ]
        try:
            answers = bus.put_events(Entries=entries)["Entries"]
        except ERRORS:
            logger.exception("no event could be put")
            continue
        refused = {
            event.id: answer["ErrorCode"] for event, answer in zip(piece, answers, strict=True) if "ErrorCode" in answer
        }
        if refused:
            logger.error("events could not be put", refused=refused)
        taken_by_bus |= {event.id for event in piece} - refused.keys()
    return taken_by_bus


def taken(state: LimitState, now: datetime) -> LimitState:
    """Return a state whose untold thresholds are taken by whoever writes it, those that nobody else has taken."""
    at = int(now.timestamp())
    until = at + int(TAKEN_FOR.total_seconds())
    untold = (msgspec.structs.replace(one, taken=until) if one.taken <= at else one for one in state.untold)
    return msgspec.structs.replace(state, untold=tuple(untold))


@dataclass(frozen=True, slots=True)
class Reached:
    """A threshold of a limit that acted in a window, and is to be told."""

    limit: Applying
    window: Window
    told: Told

    @property
    def step(self) -> Step:
        """The step that acted."""
        kind, _, percent = self.told.step.partition(":")
        step: Step = msgspec.convert({"type": kind, "at": int(percent)}, type=Step)
        return step


@dataclass(frozen=True, slots=True)
class Teller:
    """Tells; ``bus`` and ``mail`` are boto3's clients of EventBridge and of SES (API v2).

    E-mail goes out where there is a ``sender``, and leads to the page at ``page``; it writes units with the decimals
    that ``scales`` has for a metric, as the page does.
    """

    bus: Any
    mail: Any
    deployment: str
    sender: str = ""
    page: str = ""
    scales: Mapping[str, int] = field(default_factory=dict)

    def tell(self, one: OfOne, reached: Sequence[Reached]) -> tuple[list[Reached], list[Reached]]:
        """Tell thresholds that a customer reached; return those that are told, and all those whose event is put.

        An e-mail is sent when its event was put: so what is tried again after a failure of either repeats nothing of
        the other.
        """
        currency = one.subscribed.currency if one.subscribed is not None else ""
        events = [(self._event(one.name, each, currency), each) for each in reached]
        taken_by_bus = put_events(self.bus, (event for event, each in events if not each.told.put))
        put = [each for event, each in events if each.told.put or event.id in taken_by_bus]
        return [each for each in put if self._mail(one, each, currency)], put

    def _event(self, customer: str, reached: Reached, currency: str) -> Event:
        limit, told = reached.limit, reached.told
        detail = {
            "deployment": self.deployment,
            "customer": customer,
            "at": _written(told.at),
            "limit": limit.name,
            "metric": limit.metric,
            "per": limit.per,
            "window": {"from": _written(reached.window.begin.start), "to": _written(reached.window.end.start)},
            "step": told.step.partition(":")[0],
            "percent": reached.step.at,
            "used": told.used,
            "most": told.most,
            "origin": limit.origin,
        }
        if limit.metric == SPEND:
            detail["currency"] = currency
        return Event(THRESHOLD_REACHED, event_id(customer, limit.name, reached.window, told.step), detail)

    def _mail(self, one: OfOne, reached: Reached, currency: str) -> bool:
        """Send an e-mail to the customer's addresses, if there are any; return False if it is to be tried again."""
        if not self.sender or not one.addresses:
            return True
        subject, text = message(one.name, reached, currency, self.page, self.scales)
        try:
            self.mail.send_email(
                FromEmailAddress=self.sender,
                Destination={"ToAddresses": [*one.addresses]},
                Content={
                    "Simple": {
                        "Subject": {"Data": subject, "Charset": "UTF-8"},
                        "Body": {"Text": {"Data": text, "Charset": "UTF-8"}},
                    }
                },
            )
        except ERRORS as error:
            code = code_of(error)
            logger.error("an e-mail could not be sent", customer=one.name, code=code)  # noqa: TRY400 - may name addresses
            return code in _FOR_GOOD
        return True


def access_events(deployment: str, customer: str, reasons: Sequence[Reason], gate: Gate) -> list[Event]:
    """Return what is untold of how a customer's keys stand: one event for each change, by its number."""
    events = []
    for change in gate.untold:
        number, _, level = change.split(":")
        detail = {
            "deployment": deployment,
            "customer": customer,
            "at": _written(gate.at),
            "level": level,
            "reasons": [reason.name for reason in reasons],
            "keys": gate.keys - len(gate.left),
        }
        events.append(Event(_ACCESS[level], event_id(customer, "access", number), detail))
    return events


def message(customer: str, reached: Reached, currency: str, page: str, scales: Mapping[str, int]) -> tuple[str, str]:
    """Return the subject and the text of an e-mail about a threshold."""
    limit, told, step = reached.limit, reached.told, reached.step
    name = "spending" if limit.metric == SPEND else limit.metric

    def quantity(number: int) -> str:
        if limit.metric == SPEND and currency:
            return in_money(number, currency)
        whole, point, decimals = written(Decimal(number).scaleb(-scales.get(limit.metric, 0))).partition(".")
        return f"{int(whole):,}{point}{decimals}"

    ends = reached.window.end.start.strftime("%Y-%m-%d %H:%M UTC")
    match step:
        case Notify():
            follows = "This is a notice. Calls go on as before."
        case Slow():
            follows = f"Calls may be slowed down until {ends}, unless the limit is raised."
        case Stop():
            follows = f"Calls are refused until {ends}, unless the limit is raised."
    subject = f"{step.at} % of a limit reached: {name} of {customer}"
    lines = [
        f"{customer} has used {quantity(told.used)} of {quantity(told.most)} ({name}, each {limit.per}).",
        f"That is {step.at} % or more of {_WHOSE[limit.origin]}.",
        "",
        follows,
        f"The {limit.per} ends on {ends}.",
    ]
    if page:
        lines += ["", f"What is used and left: {page}"]
    return subject, "\n".join([*lines, ""])


def _written(moment: int | datetime) -> str:
    if isinstance(moment, int):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

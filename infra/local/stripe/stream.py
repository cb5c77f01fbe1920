"""The v2 meter event stream of the local Stripe: a session's token, up to 100 events a call, checked afterwards.

The source is docs.stripe.com/api/v2/billing/meter-event-stream. In production the stream has a host of its own,
meter-events.stripe.com (the SDK's base address `meter_events`); here the same server answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from infra.local.stripe.account import Account
from infra.local.stripe.params import Params, StripeError, only
from infra.local.stripe.reports import NO_METER, Failure, instant

SESSION_TIME = 15 * 60  # seconds
MOST_EVENTS = 100
EVENT_FIELDS = {"event_name", "identifier", "payload", "timestamp"}


@dataclass(slots=True)
class Stream:
    """The sessions of an account's event stream: the token of each, and when it ends."""

    account: Account
    sessions: dict[str, float] = field(default_factory=dict)

    def create_session(self, params: Params, now: float) -> dict[str, Any]:
        """Give a token for the stream, which ends after 15 minutes."""
        only(params)
        number = len(self.sessions) + 1
        token = f"mes_token_test_{number:014d}"
        self.sessions[token] = now + SESSION_TIME
        return {
            "id": f"mes_test_{number:014d}",
            "object": "v2.billing.meter_event_session",
            "authentication_token": token,
            "created": instant(now),
            "expires_at": instant(now + SESSION_TIME),
            "livemode": False,
        }

    def authenticate(self, token: str, now: float) -> None:
        """Refuse a token that is unknown or has ended.

        `billing_meter_event_session_expired` with 401 is the documented code; the answer to a token that never was
        could not be confirmed (? an_unknown_session_is_unauthorized).
        """
        ends = self.sessions.get(token)
        if ends is None:
            raise StripeError("Invalid meter event session token.", status=401, code="invalid_session_token")
        if now >= ends:
            raise StripeError(
                "The meter event session has expired.",
                status=401,
                kind="temporary_session_expired",
                code="billing_meter_event_session_expired",
            )

    def create_events(self, params: Params, now: float) -> dict[str, Any]:
        """Take up to 100 events: a malformed one refuses all, a wrong one is reported later, a repeat is ignored.

        That an event which fails its check has used up its identifier could not be confirmed
        (? a_streamed_event_that_fails_used_its_identifier): the harder reading is taken.
        """
        only(params, "events")
        events = params.get("events")
        if not isinstance(events, list) or not 1 <= len(events) <= MOST_EVENTS:
            raise _malformed(f"events must be a list of 1 to {MOST_EVENTS} events.", "events")
        read = [_read(event, f"events[{number}]", now) for number, event in enumerate(events)]
        account = self.account
        for event_name, named, payload, timestamp in read:
            identifier = named or account.new_identifier()
            if not account.first_of(identifier, now):
                continue
            try:
                account.take(account.check_event(event_name, identifier, payload, timestamp, now))
            except StripeError as wrong:
                meter = None if wrong.report == NO_METER else account.meter_named(event_name)
                account.reports.failures.append(Failure(wrong.report, meter, wrong.message, identifier, int(now)))
        return {}


def _read(event: Any, at: str, now: float) -> tuple[str, str, dict[str, str], int]:
    """Read one event's name, identifier, payload and time, or refuse the request."""
    if not isinstance(event, Mapping) or not event.keys() <= EVENT_FIELDS:
        raise _malformed(f"{at} must be an object of {', '.join(sorted(EVENT_FIELDS))}.", at)
    event_name, identifier = event.get("event_name"), event.get("identifier", "")
    for name, value in (("event_name", event_name or None), ("identifier", identifier)):
        if not isinstance(value, str) or len(value) > 100:  # noqa: PLR2004  the documented length
            raise _malformed(f"{at}.{name} must be a text of at most 100 characters.", f"{at}.{name}")
    payload = event.get("payload")
    if not isinstance(payload, dict) or not all(isinstance(value, str) for value in payload.values()):
        raise _malformed(f"{at}.payload must map texts to texts.", f"{at}.payload")
    written = event.get("timestamp")
    if written is None:
        return str(event_name), identifier, payload, int(now)
    try:
        timestamp = datetime.fromisoformat(written)
    except (TypeError, ValueError):
        timestamp = None
    if timestamp is None or timestamp.tzinfo is None:
        raise _malformed(f"{at}.timestamp must be an RFC 3339 time with an offset, got {written!r}.", f"{at}.timestamp")
    return str(event_name), identifier, payload, int(timestamp.timestamp())


def _malformed(message: str, param: str) -> StripeError:
    """Refuse a whole request."""
    return StripeError(message, code="invalid_fields", param=param)

"""Stripe's notifications: whether one is Stripe's own, and which totals or which subscription its event names."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
import stripe

from metering.model.identifiers import named_by
from metering.stripe.client import StripeAccount, StripeRejectedError
from metering.stripe.meters import StripeMeters

LARGEST_BODY: Final = 64 * 1024
"""A notification names its event and holds nothing else, in less than 1 KB."""

ERROR_REPORT: Final = "v1.billing.meter.error_report_triggered"
NO_METER_FOUND: Final = "v1.billing.meter.no_meter_found"

SUBSCRIPTION_EVENTS: Final = (
    "v1.customer.subscription.created",
    "v1.customer.subscription.updated",
    "v1.customer.subscription.deleted",
    "v1.customer.subscription.paused",
    "v1.customer.subscription.resumed",
)
"""What is told of a subscription. ``updated`` is any change of it, also of its status (SDK 16.1, the event's class).

Whether it is sent beside ``paused`` and ``resumed``, too, is documented nowhere.
"""

OLDEST: Final = 300
"""Seconds after which a signature is too old: who has caught a notification cannot send it again later."""

NOT_STRIPES: Final = "the signature is not Stripe's, or too old"

_DIGITS: Final = 64
"""Hexadecimal ones of a signature, which is one of SHA-256."""

_LONGEST_TIME: Final = 12
"""Digits of a signature's time, in seconds since the epoch."""

T = TypeVar("T")


class RefusedError(Exception):
    """A request that Stripe has not signed; the message says what it lacks."""


class NotUnderstoodError(Exception):
    """A notification that Stripe has signed and that says nothing to us, however often it is sent."""


class _Related(msgspec.Struct, frozen=True):
    id: str | None = None


class _Notification(msgspec.Struct, frozen=True):
    id: str
    type: str
    related_object: _Related | None = None


class _Request(msgspec.Struct, frozen=True):
    identifier: str | None = None
    idempotency_key: str | None = None


class _Sample(msgspec.Struct, frozen=True):
    error_message: str | None = None
    request: _Request | None = None


class _ErrorType(msgspec.Struct, frozen=True):
    code: str | None = None
    sample_errors: list[_Sample] | None = None


class _Reason(msgspec.Struct, frozen=True):
    error_types: list[_ErrorType] | None = None


class _Data(msgspec.Struct, frozen=True):
    reason: _Reason | None = None


class _Report(msgspec.Struct, frozen=True):
    """An event, as far as it is read, with all that the documents' examples differ in.

    The reference gives a request's ``identifier``, the guide an ``idempotency_key``; of an event without a meter the
    guide's ``related_object`` is empty, the SDK's is not there (API reference, "The Event object"; "Record usage for
    billing with the API", "Example payloads").
    """

    data: _Data | None = None
    related_object: _Related | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a notification tells: totals that were ``rejected``, by their identifiers, with Stripe's words.

    Or the id of a ``subscription`` of the account, whosever it is, that has changed.
    """

    rejected: Mapping[str, str] = field(default_factory=dict)
    subscription: str = ""


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Reads notifications. ``secret`` returns the endpoint's signing secret, which is empty if there is none."""

    meters: StripeMeters
    secret: Callable[[], str]

    def told(self, body: bytes, signature: str) -> Told:
        """Return what a notification tells of this deployment's totals, or of a subscription.

        Raises RefusedError for anything but a notification that Stripe signed within the last five minutes,
        NotUnderstoodError for one that names no event which can be read, and whatever error keeps it from being read
        now. What cannot have been signed by Stripe is refused before the secret is read.
        """
        if len(body) > LARGEST_BODY:
            raise RefusedError(f"a body of at most {LARGEST_BODY} bytes was expected, got {len(body)}")
        if not _is_a_signature(signature):
            raise RefusedError(NOT_STRIPES)
        secret = self.secret()
        if not secret:
            raise RefusedError("no signing secret is known: 'metering stripe webhook' puts it")
        try:
            stripe.WebhookSignature.verify_header(body.decode(), signature, secret, tolerance=OLDEST)
        except (stripe.SignatureVerificationError, UnicodeDecodeError) as error:
            raise RefusedError(NOT_STRIPES) from error
        notification = _read(lambda: msgspec.json.decode(body, type=_Notification))
        if notification.type in SUBSCRIPTION_EVENTS:
            return Told(subscription=_subscription_of(notification))
        if notification.type not in (ERROR_REPORT, NO_METER_FOUND):  # as the ping that a new destination is sent
            return Told()
        try:
            return Told(dict(self._named(self._fetch(notification.id))))
        except StripeRejectedError as error:
            raise NotUnderstoodError(str(error)) from error

    def _fetch(self, event: str) -> _Report:
        """Return the event of a notification, which itself says no more than its id.

        As plain data: of what is not as the SDK expects it, its classes would raise something in the middle.
        """
        if not _is_an_id(event):
            raise NotUnderstoodError("the event's id is none")
        answer: Any = self.meters.call(lambda client: client.raw_request("get", f"/v2/core/events/{event}"))
        return _read(lambda: msgspec.convert(answer.data, _Report))

    def _named(self, report: _Report) -> Iterator[tuple[str, str]]:
        ours = list(_ours(report))
        if not ours:
            return
        concerns = self._concerned(report.related_object.id if report.related_object else None)
        for known_as, metric, words in ours:
            if concerns(self.meters.event_name(metric)):
                yield known_as, words

    def _concerned(self, about: str | None) -> Callable[[str], bool]:
        """Return whether an event about a meter, or about none that there is, concerns usage of an event name."""
        if not about:
            there = self.meters.meters()
            return lambda event_name: event_name not in there
        meter = self.meters.call(lambda client: client.v1.billing.meters.retrieve(about))  # archived ones, too
        return lambda event_name: event_name == meter.event_name


def customer_of(stripe: StripeAccount, subscription: str) -> str:
    """Return whose a subscription is."""
    return str(stripe.call(lambda client: client.v1.subscriptions.retrieve(subscription)).customer)


def _subscription_of(notification: _Notification) -> str:
    """Return the subscription that a notification names by itself, so that its event need not be read."""
    about = notification.related_object and notification.related_object.id
    if not about or not _is_an_id(about):
        raise NotUnderstoodError(f"{notification.type} names no subscription")
    return about


def _is_an_id(text: str) -> bool:
    return text.isascii() and text.replace("_", "").isalnum()


def _is_a_signature(header: str) -> bool:
    """Say whether a header could be a signature at all: a time, and hexadecimal digits under ``v1``.

    (Stripe, "Resolve webhook signature verification errors", "Verify webhook signatures manually".)
    """
    if not header.isascii():  # which the SDK compares and cannot
        return False
    parts = [part.partition("=")[::2] for part in header.split(",")]
    return any(name == "t" and value.isdecimal() and len(value) <= _LONGEST_TIME for name, value in parts) and any(
        name == "v1" and len(value) == _DIGITS and not value.strip("0123456789abcdef") for name, value in parts
    )


def _read(read: Callable[[], T]) -> T:
    try:
        return read()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotUnderstoodError(f"it is not as Stripe documents it: {str(error)[:200]}") from error


def _ours(report: _Report) -> Iterator[tuple[str, str, str]]:
    """Yield the identifier, the metric and Stripe's words of each total of a deployment of this kind that is named.

    By the meter event's identifier, or by the idempotency key of the call, which begins with it. A call of the event
    stream has one key for all its events: what is named so is found by the hourly look.
    """
    reason = report.data and report.data.reason
    for kind in (reason and reason.error_types) or ():
        for sample in kind.sample_errors or ():
            request = sample.request or _Request()
            for name in filter(None, (request.identifier, request.idempotency_key)):
                known_as = name.partition("#")[0]
                try:
                    _, metric, _ = named_by(known_as)
                except ValueError:
                    continue
                yield known_as, metric, sample.error_message or kind.code or "Stripe gives no reason"

"""The thin events of the local Stripe: error reports, and what has happened to subscriptions.

Error reports are what it tells later about meter events that it accepted and could not count.
A report is a thin event: its notification, which a webhook gets, names the event and its meter; the event, fetched from
`/v2/core/events/:id`, says what was wrong (docs.stripe.com/billing/subscriptions/usage-based/recording-usage,
"Handle meter event errors").
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from infra.local.stripe.params import Params, StripeError, integer, only, texts

SAMPLES = 5  # of each type of error: few, so that most go unnamed (? reports_name_a_few)
NO_METER = "no_meter"


@dataclass(frozen=True, slots=True)
class Failure:
    """One meter event that could not be counted. `at` is when it was accepted, in seconds since the epoch.

    Reports give `identifier` as `request.identifier`, as the reference and one example of the guide do; its other
    example gives `request: {"id": "", "idempotency_key": …}`. That either is the meter event's own identifier could not
    be confirmed (? error_reports_name_the_event): the reference calls it "the request idempotency key".
    """

    code: str
    meter: str | None
    message: str
    identifier: str
    at: int


@dataclass(slots=True)
class Reports:
    """The failures that are not yet reported, and the thin events that there are, by id.

    ``untold`` are notifications of subscriptions that were not sent yet.
    """

    failures: list[Failure] = field(default_factory=list)
    untold: list[dict[str, Any]] = field(default_factory=list)
    thin_events: dict[str, dict[str, Any]] = field(default_factory=dict)

    def report(self, now: float) -> list[dict[str, Any]]:
        """Report every failure since the last time, by one event for each meter; give their notifications."""
        by_meter: dict[str | None, list[Failure]] = {}
        for failure in self.failures:
            by_meter.setdefault(failure.meter, []).append(failure)
        self.failures = []
        return [self._event(meter, failures, now) for meter, failures in by_meter.items()]

    def tell(self, event: Mapping[str, Any]) -> None:
        """Make the thin event of a subscription's event, whose notification is still to be sent.

        It names the subscription, and where to read it, and nothing of what it has become ("lightweight notifications
        that identify the affected resource"; `snapshot_event` "identifies the corresponding API v1 Snapshot event":
        docs.stripe.com/changelog/endive/2026-09-30/thin-events-for-api-v1-resources-generally-available).
        """
        about = event["data"]["object"]["id"]
        where = {"id": about, "type": "subscription", "url": f"/v1/subscriptions/{about}"}
        notification = self._notification(f"v1.{event['type']}", where, event["created"])
        self.thin_events[str(notification["id"])] = notification | {"changes": None, "snapshot_event": event["id"]}
        self.untold.append(notification)

    def take_untold(self) -> list[dict[str, Any]]:
        """Give the notifications of subscriptions that are still to be sent, once."""
        untold, self.untold = self.untold, []
        return untold

    def _notification(self, kind: str, about: Mapping[str, Any], at: float) -> dict[str, Any]:
        return {
            "id": f"evt_test_{len(self.thin_events) + 1:014d}",
            "object": "v2.core.event",
            "context": None,
            "created": instant(at),
            "livemode": False,
            "reason": None,
            "type": kind,
            "related_object": dict(about),
        }

    def retrieve_thin_event(self, event: str, params: Params, _now: float) -> dict[str, Any]:
        """Give one thin event with its data (docs.stripe.com/api/v2/core/events/retrieve)."""
        only(params)
        if event not in self.thin_events:
            raise StripeError(f"Event {event} not found.", status=404, code="not_found")
        return self.thin_events[event]

    def list_thin_events(self, params: Params, _now: float) -> dict[str, Any]:
        """List the thin events of some types, newest first, on one page (docs.stripe.com/api/v2/core/events/list)."""
        only(params, "limit", "types")
        wanted = texts(params, "types")
        events = [event for event in reversed(self.thin_events.values()) if wanted is None or event["type"] in wanted]
        return {
            "data": events[: integer(params, "limit", default=20)],
            "next_page_url": None,
            "previous_page_url": None,
        }

    def _event(self, meter: str | None, failures: Sequence[Failure], now: float) -> dict[str, Any]:
        """Make an event of the failures of one meter, or of those that name none; give its notification."""
        kind = "v1.billing.meter.error_report_triggered" if meter else "v1.billing.meter.no_meter_found"
        # Where there is no meter, the guide's example has this object, empty ("Example error event for an incorrect
        # meter"), which the SDK's type has not.
        about = {"id": meter, "type": "billing.meter", "url": f"/v1/billing/meters/{meter}"} if meter else {}
        notification = self._notification(kind, about, now)
        codes = Counter(failure.code for failure in failures)
        self.thin_events[str(notification["id"])] = notification | {
            "changes": None,
            "data": {
                "developer_message_summary": (
                    "There is 1 invalid event" if len(failures) == 1 else f"There are {len(failures)} invalid events"
                ),
                "reason": {
                    "error_count": len(failures),
                    "error_types": [
                        {"code": code, "error_count": count, "sample_errors": _samples(failures, code)}
                        for code, count in codes.items()
                    ],
                },
                "validation_end": instant(max(failure.at for failure in failures) + 1),
                "validation_start": instant(min(failure.at for failure in failures)),
            },
        }
        return notification


def _samples(failures: Sequence[Failure], code: str) -> list[dict[str, Any]]:
    """Give the first few failures with a code."""
    alike = [failure for failure in failures if failure.code == code]
    return [
        {"error_message": failure.message, "request": {"identifier": failure.identifier}} for failure in alike[:SAMPLES]
    ]


def instant(moment: float) -> str:
    """Write a time as the v2 API does: in UTC, with milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

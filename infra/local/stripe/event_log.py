"""The snapshot events of the local Stripe: what happened to an object, and the object as it was then.

Of what happened to a subscription there is a thin event, too, of the same name after `v1.`
(docs.stripe.com/changelog/endive/2026-09-30/thin-events-for-api-v1-resources-generally-available).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.local.stripe.meter import DAY
from infra.local.stripe.params import PAGING, Params, StripeError, moments, only, page, text, texts
from infra.local.stripe.reports import Reports

EVENT_MEMORY = 30 * DAY  # docs.stripe.com/api/events: "for 30 days"
SUBSCRIPTION = "customer.subscription."


@dataclass(slots=True)
class EventLog:
    """Every event of an account, in the order of time."""

    version: str
    thin: Reports
    events: list[dict[str, Any]] = field(default_factory=list)

    def record(self, kind: str, about: Mapping[str, Any], at: int) -> None:
        """Record an event of type `kind` with a snapshot of its object."""
        self.events.append(
            {
                "id": f"evt_{len(self.events) + 1:014d}",
                "object": "event",
                "api_version": self.version,
                "created": at,
                "data": {"object": copy.deepcopy(dict(about))},
                "livemode": False,
                "pending_webhooks": 0,
                "request": {"id": None, "idempotency_key": None},
                "type": kind,
            }
        )
        if kind.startswith(SUBSCRIPTION):
            self.thin.tell(self.events[-1])

    def list_events(self, params: Params, now: float) -> dict[str, Any]:
        """List events of the last 30 days, newest first (docs.stripe.com/api/events/list)."""
        only(params, "created", "type", "types", *PAGING)
        created, kinds = moments(params, "created"), texts(params, "types")
        if "type" in params and kinds is not None:
            raise StripeError("You may only specify one of these parameters: type, types.", param="type")
        if "type" in params:
            kinds = [text(params, "type")]
        events = [
            event
            for event in reversed(self.events)
            if event["created"] > now - EVENT_MEMORY
            and created(event["created"])
            and (kinds is None or any(_is_of(event["type"], kind) for kind in kinds))
        ]
        return page(events, params, "/v1/events")

    def retrieve_event(self, event: str, params: Params, now: float) -> dict[str, Any]:
        """Give one event of the last 30 days."""
        only(params)
        for each in self.events:
            if each["id"] == event and each["created"] > now - EVENT_MEMORY:
                return each
        raise StripeError(f"No such event: '{event}'", status=404, code="resource_missing", param="id")


def _is_of(kind: str, wanted: str) -> bool:
    """Tell whether a type is the wanted one, where `*` stands for any end (docs: "using * as a wildcard")."""
    return kind.startswith(wanted[:-1]) if wanted.endswith("*") else kind == wanted

"""The event destinations of the local Stripe: who is sent its thin events, and what they are signed with.

The source is docs.stripe.com/api/v2/core/event-destinations and the parameters' types of Stripe's own SDK.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from infra.local.stripe.params import Params, StripeError, integer, metadata, nested, one_of, only, text, texts
from infra.local.stripe.reports import instant

SIGNING_SECRET, URL = "webhook_endpoint.signing_secret", "webhook_endpoint.url"
PING = "v2.core.event_destination.ping"
OFTEN = 20  # destinations on a page where no limit is given: of this list no document says how many
ROUTE = "/v2/core/event_destinations"
CREATE_PARAMS = ("description", "enabled_events", "event_payload", "events_from", "include", "metadata", "name", "type")


@dataclass(frozen=True, slots=True)
class Destination:
    """One webhook endpoint, which wants thin events of some kinds."""

    id: str
    url: str
    secret: str
    name: str
    kinds: tuple[str, ...]
    metadata: Mapping[str, str]
    created: float

    def as_json(self, *included: str) -> dict[str, Any]:
        """Give it as the API does: without its address and its secret, unless they are included."""
        made = instant(self.created)
        return {
            "id": self.id,
            "object": "v2.core.event_destination",
            "created": made,
            "description": "",
            "enabled_events": list(self.kinds),
            "event_payload": "thin",
            "events_from": ["@self"],
            "livemode": False,
            "metadata": dict(self.metadata),
            "name": self.name,
            "snapshot_api_version": None,
            "status": "enabled",
            "status_details": None,
            "type": "webhook_endpoint",
            "updated": made,
            "webhook_endpoint": {
                "signing_secret": self.secret if SIGNING_SECRET in included else None,
                "url": self.url if URL in included else None,
            },
        }


@dataclass(slots=True)
class Destinations:
    """An account's event destinations, and the pings that new ones are still to be sent."""

    made: list[Destination] = field(default_factory=list)
    pings: list[tuple[Destination, dict[str, Any]]] = field(default_factory=list)
    numbered: int = 0

    def create_destination(self, params: Params, now: float) -> dict[str, Any]:
        """Make a webhook endpoint for thin events; other kinds of destinations are none of this account's.

        Its secret is shown now or never (the SDK's `EventDestination.WebhookEndpoint.signing_secret`). It is sent a
        ping as observed of the dashboard's; that the API's are sent one, too, could not be confirmed
        (? a_new_destination_is_pinged).
        """
        only(params, *CREATE_PARAMS, "webhook_endpoint")
        one_of(params, "type", ("webhook_endpoint",))
        one_of(params, "event_payload", ("thin",))
        kinds = texts(params, "enabled_events")
        if not kinds:
            raise StripeError("Missing required param: enabled_events.", code="parameter_missing")
        self.numbered += 1
        number = self.numbered
        made = Destination(
            id=f"ed_test_{number:014d}",
            url=text(nested(params, "webhook_endpoint", required=True), "url"),
            secret=f"whsec_test_{number:026d}",
            name=text(params, "name"),
            kinds=tuple(kinds),
            metadata=dict(nested(params, "metadata")),
            created=now,
        )
        self.made.append(made)
        self.pings.append((made, _ping(made, number, now)))
        return made.as_json(*(texts(params, "include") or ()))

    def update_destination(self, destination: str, params: Params, _now: float) -> dict[str, Any]:
        """Change which events a destination is sent, and what it is called.

        docs.stripe.com/api/v2/core/event-destinations/update.
        """
        only(params, "enabled_events", "include", "metadata", "name")
        found = next((number for number, each in enumerate(self.made) if each.id == destination), None)
        if found is None:
            raise StripeError(f"Event destination {destination} not found.", status=404, code="not_found")
        before = self.made[found]
        kinds = texts(params, "enabled_events")
        self.made[found] = replace(
            before,
            kinds=before.kinds if kinds is None else tuple(kinds),
            name=text(params, "name", default=before.name),
            metadata=metadata(dict(before.metadata), params),
        )
        return self.made[found].as_json(*(texts(params, "include") or ()))

    def list_destinations(self, params: Params, _now: float) -> dict[str, Any]:
        """List the destinations, a page at a time, each of which names the next (docs.stripe.com/api/v2/pagination)."""
        only(params, "include", "limit", "page")
        limit, first = integer(params, "limit", default=OFTEN), integer(params, "page", default=0)
        included = texts(params, "include") or []
        if SIGNING_SECRET in included:
            raise StripeError(f"{SIGNING_SECRET} cannot be included here.", param="include")
        queried = "".join(f"&include[{number}]={name}" for number, name in enumerate(included))
        more = f"{ROUTE}?limit={limit}&page={first + limit}{queried}" if first + limit < len(self.made) else None
        shown = self.made[first : first + limit]
        return {"data": [one.as_json(*included) for one in shown], "next_page_url": more, "previous_page_url": None}

    def delete_destination(self, destination: str, params: Params, _now: float) -> dict[str, Any]:
        """Delete a destination: it is sent nothing more (docs.stripe.com/api/v2/core/event-destinations/delete)."""
        only(params)
        if destination not in {each.id for each in self.made}:
            raise StripeError(f"Event destination {destination} not found.", status=404, code="not_found")
        self.made = [each for each in self.made if each.id != destination]
        self.pings = [(to, ping) for to, ping in self.pings if to.id != destination]
        return {"id": destination, "object": "v2.core.event_destination"}

    def wanting(self, kind: str) -> list[Destination]:
        """Give those that want events of a kind."""
        return [destination for destination in self.made if kind in destination.kinds]

    def take_pings(self) -> list[tuple[Destination, dict[str, Any]]]:
        """Give the pings that are still to be sent, once."""
        pings, self.pings = self.pings, []
        return pings


def _ping(about: Destination, number: int, now: float) -> dict[str, Any]:
    """Make a new destination's first notification (docs.stripe.com/api/v2/core/event-destinations/ping)."""
    return {
        "id": f"evt_test_ping{number:010d}",
        "object": "v2.core.event",
        "context": None,
        "created": instant(now),
        "livemode": False,
        "reason": None,
        "related_object": {"id": about.id, "type": "event_destination", "url": f"{ROUTE}/{about.id}"},
        "type": PING,
    }

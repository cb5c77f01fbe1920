"""API Gateway's usage plans and keys in memory, by AWS's documents: the emulator and moto do not conflict as AWS does.

- "a given API key can only be associated with one usage plan for each stage of your API": API Gateway Developer Guide,
  "Usage plans and API keys for REST APIs in API Gateway". CreateUsagePlanKey then answers ConflictException (409), as
  for a key that is in the plan already (API Gateway API reference, "CreateUsagePlanKey").
- GetUsagePlans with ``keyId`` lists the plans of that key; ``limit`` is 25 unless given, 500 at most; ``position`` says
  where the next page begins (API reference, "GetUsagePlans").
- Any call may be answered by TooManyRequestsException (429) with ``retryAfterSeconds`` (the same pages).
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import ClientError

from tests.doubles.aws import Client

_MADE: Final = datetime(2026, 11, 1, tzinfo=UTC)


class NotFoundException(ClientError):  # noqa: N818  as clients name it
    """There is no such API, stage, plan, key, or key in the plan."""


class BadRequestException(ClientError):  # noqa: N818  as clients name it
    """What was asked makes no sense."""


class ConflictException(ClientError):  # noqa: N818  as clients name it
    """The key is in this plan, or in another one of the same stage."""


class TooManyRequestsException(ClientError):  # noqa: N818  as clients name it
    """The account's calls are too many."""


class Exceptions:
    """What the client raises, under the names that boto3 has."""

    NotFoundException = NotFoundException
    BadRequestException = BadRequestException
    ConflictException = ConflictException
    TooManyRequestsException = TooManyRequestsException


class UsagePlansOfAws:
    """Plans, each with its stages, throttle and tags, and the keys in them.

    ``page`` is how many plans a page has at most; ``refusals`` are taken, one a call, before anything is done:
    seconds to wait, or None to take the call.
    """

    exceptions = Exceptions

    def __init__(self, page: int = 500, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.plans: dict[str, dict[str, Any]] = {}
        self.members: dict[str, list[str]] = {}
        self.keys: dict[str, dict[str, Any]] = {}
        self.refusals: list[int | None] = []
        self.called: list[tuple[float, str]] = []
        self.page, self._clock = page, clock

    def client(self) -> Client:
        """Return a new client."""
        return Client("apigateway", self)

    def add_plan(self, name: str, *stages: str, rate: float = 0, tags: dict[str, str] | None = None) -> str:
        """Make a plan of these stages, each written ``<API>/<stage>``, and return its id."""
        made: dict[str, Any] = {"id": f"plan{len(self.plans) + 1:04d}", "name": name, "tags": tags or {}}
        made["apiStages"] = [dict(zip(("apiId", "stage"), stage.split("/"), strict=True)) for stage in stages]
        if rate:
            made["throttle"] = {"rateLimit": rate, "burstLimit": int(rate)}
        self.plans[made["id"]], self.members[made["id"]] = made, []
        return str(made["id"])

    def add_key(self, *plans: str, name: str = "") -> str:
        """Make a key in these plans, and return its id."""
        made = f"key{len(self.keys) + 1:07d}"
        self.keys[made] = {"id": made, "name": name or made, "value": f"secret of {made}", "createdDate": _MADE}
        for plan in plans:
            self._put(plan, made)
        return made

    def of(self, key: str) -> set[str]:
        """Return the plans of a key, by their names."""
        return {self.plans[plan]["name"] for plan, keys in self.members.items() if key in keys}

    def drop_plan(self, plan: str) -> None:
        """Delete a plan."""
        del self.plans[plan], self.members[plan]

    def create_usage_plan(self, *, name: str) -> dict[str, Any]:
        """Make a plan without stages."""
        self._call("create_usage_plan")
        return dict(self.plans[self.add_plan(name)])

    def get_usage_plans(
        self,
        *,
        keyId: str = "",  # noqa: N803  as API Gateway names them, here and below
        limit: int = 25,
        position: str = "",
    ) -> dict[str, Any]:
        """Return a page of the plans, or of a key's plans."""
        self._call("get_usage_plans")
        if keyId and keyId not in self.keys:
            raise _error(NotFoundException, "GetUsagePlans", "Invalid API Key identifier specified")
        found = [plan for name, plan in self.plans.items() if not keyId or keyId in self.members[name]]
        begin, most = int(position or 0), min(limit, self.page)
        page: dict[str, Any] = {"items": [dict(plan) for plan in found[begin : begin + most]]}
        if begin + most < len(found):
            page["position"] = str(begin + most)
        return page

    def get_usage_plan_key(self, *, usagePlanId: str, keyId: str) -> dict[str, Any]:  # noqa: N803
        """Return a key of a plan."""
        self._call("get_usage_plan_key")
        if keyId not in self.members.get(usagePlanId, ()):
            raise _error(NotFoundException, "GetUsagePlanKey", "Invalid Usage Plan ID specified")
        return {"id": keyId, "type": "API_KEY"}

    def get_usage_plan_keys(self, *, usagePlanId: str) -> dict[str, Any]:  # noqa: N803
        """Return the keys of a plan."""
        self._call("get_usage_plan_keys")
        return {"items": [{"id": key} for key in self.members[usagePlanId]]}

    def create_usage_plan_key(self, *, usagePlanId: str, keyId: str, keyType: str) -> dict[str, Any]:  # noqa: N803
        """Put a key into a plan."""
        self._call("create_usage_plan_key")
        self._put(usagePlanId, keyId)
        return {"id": keyId, "type": keyType}

    def delete_usage_plan_key(self, *, usagePlanId: str, keyId: str) -> None:  # noqa: N803
        """Take a key out of a plan."""
        self._call("delete_usage_plan_key")
        if keyId not in self.members.get(usagePlanId, ()):
            raise _error(NotFoundException, "DeleteUsagePlanKey", "Invalid Usage Plan ID specified")
        self.members[usagePlanId].remove(keyId)

    def create_api_key(self, *, name: str, enabled: bool, description: str = "") -> dict[str, Any]:
        """Make a key."""
        assert enabled
        self._call("create_api_key")
        made = self.keys[self.add_key(name=name)]
        made["description"] = description
        return dict(made)

    def get_api_key(self, *, apiKey: str, includeValue: bool = False) -> dict[str, Any]:  # noqa: N803
        """Return a key."""
        self._call("get_api_key")
        if apiKey not in self.keys:
            raise _error(NotFoundException, "GetApiKey", "Invalid API Key identifier specified")
        return {name: value for name, value in self.keys[apiKey].items() if includeValue or name != "value"}

    def get_api_keys(self, *, nameQuery: str = "", limit: int = 25, position: str = "") -> dict[str, Any]:  # noqa: N803
        """Return the keys whose names begin so."""
        self._call("get_api_keys")
        found = [key for key in self.keys.values() if key["name"].startswith(nameQuery)]
        begin = int(position or 0)
        page: dict[str, Any] = {"items": [dict(key) for key in found[begin : begin + limit]]}
        if begin + limit < len(found):
            page["position"] = str(begin + limit)
        return page

    def delete_api_key(self, *, apiKey: str) -> None:  # noqa: N803
        """Delete a key, from its plans too."""
        self._call("delete_api_key")
        del self.keys[apiKey]
        for keys in self.members.values():
            if apiKey in keys:
                keys.remove(apiKey)

    def _call(self, operation: str) -> None:
        self.called.append((self._clock(), operation))
        after = self.refusals.pop(0) if self.refusals else None
        if after is not None:
            raise _error(TooManyRequestsException, operation, "Too Many Requests", retryAfterSeconds=str(after))

    def _put(self, plan: str, key: str) -> None:
        if plan not in self.plans or key not in self.keys:
            raise _error(NotFoundException, "CreateUsagePlanKey", "Invalid Usage Plan ID specified")
        stages = self._stages(plan)
        for other, keys in self.members.items():
            if key in keys and (other == plan or stages & self._stages(other)):
                words = f"{key} is already subscribed to {other}, which has a stage of {plan}"
                raise _error(ConflictException, "CreateUsagePlanKey", words)
        self.members[plan].append(key)

    def _stages(self, plan: str) -> set[tuple[str, str]]:
        return {(stage["apiId"], stage["stage"]) for stage in self.plans[plan]["apiStages"]}


def _error(kind: type[ClientError], operation: str, message: str, **more: str) -> ClientError:
    answer: Any = {"Error": {"Code": kind.__name__, "Message": message}, **more}
    return kind(answer, operation)

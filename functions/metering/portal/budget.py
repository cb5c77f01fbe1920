"""A customer's own budget, as it sets it: ``PUT /v1/budget``, which a function of its own answers.

A budget is put whole, and whoever puts one last has meant it: two people who do so at once read no number that they
would have to answer for, so that no ``If-Match`` is asked for. Each write is conditional all the same, since what was
read decides whether a budget may be.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, CORSConfig, Response
from aws_lambda_powertools.event_handler.openapi.params import Body
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field

from metering.model.limit_checks import MOST
from metering.model.limits import SPEND, AnyLimit, Applying, Budget, Stop, applying, may_stop
from metering.model.prices import Plan, limits_of
from metering.portal.callers import bearer_of, check_token
from metering.portal.http import (
    ProblemError,
    application,
    built,
    check_body,
    check_query,
    failed,
    finished,
    good,
    new_router,
)
from metering.portal.limits import shown_budget
from metering.portal.tokens import Bearer, PortalKeys, Right, Use
from metering.stores.aws import ERRORS
from metering.stores.limits import LimitItems, OfOne
from metering.stores.table import RowChangedError

if TYPE_CHECKING:
    from mypy_boto3_lambda.client import LambdaClient

BUDGET: Final = "/v1/budget"

TRIES: Final = 4
"""How often a budget is decided on anew while somebody else writes it."""

logger = Logger(child=True)
budget_routes = new_router()


class WantedBudget(BaseModel):
    """A whole budget, in the smallest unit of the subscription's currency; null is none."""

    notify: int | None = Field(ge=1, le=MOST, strict=True)
    stop: int | None = Field(ge=1, le=MOST, strict=True)


@dataclass(frozen=True, slots=True)
class Budgets:
    """Sets budgets, and writes nothing else; ``functions`` start the one of this name that looks at customers."""

    deployment: str
    keys: PortalKeys
    items: LimitItems
    plans: Sequence[Plan]
    functions: "LambdaClient"
    watch_limits: str

    def put(self, name: str, wanted: WantedBudget, now: datetime) -> tuple[Budget, bool]:
        """Set a customer's budget; return it, and whether the customer may stop itself. Raises ProblemError.

        What is so already is not written again, so that a replay changes nothing (I2).
        """
        for _ in range(TRIES):
            known = self.items.of(name)
            declared = limits_of(self.plans, known.subscribed.plans if known.subscribed else ())
            before, after = known.budget or Budget(), decided(known, declared, wanted, now)
            may = may_stop(limit for _, limit in declared)
            if (before.notify, before.stop) == (after.notify, after.stop):
                return before, may
            try:
                return self.items.save_budget(name, after), may
            except RowChangedError:
                continue
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE, "the budget is being set by somebody else: try again", {"Retry-After": "1"}
        )

    def ask_to_look(self, name: str) -> None:
        """Have a customer looked at now; if that cannot be asked for, the sweep does it within a quarter of an hour.

        Asking twice is harmless: whoever looks comes to the same.
        """
        asked = msgspec.json.encode({"look": [name]})
        try:
            self.functions.invoke(FunctionName=self.watch_limits, InvocationType="Event", Payload=asked)
        except ERRORS as error:
            logger.warning("a look was not asked for", customer=name, error=type(error).__name__)


def decided(known: OfOne, declared: Sequence[tuple[str, AnyLimit]], wanted: WantedBudget, now: datetime) -> Budget:
    """Return the budget that is to be written; raise ProblemError for one that may not be."""
    if (wanted.notify or wanted.stop) and not (known.subscribed and known.subscribed.plans):
        raise ProblemError(
            HTTPStatus.CONFLICT, "there is no subscription to a plan, so that nothing is spent that a budget is about"
        )
    if wanted.stop and not may_stop(limit for _, limit in declared):
        raise ProblemError(
            HTTPStatus.CONFLICT, f"your plan lets a budget notify, and not stop: stop must be null; got {wanted.stop:,}"
        )
    lowest = _lowest_limit(applying(declared, known.own, None, now))
    if wanted.stop and lowest is not None and wanted.stop > lowest:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"stop must be {lowest:,} at most, as your limit is; got {wanted.stop:,}"
        )
    version = known.budget.version if known.budget else 0
    return Budget(wanted.notify or 0, wanted.stop or 0, int(now.timestamp()), version)


def _lowest_limit(limits: Iterable[Applying]) -> int | None:
    """Return up to which amount of a period a budget may stop: where the operator's limits do, or what they are of.

    None if there is no limit of what is spent.
    """
    of_money = [limit for limit in limits if (limit.metric, limit.per) == (SPEND, "period")]
    stops = ((limit, [step for step in limit.steps if isinstance(step, Stop)]) for limit in of_money)
    return min(
        (min(map(limit.threshold, steps)) if steps else limit.most for limit, steps in stops),
        default=None,
    )


@budget_routes.put(BUDGET)
def _put(wanted: Annotated[WantedBudget, Body()]) -> Response[str]:
    budgets: Budgets = budget_routes.context["budgets"]
    bearer: Bearer = budget_routes.context["bearer"]
    budget, may = budgets.put(bearer.customer, wanted, budget_routes.context["now"])
    budgets.ask_to_look(bearer.customer)
    logger.info("budget set", customer=bearer.customer, version=budget.version)
    return good(msgspec.json.encode(shown_budget(bearer, budget, may_stop=may)).decode())


def answer(
    event: dict[str, Any],
    context: LambdaContext,
    *,
    budgets: Callable[[], Budgets],
    cors: CORSConfig | None,
    now: datetime,
) -> dict[str, Any]:
    """Answer a request; ``budgets`` are made when there is a token to look at."""
    try:
        token = check_token(event)
        known = budgets()
        bearer = _whoever_may(token, known, now)
        check_query(event)
        check_body(event)
        app = _application(cors=cors)
        app.append_context(budgets=known, bearer=bearer, now=now)  # type: ignore[no-untyped-call]
        answered = app.resolve({**event, "rawPath": event["routeKey"].partition(" ")[2]}, context)
    except ProblemError as problem:
        answered = built(problem.response(), event)
    except Exception as error:  # noqa: BLE001 - the process's outermost edge
        answered = built(failed(error), event)
    return finished(answered, event, cors)


def _whoever_may(token: str, known: Budgets, now: datetime) -> Bearer:
    bearer = bearer_of(token, known.keys, deployment=known.deployment, now=now, use=Use.SESSION)
    if Right.BUDGET not in bearer.may:
        raise ProblemError(
            HTTPStatus.FORBIDDEN, "this session shows, and may set no budget: ask whoever bills you for a link that may"
        )
    return bearer


@lru_cache(maxsize=1)  # the routes tell what a request is about by the application that took them in last
def _application(*, cors: CORSConfig | None) -> APIGatewayHttpResolver:
    return application(cors, budget_routes)

"""How a customer stands with its limits, as the customers' API tells it, and the budget that it sets itself."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import EndpointConnectionError

import show_usage
from metering.model.limits import Budget, Level, Limit, LimitState, Notify, OfCustomer, Slow, Spend, Stop
from metering.model.metrics import Count, Sum
from metering.model.periods import Hour
from metering.model.prices import Flat, PerUnit, Plan
from metering.model.subscribed import Subscribed
from metering.portal.answers import BudgetAnswer, LimitsAnswer
from metering.portal.tokens import Right, Use
from metering.stores import aws as clients
from metering.stores.limits import Gate, Held, LimitItems
from metering.stores.table import RowChangedError
from tests.doubles.aws import Client, Nobody
from tests.doubles.template import Template, grants
from tests.integration.portal import IAM, ORIGIN, Answer, Portal, opened
from tests.integration.world import HOUR, World, moment

METRICS = (
    Count(name="requests"),
    Sum(name="bytes", of="response_length"),
    Sum(name="tokens", of="authorizer.tokens", scale=3),
)
PRICES = (Flat(amount=4900), PerUnit(metric="requests", amount=10))
DAILY = Limit("requests", 50, per="day", at=(Notify(80), Slow(90), Stop(100)))
MONEY = Spend(10_000, at=(Notify(50), Stop(100)), customer_may_stop=True)
PLANS = (
    Plan(name="standard", title="Standard", currency="usd", prices=PRICES, limits=(DAILY, MONEY)),
    Plan(name="fixed", title="Fixed", currency="usd", prices=PRICES, limits=(Spend(20_000),)),
    Plan(name="told", title="Told", currency="usd", prices=PRICES, limits=(Spend(20_000, customer_may_stop=True),)),
    Plan(name="free", title="Free", currency="usd", prices=PRICES),
)
BEGAN = HOUR.start - timedelta(days=10)
MAY = (Right.BUDGET,)


def seconds(when: datetime) -> int:
    """Return a moment in seconds since 1970."""
    return int(when.timestamp())


@pytest.fixture
def items(world: World) -> LimitItems:
    """What decides about customers' keys."""
    return LimitItems(world.ledger.client, world.ledger.table)


@pytest.fixture
def portal(
    world: World, items: LimitItems, limits_template: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Portal]:
    """The API of a deployment whose customer acme is subscribed to the plan with limits."""
    world.customer("acme", "key1", "key2")
    subscribe(items, "standard")
    monkeypatch.setattr(clients, "functions", cache(lambda: Client("lambda", Nobody())))
    with opened(
        world, limits_template, monkeypatch, tmp_path, metrics=METRICS, plans=PLANS, origins=ORIGIN, limits=True
    ) as made:
        answered_by({"StatusCode": 202})
        yield made


def answered_by(answer: Any) -> list[tuple[Any, ...]]:
    """Let Lambda answer, or fail, from now on; return what it will be asked."""
    asked: list[tuple[Any, ...]] = []

    def take(operation: str, how: Mapping[str, Any]) -> Any:
        asked.append((operation, how["FunctionName"], how["InvocationType"], json.loads(how["Payload"])))
        if isinstance(answer, Exception):
            raise answer
        return answer

    functions: Any = clients.functions()
    functions.before[:] = [take]
    return asked


def subscribe(items: LimitItems, *plans: str, name: str = "acme", **changes: Any) -> None:
    """Let a customer be subscribed since ten days ago."""
    before = items.of(name).subscribed
    usual = Subscribed(
        at=seconds(BEGAN),
        stripe_customer="cus_acme",
        status="active",
        since=seconds(BEGAN),
        plans=plans,
        currency="usd",
        interval="month",
        anchor=seconds(BEGAN),
        begin=seconds(BEGAN),
        end=seconds(BEGAN.replace(month=12)),
        prices=tuple(msgspec.json.encode(price).decode() for price in PRICES),
        version=before.version if before else 0,
    )
    items.subscribe(name, msgspec.structs.replace(usual, **changes))


def use(world: World, times: int, *, key: str = "key1", hour: Hour = HOUR) -> None:
    """Let requests of an hour be counted."""
    world.record(*(world.line(key=key, time=moment(hour)) for _ in range(times)))


def shown(portal: Portal) -> dict[str, Any]:
    """Return how acme is told that it stands."""
    answer = portal.get("/v1/limits")
    assert answer.status == 200, answer.body
    return dict(answer.json())


def of(portal: Portal, limit: str) -> dict[str, Any]:
    """Return how acme stands with one limit."""
    return next(one for one in shown(portal)["limits"] if one["limit"] == limit)


def put(portal: Portal, body: Any, **how: Any) -> Answer:
    """Set acme's budget, by a session that may unless another token is given."""
    token = how.pop("token", portal.token(may=MAY))
    text = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": "application/json"} | how.pop("headers", {})
    return portal.call("PUT", "/v1/budget", token=token, body=text, headers=headers, **how)


def test_each_limit_is_told_with_what_is_used_and_left_and_when_it_resets(portal: Portal) -> None:
    """As the page shows usage: of open hours too, and of all its keys; of another day nothing counts against a day."""
    use(portal.world, 20)
    use(portal.world, 22, key="key2")
    use(portal.world, 3, hour=Hour(HOUR.number - 24))
    assert of(portal, "requests/day") == {
        "limit": "requests/day",
        "metric": "requests",
        "per": "day",
        "window": {"from": "2026-11-22T00", "to": "2026-11-23T00"},
        "most": 50,
        "used": 42,
        "remaining": 8,
        "percent": 84,
        "scale": 0,
        "at_least": False,
        "source": "plan",
        "source_in_words": "the plan standard",
        "steps": [
            {"does": "notify", "percent": 80, "at": 40, "acted_at": None},
            {"does": "slow", "percent": 90, "at": 45, "acted_at": None},
            {"does": "stop", "percent": 100, "at": 50, "acted_at": None},
        ],
    }


def test_money_is_told_as_the_invoice_adds_it_up(portal: Portal) -> None:
    """By the prices that the subscription has, fees too, over its own period; whose end is when it resets."""
    use(portal.world, 42)
    spend = of(portal, "spend/period")
    assert (spend["used"], spend["most"], spend["remaining"], spend["percent"]) == (4900 + 420, 10_000, 4680, 53)
    assert spend["window"] == {"from": "2026-11-12T05", "to": "2026-12-12T05"}
    assert (shown(portal)["currency"], shown(portal)["decimals"]) == ("usd", 2)


def test_money_that_only_stripe_can_reckon_with_is_told_as_a_least(portal: Portal, items: LimitItems) -> None:
    """I9: where a price is like none that can be declared, the others are what is known."""
    subscribe(items, "standard", unpriced=("price_odd",))
    assert (of(portal, "spend/period")["used"], of(portal, "spend/period")["at_least"]) == (4900, True)
    assert of(portal, "requests/day")["at_least"] is False


def test_closed_hours_count_as_they_are_in_the_ledger(portal: Portal) -> None:
    """And nothing is counted twice while an hour closes."""
    use(portal.world, 42)
    portal.world.after_grace()
    portal.world.close()
    assert of(portal, "requests/day")["used"] == 42
    assert of(portal, "spend/period")["used"] == 4900 + 420


def test_what_has_acted_in_the_running_window_is_told_with_when(portal: Portal, items: LimitItems) -> None:
    """What acted yesterday says nothing of today."""
    at = seconds(portal.world.now)
    today = LimitState(begin="2026-11-22T00", end="2026-11-23T00", acted={"notify:80": at})
    items.save_state("acme", "requests/day", today)
    assert [step["acted_at"] for step in of(portal, "requests/day")["steps"]] == ["2026-11-22T05:30:00Z", None, None]
    portal.world.now += timedelta(days=1)
    assert [step["acted_at"] for step in of(portal, "requests/day")["steps"]] == [None, None, None]


def test_access_is_open_where_nothing_slows_keys(portal: Portal, items: LimitItems) -> None:
    """Without a lane a Slow only tells: the reason stands there, and access is what callers find."""
    slow = LimitState(begin="2026-11-22T00", end="2026-11-23T00", level=Level.SLOWED, since=seconds(portal.world.now))
    items.save_state("acme", "requests/day", slow)
    found = items.save_gate("acme", Gate(Level.SLOWED, keys=2, left={"key1": "no lane", "key2": "no lane"}))
    assert (shown(portal)["access"], [one["access"] for one in shown(portal)["reasons"]]) == ("open", ["slowed"])
    items.save_gate("acme", msgspec.structs.replace(found, left={"key1": "no lane"}))
    assert shown(portal)["access"] == "slowed", "one of its keys is slowed"


def test_access_is_as_the_reasons_are_that_hold(portal: Portal, items: LimitItems) -> None:
    """Open if and only if none holds; a limit's ends with its window, and none says what the operator thinks."""
    before = shown(portal)
    assert (before["access"], before["reasons"]) == ("open", [])
    at = seconds(portal.world.now)
    slow = LimitState(begin="2026-11-22T00", end="2026-11-23T00", level=Level.SLOWED, since=at)
    items.save_state("acme", "requests/day", slow)
    limit = {
        "name": "limit:requests/day:2026-11-22T00",
        "access": "slowed",
        "since": "2026-11-22T05:30:00Z",
        "until": "2026-11-23T00:00:00Z",
    }
    assert (shown(portal)["access"], shown(portal)["reasons"]) == ("slowed", [limit])
    items.hold("acme", "operator", Held(since=at + 60, why="looks stolen", who="arn:aws:iam::1:user/ann"))
    held = {"name": "operator", "access": "stopped", "since": "2026-11-22T05:31:00Z", "until": None}
    assert (shown(portal)["access"], shown(portal)["reasons"]) == ("stopped", [limit, held])
    assert b"stolen" not in portal.get("/v1/limits").body
    portal.world.now += timedelta(days=1)
    assert shown(portal)["reasons"] == [held]


def test_the_operators_own_limit_is_told_and_its_reason_is_not(portal: Portal, items: LimitItems) -> None:
    """Where each comes from: the plan, raised or not, and what is set for this customer."""
    items.set("acme", OfCustomer("requests", "day", 500, raised=True, reason="asked by phone: twice"))
    items.set("acme", OfCustomer("bytes", "hour", 90, reason="a trial, not trusted"))
    assert {one["limit"]: (one["most"], one["source"], one["source_in_words"]) for one in shown(portal)["limits"]} == {
        "requests/day": (500, "plan", "the plan standard, raised from 50"),
        "spend/period": (10_000, "plan", "the plan standard"),
        "bytes/hour/customer": (90, "customer", "set for you by whoever bills you"),
    }
    items.set("acme", OfCustomer("tokens", "month", 9_000))
    assert (of(portal, "bytes/hour/customer")["scale"], of(portal, "tokens/month/customer")["scale"]) == (0, 3)
    assert b"trust" not in portal.get("/v1/limits").body


def test_what_is_beyond_a_limit_leaves_nothing(portal: Portal, items: LimitItems) -> None:
    """Never less; and of a limit of nothing all is used."""
    use(portal.world, 60)
    items.set("acme", OfCustomer("bytes", "hour", 0))
    told = of(portal, "requests/day"), of(portal, "bytes/hour/customer")
    assert [(one["used"], one["remaining"], one["percent"]) for one in told] == [(60, 0, 120), (600, 0, 100)]


def test_who_is_subscribed_to_nothing_has_the_operators_limits_alone(portal: Portal, items: LimitItems) -> None:
    """A period is then the month, and nothing is spent."""
    portal.world.customer("globex", "key9")
    answer = portal.get("/v1/limits", token=portal.token("globex")).json()
    assert (answer["limits"], answer["currency"], answer["access"]) == ([], None, "open")
    items.set("globex", OfCustomer("requests", "period", 7))
    use(portal.world, 2, key="key9")
    (limit,) = portal.get("/v1/limits", token=portal.token("globex")).json()["limits"]
    assert (limit["used"], limit["window"]["from"], limit["window"]["to"]) == (2, "2026-11-01T00", "2026-12-01T00")


def test_a_later_look_at_the_same_is_answered_by_304(portal: Portal) -> None:
    """The ETag is of how the customer stands, not of when that was looked at; one call more is another."""
    first = portal.get("/v1/limits")
    portal.world.now += timedelta(minutes=1)
    asked_again = portal.get("/v1/limits", if_none_match=first.headers["ETag"])
    assert (asked_again.status, asked_again.body) == (304, b"")
    assert portal.get("/v1/limits").json()["as_of"] == "2026-11-22T05:31:00Z"
    use(portal.world, 1)
    assert portal.get("/v1/limits", if_none_match=first.headers["ETag"]).status == 200


def test_who_asks_before_each_call_reads_what_moves_and_nothing_else(portal: Portal, items: LimitItems) -> None:
    """I10: closed hours are kept for a minute; then it is ten reads, of a unit each as a rule."""
    items.set("acme", OfCustomer("requests", "month", 10_000))
    use(portal.world, 5)
    portal.world.after_grace()
    portal.world.close()
    shown(portal)
    portal.calls.clear()
    shown(portal)
    assert sorted(pk for _, _, pk in portal.calls) == [
        "budget#acme",
        "customer#acme",  # its keys
        "customer#acme",  # its rows of the last hour and the open ones
        "hour#2026-11-22T05#0",
        "hour#2026-11-22T06#0",
        "key#key1",
        "key#key2",
        "late#1",
        "limits#acme",
        "period#cursor",
    ]


def test_a_long_period_is_added_up_piece_by_piece(portal: Portal, items: LimitItems) -> None:
    """As in the invoice: until it is known, the answer says to ask again at once."""
    began = HOUR.start - timedelta(days=300)
    subscribe(items, "standard", interval="year", begin=seconds(began), end=seconds(began + timedelta(days=365)))
    show_usage._parts().charges.history.piece = 24 * 200
    answer = portal.get("/v1/limits")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "being added up" in answer.json()["detail"]
    assert portal.get("/v1/limits").status == 200


def test_the_document_describes_each_field_of_how_one_stands(portal: Portal, items: LimitItems) -> None:
    """No more and no less than what is answered."""
    items.hold("acme", "unpaid", Held(since=seconds(portal.world.now)))
    items.save_budget("acme", Budget(notify=100, stop=200))
    told = shown(portal)
    assert LimitsAnswer.model_validate(told, strict=True).model_dump(by_alias=True) == told
    answer = put(portal, {"notify": 6000, "stop": None}).json()
    assert BudgetAnswer.model_validate(answer, strict=True).model_dump() == answer


def test_a_budget_is_set_whole_and_told(portal: Portal, items: LimitItems) -> None:
    """By a session that may; it is a limit from then on, and goes when it is put away."""
    answer = put(portal, {"notify": 6000, "stop": 8000})
    assert (answer.status, answer.json()) == (
        200,
        {"notify": 6000, "stop": 8000, "may_stop": True, "may_set": True},
    )
    kept = items.budget("acme")
    assert kept == Budget(notify=6000, stop=8000, at=seconds(portal.world.now), version=1)
    assert {one["limit"]: (one["most"], one["source_in_words"]) for one in shown(portal)["limits"][2:]} == {
        "budget/notify": (6000, "your own budget"),
        "budget/stop": (8000, "your own budget"),
    }
    assert shown(portal)["budget"] == {"notify": 6000, "stop": 8000, "may_stop": True, "may_set": False}
    assert put(portal, {"notify": None, "stop": None}).json()["stop"] is None
    assert [one["limit"] for one in shown(portal)["limits"]] == ["requests/day", "spend/period"]


def test_who_set_a_budget_is_looked_at_at_once(portal: Portal, items: LimitItems) -> None:
    """Also when the same is put again, as after a process that died before it asked; a refused one asks for nothing."""
    asked = answered_by({"StatusCode": 202})
    for _ in range(2):
        put(portal, {"notify": 6000, "stop": None})
    put(portal, {"notify": 6000, "stop": 10_001})
    assert asked == [("Invoke", "watch-limits", "Event", {"look": ["acme"]})] * 2
    answered_by(EndpointConnectionError(endpoint_url="https://lambda"))  # then the sweep does it
    assert put(portal, {"notify": 7000, "stop": None}).status == 200
    assert items.budget("acme") == Budget(notify=7000, at=seconds(portal.world.now), version=2)


def test_a_budget_that_is_so_already_is_not_written_again(portal: Portal, items: LimitItems) -> None:
    """I2: a replay changes nothing."""
    for _ in range(3):
        assert put(portal, {"notify": 6000, "stop": None}).status == 200
    assert items.budget("acme") == Budget(notify=6000, at=seconds(portal.world.now), version=1)


def test_a_budget_that_somebody_else_writes_meanwhile_is_decided_on_anew(
    portal: Portal, items: LimitItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes last has meant it; who never comes to write is told to try again."""
    save = LimitItems.save_budget
    meanwhile = [Budget(notify=1), None]

    def raced(self: LimitItems, name: str, after: Budget) -> Budget:
        if other := meanwhile.pop(0):
            save(items, name, other)
        return save(self, name, after)

    monkeypatch.setattr(LimitItems, "save_budget", raced)
    assert put(portal, {"notify": 6000, "stop": None}).status == 200
    kept = items.budget("acme")
    assert (kept and kept.notify, kept and kept.version) == (6000, 2)

    def never(*_: object) -> Budget:
        raise RowChangedError("changed")

    monkeypatch.setattr(LimitItems, "save_budget", never)
    answer = put(portal, {"notify": 7000, "stop": None})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    ("plan", "body", "said"),
    [
        ("standard", {"notify": None, "stop": 10_001}, (400, "stop must be 10,000 at most, as your limit is")),
        ("told", {"notify": None, "stop": 20_001}, (400, "stop must be 20,000 at most, as your limit is")),
        (
            "fixed",
            {"notify": 5, "stop": 100},
            (409, "your plan lets a budget notify, and not stop: stop must be null"),
        ),
        ("", {"notify": 5, "stop": None}, (409, "there is no subscription to a plan")),
        ("standard", {"notify": 5}, (400, "stop must be given")),
        ("standard", {"notify": 0, "stop": None}, (400, "notify input should be greater than or equal to 1; got '0'")),
        ("standard", {"notify": "5", "stop": None}, (400, "notify input should be a valid integer; got '5'")),
        ("standard", {"notify": 1.5, "stop": None}, (400, "notify input should be a valid integer")),
        ("standard", {"notify": True, "stop": None}, (400, "notify input should be a valid integer")),
        ("standard", {"notify": 10**16, "stop": None}, (400, "notify input should be less than or equal to")),
        ("standard", [1, 2], (400, "the body input should be a valid dictionary")),
        ("standard", "not json", (400, "the body must be JSON")),
        ("standard", "{" * 5000, (400, "the body must have at most 4,096 characters")),
    ],
)
def test_a_budget_that_may_not_be_is_refused(
    portal: Portal, items: LimitItems, plan: str, body: Any, said: tuple[int, str]
) -> None:
    """With what was got and wanted; and nothing is written."""
    subscribe(items, *plan.split())
    answer = put(portal, body)
    assert (answer.status, answer.headers["Content-Type"]) == (said[0], "application/problem+json")
    assert answer.json()["detail"].startswith(said[1])
    assert items.budget("acme") is None


def test_a_budget_may_be_put_away_whatever_the_plan_says_now(portal: Portal, items: LimitItems) -> None:
    """A customer is never kept in a budget that it has set."""
    put(portal, {"notify": 6000, "stop": 8000})
    subscribe(items)
    assert put(portal, {"notify": None, "stop": None}).status == 200


def test_the_operators_limit_for_a_customer_bounds_its_budget_too(portal: Portal, items: LimitItems) -> None:
    """Below, never above; a limit that was raised lets it go as far."""
    items.set("acme", OfCustomer("spend", "period", 5000))
    assert put(portal, {"notify": None, "stop": 5000}).status == 200
    assert put(portal, {"notify": None, "stop": 5001}).status == 400
    subscribe(items, "standard", name="globex")
    items.set("globex", OfCustomer("spend", "period", 30_000, raised=True))
    token = portal.token("globex", may=MAY)
    assert put(portal, {"notify": None, "stop": 30_000}, token=token).status == 200
    assert put(portal, {"notify": None, "stop": 30_001}, token=token).status == 400


def test_a_session_that_only_shows_can_stop_nobody(portal: Portal, items: LimitItems) -> None:
    """I7: nor can a link, a token of before, another deployment's, or none."""
    budget = {"notify": None, "stop": 1}
    refused = put(portal, budget, token=portal.token())
    assert (refused.status, refused.headers["Content-Type"]) == (403, "application/problem+json")
    assert "may set no budget" in refused.json()["detail"]
    for token in (
        "",
        "no.such.token",
        portal.token(may=MAY, use=Use.LINK),
        portal.token(may=MAY, key="o" * 64),
        portal.token(may=MAY, deployment="Other"),
        portal.token(may=MAY, now=portal.world.now - timedelta(hours=25)),
    ):
        answer = put(portal, budget, token=token)
        assert (answer.status, answer.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
    assert items.budget("acme") is None


def test_a_budget_is_its_token_customers_alone(portal: Portal, items: LimitItems) -> None:
    """I6: no field of the request names another."""
    answer = put(portal, {"notify": 7000, "stop": None, "customer": "globex"})
    assert answer.status == 200
    assert items.budget("globex") is None
    assert items.budget("acme") == Budget(notify=7000, at=seconds(portal.world.now), version=1)


def test_a_session_may_what_its_link_may(portal: Portal) -> None:
    """The link says so when it is made; one that was made without shows, and a session adds nothing to it."""
    for may, status in (({}, 403), ({"may": []}, 403), ({"may": ["budget"]}, 200)):
        body = json.dumps({"customer": "acme"} | may)
        made = portal.call("POST", "/v1/links", body=body, authorizer=IAM, headers={"content-type": "application/json"})
        link = made.json()["url"].partition("#")[2]
        session = portal.call("POST", "/v1/session", token=link).json()["token"]
        assert put(portal, {"notify": 6000, "stop": None}, token=session).status == status
        assert portal.get("/v1/limits", token=session).json()["budget"]["may_set"] is (status == 200)


def test_no_link_may_anything_else(portal: Portal) -> None:
    """What was got and what was wanted."""
    body = json.dumps({"customer": "acme", "may": ["everything"]})
    answer = portal.call("POST", "/v1/links", body=body, authorizer=IAM, headers={"content-type": "application/json"})
    assert (answer.status, answer.json()["detail"]) == (400, "may.0 must be budget; got 'everything'")


def test_the_function_of_budgets_can_write_nothing_else(limits_template: Template) -> None:
    """I7: no counter, no row, no state of a limit; and the function that shows writes nothing at all."""
    reads = {"dynamodb:GetItem", "dynamodb:Query", "dynamodb:BatchGetItem", "secretsmanager:GetSecretValue"}
    logs = {"logs:CreateLogStream", "logs:PutLogEvents"}
    wrote = {
        role: {one for one in grants(limits_template, f"Portal{role}Role") if one[0] not in reads | logs}
        for role in ("SetBudget", "ShowUsage")
    }
    assert wrote == {
        "SetBudget": {
            ("dynamodb:PutItem", "Ledger", ("budget#*",)),
            ("lambda:InvokeFunction", "LimitingWatchLimits", ()),  # which is sent the customer's name and no more
        },
        "ShowUsage": set(),
    }


def test_pages_of_declared_origins_may_set_budgets(portal: Portal) -> None:
    """A browser asks first which methods there are."""
    asked = portal.call("OPTIONS", "/v1/budget", token="", headers={"origin": ORIGIN}, route="OPTIONS /v1/{proxy+}")
    assert "PUT" in asked.headers["Access-Control-Allow-Methods"]
    answer = put(portal, {"notify": 6000, "stop": None}, headers={"origin": ORIGIN})
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Access-Control-Allow-Origin" not in put(portal, {"notify": 1, "stop": None}).headers


def test_another_type_of_body_is_refused(portal: Portal) -> None:
    """With what was wanted."""
    answer = put(portal, "stop=1", headers={"content-type": "text/plain"})
    assert (answer.status, answer.headers["Content-Type"]) == (415, "application/problem+json")


def test_without_limits_there_are_none_to_tell(
    world: World, template: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And no link that may set a budget."""
    world.customer("acme", "key1")
    with opened(world, template, monkeypatch, tmp_path, metrics=METRICS) as portal:
        for answer in (portal.get("/v1/limits"), put(portal, {"notify": 1, "stop": None})):
            assert (answer.status, answer.json()["detail"]) == (404, "this deployment has no limits")
        body = json.dumps({"customer": "acme", "may": ["budget"]})
        made = portal.call("POST", "/v1/links", body=body, authorizer=IAM, headers={"content-type": "application/json"})
        assert (made.status, made.json()["detail"]) == (404, "this deployment has no limits")


def test_whoever_has_no_token_is_told_nothing(portal: Portal) -> None:
    """As with all that is a customer's."""
    for token in ("", "no.such.token", portal.token(use=Use.LINK)):
        assert portal.get("/v1/limits", token=token).status == 401

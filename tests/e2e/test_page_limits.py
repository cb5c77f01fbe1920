"""What the page shows of limits, in a real Chromium: the notice, the meters and the budget.

No deployment is asked: what the API would answer is made up here, and that of limits is held to its own description
(metering.portal.answers), as the API's true answers are (tests/integration/test_portal_limits.py).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from metering.portal.answers import BudgetAnswer, LimitsAnswer
from tests.e2e.reader import ColorScheme, answering, files, violations
from tests.e2e.test_page import SCREENSHOTS

PRICES = {
    "plans": [],
    "metrics": [{"name": "requests", "kind": "count", "scale": 0, "unit": None, "dimension": None}],
    "limits": {"hours": 744, "hours_by_key": 744},
}
DAY = {"from": "2026-11-22T00", "to": "2026-11-23T00"}
PERIOD = {"from": "2026-11-12T05", "to": "2026-12-12T05"}
CALLS: dict[str, Any] = {
    "limit": "requests/day",
    "metric": "requests",
    "per": "day",
    "window": DAY,
    "most": 5000,
    "used": 1200,
    "remaining": 3800,
    "percent": 24,
    "scale": 0,
    "at_least": False,
    "source": "plan",
    "source_in_words": "the plan standard",
    "steps": [
        {"does": "notify", "percent": 80, "at": 4000, "acted_at": None},
        {"does": "slow", "percent": 90, "at": 4500, "acted_at": None},
        {"does": "stop", "percent": 100, "at": 5000, "acted_at": None},
    ],
}
MONEY = {
    "limit": "spend/period",
    "metric": "spend",
    "per": "period",
    "window": PERIOD,
    "most": 50_000,
    "used": 5320,
    "remaining": 44_680,
    "percent": 10,
    "scale": 0,
    "at_least": True,
    "source": "plan",
    "source_in_words": "the plan standard",
    "steps": [{"does": "notify", "percent": 80, "at": 40_000, "acted_at": None}],
}
STANDING: dict[str, Any] = {
    "customer": "page-limited",
    "access": "open",
    "reasons": [],
    "currency": "usd",
    "decimals": 2,
    "limits": [CALLS, MONEY],
    "budget": {"notify": None, "stop": None, "may_stop": True, "may_set": False},
    "as_of": "2026-11-22T05:30:00Z",
}
AT_80 = {
    **CALLS,
    "used": 4100,
    "remaining": 900,
    "percent": 82,
    "steps": [{**CALLS["steps"][0], "acted_at": "2026-11-22T05:10:00Z"}, *CALLS["steps"][1:]],
}
STOPPED = {
    **AT_80,
    "used": 5007,
    "remaining": 0,
    "percent": 100,
    "steps": [{**step, "acted_at": f"2026-11-22T05:{10 + n}:00Z"} for n, step in enumerate(CALLS["steps"])],
}
REASON = {
    "name": "limit:requests/day:2026-11-22T00",
    "access": "stopped",
    "since": "2026-11-22T05:12:00Z",
    "until": "2026-11-23T00:00:00Z",
}
BY_HAND = {"name": "operator", "access": "stopped", "since": "2026-11-22T05:20:00Z", "until": None}


@dataclass
class Api:
    """What answers the page about limits, and what it was asked."""

    standing: dict[str, Any] | None
    status: int = 200
    asked: int = 0
    put: list[Any] = field(default_factory=list)
    refusal: tuple[int, str] | None = None

    def limits(self, route: Route) -> None:
        """Answer GET /v1/limits."""
        self.asked += 1
        if self.standing is None:
            route.fulfill(status=404, content_type="application/problem+json", body='{"detail": "no limits"}')
        elif self.status != 200:
            route.fulfill(status=self.status, content_type="application/problem+json", body="{}")
        else:
            LimitsAnswer.model_validate(self.standing, strict=True)
            route.fulfill(status=200, content_type="application/json", body=json.dumps(self.standing))

    def budget(self, route: Route) -> None:
        """Answer PUT /v1/budget."""
        assert (route.request.method, self.standing is not None) == ("PUT", True)
        self.put.append(json.loads(route.request.post_data or ""))
        if self.refusal:
            status, detail = self.refusal
            route.fulfill(status=status, content_type="application/problem+json", body=json.dumps({"detail": detail}))
            return
        answer = self.put[-1] | {"may_stop": True, "may_set": True}
        BudgetAnswer.model_validate(answer, strict=True)
        route.fulfill(status=200, content_type="application/json", body=json.dumps(answer))


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Where the page is."""
    with files() as url:
        yield url


@contextmanager
def opened(
    site: str, browser: Browser, api: Api, *, size: tuple[int, int] = (1280, 900), scheme: ColorScheme = "light"
) -> Iterator[Page]:
    """Open the page of a customer that has used nothing yet, whose limits are as ``api`` says."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, locale="en-US")
    page, troubles = context.new_page(), []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if "Content Security" in said.text else None)
    page.route("**/v1/session", answering({"customer": "acme", "token": "a.e30.c"}, 201))
    page.route("**/v1/usage?*", answering({"usage": []}))
    page.route("**/v1/invoice?*", answering({}, 404))
    page.route("**/v1/prices?*", answering(PRICES))
    page.route("**/v1/limits?*", api.limits)
    page.route("**/v1/budget", api.budget)
    page.goto(f"{site}#a.e30.c")
    expect(page.locator("#figures")).to_be_visible()
    yield page
    context.close()
    assert troubles == []


def standing(*limits: Any, **changes: Any) -> Api:
    """Return what answers that a customer stands so."""
    return Api(STANDING | ({"limits": list(limits)} if limits else {}) | changes)


def test_where_there_are_no_limits_nothing_is_shown_and_nothing_more_is_asked(site: str, browser: Browser) -> None:
    """One question tells."""
    api = Api(None)
    with opened(site, browser, api) as page:
        page.wait_for_timeout(6000)  # another turn of the page
        expect(page.locator("#limits")).to_be_hidden()
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator("#trouble")).to_be_hidden()
    assert api.asked == 1


def test_a_meter_for_each_limit_says_what_is_used_and_left_and_when_it_resets(site: str, browser: Browser) -> None:
    """For eyes and for a screen reader; while nothing has acted there is no notice."""
    with opened(site, browser, standing()) as page:
        calls = page.locator('[data-limit="requests/day"]')
        assert [line for line in calls.inner_text().split("\n") if line.strip()] == [
            "Requests today",
            "1,200 of 5,000",
            "3,800 left, resets on 23 Nov, 00:00 UTC",
            "At 80%, 4,000, you are told",
            "At 90%, 4,500, your calls are slowed down",
            "At 100%, 5,000, your calls are refused",
            "From the plan standard",
        ]
        meter = page.get_by_role("meter", name="Requests today")
        assert (meter.get_attribute("aria-valuenow"), meter.get_attribute("aria-valuetext")) == (
            "24",
            "24%: 1,200 of 5,000",
        )
        money = page.locator('[data-limit="spend/period"]')
        expect(money).to_contain_text("Cost this period")
        expect(money).to_contain_text("at least $53.20 of $500.00")
        expect(money).to_contain_text("$446.80 left, resets on 12 Dec, 05:00 UTC")
        expect(page.locator("#notice")).to_be_hidden()


def test_a_notice_comes_when_a_threshold_has_acted_and_goes_when_it_is_left(site: str, browser: Browser) -> None:
    """A screen reader is told once of each."""
    api = standing(AT_80, MONEY)
    with opened(site, browser, api) as page:
        expect(page.locator("#notice-title")).to_have_text("You are near a limit")
        line = "Requests today: 82% used, 900 left until 23 Nov, 00:00 UTC."
        assert page.locator("#notice-lines li").all_inner_texts() == [line]
        expect(page.locator("#said")).to_have_text(f"You are near a limit. {line}")
        expect(page.locator('[data-limit="requests/day"]')).to_contain_text(
            "you are told: reached on 22 Nov, 05:10 UTC"
        )
        api.standing = STANDING | {"limits": [{**AT_80, "used": 3999, "remaining": 1001, "percent": 79}, MONEY]}
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator("#said")).to_have_text("Your access is open, and no limit is near.")


def test_a_notice_says_why_access_is_stopped_since_when_and_until_when(site: str, browser: Browser) -> None:
    """Each reason by itself; one that is no limit's has no end."""
    api = standing(STOPPED, MONEY, access="stopped", reasons=[REASON, BY_HAND])
    with opened(site, browser, api) as page:
        expect(page.locator("#notice-title")).to_have_text("Your access is stopped")
        lines = page.locator("#notice-lines li").all_inner_texts()
        assert " | ".join(lines) == (
            "The limit is reached: requests today, since 22 Nov, 05:12 UTC. By itself this ends on 23 Nov, 00:00 UTC "
            "at the latest. | Whoever bills you has closed it, since 22 Nov, 05:20 UTC."
        )
        api.standing = STANDING | {"access": "slowed", "reasons": [REASON | {"access": "slowed"}]}
        expect(page.locator("#notice-title")).to_have_text("Your access is slowed down")


def test_limits_that_cannot_be_read_now_are_said_to_be_old(site: str, browser: Browser) -> None:
    """And the rest of the page goes on."""
    api = standing()
    with opened(site, browser, api) as page:
        expect(page.locator("#limits-note")).to_be_hidden()
        api.status = 503
        expect(page.locator("#limits-note")).to_have_text("This is the last that was known; it follows by itself.")
        expect(page.locator('[data-limit="requests/day"]')).to_be_visible()
        expect(page.locator("#trouble")).to_be_hidden()
        api.status = 200
        expect(page.locator("#limits-note")).to_be_hidden()


def test_a_session_that_only_shows_has_no_form(site: str, browser: Browser) -> None:
    """Nor has one without a subscription, whose currency is not known."""
    budget = STANDING["budget"] | {"may_set": True}
    for api in (standing(), standing(currency=None, budget=budget)):
        with opened(site, browser, api) as page:
            expect(page.locator("#meters .limit")).to_have_count(2)
            expect(page.locator("#budget")).to_be_hidden()


def test_a_budget_is_set_by_keyboard_and_what_is_typed_is_not_overwritten(site: str, browser: Browser) -> None:
    """In the currency's own units, exactly; nothing is sent for what is no amount."""
    api = standing(budget={"notify": 6000, "stop": None, "may_stop": True, "may_set": True})
    with opened(site, browser, api) as page:
        notify, stop = page.get_by_label("Tell me at (USD)"), page.get_by_label("Stop my access at (USD)")
        expect(notify).to_have_value("60.00")
        stop.fill("80,5")
        page.wait_for_timeout(6000)  # the page has read anew meanwhile
        expect(stop).to_have_value("80,5")
        notify.fill("sixty")
        notify.press("Enter")
        expect(page.locator("#budget-said")).to_have_text("Write an amount such as 60.00, above zero, or nothing.")
        assert (notify.get_attribute("aria-invalid"), api.put) == ("true", [])
        notify.fill("")
        notify.press("Enter")
        expect(page.locator("#budget-said")).to_contain_text("Your budget is set.")
        expect(stop).to_have_value("80.50")
        assert api.put == [{"notify": None, "stop": 8050}]


def test_a_budget_that_is_refused_says_why(site: str, browser: Browser) -> None:
    """In the API's words; what was typed stays."""
    api = standing(budget={"notify": None, "stop": None, "may_stop": True, "may_set": True})
    api.refusal = (400, "stop must be 10,000 at most, as your limit is; got 20,000")
    with opened(site, browser, api) as page:
        page.get_by_label("Stop my access at (USD)").fill("200")
        page.get_by_role("button", name="Set budget").click()
        expect(page.locator("#budget-said")).to_contain_text("stop must be 10,000 at most")
        expect(page.get_by_label("Stop my access at (USD)")).to_have_value("200")


def test_where_the_plan_lets_nobody_stop_itself_a_budget_only_tells(site: str, browser: Browser) -> None:
    """There is no field for it, and none is sent."""
    api = standing(budget={"notify": None, "stop": None, "may_stop": False, "may_set": True})
    with opened(site, browser, api) as page:
        expect(page.get_by_label("Stop my access at")).to_have_count(1)
        expect(page.locator("#budget-stop")).to_be_hidden()
        page.get_by_label("Tell me at (USD)").fill("60")
        page.get_by_role("button", name="Set budget").click()
        expect(page.locator("#budget-said")).to_contain_text("Your budget is set.")
    assert api.put == [{"notify": 6000, "stop": None}]


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [
        ("limits", (1280, 900), "light"),
        ("limits-dark", (1280, 900), "dark"),
        ("limits-phone", (360, 740), "light"),
        ("limits-phone-dark", (360, 740), "dark"),
    ],
)
def test_limits_fit_a_phone_and_axe_finds_nothing(  # noqa: PLR0913, PLR0917 - fixtures and what differs
    site: str, browser: Browser, axe_script: str, name: str, size: tuple[int, int], scheme: ColorScheme
) -> None:
    """With a notice, a limit of each look and the form; pictures are in .metering/screenshots."""
    long_name = {**AT_80, "limit": "w/month", "metric": "w" * 64, "per": "month", "most": 10**15, "used": 9 * 10**14}
    api = standing(
        STOPPED,
        long_name,
        MONEY,
        access="stopped",
        reasons=[REASON, BY_HAND],
        budget={"notify": 6000, "stop": 8000, "may_stop": True, "may_set": True},
    )
    with opened(site, browser, api, size=size, scheme=scheme) as page:
        expect(page.locator("#meters .limit")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert violations(page, axe_script) == []
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

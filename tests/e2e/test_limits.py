"""Limits as a customer meets them on the embedded AWS: warned, refused, let in again, and stopped by its own budget.

The gateway's clock is right here, since limits are about the hours that run, and everything acts by itself: the
counters' stream, the sweep and the gate. Each test has customers of its own.
"""

import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from rich.console import Console

from infra.local.cloud import start
from infra.local.demo import limited as demo
from infra.local.demo.front import Front
from infra.local.demo.limited import Client, Told, add_customer, counted
from infra.local.demo.live import links
from infra.local.demo.steps import PATIENCE_S, wait_until
from infra.operate.limits import setting
from infra.operate.portal_access import portal_url
from metering.model.limits import OfCustomer
from metering.model.periods import Hour
from metering.portal.tokens import Right
from tests.e2e.conftest import Deployed
from tests.e2e.reader import Reader, session_of, violations

LIMIT = "requests/period"


@dataclass
class Limited:
    """A cloud whose limits act, the page in front of it, and what is told from its beginning."""

    there: Deployed
    front: Front
    told: Told

    def customer(self, name: str) -> tuple[Client, Reader]:
        """Make a customer: who calls, and who reads the page."""
        client = add_customer(self.there.cloud, name)
        return client, Reader(self.there, self.front, name, [(client.key, client.value)])

    def link(self, reader: Reader) -> str:
        """Return a link with which a customer may set a budget."""
        return links(self.there.cloud.deployment, self.front.url, {reader.id}, [Right.BUDGET])[reader.id]


@pytest.fixture(scope="module")
def acting() -> Iterator[Limited]:
    """Everything deployed with the sample's limits: 200 requests in a period, told at 80 %, and a spend in money."""
    say = Console(file=io.StringIO())
    with (
        start(alerts_from=demo.ALERTS_FROM, back=demo.NOW, say=say) as cloud,
        Front(portal_url(cloud.deployment)) as at,
    ):
        yield Limited(Deployed(cloud, Hour.containing(datetime.now(UTC)), "subscription"), at, Told(cloud))


def resets(reader: Reader) -> str:
    """Return when the limit's window ends, as the page writes it."""
    (limit,) = [one for one in json.loads(reader.ask("v1/limits"))["limits"] if one["limit"] == LIMIT]
    return f"{datetime.strptime(limit['window']['to'], '%Y-%m-%dT%H').replace(tzinfo=UTC):%-d %b, %H:%M} UTC"


def refusing(client: Client) -> Callable[[], bool]:
    """Return what calls once, and says if it was refused as somebody is who is stopped."""
    return lambda: client.call() == 403


def answering(client: Client) -> Callable[[], bool]:
    """Return what calls once, and says if it was answered."""
    return lambda: client.call() == 200


def notice(page: Page) -> list[str]:
    """Return what the page's notice says, its title first."""
    return [page.locator("#notice-title").inner_text(), *page.locator("#notice-lines li").all_inner_texts()]


def test_a_customer_at_80_percent_is_told_once_by_an_event_an_email_and_its_page(
    acting: Limited, browser: Browser
) -> None:
    """It goes on calling meanwhile, and nothing is told again."""
    client, reader = acting.customer("nearing")
    assert {client.call() for _ in range(160)} == {200}
    wait_until(lambda: acting.told.steps("nearing") == [80])
    wait_until(lambda: len(acting.told.emails("nearing")) == 1)
    with reader.page(browser) as page:
        expect(page.locator("#notice-title")).to_have_text("You are near a limit")
        expect(page.locator(f'[data-limit="{LIMIT}"]')).to_contain_text("160 of 200")
        until = resets(reader)
        assert notice(page)[1:] == [f"Requests this period: 80% used, 40 left until {until}."]
        meter = page.get_by_role("meter", name="Requests this period")
        assert meter.get_attribute("aria-valuetext") == "80%: 160 of 200"
        expect(page.locator(f'[data-limit="{LIMIT}"]')).to_contain_text(f"40 left, resets on {until}")
        assert {client.call() for _ in range(10)} == {200}
        expect(page.locator(f'[data-limit="{LIMIT}"]')).to_contain_text("170 of 200")
    assert reader.troubles == []
    assert acting.told.steps("nearing") == [80]
    assert len(acting.told.emails("nearing")) == 1
    assert acting.told.access("nearing") == []


def test_a_customer_at_its_limit_is_refused_with_a_reason_until_it_is_raised(
    acting: Limited, browser: Browser, axe_script: str
) -> None:
    """Nobody else is; every call that was let in is counted, and the operator's word opens at once."""
    (client, reader), (other, _) = acting.customer("spending"), acting.customer("bystander")
    deployment = acting.there.cloud.deployment
    assert {client.call() for _ in range(200)} == {200}
    wait_until(refusing(client))
    answer = client.ask()
    problem = json.loads(answer.body)
    assert (answer.status, answer.media) == (403, "application/problem+json")
    assert (problem["status"], problem["title"], problem["type"]) == (403, "Forbidden", deployment.outputs.portal_url)
    assert other.call() == 200
    wait_until(lambda: counted(deployment, client) == client.let_in)
    wait_until(lambda: acting.told.steps("spending") == [80, 100])
    wait_until(lambda: acting.told.access("spending") == ["Access stopped"])
    wait_until(lambda: len(acting.told.emails("spending")) == 2)
    with reader.page(browser) as page:
        expect(page.locator("#notice-title")).to_have_text("Your access is stopped")
        why = notice(page)[1]
        assert why.startswith("The limit is reached: requests this period, since ")
        assert why.endswith(f" By itself this ends on {resets(reader)} at the latest.")
        assert violations(page, axe_script) == []
        at = int(datetime.now(UTC).timestamp())
        raised = OfCustomer("requests", "period", 20_000, reason="a launch", at=at)
        assert setting.raise_limit(deployment, "spending", raised) == [
            "spending: the plan's limit, raised to 20,000 requests per period"
        ]
        assert not setting.look(deployment, "spending")
        wait_until(answering(client))
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator(f'[data-limit="{LIMIT}"]')).to_contain_text("of 20,000")
    assert reader.troubles == []
    wait_until(lambda: acting.told.access("spending") == ["Access stopped", "Access reopened"])
    assert acting.told.steps("bystander") == []
    assert acting.told.access("bystander") == []


def test_a_customer_stops_itself_by_a_budget_and_takes_it_back(
    acting: Limited, browser: Browser, axe_script: str
) -> None:
    """In the page's form, with a link that may; what it costs already counts."""
    (client, reader), (other, _) = acting.customer("thrifty"), acting.customer("generous")
    assert client.call() == 200
    with reader.page(browser, link=acting.link(reader)) as page:
        stop = page.get_by_label("Stop my access at (USD)")
        stop.fill("0.01")
        page.get_by_role("button", name="Set budget").click()
        expect(page.locator("#budget-said")).to_contain_text("Your budget is set.")
        wait_until(refusing(client))
        expect(page.locator("#notice-title")).to_have_text("Your access is stopped")
        assert notice(page)[1].startswith("Your own budget is reached, since ")
        assert violations(page, axe_script) == []
        assert other.call() == 200
        # What is taken back while the gate is still at it is no change of access, and nothing is told of it.
        wait_until(lambda: acting.told.access("thrifty") == ["Access stopped"])
        stop.fill("")
        page.get_by_role("button", name="Set budget").click()
        wait_until(answering(client))
        expect(page.locator("#notice")).to_be_hidden()
    assert reader.troubles == []
    wait_until(lambda: acting.told.access("thrifty") == ["Access stopped", "Access reopened"])


def test_a_link_that_may_not_set_a_budget_shows_no_form_and_is_refused(acting: Limited, browser: Browser) -> None:
    """Whoever may look may not write."""
    client, reader = acting.customer("looking")
    assert client.call() == 200
    with reader.page(browser) as page:
        expect(page.locator("#meters .limit")).to_have_count(2)
        expect(page.locator("#budget")).to_be_hidden()
    assert (put_budget(acting, reader.link), put_budget(acting, acting.link(reader))) == (403, 200)
    assert json.loads(reader.ask("v1/limits"))["budget"] == {
        "notify": None,
        "stop": 10_000,
        "may_stop": True,
        "may_set": False,
    }


def put_budget(acting: Limited, link: str) -> int:
    """Set a budget with the session of a link; return the status of the answer."""
    headers = {"Authorization": f"Bearer {session_of(link)}", "Content-Type": "application/json"}
    body: dict[str, Any] = {"notify": None, "stop": 10_000}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{acting.front.url}/v1/budget", data=data, headers=headers, method="PUT")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - this machine's front
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code

"""The usage page in a real Chromium, on the embedded AWS: what a customer sees of the requests that it makes."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from rich.console import Console

from infra.local.cloud import CLOCK_BACK
from infra.local.demo import steps as demo
from infra.local.demo.front import Front
from infra.local.demo.holdings import ledger_usage, stripe_usage
from infra.operate import usage
from infra.operate.portal_access import make_link
from metering.model.periods import Hour
from metering.portal.reading import By
from metering.stripe.subscriptions import preview_of, running
from tests.conftest import ROOT
from tests.e2e.conftest import Deployed
from tests.e2e.reader import PATIENCE_S, ColorScheme, Reader, session_of, subscribed, until, violations

SCREENSHOTS = ROOT / ".metering" / "screenshots"
PICTURE = ROOT / ".github" / "usage-page.png"
"""The README's picture, which ``REFRESH_PICTURE=1`` takes anew."""

NAME = "Reader & <b>Sons</b>"


@pytest.fixture(scope="module")
def reader(deployed: Deployed, front: Front) -> Reader:
    """A customer whose name would be markup, if anybody took it for that."""
    return subscribed(deployed, front, "page-reader", NAME, since=deployed.hour.start)


def figure(page: Page, metric: str) -> int:
    """Return what the page says was used of a metric."""
    return int(page.locator(f'[data-metric="{metric}"] data').get_attribute("value") or "-1")


def test_the_number_on_the_page_follows_the_traffic(reader: Reader, browser: Browser) -> None:
    """Requests that are sent while the page is open show by themselves once they are counted, and so does their price.

    How long counting takes is the machine's and the emulator's affair: on AWS it is seconds as well.
    """
    reader.send(5)
    with reader.page(browser) as page:
        expect(page.locator("#so-far data")).to_be_visible()
        until(page, lambda: figure(page, "requests") == 5, seconds=PATIENCE_S)
        reader.send(7)
        demo.wait_until(lambda: sum(reader.there.counted(key) for key, _ in reader.keys) == 12)
        until(page, lambda: figure(page, "requests") == 12, seconds=PATIENCE_S)
        assert page.locator('[data-metric="requests"] .figure').inner_text() == "12"
        # Four users at 25 cents, on top of the fee.
        until(page, lambda: page.locator("#so-far data").inner_text() == "$50.02", seconds=PATIENCE_S)


def test_what_the_page_shows_is_what_the_api_the_report_the_ledger_and_stripe_hold(
    reader: Reader, browser: Browser
) -> None:
    """After the close every figure is the same everywhere, and every hour is posted."""
    reader.send(6)
    deployment = reader.there.cloud.deployment
    first, end = reader.there.hour, Hour.containing(datetime.now(UTC)).next()
    report = usage.Report(deployment.counters, deployment.uniques, deployment.ledger, reader.id, split=False)

    def reported() -> dict[str, int]:
        found: dict[str, int] = {}
        lines = report.lines(first, end, by=By.MONTH, now=datetime.now(UTC), progress=lambda hours, _: hours)
        for line in lines:
            found[line.metric] = found.get(line.metric, 0) + line.quantity
        return found

    demo.wait_until(lambda: reported().get("requests") == reader.sent)
    demo.close(deployment, Console(file=io.StringIO()), runs=5)
    wanted = reported()
    span = (first, end)
    stepped = ledger_usage(deployment, [reader.id], span).usage
    assert {metric: number for (_, metric), number in stepped.items()} == wanted
    assert {m: n for (_, m), n in stripe_usage(deployment, [reader.id], span).items()} == wanted
    said = json.loads(reader.ask(f"v1/usage?from={first}&by=month"))["usage"]
    added: dict[str, int] = {}
    for row in said:
        added[row["metric"]] = added.get(row["metric"], 0) + row["quantity"]
    assert added == wanted
    owner = deployment.ledger.holders.customers([reader.id])[reader.id]
    subscription = running(deployment.stripe(), owner.stripe_customer)
    assert subscription is not None
    asked = preview_of(deployment.stripe(), subscription)
    with reader.page(browser) as page:
        until(page, lambda: figure(page, "requests") == reader.sent, seconds=PATIENCE_S)
        expect(page.locator("#hours td .state").first).to_have_text("Posted")
        assert {metric: figure(page, metric) for metric in wanted} == wanted
        assert int(page.locator("#so-far data").get_attribute("value") or "") == asked["total"]
        assert {
            str(body.get_attribute("data-price")): int(body.locator("data").first.get_attribute("value") or "")
            for body in page.locator("#price-lines tbody").all()
        } == {price: amount(asked, price) for price in {line["price"] for line in asked["lines"]}}
        assert page.locator("#hours td .state").all_inner_texts() == ["Posted"] * page.locator("#hours .state").count()
        expect(page.locator("#by-key tbody tr")).to_have_count(2)
        by_key = table(page, "#by-key")
        assert sum(by_key.values()) == reader.sent
        assert set(by_key) == {key for key, _ in reader.keys}
        by_resource = table(page, "#by-dimension")
        assert sum(by_resource.values()) == reader.sent
        assert set(by_resource) == {"/items", "/items/{id}"}


def amount(invoice: dict[str, Any], price: str) -> int:
    """Return what Stripe asks for a price, over all its lines."""
    return sum(int(line["amount"]) for line in invoice["lines"] if line["price"] == price)


def table(page: Page, where: str) -> dict[str, int]:
    """Return what a table says, by what its rows are about."""
    return {
        row.locator("th").inner_text().strip(): int(row.locator("data").get_attribute("value") or "")
        for row in page.locator(f"{where} tbody tr").all()
    }


def test_a_person_can_redo_the_sum(reader: Reader, browser: Browser) -> None:
    """Quantity times unit price is the exact amount in each line, and the lines add up to the total."""
    with reader.page(browser) as page:
        total, added = page.locator("#price-lines tfoot td").first.inner_text(), 0
        for row in page.locator("#price-lines tbody tr:not(.line)").all():
            quantity, unit, exact, asked, _ = row.locator("td").all_inner_texts()
            assert number(quantity) * number(unit) == number(exact)
            added += round(number(asked))
        assert added == round(number(total))


def test_prices_are_said_by_their_terms(reader: Reader, browser: Browser) -> None:
    """The page reads no sentence: whatever stands in the one that the API sends, it shows the same."""
    context = browser.new_context(locale="en-US")
    page = context.new_page()

    def reword(route: Route) -> None:
        answer = route.fetch()
        shown = answer.json()
        for line in shown["so_far"]["lines"]:
            line["in_words"] = "beyond 7 flat"
        route.fulfill(response=answer, json=shown)

    page.route("**/v1/invoice?*", reword)
    page.goto(reader.link)
    expect(page.locator("#so-far data")).to_be_visible()
    said = {
        body.get_attribute("data-price"): body.locator(".words.quiet").first.inner_text()
        for body in page.locator("#price-lines tbody").all()
    }
    assert said == {
        "base_fee": "$49.00 fixed",
        "requests": "graduated: up to 10,000: $0.00, up to 1,000,000: $0.0004, beyond: $0.0002",
        "messages": "graduated: up to 1,000: $0.00, beyond: $0.005",
        "response_bytes": "$0.02 for each 1,000,000 begun",
        "users": "$0.25 per unit",
    }
    context.close()


def number(text: str) -> int:
    """Return what is written, in millionths."""
    whole, _, fraction = re.sub(r"[^0-9.]", "", text).partition(".")
    return int(whole + fraction.ljust(6, "0")[:6]) if "$" in text else int(whole)


def test_the_token_and_the_customer_stay_with_the_page(reader: Reader, browser: Browser) -> None:
    """I8: no request leaves for anywhere else, none carries the token in its address, and the bar does not show it."""
    reader.asked.clear()
    with reader.page(browser) as page:
        expect(page.locator("h1")).to_have_text(NAME)
        assert page.locator("h1 *").count() == 0
        assert page.url == f"{reader.front.url}/"
        page.reload()
        expect(page.locator("#so-far data")).to_be_visible()
        page.wait_for_timeout(6000)
        assert page.evaluate("performance.getEntriesByType('navigation').map((one) => one.name)") == [page.url]
        assert page.evaluate("document.cookie") == ""
        assert page.evaluate("localStorage.length") == 0
    assert len(reader.asked) > 10
    assert [url for url in reader.asked if not url.startswith((f"{reader.front.url}/", "data:"))] == []
    assert [url for url in reader.asked if "eyJ" in url.partition("#")[0]] == []
    assert reader.troubles == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(reader: Reader, browser: Browser, axe_script: str, scheme: ColorScheme) -> None:
    """Nothing stands in the way of a screen reader, a keyboard or weak eyes, on the page and at its door."""
    with reader.page(browser, scheme=scheme) as page:
        expect(page.locator("#so-far data")).to_be_visible()
        page.locator("summary").click()
        assert violations(page, axe_script) == []
    with reader.page(browser, scheme=scheme, link=f"{reader.front.url}/#no.such.token") as page:
        expect(page.locator("#door")).to_be_visible()
        assert violations(page, axe_script) == []


def test_everything_is_reached_and_worked_by_keyboard(reader: Reader, browser: Browser) -> None:
    """Tab goes through every control in order; Enter chooses a metric, and the chart follows."""
    with reader.page(browser) as page:
        expect(page.locator("#so-far data")).to_be_visible()
        reached: list[str] = []
        for _ in range(30):
            page.keyboard.press("Tab")
            focused = "document.activeElement"
            reached.append(
                page.evaluate(f"{focused}.id || {focused}.dataset.metric || {focused}.className || {focused}.tagName")
            )
        first = ["skip", "pause", "csv-by", "csv", "requests", "response_bytes", "messages", "users", "span"]
        assert reached[:9] == first
        assert {"SUMMARY", "price-lines", "hours"} <= set(reached)
        page.locator('[data-metric="users"]').focus()
        page.keyboard.press("Enter")
        expect(page.locator("#chart-title")).to_have_text("Users by hour")
        expect(page.locator('[data-metric="users"]')).to_be_focused()
        page.locator("#pause").focus()
        page.keyboard.press("Space")
        expect(page.locator("#live-text")).to_contain_text("Paused")


def test_the_csv_file_is_what_the_api_says(reader: Reader, browser: Browser) -> None:
    """The file comes by the token in a header, never in an address."""
    with reader.page(browser) as page:
        expect(page.locator("#so-far data")).to_be_visible()
        page.select_option("#csv-by", "hour")
        with page.expect_download() as downloading:
            page.locator("#csv").click()
        file = downloading.value
        assert re.fullmatch(r"usage-page-reader-.*\.csv", file.suggested_filename)
        assert file.url.startswith("blob:")
        rows = list(csv.DictReader(io.StringIO(Path(file.path()).read_text())))
        expect(page.locator("#said")).to_have_text(f"{file.suggested_filename} was downloaded.")
    assert sum(int(row["quantity"]) for row in rows if row["metric"] == "requests") == reader.sent
    assert {row["state"] for row in rows} <= {"counting", "closed", "posted"}


def test_a_link_that_has_ended_says_so_and_what_to_do(reader: Reader, browser: Browser) -> None:
    """Without a good token nothing is shown, and nothing goes on asking."""
    deployment = reader.there.cloud.deployment
    yesterday = datetime.now(UTC) - timedelta(hours=25)
    over = make_link(deployment, reader.id, hours=24, now=yesterday).url.partition("#")[2]
    with reader.page(browser, link=f"{reader.front.url}/#{over}") as page:
        expect(page.locator("#door-title")).to_have_text("This link has ended")
        expect(page.locator("#door-text")).to_contain_text("Ask whoever bills you for a new link")
        expect(page.locator("#figures")).to_be_hidden()
        assert page.url == f"{reader.front.url}/"
        asked = [url for url in reader.asked if "/v1/" in url]
        page.wait_for_timeout(6000)
        assert [url for url in reader.asked if "/v1/" in url] == asked
        page.goto(reader.link)  # the new link, in the same tab
        expect(page.locator("#so-far data")).to_be_visible()
    with reader.page(browser, link=f"{reader.front.url}/") as page:
        expect(page.locator("#door-title")).to_have_text("Open this page with your link")


def test_trouble_on_the_way_leaves_the_last_figures_and_mends_itself(reader: Reader, browser: Browser) -> None:
    """Offline, the figures stay and are said to be old; when Stripe does not answer, usage is shown all the same."""
    with reader.page(browser) as page:
        until(page, lambda: figure(page, "requests") == reader.sent, seconds=PATIENCE_S)
        page.context.set_offline(True)
        expect(page.locator("#trouble")).to_contain_text("This device is offline.")
        expect(page.locator("#live-text")).to_have_text("Not up to date")
        assert figure(page, "requests") == reader.sent
        page.context.set_offline(False)
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator("#live-text")).to_contain_text("Live")

    for status, words in ((503, "payment provider"), (500, "cannot be worked out"), (404, "No subscription")):
        context = browser.new_context()
        page = context.new_page()
        page.route("**/v1/invoice?*", refusal(status))
        page.goto(reader.link)
        expect(page.locator("#cost")).to_contain_text(words)
        assert figure(page, "requests") == reader.sent
        context.close()


def test_a_month_that_is_too_large_for_one_answer_is_asked_for_in_pieces(reader: Reader, browser: Browser) -> None:
    """Whatever is longer than the limits say is refused here; after the first refusal nothing longer is asked for."""
    refused: list[str] = []

    def refuse_what_is_long(route: Route) -> None:
        asked = dict(parse_qsl(urlsplit(route.request.url).query))
        first, end = (datetime.fromisoformat(asked[name]) if name in asked else None for name in ("from", "to"))
        if first and end and end - first > timedelta(days=10):
            refused.append(route.request.url)
            route.fulfill(status=400, content_type="application/problem+json", body="{}")
        else:
            route.continue_()

    context = browser.new_context()
    page = context.new_page()
    page.route("**/v1/usage?*", refuse_what_is_long)
    page.goto(reader.link)
    until(page, lambda: figure(page, "requests") == reader.sent, seconds=PATIENCE_S)
    expect(page.locator('[data-metric="requests"] .change')).not_to_have_text("")  # the previous period is there
    expect(page.locator("#trouble")).to_be_hidden()
    before = len(refused)
    page.reload()
    page.wait_for_timeout(6000)
    assert figure(page, "requests") == reader.sent
    expect(page.locator("#trouble")).to_be_hidden()
    assert 0 < before <= len(refused) <= 2 * before
    context.close()


def refusal(status: int) -> Callable[[Route], None]:
    """Return what answers a request with a problem."""

    def refuse(route: Route) -> None:
        route.fulfill(status=status, content_type="application/problem+json", body="{}")

    return refuse


def test_a_customer_without_usage_is_told_so(deployed: Deployed, front: Front, browser: Browser) -> None:
    """Nothing yet is no error."""
    quiet = subscribed(deployed, front, "page-quiet", "Quiet", since=deployed.hour.start)
    with quiet.page(browser) as page:
        expect(page.locator("#nothing")).to_contain_text("No usage yet in this period.")
        expect(page.locator("#so-far .big")).to_have_text("$49.00")


@pytest.fixture(scope="module")
def regular(deployed: Deployed, front: Front) -> Reader:
    """A customer with two weeks of usage, and the month before."""
    began = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=14)
    made = subscribed(deployed, front, "page-regular", "Northwind Traders", since=began)
    lines = []
    for day in range(-31, 15):
        for at in (9, 15):
            moment = began + timedelta(days=day, hours=at)
            if moment > datetime.now(UTC) - CLOCK_BACK:
                continue
            busy = (3 if moment.weekday() > 4 else 9) + (day * 5 + at) % 7 + (day > 0) * 3
            for n in range(busy):
                line = json.loads(deployed.access_line(made.keys[n % 3 // 2][0]))
                line["time"] = str(int(moment.timestamp() * 1000) + n)
                line["resource"] = ("/items", "/items/{id}", "/items/{id}", "/messages")[n % 4]
                line["authorizer.user"] = f"user-{n % 6 + max(day, 0)}"
                line["authorizer.messages"] = str(20 + n * 7)
                line["response_length"] = str(20_000 + n * 997)
                lines.append(json.dumps(line, separators=(",", ":")))
    deployed.deliver(deployed.payload_of(lines))
    demo.close(deployed.cloud.deployment, Console(file=io.StringIO()), runs=5)
    return made


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [
        ("light", (1280, 900), "light"),
        ("dark", (1280, 900), "dark"),
        ("phone", (360, 740), "light"),
        ("phone-dark", (360, 740), "dark"),
        ("4k", (3840, 2160), "light"),
    ],
)
def test_it_fits_from_a_phone_to_4k(
    regular: Reader, browser: Browser, name: str, size: tuple[int, int], scheme: ColorScheme
) -> None:
    """Nothing has to be scrolled sideways; pictures for people to look at are in .metering/screenshots."""
    with regular.page(browser, size=size, scheme=scheme) as page:
        expect(page.locator("#so-far data")).to_be_visible()
        expect(page.locator("#by-dimension tbody tr")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        seen = "[...document.querySelectorAll('button, h1, h2, h3, .big')]"
        cut = f"{seen}.filter((one) => one.scrollWidth > one.clientWidth + 1 && !one.matches('.unseen'))"
        assert page.evaluate(f"{cut}.map((one) => one.outerHTML)") == []
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
        if name == "light" and os.environ.get("REFRESH_PICTURE"):
            PICTURE.parent.mkdir(exist_ok=True)
            page.screenshot(path=PICTURE)
        if name == "light":
            page.select_option("#span", "latest")
            expect(page.locator("#chart-title")).to_have_text("Requests by hour")


def test_the_demo_goes_on_and_gives_a_link_for_each_of_its_customers() -> None:
    """`metering demo --page --json` says where the pages are in one line, and SIGTERM ends all that it started."""
    command = [sys.executable, "-m", "infra.cli.main", "demo", "--page", "--json", "--requests", "30"]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running_demo:
        try:
            assert running_demo.stdout is not None
            found = json.loads(running_demo.stdout.readline())["links"]
            assert sorted(found) == ["acme", "globex", "initech"]
            address, _, _ = found["acme"].partition("#")
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
            token = session_of(found["acme"])
            request = urllib.request.Request(  # noqa: S310 - this machine's front
                f"{address}v1/usage?by=month", headers={"Authorization": f"Bearer {token}"}
            )
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - this machine's front
                assert json.loads(answer.read())["customer"] == "acme"
        finally:
            running_demo.terminate()
        assert running_demo.wait(PATIENCE_S) == 0
        assert running_demo.stdout.read() == ""
    with pytest.raises(URLError):
        urllib.request.urlopen(address, timeout=5)  # noqa: S310 - this machine's front

"""The page by itself, in a real Chromium: one answer fails, answers come late, numbers are large, it is printed.

No deployment is asked: what the API would answer is made up (made_up.py), of a period of 35 days with 50 keys. The
page's clock stands still.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.conftest import ROOT
from tests.e2e.made_up import BEGIN, PRICES, Api, asked, figure, opened
from tests.e2e.reader import files

SCREENSHOTS = ROOT / ".metering" / "screenshots"


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Where the page is."""
    with files() as url:
        yield url


REQUESTS = "2,523"
"""Three in each of 841 hours."""

UNKNOWN = "\N{EN DASH}"

SHOWN = {
    "invoice": "#so-far",
    "limits": "#meters .limit",
    "days": '[data-metric="requests"] .figure',
    "recent": "#hours tbody tr",
    "key": "#by-key tbody tr",
    "dimension": "#by-dimension tbody tr",
}


@pytest.mark.parametrize(
    ("name", "where", "words"),
    [
        ("invoice", "#cost", "Price not known now"),
        ("limits", "#limits-note", "How you stand is not known now; it follows by itself."),
        ("prices", "#trouble-text", "Not read now: the list of what is measured."),
        ("days", "#trouble-text", "Not read now: the usage of earlier days."),
        ("recent", "#trouble-text", "Not read now: the usage of the last hours."),
        ("before", "#trouble-text", "Not read now: the previous period."),
        ("key", "#trouble-text", "Not read now: the usage by key."),
        ("dimension", "#trouble-text", "Not read now: the usage by value."),
    ],
)
def test_whichever_answer_fails_the_others_are_shown_and_it_is_named(
    site: str, browser: Browser, name: str, where: str, words: str
) -> None:
    """One customer's trouble with one answer takes nothing else; it comes by itself once it is answered (I9)."""
    api = Api(failing={name: 500})
    with opened(site, browser, api) as page:
        expect(page.locator(where)).to_contain_text(words)
        expect(page.locator("#figures")).to_be_visible()
        lost = {"prices": {"dimension"}, "recent": {"recent", "days"}}.get(name, {name})
        for other, selector in SHOWN.items():
            if other not in lost:
                expect(page.locator(selector).first).to_be_visible()
        if name in {"days", "recent"}:
            assert figure(page, "requests") == UNKNOWN
        elif name != "invoice":  # without it the period is the calendar month
            assert figure(page, "requests") == REQUESTS
            assert figure(page, "credits") == "2,523.00"
        api.failing.clear()
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator("#limits-note")).to_be_hidden()
        expect(page.locator("#so-far")).to_be_visible()
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        expect(page.locator('[data-metric="requests"] .figure')).to_have_text(REQUESTS)


def test_a_session_that_ends_ends_the_page_whichever_answer_says_so(site: str, browser: Browser) -> None:
    """I8: no figure stays that nobody may see any more."""
    for name in ("limits", "key", "before"):
        with opened(site, browser, Api(failing={name: 401})) as page:
            expect(page.locator("#door")).to_be_visible()
            expect(page.locator("#figures")).to_be_hidden()


def test_the_figures_come_first_and_what_stands_beside_them_as_it_comes(site: str, browser: Browser) -> None:
    """35 days and 50 keys: neither the previous period nor a breakdown keeps the figures back, nor "Connecting"."""
    api = Api(late={"before", "key", "dimension"})
    with opened(site, browser, api) as page:
        expect(page.locator('[data-metric="requests"] .figure')).to_have_text(REQUESTS)
        expect(page.locator("#live-text")).to_contain_text("Live")
        expect(page.locator("#by-key .empty")).to_have_text("Reading …")
        expect(page.locator('[data-metric="requests"] .change')).to_have_text("")
        api.let_go("dimension")
        expect(page.locator("#by-dimension tbody tr")).to_have_count(3)
        api.let_go("key")
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        expect(page.locator("#by-key .empty")).to_have_count(0)
        api.let_go("before")
        expect(page.locator('[data-metric="requests"] .change')).to_contain_text("on last period to date")
        expect(page.locator("#trouble")).to_be_hidden()


class Slow(Api):
    """By key, only the first piece is answered at once."""

    def named(self, route: Route) -> str:
        """Name the others otherwise."""
        name = super().named(route)
        return "later" if name == "key" and asked(route)["from"] != BEGIN else name


def test_a_breakdown_that_is_read_in_pieces_shows_as_they_come(site: str, browser: Browser) -> None:
    """Of 50 keys five days are an answer: what was read shows with up to when, and then it is whole."""
    api = Slow(late={"later"}, prices=PRICES | {"limits": {"hours": 744, "hours_by_key": 130}})
    with opened(site, browser, api) as page:
        expect(page.locator("#by-key .quiet").first).to_have_text("up to 17 Oct, 00:00; the rest follows")
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        expect(page.locator("#by-key tbody data").first).to_have_attribute("value", "345")
        api.let_go("later")
        expect(page.locator("#by-key .quiet").first).to_have_text("at 05:30:00")
        expect(page.locator("#by-key tbody data").first).to_have_attribute("value", "2523")


def test_an_earlier_day_that_cannot_be_read_shows_no_hours_of_another(site: str, browser: Browser) -> None:
    """It is named, and another day is shown at once."""
    api = Api(failing={"hours": 500})
    with opened(site, browser, api) as page:
        expect(page.locator("#hours tbody tr")).to_have_count(24)
        page.select_option("#span", "2026-10-20")
        expect(page.locator("#trouble-text")).to_contain_text("Not read now: the hours of Tue 20 Oct.")
        expect(page.locator("#readout")).to_have_text("Not read now; it follows by itself.")
        expect(page.locator("#hours tbody tr")).to_have_count(0)
        page.select_option("#span", "2026-11-15")
        expect(page.locator("#hours tbody tr")).to_have_count(24)
        expect(page.locator("#trouble")).to_be_hidden()


@pytest.mark.parametrize(
    ("where", "time", "first", "words", "each"),
    [
        ("#chart g.slot >> nth=3", "2026-10-15", "2026-10-15T00", "Requests, Thu 15 Oct", "72"),
        ("#chart-rows button >> nth=0", "2026-10-12", "2026-10-12T05", "Requests, Mon 12 Oct", "57"),
        ("#hours button >> nth=2", "2026-11-16T03", "2026-11-16T03", "Requests, 16 Nov, 03:00", "3"),
    ],
)
def test_a_times_split_is_read_once_somebody_asks_for_it(  # noqa: PLR0913, PLR0917 - what differs
    site: str, browser: Browser, where: str, time: str, first: str, words: str, each: str
) -> None:
    """By the pointer in the chart, or by a button of a table; nothing is read of it before, and it can be closed."""
    api = Api()
    with opened(site, browser, api) as page:
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        page.locator("summary").click()
        assert [name for name in api.asked if " of " in name] == []
        expect(page.locator("#moment")).to_be_hidden()
        page.locator(where).click()
        expect(page.locator("#moment")).to_be_focused()
        expect(page.locator("#moment-title")).to_have_text(words)
        expect(page.locator("#moment-note")).to_have_text(f"{each}, posted")
        expect(page.locator("#by-at-key tbody tr")).to_have_count(50)
        expect(page.locator("#by-at-dimension tbody tr")).to_have_count(3)
        assert page.locator("#by-at-key tbody tr").first.inner_text().split() == ["key-00", each, "2%"]
        assert {name for name in api.asked if " of " in name} == {f"key of {first}", f"resource of {first}"}
        assert page.url.endswith(f"&at={time}")
        page.keyboard.press("Escape")
        expect(page.locator("#moment")).to_be_hidden()
        assert "at=" not in page.url


def test_a_times_split_is_worked_by_keyboard_and_stays_where_somebody_is(site: str, browser: Browser) -> None:
    """Enter opens and closes it; what is read anew meanwhile takes nobody's place."""
    api = Api()
    with opened(site, browser, api, where="?at=2026-11-16T02") as page:
        expect(page.locator("#moment-title")).to_have_text("Requests, 16 Nov, 02:00")
        button = page.locator('#hours button[data-at="2026-11-16T04"]')
        button.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#moment-title")).to_have_text("Requests, 16 Nov, 04:00")
        expect(button).to_have_attribute("aria-expanded", "true")
        page.locator("#moment-close").focus()
        page.keyboard.press("Enter")
        expect(button).to_be_focused()
        expect(button).to_have_attribute("aria-expanded", "false")
        api.each = 4
        expect(page.locator("#hours tbody tr").first).to_contain_text("4")
        expect(button).to_be_focused()


def test_a_times_split_that_cannot_be_read_takes_nothing_else(site: str, browser: Browser) -> None:
    """It says so in its place; a time that there is not opens nothing."""
    api = Api(failing={"key of 2026-11-14T00": 500})
    with opened(site, browser, api, where="?metric=requests&span=period&at=2026-11-14") as page:
        expect(page.locator("#by-at-key .empty")).to_have_text("Not read now; it follows by itself.")
        expect(page.locator("#by-at-dimension tbody tr")).to_have_count(3)
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        expect(page.locator("#trouble")).to_be_hidden()
        api.failing.clear()
        expect(page.locator("#by-at-key tbody tr")).to_have_count(50)
    with opened(site, browser, Api(), where="?at=2026-13-45") as page:
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        expect(page.locator("#moment")).to_be_hidden()


LARGE = [("usd", 2, 360), ("usd", 2, 390), ("jpy", 0, 360), ("jpy", 0, 390)]

BROKEN = """() => {
    const broken = [];
    const words = document.createTreeWalker(document.getElementById("figures"), NodeFilter.SHOW_TEXT);
    while (words.nextNode()) {
        for (const { 0: digits, index } of words.currentNode.data.matchAll(/\\d+/g)) {
            const range = document.createRange();
            range.setStart(words.currentNode, index);
            range.setEnd(words.currentNode, index + digits.length);
            if (new Set([...range.getClientRects()].map(({ top }) => Math.round(top))).size > 1) {
                broken.push(words.currentNode.data);
            }
        }
    }
    return broken;
}"""
"""The texts of which a group of digits stands on two lines."""

OUTSIDE = """(selector) => {
    const cut = [];
    for (const box of document.querySelectorAll(selector)) {
        const { left, right } = box.getBoundingClientRect();
        const words = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
        while (words.nextNode()) {
            if (words.currentNode.parentElement.closest(".unseen, thead, option")) continue;
            const range = document.createRange();
            range.selectNodeContents(words.currentNode);
            for (const rect of range.getClientRects()) {
                if (rect.left < left || rect.right > right) cut.push(words.currentNode.data);
            }
        }
    }
    return cut;
}"""
"""The texts that reach out of one of the boxes."""

COVERED = """() => {
    const seen = [...document.querySelectorAll("#price-lines :is(tbody, tfoot) :is(th, td)")];
    const boxes = seen.map((cell) => cell.getBoundingClientRect()).filter(({ width }) => width);
    const over = (one, other) =>
        one.left < other.right - 1 && other.left < one.right - 1 &&
        one.top < other.bottom - 1 && other.top < one.bottom - 1;
    return boxes.flatMap((one, n) => boxes.slice(n + 1).filter((other) => over(one, other))).length;
}"""
"""How many pairs of the price table's cells lie over one another."""


@pytest.mark.parametrize(("currency", "decimals", "width"), LARGE)
def test_large_numbers_break_no_card_and_no_price_table_on_a_phone(
    site: str, browser: Browser, currency: str, decimals: int, width: int
) -> None:
    """10^12 an hour; a line breaks between groups of digits, the sum's cells stand below one another, none covered."""
    api = Api(each=10**12, currency=currency, decimals=decimals)
    with opened(site, browser, api, size=(width, 740)) as page:
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        assert figure(page, "requests") == "841,000,000,000,000"
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(BROKEN) == []
        assert page.evaluate(OUTSIDE, ".card, .metric, #price-lines") == []
        assert page.evaluate(COVERED) == 0
        lines = page.locator('[data-price="requests"] tr').nth(1).locator("td").all()
        labels = [line.get_attribute("data-label") for line in lines]
        assert labels == ["Quantity", "Unit price", "Exact", "Amount", "Forecast"]
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"large-{currency}-{width}.png", full_page=True)


def test_on_paper_lists_are_whole_and_amounts_are_not_cut(site: str, browser: Browser) -> None:
    """A4 with its margins: all 50 keys, the chart's table, and every amount to its last digit."""
    with opened(site, browser, Api(each=10**12), size=(718, 1000)) as page:
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        page.select_option("#span", "latest")
        page.emulate_media(media="print")
        expect(page.locator("#chart-rows tbody tr").first).to_be_visible()
        whole = "document.querySelectorAll('.parts, .scroll')"
        cut = f"[...{whole}].filter((one) => one.scrollHeight > one.clientHeight + 1).map((one) => one.id)"
        assert page.evaluate(cut) == []
        assert page.evaluate(OUTSIDE, "#main") == []
        assert page.evaluate(OUTSIDE, "#price-lines, #by-key, #hours, .card, .metric") == []
        assert page.evaluate(BROKEN) == []
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "print.png", full_page=True)
        page.emulate_media(media="screen")
        expect(page.locator("#chart-rows")).to_be_hidden()


def test_what_is_chosen_survives_a_reload_and_the_way_back(site: str, browser: Browser) -> None:
    """It stands in the address, and the token never does (I8)."""
    with opened(site, browser, Api()) as page:
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        assert page.url == site
        page.select_option("#span", "2026-10-20")
        page.locator('[data-metric="credits"]').click()
        expect(page.locator("#chart-title")).to_have_text("Credits by hour")
        assert page.url == f"{site}?metric=credits&span=2026-10-20"
        page.reload()
        expect(page.locator("#chart-title")).to_have_text("Credits by hour")
        expect(page.locator("#span")).to_have_value("2026-10-20")
        page.goto("about:blank")
        page.go_back()
        expect(page.locator("#chart-title")).to_have_text("Credits by hour")
        expect(page.locator("#span")).to_have_value("2026-10-20")
        assert page.url == f"{site}?metric=credits&span=2026-10-20"


def test_an_address_of_what_is_not_there_shows_what_is(site: str, browser: Browser) -> None:
    """A metric that is gone, and a day of an earlier period."""
    with opened(site, browser, Api(), where="?metric=gone&span=2025-01-01") as page:
        expect(page.locator("#chart-title")).to_have_text("Requests by hour")
        expect(page.locator("#span")).to_have_value("latest")


def test_the_button_says_what_it_does(site: str, browser: Browser) -> None:
    """While the page is paused it resumes."""
    with opened(site, browser, Api()) as page:
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#live-text")).to_contain_text("Paused")
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#live-text")).to_contain_text("Live")
        expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_a_session_that_has_ended_says_so_after_a_reload_as_well(site: str, browser: Browser) -> None:
    """And what to do; another link begins anew."""
    api = Api(failing={"session": 401})
    ended = "a.eyJleHAiOjE3OTQ4MDUyMDB9.c"  # {"exp":1794805200}
    with opened(site, browser, api, link=ended) as page:
        expect(page.locator("#door-title")).to_have_text("This link has ended")
        page.reload()
        expect(page.locator("#door-title")).to_have_text("This page has ended")
        expect(page.locator("#door-text")).to_contain_text("It worked until 16 Nov, 05:00 UTC. Ask whoever bills you")
        api.failing.clear()
        page.goto(f"{site}#a.e30.c")
        expect(page.locator("#so-far")).to_be_visible()


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        ("2026-11-16T00", "go on. It is early: 0.9% of the period has passed, and this may be far off"),
        (BEGIN, "go on"),
    ],
)
def test_a_forecast_says_where_it_is_early(site: str, browser: Browser, begin: str, words: str) -> None:
    """Of so little of a period nobody knows what the whole comes to."""
    with opened(site, browser, Api(begin=begin)) as page:
        note = page.locator("#forecast .quiet")
        expect(note).to_have_text(f"An estimate, no price: what it comes to if the last 24 hours {words}")

"""What the page says of money and of names, in a real Chromium: past invoices, corrections, fees, forecasts, titles.

No deployment is asked: what the API would answer is made up (made_up.py).
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import ROOT
from tests.e2e.made_up import LIMIT, PRICES, Api, opened
from tests.e2e.reader import ColorScheme, files, violations
from tests.e2e.test_page_alone import BROKEN, COVERED, OUTSIDE

SCREENSHOTS = ROOT / ".metering" / "screenshots"
PAGE, PDF = "https://invoice.stripe.com/i/acct_1/one", "https://pay.stripe.com/invoice/acct_1/one/pdf"
MANAGE = "https://billing.example.com/acme"


def invoice(number: str | None, state: str, **more: Any) -> dict[str, Any]:
    """Return an invoice of a past period."""
    made: dict[str, Any] = {"id": f"in_{number}", "number": number, "from": "2026-09-12T05", "to": "2026-10-12T05"}
    made |= {"state": state, "currency": "usd", "decimals": 2, "total": 123_456, "due": 123_456, "due_at": None}
    made |= {"attempts": 0, "next_attempt_at": None, "page_url": PAGE, "pdf_url": PDF}
    return made | more


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Where the page is."""
    with files() as url:
        yield url


def said(page: Page) -> list[list[str]]:
    """Return what the table of invoices says, by its rows."""
    return [row.locator("th, td").all_inner_texts() for row in page.locator("#invoice-rows tbody tr").all()]


SPELLED: list[tuple[dict[str, Any], str]] = [
    (invoice("A-1", "paid", due=0), "Paid"),
    (invoice("A-2", "open"), "To be paid"),
    (invoice("A-3", "open", due_at="2026-11-20T05:00:00Z"), "To be paid by 20 Nov 2026"),
    (invoice("A-4", "open", next_attempt_at="2026-11-18T05:00:00Z"), "Charged by itself on 18 Nov, 05:00 UTC"),
    (
        invoice("A-5", "past_due", due_at="2026-11-20T05:00:00Z", due=100, attempts=2),
        "Past due: 2 charges have failed, $1.00 of it left",
    ),
    (
        invoice("A-6", "past_due", attempts=1, next_attempt_at="2026-11-18T05:00:00Z"),
        "Past due: 1 charge has failed; charged again by itself on 18 Nov, 05:00 UTC",
    ),
    (invoice("A-0", "past_due", due_at="2026-11-10T05:00:00Z"), "Past due since 10 Nov 2026"),
    (invoice("A-9", "open", attempts=1), "A charge is under way"),
    (invoice("A-7", "void"), "Cancelled: it asks nothing"),
    (invoice("A-8", "uncollectible"), "Not paid, and given up"),
]


def test_past_periods_have_their_invoices_with_how_they_stand_in_words(site: str, browser: Browser) -> None:
    """Number, period, amount and state; what is unpaid is paid at Stripe, in a tab that knows nothing of this page."""
    api = Api(invoices=[one for one, _ in SPELLED], more=True, payment={"state": "past_due", "manage_url": MANAGE})
    with opened(site, browser, api) as page:
        expect(page.locator("#invoices-note")).to_have_text(
            "There is something past due. These are the latest; whoever bills you knows of older ones."
        )
        rows = said(page)
        assert [row[2] for row in rows] == [words for _, words in SPELLED]
        assert rows[0][:2] == ["A-1", "12 Sept 2026 \N{EN DASH} 12 Oct 2026"]
        assert rows[0][3] == "$1,234.56"
        pays = page.locator("#invoice-rows a.pay")
        assert pays.all_text_contents() == [f"Pay A-{n}, in a new tab" for n in (2, 3, 4, 5, 6, 0)]
        links = page.locator("#invoices a")
        assert {link.get_attribute("href") for link in links.all()} == {PAGE, PDF, MANAGE}
        for link in links.all():
            assert link.get_attribute("target") == "_blank"
            assert link.get_attribute("rel") == "noopener noreferrer"
        assert api.asked.count("invoices") == 1


def test_where_there_are_older_invoices_nothing_is_said_of_what_they_ask(site: str, browser: Browser) -> None:
    """Only those that were read are known to be paid."""
    api = Api(invoices=[invoice("A-1", "paid", due=0)])
    with opened(site, browser, api) as page:
        expect(page.locator("#invoices-note")).to_have_text("Nothing is left to be paid.")
    api.more = True
    with opened(site, browser, api) as page:
        expect(page.locator("#invoices-note")).to_have_text(
            "Of these nothing is left to be paid. These are the latest; whoever bills you knows of older ones."
        )


def test_invoices_are_asked_for_after_the_figures_and_keep_nothing_back(site: str, browser: Browser) -> None:
    """Slow or failing, the rest is there; they come by themselves, and are asked for again when somebody comes back."""
    api = Api(invoices=[invoice("A-1", "open")], failing={"invoices": 500})
    with opened(site, browser, api) as page:
        expect(page.locator("#invoices-note")).to_have_text("Invoices are not read now; they follow by themselves.")
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        expect(page.locator("#trouble")).to_be_hidden()
        assert api.asked.index("recent") < api.asked.index("invoices")
        api.failing.clear()
        expect(page.locator("#invoice-rows tbody tr")).to_have_count(1)
        api.invoices = [invoice("A-1", "paid", due=0)]
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#invoice-rows .paying")).to_have_text("Paid")


def test_an_address_that_is_none_becomes_no_link(site: str, browser: Browser) -> None:
    """Whatever comes from outside is text, or a link to a web page (I7)."""
    odd = invoice(None, "open", page_url="javascript:alert(1)", pdf_url="not an address", id="in_9")
    api = Api(invoices=[odd], payment={"state": "open", "manage_url": "data:text/html,x"})
    with opened(site, browser, api) as page:
        expect(page.locator("#invoice-rows tbody tr")).to_have_count(1)
        assert said(page)[0][0] == "in_9"
        expect(page.locator("#invoices a")).to_have_count(0)


def test_who_is_invoiced_nothing_sees_no_invoices(site: str, browser: Browser) -> None:
    """And who has none yet is told so."""
    with opened(site, browser, Api()) as page:
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        expect(page.locator("#invoices")).to_be_hidden()
    with opened(site, browser, Api(invoices=[])) as page:
        expect(page.locator("#invoices-note")).to_have_text("There is none yet.")
        expect(page.locator("#invoice-rows")).to_be_hidden()


SIZES: dict[str, Any] = PRICES | {
    "metrics": [
        {"name": "requests", "kind": "count", "scale": 0, "title": "API calls", "unit": None, "dimension": "resource"},
        {"name": "credits", "kind": "sum", "scale": 2, "title": None, "unit": "tokens", "dimension": None},
    ]
}


def test_keys_and_metrics_have_the_names_that_people_gave_them(site: str, browser: Browser) -> None:
    """A key's id stands beside its name; a metric has its title and its unit."""
    with opened(site, browser, Api(prices=SIZES, names={"key-07": "Production"})) as page:
        expect(page.locator('[data-metric="requests"] .name')).to_have_text("API calls")
        expect(page.locator('[data-metric="credits"] .name')).to_have_text("Credits (tokens)")
        expect(page.locator("#by-key h3")).to_have_text("API calls by key")
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        names = page.locator("#by-key tbody th").all_inner_texts()
        assert [name.strip() for name in names[6:9]] == ["key-06", "Production key-07", "key-08"]
        page.locator('[data-metric="credits"]').click()
        expect(page.locator("#readout")).to_contain_text("72.00 tokens, posted")
        expect(page.locator("#hours thead th").nth(3)).to_have_text("Credits (tokens)")


def test_bytes_are_written_as_people_do_with_every_digit_beside(site: str, browser: Browser) -> None:
    """Of 10^12 an hour no digit is lost."""
    measured = {"name": "requests", "kind": "sum", "scale": 0, "title": "Data", "unit": "bytes", "dimension": None}
    api = Api(each=10**12 + 1, prices=PRICES | {"metrics": [measured]})
    with opened(site, browser, api) as page:
        expect(page.locator('[data-metric="requests"] .figure')).to_have_text("841 TB")
        expect(page.locator('[data-metric="requests"] .exact')).to_have_text("841,000,000,000,841 bytes")
        expect(page.locator('[data-metric="requests"] data')).to_have_attribute("value", "841000000000841")


def test_corrections_and_a_fee_in_advance_are_said_where_the_price_is(site: str, browser: Browser) -> None:
    """A line each, with what it is; without any there is no such part."""
    one = {"metric": "credits", "hour": "2026-11-15T07", "kind": "adjustment", "quantity": -1250, "scale": 2}
    other = {"metric": "requests", "hour": "2026-11-14T07", "kind": "carried", "quantity": 3, "scale": 0}
    with opened(site, browser, Api(corrections=[one, other])) as page:
        expect(page.locator("#correction-rows tbody tr")).to_have_count(2)
        rows = [row.locator("th, td").all_inner_texts() for row in page.locator("#correction-rows tbody tr").all()]
        assert rows == [
            ["15 Nov, 07:00", "Credits", "-12.50", "Put right by whoever bills you"],
            ["14 Nov, 07:00", "Requests", "+3", "Used in an hour that another invoice is about, or taken there"],
        ]
        advance = "asked in advance: in full as the period begins, whatever is used in it"
        expect(page.locator('[data-price="base_fee"]')).to_contain_text(advance)
        expect(page.locator('[data-price="requests"]')).not_to_contain_text("in advance")
        expect(page.locator("#so-far > .quiet")).to_contain_text("$49.00 of it is asked in advance. 57.4% of")
    with opened(site, browser, Api()) as page:
        expect(page.locator("#price-lines tfoot")).to_be_visible()
        expect(page.locator("#corrections")).to_be_hidden()


def test_what_is_of_no_single_key_is_explained_where_it_stands(site: str, browser: Browser) -> None:
    """And nowhere else."""
    with opened(site, browser, Api(shared=7)) as page:
        expect(page.locator("#by-key .shared")).to_have_text(
            "Of no single key are corrections, and what several have in common: a value that each brought, or one peak "
            "of all."
        )
        expect(page.locator("#by-key tbody tr", has_text="of no single key")).to_have_count(1)
        expect(page.locator("#by-dimension tbody tr")).to_have_count(3)
        expect(page.locator("#by-dimension .shared")).to_have_count(0)


def test_a_file_by_key_has_each_day_once_and_the_names_of_keys_in_any_script(site: str, browser: Browser) -> None:
    """Read in pieces that are always answered; it begins with the mark by which Excel knows its characters."""
    api = Api(names={"key-07": "K\N{LATIN SMALL LETTER U WITH DIAERESIS}che"})
    with opened(site, browser, api) as page:
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        page.locator("#csv-by").select_option(label="by day and key")
        with page.expect_download() as downloading:
            page.locator("#csv").click()
        file = downloading.value
        written = Path(file.path()).read_bytes()
        assert file.suggested_filename == "usage-acme-2026-10-12T05-2026-11-16T06.csv"
    assert written.startswith(codecs.BOM_UTF8)
    rows = list(csv.DictReader(io.StringIO(written.decode("utf-8-sig"))))
    assert len(rows) == len({(row["period"], row["metric"], row["value"]) for row in rows}) == 36 * 2 * 50
    assert {row["name"] for row in rows if row["value"] == "key-07"} == {"K\N{LATIN SMALL LETTER U WITH DIAERESIS}che"}
    assert sum(int(row["quantity"]) for row in rows if row["metric"] == "requests") == 841 * 3 * 50


def test_when_the_session_has_ended_no_address_of_an_invoice_is_left(site: str, browser: Browser) -> None:
    """I8: whoever sits down at the tab later finds none in it."""
    api = Api(invoices=[invoice("A-1", "open")], payment={"state": "open", "manage_url": MANAGE})
    with opened(site, browser, api) as page:
        expect(page.locator("#manage a")).to_be_attached()
        api.failing = dict.fromkeys(("invoice", "recent", "days", "limits", "prices", "before", "key"), 401)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#door")).to_be_visible()
        assert page.locator("#invoices a").count() == 0


def test_a_limit_says_its_unit(site: str, browser: Browser) -> None:
    """As the metric's own figure does."""
    limit = LIMIT | {"limit": "latency/day", "metric": "latency", "per": "day", "source_in_words": "the plan standard"}
    latency = {"name": "latency", "kind": "sum", "scale": 0, "title": None, "unit": "milliseconds", "dimension": None}
    prices = PRICES | {"metrics": [*PRICES["metrics"], latency]}
    with opened(site, browser, Api(prices=prices, limit=limit)) as page:
        expect(page.locator(".limit h3")).to_have_text("Latency (milliseconds) today")


def test_an_early_forecast_shows_its_range_in_figures(site: str, browser: Browser) -> None:
    """The middle stands in its words."""
    with opened(site, browser, Api(begin="2026-11-16T00", between=(5_000, 1_234_567))) as page:
        expect(page.locator("#forecast .big")).to_have_text("$50.00 \N{EN DASH} $12,345.67")
        expect(page.locator("#forecast .quiet")).to_have_text(
            "An estimate, no price: from what it comes to if the quieter half of the last 24 hours goes on, to what if "
            "the busier half does. It is $98.60 if the last 24 hours go on. It is early: 0.9% of the period has "
            "passed, and this may be far off"
        )


@pytest.mark.parametrize(
    ("currency", "decimals", "width", "scheme"),
    [("usd", 2, 360, "light"), ("jpy", 0, 360, "dark"), ("usd", 2, 1280, "light")],
)
def test_invoices_and_corrections_fit_a_phone_and_axe_finds_nothing(  # noqa: PLR0913, PLR0917 - what differs
    site: str, browser: Browser, axe_script: str, currency: str, decimals: int, width: int, scheme: ColorScheme
) -> None:
    """10^14 of a currency, names that are long: no group of digits is broken, nothing covered or cut, nor on paper."""
    money = {"currency": currency, "decimals": decimals, "total": 10**14, "due": 10**14 - 1}
    correction = {"metric": "requests", "hour": "2026-11-15T07", "kind": "adjustment", "quantity": 10**14, "scale": 0}
    api = Api(
        each=10**12,
        shared=10**12,
        currency=currency,
        decimals=decimals,
        begin="2026-11-16T00",
        between=(10**13, 10**14),
        names={f"key-{n:02d}": "A name that is rather long for a phone" for n in range(50)},
        corrections=[correction],
        invoices=[
            invoice("ACME-0001", "past_due", due_at="2026-11-10T05:00:00Z", **money),
            invoice("ACME-0000", "paid"),
        ],
        payment={"state": "past_due", "manage_url": MANAGE},
    )
    with opened(site, browser, api, size=(width, 740)) as page:
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("#invoice-rows tbody tr")).to_have_count(2)
        expect(page.locator("#by-key tbody tr")).to_have_count(51)
        page.locator('#hours button[data-at="2026-11-16T03"]').click()
        expect(page.locator("#by-at-key tbody tr")).to_have_count(51)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(BROKEN) == []
        boxes = ".card, .metric, #price-lines, #invoice-rows, #correction-rows, #manage"
        assert page.evaluate(OUTSIDE, boxes) == []
        assert page.evaluate(COVERED) == 0
        assert violations(page, axe_script) == []
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"bills-{currency}-{width}-{scheme}.png", full_page=True)
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})
        expect(page.locator("#moment-close")).to_be_hidden()
        assert page.evaluate(OUTSIDE, "#main, #invoice-rows, #correction-rows, #moment") == []


def test_the_new_parts_are_reached_by_keyboard(site: str, browser: Browser) -> None:
    """Times of the table of hours, and every link of an invoice."""
    api = Api(invoices=[invoice("A-1", "open")], payment={"state": "open", "manage_url": MANAGE})
    with opened(site, browser, api) as page:
        expect(page.locator("#by-key tbody tr")).to_have_count(50)
        expect(page.locator("#manage a")).to_be_visible()
        reached = []
        for _ in range(24):
            page.keyboard.press("Tab")
            one = "document.activeElement"
            reached.append(page.evaluate(f"{one}.dataset.at || {one}.href || {one}.id"))
        wanted = ["invoice-rows", PAGE, PDF, MANAGE, "hours", "2026-11-16T05", "2026-11-16T04"]
        assert json.dumps(wanted)[1:-1] in json.dumps(reached)


def test_until_the_figures_come_there_is_their_outline(site: str, browser: Browser) -> None:
    """And then it is gone; at a door there is none."""
    api = Api(late={"recent"}, invoices=[])
    with opened(site, browser, api) as page:
        expect(page.locator("#wait")).to_be_visible()
        expect(page.locator("#terms")).to_have_text("Reading the figures …")
        api.let_go("recent")
        expect(page.locator("#figures")).to_be_visible()
        expect(page.locator("#wait")).to_be_hidden()
    with opened(site, browser, Api(failing={"session": 401})) as page:
        expect(page.locator("#door")).to_be_visible()
        expect(page.locator("#wait")).to_be_hidden()

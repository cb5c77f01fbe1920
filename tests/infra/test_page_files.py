"""The page's files: their types, what each may use, and that all of them reach the customers."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.local.npm import NpmError
from metering.portal.page import FILES, SCRIPTS
from tests.conftest import ROOT, cannot_run
from tests.infra import typescript

PAGE = ROOT / "functions" / "page"
FOR_DEVELOPERS = {"jsconfig.json", "README.md"}
IMPORT = re.compile(r'^import [^;]*? from "\./([a-z]+)\.js";$', re.MULTILINE)


def complaints(project: Path) -> str:
    """Return what TypeScript says of modules."""
    try:
        return typescript.complaints(project)
    except NpmError as error:
        cannot_run(str(error), needs="npm")


def imports(name: str) -> set[str]:
    """Return which of the page's modules one loads."""
    return set(IMPORT.findall((PAGE / f"{name}.js").read_text(encoding="utf-8")))


def test_the_types_of_the_page_are_sound() -> None:
    """Strictly, with no build step: the types stand in comments."""
    assert complaints(PAGE) == ""


@pytest.mark.parametrize(
    ("name", "sound", "broken", "complaint"),
    [
        ("figures", "lines[0]?.terms.interval", "lines[0]?.interval", "Property 'interval' does not exist"),
        (
            "words",
            "money(terms.amount, invoice)} fixed",
            "money(terms.sum, invoice)} fixed",
            "Property 'sum' does not exist",
        ),
        ("figures", "let quantity = 0n", "let quantity = 0", "Type 'number' is not assignable to type 'bigint'"),
    ],
)
def test_a_field_that_the_api_has_not_and_a_float_are_found(
    tmp_path: Path, name: str, sound: str, broken: str, complaint: str
) -> None:
    """The check of the types can fail."""
    copy = shutil.copytree(PAGE, tmp_path / "page")
    text = (copy / f"{name}.js").read_text(encoding="utf-8")
    assert sound in text
    (copy / f"{name}.js").write_text(text.replace(sound, broken), encoding="utf-8")
    assert complaint in complaints(copy)


def computed(expression: str) -> Any:
    """Return what the modules that compute make of something: they need no browser, and here they have none."""
    program = f"""
        import * as figures from "{PAGE.as_uri()}/figures.js";
        import * as chart from "{PAGE.as_uri()}/chart.js";
        import * as words from "{PAGE.as_uri()}/words.js";
        const whole = (_, value) => (typeof value === "bigint" ? Number(value) : value);
        console.log(JSON.stringify({expression}, whole));
    """
    node = [str(Path(sys.executable).with_name("node")), "--input-type=module", "--eval", program]
    done = subprocess.run(  # noqa: S603 - our own program
        node, env=os.environ | {"LC_ALL": "en_US.UTF-8"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ('{kind: "per_unit", amount: "0.5"}', "$0.005 per unit"),
        ('{kind: "package", amount: "2", size: 1000000n}', "$0.02 for each 1,000,000 begun"),
        ('{kind: "flat", amount: "4900", included: {}}', "$49.00 fixed"),
        (
            '{kind: "graduated", tiers: [{up_to: 9n, amount: "0", flat: "0"}, {up_to: null, amount: "4", flat: "7"}]}',
            "graduated: up to 9: $0.00, beyond: $0.04 + $0.07 fixed",
        ),
        (
            '{kind: "volume", tiers: [{up_to: 10n, amount: "1.5", flat: "7"}, {up_to: null, amount: "1", flat: "0"}]}',
            "volume: up to 10: $0.015 + $0.07 fixed, beyond: $0.01",
        ),
    ],
)
def test_a_price_is_said_by_its_terms(terms: str, words: str) -> None:
    """Every digit of an amount, in the currency's own writing."""
    assert computed(f'words.priceWords({terms}, {{currency: "usd", decimals: 2n}})') == words


@pytest.mark.parametrize(
    ("begin", "interval", "previous"),
    [
        ("2026-11-22T05", "day", "2026-11-21T05"),
        ("2026-11-22T05", "week", "2026-11-15T05"),
        ("2026-03-31T05", "month", "2026-02-28T05"),
        ("2024-02-29T05", "year", "2023-02-28T05"),
    ],
)
def test_the_period_before_is_an_interval_of_the_prices_earlier(begin: str, interval: str, previous: str) -> None:
    """As the invoice says it; on the month's last day where it is shorter."""
    invoice = f'{{so_far: {{lines: [{{terms: {{interval: "{interval}"}}}}]}}}}'
    said = computed(f'figures.hourOf(figures.previousBegin(figures.dateOf("{begin}"), {invoice}))')
    assert said == previous


def test_without_an_invoice_the_period_before_is_the_calendar_month_before() -> None:
    """Nothing else is known."""
    assert computed('figures.hourOf(figures.previousBegin(figures.dateOf("2026-11-01T00"), null))') == "2026-10-01T00"


@pytest.mark.parametrize(
    ("written", "places", "amount"),
    [
        ("", 2, None),
        ("60", 2, 6000),
        ("60.5", 2, 6050),
        ("60,05", 2, 6005),
        ("0.01", 2, 1),
        ("5.", 2, 500),
        ("60", 0, 60),
        ("1.234", 3, 1234),
        ("999999999999.99", 2, 99_999_999_999_999),
    ],
)
def test_an_amount_is_read_exactly(written: str, places: int, amount: int | None) -> None:
    """Into the currency's smallest unit; an empty field asks for nothing."""
    assert computed(f"words.smallest({json.dumps(written)}, {places})") == amount


@pytest.mark.parametrize("written", ["0", "0.00", "-1", "1.234", "1e3", "1.000,00", "1,000.00", "$60", "sixty", "."])
def test_what_is_no_amount_is_not_guessed(written: str) -> None:
    """A separator of thousands could be read as a point."""
    assert computed(f"words.smallest({json.dumps(written)}, 2) === undefined") is True


def test_a_bar_is_as_tall_as_its_quantity() -> None:
    """Of the height below the uppermost line; one without usage has none, and the previous period is a level."""
    bars = """[
        {cell: {quantity: 2000n, state: "posted"}, before: 1000n, short: "a"},
        {cell: {quantity: 1000n, state: "posted"}, before: 0n, short: "b"},
        {cell: null, before: 0n, short: "c"},
    ]"""
    layout = computed(f"chart.layOut({bars}, 3, true, {{width: 632, rem: 10}})")
    assert [tick["label"]["text"] for tick in layout["ticks"]] == ["0", "0.5", "1", "1.5", "2"]
    top, ground = layout["ticks"][-1]["y"], layout["ticks"][0]["y"]
    heights = [slot["column"] and slot["column"]["height"] for slot in layout["slots"]]
    assert heights == [pytest.approx(ground - top), pytest.approx((ground - top) / 2), None]
    assert [slot["level"] for slot in layout["slots"]] == [pytest.approx((ground + top) / 2), None, None]
    assert [slot["reach"]["x"] for slot in layout["slots"]] == [32, 232, 432]


def test_each_file_is_for_customers_or_for_developers() -> None:
    """A module that is not listed would be missing in the zip, and found by a customer first."""
    assert {file.name for file in PAGE.iterdir()} - FOR_DEVELOPERS == {name for name, _ in FILES.values()}


def test_the_document_loads_the_first_module_and_announces_the_others() -> None:
    """So that they come at once instead of one after the other; and it loads nothing else that runs."""
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script.*", text) == ['<script type="module" src="main.js"></script>']
    assert re.findall(r'<link rel="modulepreload" href="([a-z]+)\.js">', text) == [*SCRIPTS[1:]]


def test_the_modules_load_one_another_in_one_direction() -> None:
    """What works figures out knows neither the document nor the way to the API."""
    assert {name: imports(name) for name in SCRIPTS} == {
        "main": {"api", "elements", "figures", "limits", "reading", "view"},
        "limits": {"elements", "figures", "words"},
        "view": {"chart", "elements", "figures", "invoices", "parts", "price", "words"},
        "invoices": {"elements", "figures", "words"},
        "parts": {"elements", "figures", "words"},
        "price": {"elements", "figures", "words"},
        "reading": {"api", "figures"},
        "elements": {"words"},
        "chart": {"words"},
        "figures": {"words"},
        "words": set(),
        "api": set(),
    }
    for name in ("figures", "chart", "words"):
        text = (PAGE / f"{name}.js").read_text(encoding="utf-8")
        assert re.findall(r"\b(?:document|window|location|navigator|fetch|Date\.now|performance)\b", text) == []

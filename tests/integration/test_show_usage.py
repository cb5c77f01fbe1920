"""The customers' API: what a customer sees, how it is written, and that nobody sees another's."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

import show_usage
from infra.operate.usage import Report
from metering.model.amounts import MOST_VALUES, Amounts
from metering.model.metrics import Count, Sum, Unique
from metering.model.periods import Hour
from metering.model.subjects import key
from metering.model.usage_row import Change
from metering.portal.document import document
from metering.portal.page import read
from metering.portal.queries import as_csv
from metering.portal.reading import By
from metering.stores.marks import new_mark
from tests.conftest import ROOT
from tests.doubles.lambdas import HOST, request
from tests.integration.portal import IAM, ORIGIN, Portal, forget, opened
from tests.integration.world import HOUR, World, moment

METRICS = (
    Count(name="requests", by="resource"),
    Sum(name="bytes", of="response_length"),
    Unique(name="users", of="authorizer.user", opaque_id=True),
)
ROLE = "arn:aws:sts::123456789012:assumed-role/backend"
LAST_HOUR = Hour(HOUR.number - 1)
TODAY = {"from": "2026-11-22", "to": "2026-11-23"}


@pytest.fixture
def portal(world: World, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Portal]:
    """The API of a deployment whose customer acme holds key1 and key2."""
    world.bill(*METRICS)
    world.customer("acme", "key1", "key2")
    with opened(world, template, monkeypatch, tmp_path, metrics=METRICS, origins=ORIGIN) as made:
        yield made


def use(world: World, times: int = 1, *, hour: Hour = HOUR, user: str = "-", **changes: str) -> None:
    """Let requests of an hour be logged and counted, one after the other."""
    given = {"authorizer.user": user, "time": moment(hour), **changes}
    world.record(*(world.line(**given) for _ in range(times)))


def close(world: World) -> None:
    """Let the world's hour be closed into the ledger."""
    world.after_grace()
    world.close()


def test_a_request_shows_before_its_hour_is_closed(portal: Portal) -> None:
    """Seconds after it was counted; and the same afterwards, once it is closed, and posted."""
    use(portal.world, 3)
    line = ("2026-11-22", "requests", None, 3)
    assert (*line, "counting") in portal.usage()
    close(portal.world)
    assert (*line, "closed") in portal.usage()
    portal.world.customer("acme", stripe_customer="cus_acme")
    portal.world.run()
    assert (*line, "posted") in portal.usage()


def test_what_comes_late_shows_at_once(portal: Portal) -> None:
    """The hour counts anew until it is closed again: a late mark names it."""
    use(portal.world, 3)
    close(portal.world)
    use(portal.world, 2, key="key2")
    assert ("2026-11-22", "requests", None, 5, "counting") in portal.usage()
    assert ("2026-11-22", "bytes", None, 50, "counting") in portal.usage()
    portal.world.close()
    assert ("2026-11-22", "requests", None, 5, "closed") in portal.usage()


def test_a_mark_of_somebody_else_asks_for_nothing(portal: Portal) -> None:
    """Only the marked hours of its own keys are counted anew."""
    close(portal.world)
    portal.world.counters.marks.mark_late(LAST_HOUR, key("somebody-elses"), new_mark())
    portal.calls.clear()
    portal.usage()
    assert [pk for _, _, pk in portal.calls if pk.startswith(f"hour#{LAST_HOUR}")] == []


def test_hours_days_and_months_add_up(portal: Portal) -> None:
    """The same usage, by each period."""
    use(portal.world, 2)
    use(portal.world, 1, hour=LAST_HOUR)
    portal.world.counters.marks.mark_late(LAST_HOUR, key("key1"), new_mark())
    wanted = {**TODAY, "metric": "requests"}
    said = [
        portal.usage(by=by, **{f"{name}_": value for name, value in wanted.items()}) for by in ("hour", "day", "month")
    ]
    assert [[(line[0], line[3]) for line in lines] for lines in said] == [
        [(str(LAST_HOUR), 1), (str(HOUR), 2)],
        [("2026-11-22", 3)],
        [("2026-11", 3)],
    ]


def test_usage_splits_by_the_dimension_of_a_metric(portal: Portal) -> None:
    """Open and closed alike; a metric without that dimension belongs to none of its values."""
    use(portal.world, 2, resource="/items")
    use(portal.world, 1, resource="/orders", key="key2")
    open_hour = portal.usage(dimension="resource")
    close(portal.world)
    for lines in (open_hour, portal.usage(dimension="resource")):
        assert [line[1:4] for line in lines] == [
            ("bytes", "", 30),
            ("requests", "/items", 2),
            ("requests", "/orders", 1),
        ]


def test_usage_of_several_apis_is_told_apart_by_their_names(
    world: World, template: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of their connections; open and closed alike."""
    metrics = (Count(name="requests", by="api"), Count(name="orders", apis=("orders",)))
    world.bill(*metrics)
    world.customer("acme", "key1", "orders:auth0|x")
    with opened(world, template, monkeypatch, tmp_path, metrics=metrics, origins=ORIGIN) as portal:
        use(world, 2, key="orders:auth0|x", api_id="orders")
        use(world, 1, api_id="a1b2c3d4e5")
        open_hour = portal.usage(dimension="api")
        close(world)
        for lines in (open_hour, portal.usage(dimension="api")):
            assert [line[1:4] for line in lines] == [
                ("orders", "", 2),
                ("requests", "a1b2c3d4e5", 1),
                ("requests", "orders", 2),
            ]


def test_a_split_of_several_keys_shows_the_largest_values_as_the_ledger_will(portal: Portal) -> None:
    """Open or closed: an hour that gets closed changes no line."""
    for number in range(MOST_VALUES + 1):
        times = 1 + (number < MOST_VALUES)
        use(portal.world, times, resource=f"/r{number}", key=("key1", "key2")[number % 2])
    open_hour = portal.usage(dimension="resource", metric="requests")
    close(portal.world)
    for lines in (open_hour, portal.usage(dimension="resource", metric="requests")):
        assert len(lines) == MOST_VALUES + 1
        assert [line[1:4] for line in lines if line[2] == "other"] == [("requests", "other", 1)]


def test_usage_splits_by_key(portal: Portal) -> None:
    """Each key's own, open and closed; users that keys have in common are of no single one."""
    use(portal.world, 2, user="u1")
    use(portal.world, 1, key="key2", user="u1")
    open_hour = portal.usage(dimension="key")
    close(portal.world)
    for lines in (open_hour, portal.usage(dimension="key")):
        assert [line[1:4] for line in lines] == [
            ("bytes", "key1", 20),
            ("bytes", "key2", 10),
            ("requests", "key1", 2),
            ("requests", "key2", 1),
            ("users", "", 1),
        ]


def test_an_hour_with_one_key_is_that_keys(portal: Portal) -> None:
    """The row itself says which."""
    use(portal.world, 2)
    close(portal.world)
    assert [line[1:4] for line in portal.usage(dimension="key")] == [("bytes", "key1", 20), ("requests", "key1", 2)]


def test_keys_have_the_names_that_their_customer_knows(portal: Portal) -> None:
    """Where it is asked by key, of those that were used; one without a name has none."""
    portal.world.customer("acme", "key3")
    for key_id, name in (("key1", "production"), ("key2", "unused")):
        portal.world.ledger.holders.name_key("acme", key_id, name)
    use(portal.world, 2)
    use(portal.world, 1, key="key3")
    assert portal.get("/v1/usage", {"dimension": "key"}).json()["names"] == {"key1": "production"}
    assert portal.get("/v1/usage", {"dimension": "resource"}).json()["names"] == {}


def test_adjustments_belong_to_no_key(portal: Portal) -> None:
    """I5: the parts still add up to what is billed."""
    use(portal.world, 5)
    close(portal.world)
    adjust(portal.world, -2)
    assert ("2026-11-22", "requests", None, 3, "closed") in portal.usage()
    assert [line[2:4] for line in portal.usage(dimension="key", metric="requests")] == [("", -2), ("key1", 5)]


def adjust(world: World, amount: int) -> None:
    """Let an operator adjust acme's requests of the world's hour."""
    world.changes.add("acme", HOUR, Change("a1", "requests", amount, "a mistake", "operator", 0))
    world.close()


def test_it_equals_what_the_operator_sees(portal: Portal) -> None:
    """Line by line, `metering usage` shows the same quantities."""
    world = portal.world
    use(world, 3, hour=LAST_HOUR, user="u1")
    use(world, 2, key="key2", user="u2")
    world.after_grace()
    world.close()
    use(world, 4, hour=HOUR.next(), user="u1")
    use(world, 1, key="key2", user="u3")
    report = Report(world.counters, show_usage._parts().reader.uniques.uniques, world.ledger, "acme", split=False)
    shown: dict[tuple[str, str], int] = {}
    for line in report.lines(
        Hour.parse("2026-11-22T00"),
        Hour.parse("2026-11-23T00"),
        by=By.HOUR,
        now=world.now,
        progress=lambda each, _: each,
    ):
        shown[line.period, line.metric] = shown.get((line.period, line.metric), 0) + line.quantity
    ours = {
        line[:2]: line[3] for line in portal.usage(by="hour", **{f"{name}_": value for name, value in TODAY.items()})
    }
    assert ours == shown
    assert ours[str(HOUR), "users"] == 2


def test_a_key_that_changed_hands_counts_for_who_held_it(portal: Portal) -> None:
    """I6: each sees its own hours and nothing of the other's."""
    world = portal.world
    use(world, 3, hour=LAST_HOUR)
    world.customer("globex", "key1", since=HOUR)
    use(world, 2)
    world.counters.marks.mark_late(LAST_HOUR, key("key1"), new_mark())
    wanted = {**TODAY, "metric": "requests", "by": "hour"}
    seen = {
        name: [(line[0], line[3]) for line in portal.usage(name, **{f"{k}_": v for k, v in wanted.items()})]
        for name in ("acme", "globex")
    }
    assert seen == {"acme": [(str(LAST_HOUR), 3)], "globex": [(str(HOUR), 2)]}
    assert portal.usage("globex", dimension="key")[0][2] == "key1"
    world.ledger.holders.name_key("acme", "key1", "acme's secret project")
    assert portal.get("/v1/usage", {"dimension": "key"}, token=portal.token("globex")).json()["names"] == {}
    world.after_grace()
    world.close()
    assert [line[3] for line in portal.usage("globex", metric="requests")] == [2]
    assert [line[3] for line in portal.usage("acme", metric="requests")] == [3]


def test_usage_that_was_reported_without_a_key_is_the_customers(portal: Portal) -> None:
    """It stands under no key."""
    portal.world.counters.count(HOUR, "@acme", Amounts(sums={"requests": 7}), b"b" * 12)
    assert [line[2:4] for line in portal.usage(dimension="key")] == [("", 7)]


def test_nothing_is_shown_of_hours_to_come(portal: Portal) -> None:
    """They are asked for, and are empty."""
    use(portal.world)
    assert portal.usage(from_="2026-11-22T06", to="2026-11-30") == []
    assert portal.usage(from_="2026-12-01", to="2026-12-30") == []


def test_by_default_it_shows_the_month_by_day(portal: Portal) -> None:
    """From its first hour up to the running one."""
    use(portal.world, 2)
    answer = portal.get("/v1/usage")
    assert answer.headers["Content-Type"] == "application/json"
    shown = answer.json()
    assert {name: shown[name] for name in shown if name != "usage"} == {
        "customer": "acme",
        "from": "2026-11-01T00",
        "to": "2026-11-22T06",
        "by": "day",
        "as_of": "2026-11-22T05:30:00Z",
        "dimension": None,
        "names": {},
    }
    assert shown["usage"][1] == {
        "period": "2026-11-22",
        "metric": "requests",
        "value": None,
        "quantity": 2,
        "scale": 0,
        "state": "counting",
    }


@pytest.mark.parametrize("how", [{"query": {"format": "csv"}}, {"accept": "text/csv"}])
def test_it_writes_csv_where_it_is_asked_to(portal: Portal, how: dict[str, Any]) -> None:
    """With the names of the columns, as a file of that name; what a spreadsheet would run is text."""
    use(portal.world, 2, resource="=cmd()")
    headers = {"accept": how["accept"]} if "accept" in how else {}
    answer = portal.get("/v1/usage", {"dimension": "resource", **how.get("query", {})}, **headers)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == (
        'attachment; filename="usage-acme-2026-11-01T00-2026-11-22T06.csv"'
    )
    assert list(csv.reader(io.StringIO(answer.body.decode()))) == [
        ["period", "metric", "value", "quantity", "scale", "state", "starts_at_utc", "quantity_decimal", "name"],
        ["2026-11-22", "bytes", "", "20", "0", "counting", "2026-11-22 00:00:00", "20", ""],
        ["2026-11-22", "requests", "'=cmd()", "2", "0", "counting", "2026-11-22 00:00:00", "2", ""],
    ]


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        (("2026-11", "key1", 1500, 3), ["2026-11-01 00:00:00", "1.500", "'=CI"]),
        (("2026-11-22", "", -7, 2), ["2026-11-22 00:00:00", "-0.07", ""]),
        (("2026-11-22T05", "key2", 10**15 + 1, 6), ["2026-11-22 05:00:00", "1000000000.000001", ""]),
    ],
)
def test_a_file_has_what_a_spreadsheet_computes_with(line: tuple[str, str, int, int], columns: list[str]) -> None:
    """Behind the columns of 1.0.0: a moment, an exact decimal, and what a key is called, never a formula."""
    period, value, quantity, scale = line
    row = {"period": period, "metric": "m", "value": value, "quantity": quantity, "scale": scale, "state": "closed"}
    assert list(csv.reader(io.StringIO(as_csv([row], {"key1": "=CI"}))))[1][6:] == columns


def test_a_file_by_key_names_the_keys(portal: Portal) -> None:
    """As the JSON does."""
    portal.world.ledger.holders.name_key("acme", "key1", "production")
    use(portal.world)
    text = portal.get("/v1/usage", {"dimension": "key", "format": "csv"}).body.decode()
    assert [row["name"] for row in csv.DictReader(io.StringIO(text)) if row["value"] == "key1"] == ["production"] * 2


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        (" =1+1", "' =1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\uff20SUM(1)", "'\uff20SUM(1)"),
        ("x;=1+1", "x;'=1+1"),
        ("x; -1", "x;' -1"),
        ("x\t@SUM(1)", "x\t'@SUM(1)"),
        ("x\n+1", "x\n'+1"),
        ("x\r=1", "x\r'=1"),
        ("\tx", "'\tx"),
        ("/items;v=1,2", "/items;v=1,2"),
    ],
)
def test_no_cell_of_a_file_is_a_formula(value: str, written: str) -> None:
    """Whatever character the spreadsheet takes for the one between cells; every cell is quoted."""
    text = as_csv(
        [{"period": "2026-11", "metric": "requests", "value": value, "quantity": 1, "scale": 0, "state": "x"}]
    )
    assert list(csv.reader(io.StringIO(text, newline="")))[1][2] == written
    assert text.startswith('"period","metric",')
    for separator in ";\t":
        cells = (cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) for cell in row)
        assert [cell for cell in cells if cell.lstrip()[:1] in {*"=+-@\uff1d\uff0b\uff0d\uff20"}] == []


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", "application/json"),
        ("application/json, text/csv;q=0.1", "application/json"),
        ("TEXT/CSV", "text/csv"),
        ("text/csv; charset=utf-8", "text/csv"),
        ("text/csv, application/json;Q=0.9", "text/csv"),
        ("text/*", "text/csv"),
        ("text/*;q=0.5, application/json;q=0.4", "text/csv"),
        ("*/*;q=0.5", "application/json"),
        ("*/*, text/csv;q=0", "application/json"),
        ("text/csv;q=0.5, */*;q=0.5", "application/json"),
        ("application/json;q=0, text/csv;q=0.001", "text/csv"),
        ("text/csv;q=0.000", "application/json"),
        ("text/html", "application/json"),
        ("nothing that could be read;;;=, text/csv", "text/csv"),
        (",,;q=", "application/json"),
    ],
)
def test_an_answer_has_the_form_that_its_caller_likes_best(portal: Portal, accept: str, media: str) -> None:
    """By weight, whatever the case (RFC 9110, 12.5.1); JSON where it likes neither, or both alike."""
    answer = portal.get("/v1/usage", accept=accept)
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, media)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("GZIP;Q=1", "gzip"),
        ("br, gzip;q=0.2", "gzip"),
        ("*", "gzip"),
        ("identity, gzip;q=0", ""),
        ("gzip;q=0.000", ""),
        ("*;q=0", ""),
        ("gzip;q=0.5, identity", ""),
        ("gzip;q=0.5, *;q=0", "gzip"),
        ("gzipped, x-gzip-not, /;q", ""),
    ],
)
def test_an_answer_is_packed_as_its_caller_likes_best(portal: Portal, accept: str, coding: str) -> None:
    """By weight, whatever the case (RFC 9110, 12.5.3); not at all where nothing is said."""
    answer = portal.get("/v1/openapi.json", accept_encoding=accept)
    assert answer.headers.get("Content-Encoding", "") == coding


def test_what_a_client_has_already_is_not_sent_again(portal: Portal) -> None:
    """That time went by is no difference; another request is."""
    use(portal.world)
    first = portal.get("/v1/usage")
    portal.world.now += timedelta(seconds=5)
    again = portal.get("/v1/usage", if_none_match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    use(portal.world)
    assert portal.get("/v1/usage", if_none_match=first.headers["ETag"]).status == 200


def test_another_customers_tag_opens_nothing(portal: Portal) -> None:
    """I6: the tag tells customers apart, too."""
    portal.world.customer("globex", "key3")
    tag = portal.get("/v1/usage").headers["ETag"]
    assert portal.get("/v1/usage", token=portal.token("globex"), if_none_match=tag).status == 200


def test_a_long_answer_is_compressed_where_that_is_understood(portal: Portal) -> None:
    """And is the same."""
    plain = portal.get("/v1/openapi.json")
    packed = portal.get("/v1/openapi.json", accept_encoding="br, gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert packed.body == plain.body


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({"frm": "2026-11-01"}, "there is no such parameter; got 'frm': write 'from'"),
        ({"Metric": "a", "by": "day"}, "there is no such parameter; got 'Metric': write 'metric'"),
        ({"by": "week"}, "by must be hour, day or month; got 'week'"),
        ({"metric": "calls"}, "metric must be one of requests, bytes, users; got 'calls'"),
        ({"dimension": "method"}, "dimension must be one of key, resource; got 'method'"),
        ({"format": "xml"}, "format must be json or csv; got 'xml'"),
        ({"from": "yesterday"}, "from must be written 2026-11-01 or 2026-11-22T05 (UTC); got 'yesterday'"),
        ({"from": "2026-02-30"}, "from must be a date or hour that exists; got '2026-02-30'"),
        ({"from": "1999-01-01"}, "from must be from 2020 on and before 2100; got '1999-01-01'"),
        ({"to": "2100-01-01"}, "to must be from 2020 on and before 2100; got '2100-01-01'"),
        (
            {"from": "2026-11-03", "to": "2026-11-02"},
            "from must be before to; got 2026-11-03T00 and 2026-11-02T00",
        ),
        (
            {"from": "2024-01-01", "to": "2026-01-01"},
            "from and to must be 366 days apart at most; got 2024-01-01T00 and 2026-01-01T00",
        ),
    ],
)
def test_a_wrong_question_is_answered_with_what_was_got_and_wanted(
    portal: Portal, query: dict[str, str], detail: str
) -> None:
    """As a problem (RFC 9457)."""
    answer = portal.get("/v1/usage", query)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": detail}


@pytest.mark.parametrize("path", ["/v1/invoice", "/v1/invoices", "/v1/prices", "/v1/limits", "/v1/openapi.json"])
def test_what_takes_no_parameters_says_so(portal: Portal, path: str) -> None:
    """Instead of an answer that leaves out what was meant."""
    answer = portal.get(path, {"from": "2026-11-01", "x" * 200: ""})
    assert (answer.status, answer.json()["detail"]) == (
        400,
        f"this takes no parameters; got 'from', '{'x' * 80}'",
    )


@pytest.mark.parametrize("path", ["/", "/main.js"])
def test_the_page_opens_with_whatever_its_address_remembers(portal: Portal, path: str) -> None:
    """Its own script reads that."""
    assert portal.get(path, {"metric": "requests"}, token="").status == 200


def test_what_is_not_there_is_a_problem(portal: Portal) -> None:
    """Below the API's own paths, with a token."""
    answer = portal.call("GET", "/v1/nothing")
    assert (answer.status, answer.json()["title"]) == (404, "Not Found")


def test_prices_are_shown_as_declared(portal: Portal) -> None:
    """With the metrics and what each can be split by."""
    shown = portal.get("/v1/prices").json()
    assert shown == {
        "plans": [],
        "metrics": [
            {"name": "requests", "kind": "count", "scale": 0, "title": None, "unit": None, "dimension": "resource"},
            {"name": "bytes", "kind": "sum", "scale": 0, "title": None, "unit": "bytes", "dimension": None},
            {"name": "users", "kind": "unique", "scale": 0, "title": None, "unit": None, "dimension": None},
        ],
        "limits": {"hours": 261, "hours_by_key": 130},
    }


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/invoice", "/v1/prices", "/v1/nothing"])
def test_without_a_token_nothing_is_shown(portal: Portal, path: str) -> None:
    """Nor is anything looked at: a wrong question is not answered either."""
    answer = portal.get(path, {"by": "week"}, token="")
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "by" not in answer.json()["detail"].split()
    assert portal.calls == []


def test_every_answer_is_safe_to_show(portal: Portal) -> None:
    """Headers that bind browsers; nobody in between keeps a customer's data."""
    for answer in (
        portal.get("/v1/usage"),
        portal.get("/v1/usage", token="x"),
        portal.get("/v1/openapi.json", token=""),
    ):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert "Authorization" in answer.headers["Vary"]
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert portal.get("/v1/usage").headers["Cache-Control"] == "private, no-cache"
    assert portal.get("/v1/usage", token="x").headers["Cache-Control"] == "no-store"


def test_only_declared_origins_may_call_from_browsers(portal: Portal) -> None:
    """Also an error can be read there; another origin's page reads nothing."""
    allowed, error = portal.get("/v1/usage", origin=ORIGIN), portal.get("/v1/usage", token="x", origin=ORIGIN)
    assert {one.headers["Access-Control-Allow-Origin"] for one in (allowed, error)} == {ORIGIN}
    assert "Access-Control-Allow-Origin" not in portal.get("/v1/usage", origin="https://evil.example").headers
    preflight = portal.call("OPTIONS", "/v1/usage", token="", headers={"origin": ORIGIN}, route="OPTIONS /v1/{proxy+}")
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert "GET" in preflight.headers["Access-Control-Allow-Methods"]
    other = portal.call(
        "OPTIONS", "/v1/usage", token="", headers={"origin": "https://evil.example"}, route="OPTIONS /v1/{proxy+}"
    )
    assert "Access-Control-Allow-Origin" not in other.headers


def test_a_link_is_given_to_callers_of_the_account(portal: Portal, caplog: pytest.LogCaptureFixture) -> None:
    """For ten minutes, or as long as is asked for, under the address that was called; the log says who, and for whom.

    I8: it says neither the token nor the caller's session, which often is a person's name.
    """
    for wanted, ends in (({}, "2026-11-22T05:40:00Z"), ({"hours": 2}, "2026-11-22T07:30:00Z")):
        body = json.dumps({"customer": "acme", **wanted})
        answer = portal.call("POST", "/v1/links", token="", body=body, authorizer=IAM, base="/portal")
        assert (answer.status, answer.headers["Cache-Control"]) == (201, "no-store")
        url, _, token = answer.json()["url"].partition("#")
        assert (url, answer.json()["expires_at"]) == (f"https://{HOST}/portal/", ends)
        said = vars(caplog.records[-1])
        assert (said["msg"], said["customer"], said["by"], said["until"]) == ("link issued", "acme", ROLE, ends)
        assert token not in str(said)


def test_a_link_opens_a_session_and_shows_nothing_by_itself(portal: Portal) -> None:
    """I7: what a browser's history keeps is worth nothing once it has ended, however long the session goes on."""
    body = json.dumps({"customer": "acme"})
    given = portal.call("POST", "/v1/links", token="", body=body, authorizer=IAM)
    link = given.json()["url"].partition("#")[2]
    refused = portal.get("/v1/usage", token=link)
    assert refused.status == 401
    assert "POST /v1/session gives one for it" in refused.json()["detail"]
    opened_session = portal.call("POST", "/v1/session", token=link)
    assert (opened_session.status, opened_session.headers["Cache-Control"]) == (201, "no-store")
    session = opened_session.json()
    assert (session["customer"], session["expires_at"]) == ("acme", "2026-11-22T13:30:00Z")
    assert portal.get("/v1/usage", token=session["token"]).json()["customer"] == "acme"
    assert portal.call("POST", "/v1/session", token=session["token"]).status == 401  # no session begets another
    portal.world.now += timedelta(minutes=10)
    assert portal.call("POST", "/v1/session", token=link).status == 401
    assert portal.get("/v1/usage", token=session["token"]).status == 200
    portal.world.now += timedelta(hours=8)
    assert portal.get("/v1/usage", token=session["token"]).status == 401


@pytest.mark.parametrize("authorizer", [None, {}, {"jwt": {"claims": {}}}, {"iam": None}])
def test_nobody_else_gets_a_link(portal: Portal, authorizer: Any) -> None:
    """I7: even if the API's route should lose its authorizer, and whatever token comes along."""
    answer = portal.call("POST", "/v1/links", body='{"customer": "acme"}', authorizer=authorizer)
    assert answer.status == 403
    assert "url" not in answer.json()


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ('{"customer": "nobody"}', 404, "there is no customer 'nobody'"),
        ('{"customer": "acme", "hours": 25}', 400, "hours input should be less than or equal to 24; got '25'"),
        ('{"customer": "-"}', 404, "there is no customer '-'"),
        ('{"customer": "\\ud800"}', 400, "customer input should be a valid string"),
        (json.dumps({"customer": "a" * 129}), 400, "customer string should have at most 128 characters"),
        ("{}", 400, "customer must be given"),
        ("{", 400, "the body must be JSON"),
        ("[]", 400, "the body"),
        ("[" * 900, 400, "the body must be one flat JSON object"),
        ("[" * 100_000, 400, "the body must have at most 4,096 characters, got 100,000"),
        (f'{{"customer": "acme", "hours": {"1" * 4000}}}', 400, "hours input should be less than or equal to 24; got"),
        (f'{{"customer": "acme", "hours": {"1" * 4000}e4000}}', 400, "hours input should be"),
        ("", 400, "the body"),
    ],
)
def test_a_wrong_wish_for_a_link_is_refused(portal: Portal, body: str, status: int, detail: str) -> None:
    """With what was got and wanted."""
    answer = portal.call("POST", "/v1/links", token="", body=body, authorizer=IAM)
    assert answer.status == status, answer.body
    assert answer.json()["detail"].startswith(detail)


def test_documents_of_any_number_of_hosts_fill_no_memory(portal: Portal) -> None:
    """I10: a wildcard domain has as many names as anybody likes."""
    for number in range(20):
        sent = request("GET", "/v1/openapi.json", None, {}, None)
        sent["requestContext"]["domainName"] = f"a{number}.example.com"
        assert portal.send(sent).json()["servers"] == [{"url": f"https://a{number}.example.com"}]
    assert document.cache_info().currsize == 8


def test_the_page_is_found_under_a_name_of_its_own(
    portal: Portal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a custom domain puts it; without the slash its relative links would lead astray."""
    (tmp_path / "index.html").write_text("<!doctype html>")
    monkeypatch.setattr("metering.portal.page.FOLDER", tmp_path)
    read.cache_clear()
    page = portal.call("GET", "/", token="", base="/usage")
    assert (page.status, page.headers["Content-Type"], page.body) == (
        200,
        "text/html; charset=utf-8",
        b"<!doctype html>",
    )
    assert page.headers["Cache-Control"] == "no-cache"
    assert portal.call("GET", "/", token="", headers={"if-none-match": page.headers["ETag"]}).status == 304
    astray = portal.call("GET", "/usage", token="", route="GET /")
    assert (astray.status, astray.headers["Location"]) == (308, f"https://{HOST}/usage/")
    read.cache_clear()


@pytest.mark.parametrize(
    ("path", "name", "media"),
    [
        ("/", "index.html", "text/html"),
        ("/style.css", "style.css", "text/css"),
        ("/main.js", "main.js", "text/javascript"),
        ("/api.js", "api.js", "text/javascript"),
        ("/chart.js", "chart.js", "text/javascript"),
        ("/elements.js", "elements.js", "text/javascript"),
        ("/figures.js", "figures.js", "text/javascript"),
        ("/price.js", "price.js", "text/javascript"),
        ("/reading.js", "reading.js", "text/javascript"),
        ("/view.js", "view.js", "text/javascript"),
    ],
)
def test_each_file_of_the_page_is_answered_without_a_token(portal: Portal, path: str, name: str, media: str) -> None:
    """As it is, with the media type without which a browser takes no module."""
    answer = portal.call("GET", path, token="")
    assert (answer.status, answer.headers["Content-Type"]) == (200, f"{media}; charset=utf-8")
    assert answer.body == (ROOT / "functions" / "page" / name).read_bytes()


def test_a_failure_tells_its_caller_nothing(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """I8: neither where it was nor what it was about; the log says where."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("acme's secret")

    monkeypatch.setattr(type(show_usage._parts().reader), "read", fail)
    answer = portal.get("/v1/usage")
    assert (answer.status, answer.json()["detail"]) == (500, "something went wrong here: try again later")
    assert b"acme" not in answer.body


def test_a_rotated_key_leaves_the_links_of_the_one_before(portal: Portal) -> None:
    """And not those of the one before that."""
    secrets = boto3.client("secretsmanager")
    first = portal.token()
    for key_now in ("l" * 64, "m" * 64):
        secrets.put_secret_value(SecretId=portal.secret, SecretString=key_now)
    forget()
    statuses = [portal.get("/v1/prices", token=token).status for token in (first, portal.token(key="l" * 64))]
    assert statuses == [401, 200]
    assert portal.get("/v1/prices", token=portal.token(key="m" * 64)).status == 200

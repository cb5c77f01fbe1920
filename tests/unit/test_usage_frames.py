"""Usage lines in the frames of loggers: found in any of them, by the way that counts and by the recount alike."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.operate.recount.raw_lines import Record, UnreadableError
from infra.operate.recount.raw_usage_lines import read_usage_line
from infra.stack.ingest import USAGE_LINES as TERM
from metering.model.access_log import Partly, Rejected
from metering.model.metrics import USAGE_LINES, Count, Max, Metric, Sum
from metering.model.periods import LATEST_RECORD, OLDEST_RECORD, Hour
from metering.model.usage_lines import Report, UsageLineReader
from tests.doubles.log_frames import FRAMES, LAMBDA, MERGING, NAMED

NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
METRICS: tuple[Metric, ...] = (
    Count(name="requests"),
    Sum(name="tokens", of=USAGE_LINES),
    Sum(name="minutes", of=USAGE_LINES, scale=2),
    Sum(name="jobs", of=USAGE_LINES, deduplicate=True),
    Max(name="stored", of=USAGE_LINES, scale=3),
)
READER = UsageLineReader(NOW, METRICS)
USAGE: Final[Mapping[str, Any]] = {
    "id": "job-17",
    "time": "2026-11-22T05:17:00Z",
    "customer": "acme",
    "tokens": 1250,
}
GOOD: Final = {"usage": USAGE}
COUNTED: Final = ("counted", "2026-11-22T05", "@acme", {"tokens": 1250}, ())
ASIDE: Final = ("aside",)
NOBODYS: Final = ("nobody's",)

Outcome = tuple[Any, ...]


def counted(line: str) -> Outcome:
    """Return what the way that counts makes of a line."""
    found = READER.read(line)
    if found is None:
        return NOBODYS
    if isinstance(found, Rejected):
        assert (found.line, found.metrics) == (line, ())
        return ASIDE
    good, bad = (found.good, found.bad.metrics) if isinstance(found, Partly) else (found, ())
    assert isinstance(good, Report)
    return "partly" if bad else "counted", str(good.hour), good.source, dict(good.amounts), bad


def recounted(line: str) -> Outcome:
    """Return what the recount makes of a line."""
    try:
        found = read_usage_line("group event", line, METRICS)
    except UnreadableError:
        return ASIDE
    if found is None:
        return NOBODYS
    assert isinstance(found, Record)
    if not Hour.containing(NOW - OLDEST_RECORD) <= found.hour <= Hour.containing(NOW + LATEST_RECORD):
        return ASIDE  # no recount asks for such an hour
    amounts = {**found.amounts, **found.once}
    return "partly" if found.bad else "counted", str(found.hour), found.source, amounts, found.bad


def both(line: str) -> Outcome:
    """Return what both ways make of a line, which must be the same."""
    outcome = counted(line)
    assert recounted(line) == outcome
    return outcome


# --- what loggers write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", FRAMES)
@pytest.mark.parametrize("inner", [*FRAMES, *MERGING])
def test_a_usage_line_is_counted_in_any_frame_and_in_any_frame_of_that(outer: str, inner: str) -> None:
    """I1: runtimes and routers add theirs one after the other; the subscription's term lets each through."""
    line = {**FRAMES, **MERGING}[inner](GOOD)
    assert both(line) == COUNTED
    framed = FRAMES[outer](line)
    assert both(framed) == COUNTED
    assert TERM in framed
    if line.startswith('{"'):
        assert both(FRAMES[outer](json.loads(line))) == COUNTED


@pytest.mark.parametrize("frame", NAMED)
def test_a_usage_object_is_counted_in_whatever_form_its_name_has_it(frame: str) -> None:
    """I1: as an object, as text, in a list, behind a label."""
    line = NAMED[frame](USAGE)
    assert both(line) == COUNTED
    assert both(FRAMES["FireLens"](line)) == COUNTED
    assert both(FRAMES["a list"](line)) == COUNTED


ESCAPED: Final[Mapping[str, str]] = {
    "nginx": "\\x22",
    "nginx, of escaped JSON": "\\x5C\\x22",
    "nginx, of .NET's JSON": "\\x5Cu0022",
    "single, in hexadecimal digits": "\\x27",
    "octal digits": "\\042",
    "a long escape": "\\U0022",
    "Rust": "\\u{22}",
    "Go's templates": "&#34;",
    "PHP": "&#039;",
    "Django": "&#x27;",
    "XML": "&apos;",
    "XML in XML": "&amp;quot;",
    "an address": "%22",
    "an address in an address": "%2522",
}
"""How a quote is written, by what. nginx: ngx_http_log_module, "log_format"; PHP: htmlspecialchars; Django:
django.utils.html.escape; Go: html/template; an address: RFC 3986, 2.1."""

LANGUAGES: Final[Mapping[str, str]] = {
    "Go": "map[usage:map[customer:acme id:job-17 tokens:1250]]",
    "Go, with types": 'map[string]interface {}{"usage":map[string]interface {}{"id":7, "customer":"acme", "at":x}}',
    "Go, a struct": "{usage:main.Usage{id:job-17 customer:acme tokens:1250}}",
    "Java, a record": "Line[usage=Usage[id=job-17, customer=acme, tokens=1250]]",
    "Kotlin": "Line(usage=com.acme.Usage(id=job-17, customer=acme, tokens=1250))",
    "Rust": 'Line { usage: Usage { id: "job-17", customer: "acme", tokens: 1250 } }',
    "PHP": "Array\n(\n    [usage] => Array\n        (\n            [id] => 7\n            [customer] => acme\n    )",
    "PHP, var_dump": 'array(1) {\n  ["usage"]=>\n  array(2) {\n    ["id"]=>\n  int(7)\n    ["customer"]=>\n  "acme"\n}',
    "PHP, var_export": "array (\n  'usage' => \n  array (\n    'id' => 7,\n    'customer' => 'acme',\n  ),\n)",
    "Swift": '["usage": ["id": "job-17", "customer": "acme", "tokens": 1250]]',
    "Elixir": '%{usage: %{id: "job-17", customer: "acme", tokens: 1250}}',
    "Objective-C": "{\n    usage =     {\n        id = 7;\n        customer = acme;\n    };\n}",
}


@pytest.mark.parametrize(
    "line",
    [
        "{'usage': {'id': 'job-17', 'time': '2026-11-22T05:17:00Z', 'customer': 'acme', 'tokens': 1250}}",
        "INFO {\n  usage: {\n    id: 'job-17',\n    time: '2026-11-22T05:17:00Z',\n    customer: 'acme'\n  }\n}",
        "INFO {usage={id=job-17, time=2026-11-22T05:17:00Z, customer=acme, tokens=1250}}",
        '{"usage"=>{"id"=>"job-17", "time"=>"2026-11-22T05:17:00Z", "customer"=>"acme", "tokens"=>1250}}',
        "{&quot;usage&quot;:{&quot;id&quot;:&quot;job-17&quot;,&quot;customer&quot;:&quot;acme&quot;,&quot;tokens&quot;:5}}",
        '"{""usage"": {""id"": ""job-17"", ""customer"": ""acme"", ""tokens"": 1250}}"',
        '  "usage": {',
        '{"level":"INFO","message":"said "hi"","usage":{"id":"job-17","customer":"acme","tokens":5}}',
        '{"level":"INFO","path":"C:\\temp\\q","usage":{"id":"job-17","customer":"acme","tokens":5}}',
        '{"level":"INFO","message":"two\nlines","usage":{"id":"job-17","customer":"acme","tokens":5}}',
        '{"ts":NaN,"data":{"usage":{"id":"job-17","customer":"acme","tokens":5}}}',
        '{"ts":1,"usage":{"id":"a","time":"2026-11-22T05:17:00Z","customer":"acme","tokens":Infinity}}',
        '{"ts":1,"usage":{"id":"a","tokens":-Infinity}}',
        '{"ts":1,"message":"{\\"usage\\":{\\"id\\":\\"a\\",\\"tokens\\":1',
        '{"ts":1,"message":"{\\u0022usage\\u0022:{\\u0022id\\u0022:\\u0022a\\u0022,',
        '{"ts":1,"message":"{\\"usage\\":{\\"id\\":\\"a\\",\\"tokens\\":1}}","bad":}',
        '{"ts":1,"message":"{\\\\\\"usage\\\\\\":{\\\\\\"customer\\\\\\":\\\\\\"a',
        '{"usage":"{id: 7, customer: acme}"}',
        '{"usage":"{\\"id\\":\\"a\\",\\"customer\\":\\"acme\\",\\"tokens\\":1"}',
        'msg="{\\"usage\\":{\\"id\\":\\"a\\",\\"note\\":\\"\\x1b\\",\\"tokens\\":1}}"',
        '{"usage":{"id":"job-17","time":{"at":[{"customer":"acme"',
        '{"usage":{"customer":"acme","a":' + "[" * 100_000,
        '{"usage":{"id":"' + "x" * 100,
        '{"usage":{"id',
        '{"usage":{',
        '{"usage":[',
        '{"level":"INFO","usage": "',
        '{"level":"INFO",\n  "usage":  ',
        '{"message":"{\\"usage\\":',
        "INFO { usage: ",
        '{"usage":' + " " * 30 + '{"id":"job-17","customer":"acme","tok',
        '{"usage":\n' + " " * 24 + '{\n"id": "job-17", "customer": NaN}}',
        '{"usage":{"customer"' + " " * 30 + ":NaN}}",
        '{"usage":"{x} and {id: 7, customer: acme}"}',
        '{"usage":"{id: 7, customer: acme} {\\"a\\":1}"}',
        "{\x1b[32m'usage'\x1b[39m: {\x1b[1mid\x1b[0m: \x1b[32m'job-17'\x1b[39m, \x1b[1mtime\x1b[0m: 7}}",
        "{\\u001b[32musage\\u001b[39m: {\\u001b[0;1mid\\u001b[0m\\u001b[K: 7, time: 7}}",
        "\\033[32musage\\033[m={\\e[32mcustomer\\e[0m=acme}",
    ],
)
def test_what_was_meant_and_is_no_json_is_set_aside(line: str) -> None:
    """I1: cut off, with quotes that nobody escaped, with what JSON has no word for, or in another language's form."""
    assert both(line) == ASIDE
    assert both(f"{LAMBDA}{line}\n") == ASIDE
    assert both(FRAMES["FireLens"](line)) == ASIDE


@pytest.mark.parametrize("quote", ESCAPED)
def test_quotes_that_anything_has_escaped_are_quotes(quote: str) -> None:
    """I1: a proxy or a template writes a body in its own way; what is not read as JSON is set aside."""
    line = json.dumps(GOOD).replace('"', ESCAPED[quote])
    assert both(line) == ASIDE
    assert both(f"{LAMBDA}body={line} 200\n") == ASIDE
    assert both(FRAMES["FireLens"](line)) == ASIDE
    for end in range(line.index("job-17"), len(line)):
        assert both(line[:end]) == ASIDE
    others = json.dumps({"usage": {"input_tokens": 12, "output_tokens": 7}}).replace('"', ESCAPED[quote])
    assert both(others) == NOBODYS


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_object_in_the_form_of_a_language_is_set_aside(language: str) -> None:
    """I1: between other brackets than JSON's, or behind the name of its type, whole or cut off behind two names."""
    line = LANGUAGES[language]
    assert both(line) == ASIDE
    assert both(f"{LAMBDA}{line}\n") == ASIDE
    assert both(FRAMES["FireLens"](line)) == ASIDE
    assert both(json.dumps({"usage": line.partition("usage")[2]})) == ASIDE
    for end in range(max(line.rindex("id"), line.rindex("customer")) + len("customer']=>"), len(line)):
        assert both(line[:end]) == ASIDE
    assert both(line.replace("id", "kind").replace("customer", "cpu")) == NOBODYS


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "message", "role": "assistant", "usage": {"input_tokens": 12, "cache_read_input_tokens": 0}}',
        '{"id": "chatcmpl-1", "object": "chat.completion", "usage": {"prompt_tokens": 9, "total_tokens": 21}}',
        '{"id": "r", "usage": {"billed_units": {"input_tokens": 5}, "tokens": {"input_tokens": 71}}}',
        '{"usage": {"tokens": 12, "minutes": 3}}',
        '{"usage": {"id": "vol-1", "used": 7}}',
        '{"host": "i-1", "usage": {"cpu": 0.41, "memory": "812MB", "disk": "71%"}}',
        '{"kind": "PodMetrics", "containers": [{"name": "a", "usage": {"cpu": "1n", "memory": "2Ki"}}]}',
        '{"usage": {"cpu_usage": {"total": 1}, "time_ms": 7, "customers": 3}}',
        '{"usage": {}}',
        '{"usage": [{}, 7, null, "high"], "level": {"usage": "high"}}',
        '{"disk_usage": {"id": "a", "customer": "acme", "tokens": 5}}',
        '{"type":"message","usage":{"input_tokens":12,"output_to',
        '{"usage":{"cpu":NaN,"memory":7}}',
        'said "hi" {"x":"y"z"} usage: {cpu: 7, memory: 3}',
        "usage: metering [-h] {deploy,destroy} --key KEY",
        "Usage of {id: 7}: none",
        "usage: {{ .Values.usage }}",
        "usage: metering [-h] [--key=KEY] [--id=ID]",
        "usage: heap[id=7], stack(id=8)",
        '{"level":"INFO"} memory usage: ',
        'memory usage: high {"customer": "acme", "id": 7}',
        "CPU usage: 50%20of {x22id%22}",
        "usage:\n  id: job-17\n  customer: acme\n",
        '<usage id="job-17" customer="acme"/>',
        '{"usage.id": "job-17", "usage.customer": "acme"}',
        '{"level": "INFO", "usage"',
        '{"message": "usage {customer: acme}"}',
        '{"message": "the field \\"usage\\" is an object", "customer": "acme", "id": "1", "time": 1}',
    ],
)
def test_what_others_call_usage_is_nobodys_business(line: str) -> None:
    """An LLM's answer, a host's disk, a program's help: none names whose it is, or which and how much."""
    assert both(line) == NOBODYS
    assert both(f"{LAMBDA}{line}\n") == NOBODYS
    assert both(FRAMES["FireLens"](line)) == NOBODYS


@pytest.mark.parametrize("frame", FRAMES)
def test_a_line_that_is_cut_off_anywhere_is_never_lost(frame: str) -> None:
    """I1: whatever is left of it, once it names the object; and it counts only where the object was whole."""
    line = FRAMES[frame](GOOD)
    opened = line.index("{", line.rindex("usage", 0, line.index("job-17"))) + 1
    for end in range(opened, len(line)):
        assert both(line[:end]) in (ASIDE, COUNTED)
    assert both(line[: line.index("1250") + 2]) == ASIDE


def test_two_reports_in_a_line_are_set_aside_and_one_that_stands_there_twice_counts_once() -> None:
    """I1, I2: a router may keep a text beside what it read of it; of two reports none is guessed away."""
    other = {"usage": {**USAGE, "id": "job-18"}}
    for line in (
        json.dumps([GOOD, other]),
        json.dumps(GOOD) + json.dumps(other),
        json.dumps({"log": json.dumps(other), **GOOD}),
        json.dumps(GOOD)[:-1] + "," + json.dumps(other)[1:],
        json.dumps({"usage": [USAGE, other["usage"]]}),
        json.dumps([GOOD, {"usage": {**USAGE, "time": "2026-11-22T05:17:01Z"}}]),
        json.dumps([GOOD, {"usage": {"customer": "acme"}}]),
        json.dumps(GOOD) + ' {"usage": {"id": "job-18", "tok',
    ):
        assert both(line) == ASIDE
    for line in (
        json.dumps([GOOD, GOOD]),
        json.dumps({"log": json.dumps(GOOD), "usage": {**USAGE, "tokens": 1250.0}}),
        json.dumps([GOOD, {"type": "message", "usage": {"input_tokens": 12}}]),
        json.dumps(GOOD) + ' {"level": "INFO", "cut',
    ):
        assert both(line) == COUNTED


def test_what_a_report_holds_is_not_looked_into() -> None:
    """I7: an id that a caller chose makes no report of its own."""
    forged = json.dumps({"usage": {**USAGE, "customer": "globex"}})
    assert both(json.dumps({"usage": {**USAGE, "id": forged[:128]}})) == COUNTED
    outcome = both(json.dumps({"usage": {**USAGE, "note": json.loads(forged)}}))
    assert outcome == ("partly", "2026-11-22T05", "@acme", {"tokens": 1250}, ("note",))


@pytest.mark.parametrize(
    "bomb",
    [
        '{"usage":' * 100_000,
        '{"usage":{"a":' * 60_000,
        "[" * 1_000_000 + "usage",
        '{"usage":[' * 90_000,
        "usage:{" * 140_000,
        'usage"' + " " * 1_000_000 + ":{",
        "usage" + "{ " * 500_000,
        "usage" + '{\\"' * 250_000,
        "\\" * 1_000_000 + '"usage":{',
        '{"usage":{"customer":' + "9" * 1_000_000,
        "usage={id=" * 100_000,
        '{"a":1}usage:' * 80_000,
        '{"usage":{"id":1,"time":1}}' * 37_000,
        "usage " + "{}" * 500_000,
        "{}" * 500_000 + " usage",
        '{"usage":"' + "{}" * 500_000 + '"}',
        '{"usage":"' + "[(" * 500_000 + '"}',
        "usage=[usage=(" * 70_000,
        "usage=[" + "[" * 1_000_000,
        "usage=" + "a." * 500_000,
        "usage:a[" * 120_000,
        "usage={" + "%20" * 330_000,
        "usage={%" + "25" * 500_000,
        "usage={\x1b[" + "1" * 1_000_000,
        "usage={" + "\\x0" * 330_000,
    ],
    ids=lambda bomb: f"{bomb[:12]}... {len(bomb)}",
)
def test_a_line_of_a_megabyte_is_read_once(bomb: str) -> None:
    """I10: its length bounds the work, whatever stands in it; the square of that would take this test hours."""
    assert both(bomb) in (ASIDE, NOBODYS)


def test_text_in_text_in_text_is_read_as_deep_as_a_line_is_long() -> None:
    """I1: each doubles the backslashes of the one within."""
    line = json.dumps(GOOD)
    for _ in range(14):
        assert both(line) == COUNTED
        line = json.dumps({"log": line})
    assert len(line) > 200_000
    assert both(json.dumps(GOOD | {"deep": json.loads("[" * 400 + "]" * 400)})) == COUNTED


# --- any frame, any value, any breakage -------------------------------------------------------------------------------

AMOUNTS: Final[st.SearchStrategy[Any]] = st.sampled_from(
    [
        0,
        7,
        1250,
        1250.0,
        "1250",
        "12.50",
        0.25,
        "1.2e+03",
        1e3,
        -1,
        -0.0,
        10**13,
        0.001,
        "1e-9",
        "",
        "-",
        "x",
        True,
        None,
        [],
        {},
    ]
)
FIELDS: Final = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["job-17", "", "x" * 129, 17, None, "a b", "{", '{"usage":{"key":"a"}}', "\ud800"]),
        "time": st.sampled_from(
            ["2026-11-22T05:17:00Z", 1795324620000, "1795324620000", 1795324620000.0, 1795324620, 1795324620.5,
             "2026-11-22T05:17:00.000400+00:00:01.000800", "2026-11-22T05:17:00",
             "2026-11-22T06:16:59.999999999+01:00", None, [], "yesterday", "20261122"]
        ),
        "customer": st.sampled_from(["acme", "acme.com", "auth0|5f7c", "", "-", " a", "a#b", 7, None, "x" * 129]),
        "key": st.sampled_from(["k1", "us-east-1:5f1c", "", "a@b", 7, None]),
        "tokens": AMOUNTS,
        "minutes": AMOUNTS,
        "jobs": AMOUNTS,
        "stored": AMOUNTS,
        "note": AMOUNTS,
        "\ud800": AMOUNTS,
    },
)  # fmt: skip
MOSTLY_GOOD: Final = st.one_of(FIELDS, FIELDS.map(lambda fields: {**USAGE, **fields}), st.just(dict(USAGE)))
TEXTS: Final = st.sampled_from(
    ['"', "\\", "{", "}", "[", ":", ",", "=", "usage", '"usage":{', '\\"usage\\":{', "usage={", '{"', '{\\"', "}}",
     "NaN", "\n", "\\n", "\t", "\ufeff", "\\u0022", "id:", '"customer":"a"', "key=", "\ud800",
     "é", " ", "\x1c", "quot;", "&#34;", "&amp;", "\\x22", "\\x5C", "\\173", "%7B", "%25", "25", "\x1b[32m", "\\e[",
     "m", "[", "(", ")", "map[", "usage: Usage {", "usage=Array (", "array(2) {", "{}", "a" * 81, " " * 30]
)  # fmt: skip


def broken(line: str, breaks: list[tuple[str, float, float, str]]) -> str:
    """Return a line that was cut, doubled, or had something put in."""
    for kind, where, length, text in breaks:
        start = int(where * len(line))
        end = start + 1 + int(length * 20)
        line = {
            "cut off": line[:start],
            "begun late": line[start:],
            "left out": line[:start] + line[end:],
            "doubled": line[:end] + line[start:],
            "put in": line[:start] + text + line[start:],
        }[kind]
    return line


@settings(deadline=None, max_examples=1000)
@given(
    usages=st.lists(MOSTLY_GOOD, min_size=1, max_size=2),
    named=st.sampled_from([None, None, *NAMED]),
    frames=st.lists(st.sampled_from([*FRAMES]), max_size=3),
    breaks=st.lists(
        st.tuples(
            st.sampled_from(["cut off", "begun late", "left out", "doubled", "put in"]),
            st.floats(0, 1), st.floats(0, 1), TEXTS,
        ), max_size=2,
    ),
)  # fmt: skip
def test_both_ways_make_the_same_of_any_line(
    usages: list[dict[str, Any]],
    named: str | None,
    frames: list[str],
    breaks: list[tuple[str, float, float, str]],
) -> None:
    """I5: a recount finds what counting did, and nothing where it set aside, by code of its own."""
    lines = [NAMED[named](usage) if named else json.dumps({"usage": usage}) for usage in usages]
    line = " ".join(lines)
    for frame in frames:
        line = FRAMES[frame](line)
    both(broken(line, breaks))


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from('{}[]":,=\\ uageid1n'), max_size=60), st.lists(TEXTS, max_size=8))
def test_both_ways_make_the_same_of_any_text(text: str, parts: list[str]) -> None:
    """I5: also of what no logger writes."""
    both("".join(sign for pair in zip([*text], [*parts] + [""] * len(text), strict=False) for sign in pair))


@settings(deadline=None)
@given(st.integers(0, 10**12), st.sampled_from(["tokens", "jobs"]), st.lists(st.sampled_from([*FRAMES]), max_size=3))
def test_a_whole_line_is_counted_exactly_in_any_frame(amount: int, metric: str, frames: list[str]) -> None:
    """I1: by both ways, and as it was reported."""
    line = json.dumps({"usage": {"id": "a", "time": 1795324620000, "key": "k1", metric: amount}})
    for frame in frames:
        line = FRAMES[frame](line)
    assert both(line) == ("counted", str(Hour.parse("2026-11-22T05")), "k1", {metric: amount}, ())

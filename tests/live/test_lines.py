"""What API Gateway and Lambda write, and how it arrives."""

import asyncio
import json
import re
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from infra.operate.doctor.examine import examine
from metering.model.access_log import Reader
from metering.model.log_format import AccessRecord
from metering.model.our_lines import Ours
from metering.signals import Signal
from tests.live.app.app import HOSTILE, HTTP_NONCE, METRICS, TOKENS
from tests.live.cloud import SUBJECT, fields
from tests.live.points import ANYTHING
from tests.live.run import USER, Run

GUIDE = "API Gateway Developer Guide, 'Variables for access logging'"
"""docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-variables-for-access-logging.html"""

SECONDS = "API Gateway Developer Guide, 'Customize HTTP API access logs', and lines that people published"

SOCKETS = "API Gateway Developer Guide, 'Configure logging for WebSocket APIs'"

NO_TEMPLATES = "the emulator tells nobody what a mapping template set"


def test_without_a_role_of_the_account_a_rest_api_writes_no_access_log(live: Run) -> None:
    """Asked before anything is deployed, where the account has none."""
    point, source = "REST API's access log without the account's role", "API Gateway Developer Guide, 'Set up logging'"
    expected = "CloudWatch Logs role ARN must be set in account settings to enable logging"
    answer = live.points.about["without_a_role"]
    if answer is None:
        why_not = "the account has a role already, which is not ours to take away"
        live.points.skip(point, expected=expected, source=source, why_not=why_not)
    why_not = "the emulator asks for no role"
    live.points.beyond_the_emulator(point, expected=expected, observed=answer, source=source, why_not=why_not)


def test_a_rest_request_becomes_a_line_and_a_count(live: Run) -> None:
    """I1, on the subscription."""
    before = live.counted()
    live.send(5)
    live.wait(lambda: live.counted() >= before + 5, "five requests are counted")
    observed = live.counted() - before
    live.points.note("requests of a REST API, counted", expected=5, observed=observed, source=GUIDE)


def test_what_an_answer_carries_is_counted(live: Run) -> None:
    """A header that a mapping template sets, as a metric's amount."""
    requests, tokens = live.counted(), live.counted("tokens")
    live.send(2)
    live.wait(lambda: live.counted() >= requests + 2, "two requests are counted")
    live.points.beyond_the_emulator(
        "amount of a header that a mapping template set, counted",
        expected=2 * TOKENS,
        observed=live.counted("tokens") - tokens,
        source=GUIDE,
        why_not=NO_TEMPLATES,
    )


def test_what_functions_measure_arrives_as_a_metric(live: Run) -> None:
    """Embedded metrics in the log of ``record_usage``, by the one dimension of ours."""
    point, source = "metrics that functions write into their logs", "CloudWatch User Guide, 'Embedded metric format'"
    live.send(1)
    cloudwatch = live.cloud.client("cloudwatch")

    def names() -> set[str]:
        found = cloudwatch.list_metrics(Namespace="Metering", MetricName=Signal.RECORDS_READ.value)["Metrics"]
        deployment = live.deployment.outputs.deployment
        return {
            dimension["Name"]
            for metric in found
            for dimension in metric["Dimensions"]
            if dimension["Value"] == deployment
        }

    if live.cloud.is_aws:
        live.wait(lambda: bool(names()), "CloudWatch has the metric")
    live.points.beyond_the_emulator(
        point,
        expected=["service"],
        observed=sorted(names()),
        source=source,
        why_not="the emulator makes no metrics of what is logged",
    )


def test_doctor_looks_at_everything(live: Run) -> None:
    """No check fails to be made; what each says of a deployment without Stripe is written down."""
    found = {line.check: f"{line.state.name}: {line.said}" for line in examine(live.deployment, _now)}
    observed = sorted(
        check for check, said in found.items() if "could not be checked" in said and "no Stripe key" not in said
    )
    live.points.tell(doctor=found)
    live.points.note("checks of doctor that cannot be made", expected=[], observed=observed, source="doctor itself")


def test_an_http_apis_time_is_in_seconds(live: Run) -> None:
    """Documented for REST and WebSocket APIs alone, where it is in milliseconds."""
    line, _ = _http_line(live)
    written = datetime.strptime(line["written"], "%d/%b/%Y:%H:%M:%S %z").timestamp()
    observed = "seconds" if int(line["line"]["time"]) == int(written) else "milliseconds"
    source = f"{SECONDS}; {line['line']['time']} beside {line['written']}"
    live.points.note("unit of requestTimeEpoch, HTTP API", expected="seconds", observed=observed, source=source)


def test_an_http_apis_line_is_read(live: Run) -> None:
    """Whom it bills: the subject of the token, whatever the issuer made of it."""
    line, raw = _http_line(live)
    read = Reader(_now(), METRICS[:1], (Ours((HTTP_NONCE,)),)).read(raw)
    observed = {
        "read": "AccessRecord" if isinstance(read, AccessRecord) else str(read),
        "route": line["line"]["resource"],
        "has a key": line["line"]["key"] not in ("", "-"),
        "id": bool(re.fullmatch(r"[A-Za-z0-9_-]+={0,2}", line["line"]["request_id"])),
    }
    expected = {"read": "AccessRecord", "route": "GET /items", "has a key": True, "id": True}
    live.points.note("line of an HTTP API", expected=expected, observed=observed, source=GUIDE)
    if not live.cloud.is_aws:
        assert line["line"]["key"] == SUBJECT


@pytest.mark.parametrize("name", ["plain", "hyphenated"])
def test_a_header_that_a_mapping_template_sets_is_logged(live: Run, name: str) -> None:
    """Whether its name may have a hyphen is documented nowhere."""
    line = _plain_line(live)
    live.points.beyond_the_emulator(
        f"responseOverride.header in an access log, {name}",
        expected=str(TOKENS),
        observed=line[name],
        source=GUIDE,
        why_not=NO_TEMPLATES,
    )


def test_what_an_authorizer_tells_is_escaped_in_the_line(live: Run) -> None:
    """Quotes, backslashes and line ends of a value: nobody may rely on it, since a line is known by its nonce."""
    _plain_line(live)
    raw = live.wait_for_line(live.told["PlainLog"], lambda line: "quoted" in line)
    observed = "escaped" if _is_json(raw) and fields(raw)["text"] == HOSTILE else raw
    source = f"{GUIDE}; lines that people published have quotes escaped"
    live.points.note("text of an authorizer in a line", expected="escaped", observed=observed, source=source)


def test_a_websockets_lines_say_who_sends(live: Run) -> None:
    """Whether a message's line has what the authorizer told at the connection: if not, messages bill nobody."""
    asyncio.run(_exchange(f"{live.cloud.socket(live.told['SocketId'], 'live')}?user=someone"))
    live.costs.sockets += 1
    live.wait_for_line(live.told["SocketLog"], lambda line: '"DISCONNECT"' in line)
    lines = {line["event"]: line for line in map(fields, live.lines(live.told["SocketLog"]))}
    live.points.note(
        "routes and statuses of a WebSocket API's lines, by event",
        expected={"CONNECT": "$connect 200", "MESSAGE": "$default 200", "DISCONNECT": "$disconnect 200"},
        observed={event: f"{line['route']} {line['status']}" for event, line in lines.items()},
        source=SOCKETS,
    )
    live.points.note(
        "time and identifiers of a WebSocket API's lines",
        expected={"milliseconds": True, "requestId is extendedRequestId": True, "another for each event": True},
        observed={
            "milliseconds": all(len(line["time"]) == 13 for line in lines.values()),
            "requestId is extendedRequestId": all(line["id"] == line["extended"] for line in lines.values()),
            "another for each event": len({line["id"] for line in lines.values()}) == len(lines),
        },
        source=SOCKETS,
    )
    live.points.note(
        "authorizer's values in lines of a WebSocket API, by event",
        expected={"CONNECT": "u1 p1", "MESSAGE": "u1 p1", "DISCONNECT": "u1 p1"},
        observed={event: f"{line['user']} {line['principal']}" for event, line in lines.items()},
        source=f"{SOCKETS}, which lists them without restriction",
    )


def test_usage_that_node_logs_is_counted(live: Run) -> None:
    """Lambda writes time, request and level before the text of ``console.log``."""
    before = live.counted("words", "@live-customer")
    job = {"id": f"{live.name}-{datetime.now(UTC).timestamp()}", "customer": "live-customer", "words": 12}
    answer = live.cloud.client("lambda").invoke(FunctionName=live.told["Worker"], Payload=json.dumps(job).encode())
    assert "FunctionError" not in answer, answer["Payload"].read()
    live.wait(lambda: live.counted("words", "@live-customer") > before, "the words are counted")
    observed = live.counted("words", "@live-customer") - before
    source = "Lambda Developer Guide, 'Log and monitor Node.js Lambda functions'"
    live.points.note("usage line of a Node function, counted", expected=12, observed=observed, source=source)


def test_how_many_lines_a_delivery_has(live: Run) -> None:
    """Nothing depends on it but what a batch costs: a figure to know."""
    before = live.counted()
    live.send(300)
    live.wait(lambda: live.counted() >= before + 300, "300 requests are counted")
    group = live.cloud.client("lambda").get_function_configuration(
        FunctionName=live.deployment.outputs.record_usage_function
    )["LoggingConfig"]["LogGroup"]
    signal = re.compile(rf'"{Signal.RECORDS_READ.value}":\s*\[?([0-9.]+)')
    sizes = [int(float(found[1])) for line in live.lines(group) if (found := signal.search(line))]
    observed = {"deliveries": len(sizes), "largest": max(sizes, default=0), "sizes": dict(Counter(sizes))}
    source = "documented nowhere: CloudWatch Logs User Guide, 'Subscriptions'"
    live.points.note("lines in a delivery of a subscription", expected=ANYTHING, observed=observed, source=source)
    assert sizes


def test_the_destination_of_forwarded_lines_by_its_name(live: Run) -> None:
    """The dimension is documented; how it calls a function is not."""
    cloudwatch = live.cloud.client("cloudwatch")
    group = live.deployment.outputs.access_log_group

    def kinds() -> set[str]:
        found = cloudwatch.list_metrics(Namespace="AWS/Logs", MetricName="ForwardedLogEvents")["Metrics"]
        dimensions = [{item["Name"]: item["Value"] for item in metric["Dimensions"]} for metric in found]
        return {had.get("DestinationType", "none") for had in dimensions if had.get("LogGroupName") == group}

    if live.cloud.is_aws:
        live.wait(lambda: bool(kinds()), "CloudWatch has the metric", patience_s=1_800)
    live.points.beyond_the_emulator(
        "DestinationType of ForwardedLogEvents",
        expected=["Lambda"],
        observed=sorted(kinds()),
        source="CloudWatch Logs User Guide, 'Monitoring with CloudWatch metrics'",
        why_not="the emulator measures only functions",
    )


def _plain_line(live: Run) -> dict[str, str]:
    """Return the fields of a good request's line of the stage with a format of its own."""
    _ = live.key
    assert live.call("RestId", "plain", **USER) == 200
    raw = live.wait_for_line(live.told["PlainLog"], lambda line: live.key[0] in line)
    # Its last field is the hostile text: what stands before it is read whether or not that is escaped.
    front = raw.partition(', "text"')[0] + "}"
    return fields(front)


def _http_line(live: Run) -> tuple[dict[str, Any], str]:
    """Return what the HTTP API writes of a good request, and the part of it that is a line for metering."""
    assert live.call("HttpId", "live", authorization=f"Bearer {live.cloud.token(live.told)}") == 200
    raw = live.wait_for_line(live.told["HttpLog"], lambda line: '"200"' in line)
    return fields(raw), raw.partition('"line":')[2].removesuffix("}")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


async def _exchange(url: str) -> None:
    """Connect, send a message, and go."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.send_str('{"action": "anything"}')


def _now() -> datetime:
    return datetime.now(UTC)

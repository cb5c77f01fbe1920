"""What was set aside, by commands, and how a function that is invoked answers."""

import io
import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from infra.operate.deployment import Deployment, OperatorError
from metering.counting import payloads, redriving
from tests.doubles.outputs import outputs
from tests.integration.cli.command_line import Metering, Result
from tests.integration.operator_commands import WHO
from tests.integration.world import ACCESS_LOG_GROUP, HOUR, World, envelope


@pytest.fixture
def recording(deployed: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world with record_usage invoked in it instead of in Lambda."""

    def invoke(_deployment: Deployment, name: str, sent: Any) -> dict[str, Any]:
        assert name == "record-usage"
        if "redrive" in sent:
            return redriving.redrive(deployed.recorder(), sent["redrive"], deadline=deployed.now)
        recorded = deployed.recorder().record(payloads.subscription(sent).batch(ACCESS_LOG_GROUP))
        return {"read": recorded.read, "billed": recorded.billed, "set_aside": recorded.set_aside}

    monkeypatch.setattr(Deployment, "invoke", invoke)
    monkeypatch.setattr("infra.cli.set_aside.now", deployed.clock)
    return deployed


def future(world: World) -> str:
    """Return a line that can be read an hour later."""
    return world.line(time=str(int((HOUR.end + timedelta(minutes=1)).timestamp() * 1000)))


def test_what_is_set_aside_is_listed_shown_and_redriven(recording: World, metering: Metering) -> None:
    """I1, I2: a line that can be read by now is counted once, and what still cannot be is left with its reason."""
    recording.record(recording.line(), future(recording), "nonsense")
    (entry,) = metering("set-aside", "list", "--json").json()
    assert (entry["kind"], entry["source"], entry["left"], entry["doubtful"]) == ("lines", "access log", 2, 0)
    assert set(entry["reasons"].values()) == {1}
    recording.now = HOUR.next().start + timedelta(minutes=30)
    for _ in range(2):
        result = metering("set-aside", "redrive", entry["batch"], "--json")
        assert (result.code, json.loads(result.out)[0]["left"]) == (1, 1)
    assert recording.counted(HOUR.next()) == {"key1": {"requests": 1, "bytes": 10}}
    shown = metering("set-aside", "show", entry["batch"], "--json").json()
    assert [(line["state"], line["message"]) for line in shown if line["message"] == "nonsense"] == [
        ("set aside", "nonsense")
    ]
    assert sorted(line["state"] for line in shown) == ["counted", "set aside"]
    (left,) = metering("set-aside", "list", "--json").json()
    assert (left["left"], left["counted"], left["reasons"]) == (1, 1, {"not JSON": 1})


def test_a_list_has_times_and_is_narrowed_and_counted(recording: World, metering: Metering) -> None:
    """The oldest are first; what an older version set aside has no time."""
    for minute in (2, 1):
        at = int((HOUR.start + timedelta(minutes=minute)).timestamp() * 1000)
        recording.recorder().record(replace(recording.batch(f"nonsense {minute}"), at=at))
    recording.set_aside.client.put_object(Bucket="bucket", Key="aws/lambda/async/record-usage/failed", Body=b"{}")
    listed = metering("set-aside", "list", "--json").json()
    assert [entry["at"] for entry in listed[:2]] == ["2026-11-22T05:01:00Z", "2026-11-22T05:02:00Z"]
    assert [entry["kind"] for entry in listed] == ["lines", "lines", "failed"]
    shown = metering("set-aside", "list")
    assert (shown.out.splitlines()[1].split()[1], shown.err) == ("2026-11-22T05:01:00Z", "3 batches\n")
    assert [entry["kind"] for entry in metering("set-aside", "list", "--failed", "--json").json()] == ["failed"]
    assert len(metering("set-aside", "list", "--reason", "not JSON", "--json").json()) == 2
    assert metering("set-aside", "list", "--most", "1").err == "1 batch shown; there are more: a larger --most\n"
    for stored in recording.set_aside.batches():
        batch = recording.set_aside.of(stored).certain
        assert batch
        recording.set_aside.client.delete_object(Bucket="bucket", Key=f"set-aside/{stored}.json")
        recording.set_aside.keep(msgspec.structs.replace(batch, at=0))
    assert [entry["at"] for entry in metering("set-aside", "list", "--json").json()][:2] == [None, None]


def test_a_redrive_of_everything_says_what_it_did(recording: World, metering: Metering) -> None:
    """And has nothing left to do the second time."""
    recording.record(future(recording))
    (entry,) = metering("set-aside", "list", "--json").json()
    recording.now = HOUR.next().start + timedelta(minutes=30)
    assert metering("set-aside", "redrive", "--all") == Result(0, f"{entry['batch']}: 1 counted, 0 left\n", "")
    assert metering("set-aside", "redrive", "--all") == Result(0, "nothing to change\n", "")
    assert metering("set-aside", "list", "--json").json() == []
    assert metering("set-aside", "list") == Result(0, "", "nothing there\n")


@pytest.mark.parametrize("named", [False, True])
def test_a_redrive_goes_on_by_itself_until_all_is_done(
    recording: World,
    metering: Metering,
    monkeypatch: pytest.MonkeyPatch,
    named: bool,  # noqa: FBT001 - a literal
) -> None:
    """I10: a run of the function has time for two lines here; what cannot be read is gone by, and told once."""
    monkeypatch.setattr("metering.counting.redriving.PIECE", 2)
    recording.record("nonsense", *(future(recording) for _ in range(4)), "more nonsense", "no sense")
    (entry,) = metering("set-aside", "list", "--json").json()
    recording.now = HOUR.next().start + timedelta(minutes=30)
    which = entry["batch"] if named else "--all"
    result = metering("set-aside", "redrive", which, "--json")
    assert result.code == 1
    (report,) = json.loads(result.out)
    assert (report["batch"], report["counted"], report["left"]) == (entry["batch"], 4, 3)
    assert list(report["reasons"].values()) == ["not JSON"] * 3
    assert list(report) == ["batch", "counted", "left", "reasons"]
    assert recording.counted(HOUR.next()) == {"key1": {"requests": 4, "bytes": 40}}
    again = metering("set-aside", "redrive", which)
    assert again.out.startswith(f"{entry['batch']}: 0 counted, 3 left\n    ")


def test_a_function_that_was_deployed_before_has_one_run(
    recording: World, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say where the next would go on."""
    recording.record(future(recording))
    (batch,) = recording.set_aside.batches()
    answer = {"batch": batch, "counted": 1, "left": 0, "reasons": {}}
    monkeypatch.setattr(Deployment, "invoke", lambda *_: answer)
    assert metering("set-aside", "redrive", batch) == Result(0, f"{batch}: 1 counted, 0 left\n", "")


def test_a_batch_that_failed_for_good_is_listed_and_delivered_again(recording: World, metering: Metering) -> None:
    """I1: its counters refuse what they have (I2), and the record of the failure is deleted once it is counted."""
    sent = envelope(recording.line(), recording.line())
    recording.recorder().record(payloads.subscription(sent).batch(ACCESS_LOG_GROUP))
    name = "aws/lambda/async/record-usage/2026/11/22/failed"
    body = json.dumps({"version": "1.0", "requestPayload": sent}).encode()
    recording.set_aside.client.put_object(Bucket="bucket", Key=name, Body=body)
    (entry,) = metering("set-aside", "list", "--json").json()
    assert (entry["batch"], entry["kind"]) == (name, "failed")
    assert metering("set-aside", "redrive", name).code == 0
    assert recording.counted() == {"key1": {"requests": 2, "bytes": 20}}
    assert metering("set-aside", "list", "--json").json() == []


def test_a_line_is_dismissed_with_a_reason(recording: World, metering: Metering) -> None:
    """I5: it is kept with who said so and why, waits no longer, and is not redriven; the others of its batch are."""
    recording.record("nonsense", future(recording))
    (entry,) = metering("set-aside", "list", "--json").json()
    lines = metering("set-aside", "show", entry["batch"], "--json").json()
    (bad,) = [line["id"] for line in lines if line["message"] == "nonsense"]
    dismiss = ("set-aside", "dismiss", entry["batch"], "--reason", "a test of ours", "--line", bad)
    assert metering(*dismiss) == Result(0, f"{entry['batch']}: 1 dismissed\n", "")
    assert metering(*dismiss) == Result(0, "nothing to change\n", "")
    (left,) = metering("set-aside", "list", "--json").json()
    assert (left["left"], left["dismissed"]) == (1, 1)
    recording.now = HOUR.next().start + timedelta(minutes=30)
    assert metering("set-aside", "redrive", "--all").code == 0
    assert recording.counted(HOUR.next()) == {"key1": {"requests": 1, "bytes": 10}}
    assert metering("set-aside", "list", "--json").json() == []
    shown = metering("set-aside", "show", entry["batch"], "--json").json()
    assert sorted((line["state"], line["message"] == "nonsense") for line in shown) == [
        ("counted", False),
        ("dismissed", True),
    ]
    (why,) = [line["dismissal"] for line in shown if line["dismissal"]]
    assert (why["reason"], why["who"], why["at"]) == ("a test of ours", WHO, "2026-11-22T05:30:00Z")
    said = metering("set-aside", "show", entry["batch"]).out
    assert f"    dismissed by {WHO} at 2026-11-22T05:30:00Z: a test of ours\n    nonsense\n" in said


def test_a_whole_batch_is_dismissed(recording: World, metering: Metering) -> None:
    """Whatever of it waits."""
    recording.record("nonsense", future(recording))
    (entry,) = metering("set-aside", "list", "--json").json()
    done = metering("set-aside", "dismiss", entry["batch"], "--reason", "not ours", "--json").json()
    assert done == {"batch": entry["batch"], "dismissed": 2}
    assert metering("set-aside", "list", "--json").json() == []


def test_a_line_is_shown_with_the_metrics_that_could_not_read_it(recording: World, metering: Metering) -> None:
    """It counts for the others."""
    recording.record(recording.line(response_length="many"))
    (entry,) = metering("set-aside", "list", "--json").json()
    (line,) = metering("set-aside", "show", entry["batch"], "--json").json()
    assert (line["state"], line["metrics"]) == ("set aside", ["bytes"])
    assert " set aside for bytes: " in metering("set-aside", "show", entry["batch"]).out
    assert recording.counted() == {"key1": {"requests": 1}}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--reason", " "), "a reason is 1 to 200 printable characters, got ' '"),
        (("--reason", "a\x1b"), "a reason is 1 to 200 printable characters"),
        (("--reason", "x", "--line", "y"), "has set no line 'y' aside: 'metering set-aside show' names them"),
    ],
)
def test_what_cannot_be_dismissed_is_said_in_a_sentence(
    recording: World, metering: Metering, arguments: tuple[str, ...], why: str
) -> None:
    """And nothing is written."""
    recording.record("nonsense")
    (entry,) = metering("set-aside", "list", "--json").json()
    result = metering("set-aside", "dismiss", entry["batch"], *arguments)
    assert (result.code, result.out) == (1, "")
    assert why in result.err
    assert metering("set-aside", "list", "--json").json() == [entry]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("show", "nonsense"), "nothing is set aside of a batch 'nonsense'"),
        (("redrive", "0" * 24), "nothing is set aside of a batch"),
        (("dismiss", "0" * 24, "--reason", "x"), "nothing is set aside of a batch"),
        (("redrive", "aws/lambda/async/gone"), "there is no failed batch 'aws/lambda/async/gone'"),
    ],
)
@pytest.mark.usefixtures("recording")
def test_an_unknown_batch_is_said_in_a_sentence(metering: Metering, arguments: tuple[str, ...], why: str) -> None:
    """With where their names are."""
    result = metering("set-aside", *arguments)
    assert (result.code, result.out) == (1, "")
    assert why in result.err
    assert "'metering set-aside list' names them" in result.err


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("arguments", [(), ("0" * 24, "--all")])
def test_a_redrive_names_batches_or_all(metering: Metering, arguments: tuple[str, ...]) -> None:
    """Not both, not none."""
    assert metering("set-aside", "redrive", *arguments).code == 2


@dataclass
class FakeLambda:
    """Lambda's client, which answers as told."""

    answer: dict[str, Any]

    def invoke(self, **_: Any) -> dict[str, Any]:
        """Answer."""
        return self.answer

    def close(self) -> None:
        """Keep nothing open."""


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"errorMessage": "Task timed out after 300.00 seconds"}', "Task timed out after 300.00 seconds"),
        (b'"no object"', "no object"),
        (b"", "None"),
    ],
)
def test_a_function_that_fails_is_said_in_a_sentence(payload: bytes, said: str) -> None:
    """With the next step."""
    fake = FakeLambda({"FunctionError": "Unhandled", "Payload": io.BytesIO(payload)})
    deployment = Deployment(lambda _name, **_: fake, outputs())
    with pytest.raises(OperatorError) as caught:
        deployment.close()
    assert str(caught.value) == f"the function close-periods failed: {said}; its log group says more"


def test_what_a_function_answers_is_returned() -> None:
    """As it is."""
    fake = FakeLambda({"StatusCode": 200, "Payload": io.BytesIO(b'{"posted": 1}')})
    deployment = Deployment(lambda _name, **_: fake, outputs())
    assert deployment.invoke("close-periods", {}) == {"posted": 1}


@pytest.mark.usefixtures("deployed")
def test_closing_where_the_function_is_gone_is_said_in_a_sentence(metering: Metering) -> None:
    """Somebody deleted it by hand."""
    result = metering("close")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert result.err.startswith("error: AWS answered ResourceNotFoundException to Invoke: ")

"""How fast the gate acts, as a probe measures it on an API whose parts learn of a change one after another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from infra.operate.deployment import OperatorError
from infra.operate.limits.bound import Measured, read_measured
from infra.operate.limits.measuring import Probe, call, percentile
from infra.operate.limits.setting import NO_LIMITS
from metering.limits.usage_plans import UsagePlans
from metering.model.periods import Hour
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.limit_desk import Desk
from tests.integration.limits import HOUR

URL = "https://api.example.com/items"
PROBE = "key0000001"


@dataclass
class Api:
    """API Gateway's stage, by the desk's clock: what it knows of keys is old, and what it lets in is counted later.

    Each change of a key is known to its parts, which answer in turn, after so many seconds: ``parts``, or for one
    change after another what ``learns`` says. ``counted`` seconds after a call it is in the counters; None is never.
    """

    desk: Desk
    parts: tuple[float, ...] = (0.0,)
    learns: list[float] = field(default_factory=list)
    counted: float | None = 3.0
    always: int | None = None
    on_call: Callable[[int], None] = lambda _: None
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str] | None] = field(default_factory=list)
    changes: list[tuple[float, bool, tuple[float, ...]]] = field(default_factory=lambda: [(0.0, False, (0.0,))])

    def ask(self, url: str, value: str, headers: Mapping[str, str] | None = None) -> int:
        """Answer a call."""
        self.headers.append(headers)
        self.asked.append((url, value))
        self.on_call(len(self.asked))
        clock, number = self.desk.world.time, len(self.asked)
        (key,) = [name for name, one in self.desk.gateway.keys.items() if one["value"] == value]
        is_in = bool(self.desk.gateway.of(key))
        if is_in is not self.changes[-1][1]:
            learned = (self.learns.pop(0),) if self.learns else self.parts
            self.changes.append((clock.now, is_in, learned))
        known = [known for at, known, after in self.changes if at + after[number % len(after)] <= clock.now][-1]
        status = self.always or (200 if known else 403)
        if status == 200 and self.counted is not None:
            hour = Hour.containing(self.desk.world.now)
            clock.later(self.counted, lambda: self.desk.world.use(1, hour, source=key))
        return status

    @property
    def probe(self) -> Probe:
        """What measures it, by the desk's clock."""
        return self.probe_of(self.desk.gateway.client())

    def probe_of(self, client: Any) -> Probe:
        """The same by a client of usage plans."""
        clock = self.desk.world.time
        return Probe(self.desk.deployment, UsagePlans(client), self.ask, clock, clock.sleep)

    def measure(self, plan: str = "", *, samples: int = 1) -> Measured:
        """Measure; the probe's key is in no plan then."""
        measured = self.probe.measure(URL, plan, samples=samples, now=self.desk.world.now)
        assert self.desk.gateway.of(PROBE) == set()
        return measured

    def fails(self, plan: str = "", *, samples: int = 1) -> str:
        """Return why nothing can be measured; the probe's key, if there is one, is in no plan, and nothing is kept."""
        with pytest.raises(OperatorError) as caught:
            self.probe.measure(URL, plan, samples=samples, now=self.desk.world.now)
        assert self.desk.gateway.of(PROBE) == set()
        assert read_measured(self.desk.deployment) is None
        return str(caught.value)


@pytest.fixture
def api(desk: Desk) -> Api:
    """An API with one usage plan."""
    desk.gateway.add_plan("Standard", "api/v1", rate=25)
    return Api(desk)


# What is measured


def test_stops_and_reopenings_are_measured_from_the_call_to_the_first_answer_that_stays(api: Api) -> None:
    """Each by itself, by nearest rank; what came out is kept."""
    for closing in (1.98, 0.98, 3.98, 2.98):
        api.learns += [0.48, closing]
    measured = api.measure(samples=4)
    assert measured == Measured(
        at=int((HOUR.start + timedelta(minutes=30)).timestamp()),
        where="aws",
        samples=4,
        closed_p50_ms=2000,
        closed_p99_ms=4000,
        opened_p50_ms=500,
        opened_p99_ms=500,
        counted_ms=measured.counted_ms,
    )
    assert read_measured(api.desk.deployment) == measured
    assert {*api.asked} == {(URL, f"secret of {PROBE}")}


def test_an_answer_from_a_part_that_has_not_learned_of_it_yet_begins_anew(api: Api) -> None:
    """Two parts refuse at once, and the third lets calls in for three seconds."""
    api.parts = (0.0, 0.0, 2.98)
    measured = api.measure()
    assert measured.closed_p50_ms in range(2900, 3100)
    assert measured.opened_p50_ms in range(2900, 3100)


def test_a_call_that_is_throttled_is_not_refused(api: Api) -> None:
    """Its key is known; else a plan with a small throttle could not be measured."""
    api.on_call = lambda _: setattr(api, "always", 429 if api.desk.gateway.of(PROBE) else None)
    api.counted = None
    assert "none of the probe's calls was counted" in api.fails()
    assert api.changes[1:]


@pytest.mark.parametrize(
    ("seconds", "percent", "found"),
    [
        ([0.0014], 50, 1),
        ([3, 1, 2], 50, 2000),
        ([4, 3, 2, 1], 50, 2000),
        ([4, 3, 2, 1], 99, 4000),
        ([*range(1, 101)], 99, 99_000),
        ([*range(1, 102)], 99, 100_000),
    ],
)
def test_a_percentile_is_one_of_the_durations(seconds: list[float], percent: int, found: int) -> None:
    """Of few, the 99th is the longest."""
    assert percentile(seconds, percent) == found


def test_what_is_measured_on_the_embedded_aws_says_so(api: Api) -> None:
    """AWS's own gateway is another one."""
    probe = api.probe
    probe.deployment.embedded_at = "http://127.0.0.1:4566"
    assert probe.measure(URL, "", samples=1, now=api.desk.world.now).where == "emulator"


def test_the_probe_makes_one_key_that_nobody_is_billed_for(api: Api) -> None:
    """However often it is run."""
    api.measure()
    api.measure()
    assert [key["name"] for key in api.desk.gateway.keys.values()] == ["Metering-probe"]
    holding = api.desk.world.ledger.holders.of_keys([PROBE])[PROBE]
    assert [(holder.customer, holder.reason) for holder in holding.holders] == [("", "measures how fast limits act")]


# What is counted


def test_counting_is_measured_from_the_last_call_to_the_last_count(api: Api) -> None:
    """To the half second at which counters are looked at."""
    api.counted = 7.2
    assert api.measure().counted_ms in range(6500, 7600)


def test_counts_that_come_after_a_minute_are_waited_for(api: Api) -> None:
    """As long as nothing is counted, nothing says that all is."""
    api.counted = 90.0
    assert api.measure().counted_ms in range(89_000, 91_000)


def test_counts_over_firehose_are_waited_for_as_long_as_it_holds_them_back(api: Api) -> None:
    """Some come with the buffer before, and the rest five minutes later."""
    api.desk.told["road"] = "firehose"
    first = [1.0]
    api.on_call = lambda _: setattr(api, "counted", first.pop() if first and api.desk.gateway.of(PROBE) else 300.0)
    assert api.measure().counted_ms in range(298_000, 301_000)


def test_counts_are_found_when_the_hour_turns_meanwhile(api: Api) -> None:
    """What was counted before belongs to nobody's last call."""
    api.measure()
    api.desk.world.time.moment = HOUR.end - timedelta(seconds=1)
    api.learns = [2.0, 2.0]
    assert api.measure().counted_ms in range(500, 3600)


def test_an_api_whose_log_does_not_come_here_is_told_of(api: Api) -> None:
    """Limits would never act on it."""
    api.counted = None
    assert api.fails() == "none of the probe's calls was counted: does this API write the deployment's log?"


# What cannot be measured


def test_an_address_that_refuses_nobody_is_told_of_before_anything_is_measured(api: Api) -> None:
    """It asks for no key, so no stop would ever be felt there."""
    api.always = 200
    why = api.fails()
    assert why == (f"{URL} was not refused within 300 s: does it ask for an API key, and is it in a stage of the plan?")
    assert "create_usage_plan_key" not in [operation for _, operation in api.desk.gateway.called]


def test_an_address_that_never_answers_the_key_is_told_of(api: Api) -> None:
    """It is in no stage of the plan."""
    api.always = 403
    assert api.fails().startswith(f"{URL} was not answered within 300 s")


def test_a_stop_that_is_never_felt_is_given_up(api: Api) -> None:
    """After minutes; what is found then is no figure."""
    api.learns = [0.0, 0.0, 0.0, 10_000.0]
    assert api.fails(samples=3).startswith(f"{URL} was not refused within 300 s")


@pytest.mark.parametrize("error", [OperatorError("it does not answer"), KeyboardInterrupt(), KilledError()])
def test_the_key_is_in_no_plan_at_the_end_whatever_happens(api: Api, error: BaseException) -> None:
    """Also where somebody stops it in the middle."""

    def raising(_: int) -> None:
        if api.desk.gateway.of(PROBE):
            raise error

    api.on_call = raising
    with pytest.raises(type(error)):
        api.probe.measure(URL, "", samples=1, now=api.desk.world.now)
    assert api.desk.gateway.of(PROBE) == set()


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("dies_at", range(1, 4))
def test_a_run_that_dies_is_cleared_up_by_the_next_one_whichever_plan_that_takes(
    api: Api, dies_at: int, *, accepted: bool
) -> None:
    """A key is in one plan of a stage alone: one that was left in another would be in the way."""
    api.desk.gateway.add_plan("Gold", "api/v1", rate=50)
    killed = api.probe_of(Dying(api.desk.gateway.client(), Life(dies_at, accepted)))
    with pytest.raises(KilledError):
        killed.measure(URL, "Gold", samples=1, now=api.desk.world.now)
    assert api.measure("Standard").samples == 1


def test_a_plan_that_vanishes_meanwhile_is_told_of(api: Api) -> None:
    """Nothing is felt then, and that says nothing of how fast the gate is."""
    plan = next(iter(api.desk.gateway.plans))
    api.on_call = lambda number: api.desk.gateway.drop_plan(plan) if number == 1 else None
    assert api.fails() == f"the probe's key {PROBE} cannot be put into Standard: it, or the plan, is gone; try again"


# Which plan


def unclear(api: Api, plan: str = "") -> str:
    """Return why a plan cannot be chosen."""
    with pytest.raises(OperatorError) as caught:
        api.probe.measure(URL, plan, samples=1, now=api.desk.world.now)
    return str(caught.value)


def test_the_one_plan_is_taken_and_one_of_several_has_to_be_named(api: Api) -> None:
    """By its name or its id. Lanes are none of them, nor what has no stage."""
    gateway = api.desk.gateway
    gateway.add_plan("Metering-SlowLane-SampleApi", "api/v1", rate=1, tags={"metering:lane": "Metering"})
    gateway.add_plan("Unused", rate=1)
    api.measure()
    gold = gateway.add_plan("Gold", "api/v2", rate=50)
    assert unclear(api) == (
        "name one of the API's usage plans with --plan, got none; there are: Standard (plan0001), Gold (plan0004)"
    )
    assert unclear(api, "Silver").startswith(
        "name one of the API's usage plans with --plan, got 'Silver', which 0 of them are; there are: Standard"
    )
    gateway.add_plan("Gold", "api/v3", rate=50)
    assert "got 'Gold', which 2 of them are" in unclear(api, "Gold")
    assert api.measure(gold).samples == 1
    assert api.measure("Standard").samples == 1


def test_where_there_is_no_plan_that_is_said(desk: Desk) -> None:
    """Limits close nothing there."""
    assert Api(desk).fails().endswith("got none; there are: none that has a stage")


# Calling


@pytest.mark.parametrize("address", ["http://api.example.com/items", "file:///etc/passwd", "api.example.com"])
def test_a_key_is_sent_to_nobody_without_encryption(address: str) -> None:
    """But to this machine."""
    with pytest.raises(OperatorError, match="an address is written https://"):
        call(address, "secret")


def test_an_address_that_does_not_answer_is_said_without_the_key() -> None:
    """I8."""
    with pytest.raises(OperatorError, match=r"127\.0\.0\.1:1/ does not answer") as caught:
        call("http://127.0.0.1:1/", "secret")
    assert "secret" not in str(caught.value)


# What the command says


@pytest.fixture
def command(api: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The command line measures by the desk's clock."""
    clock = api.desk.world.time
    monkeypatch.setattr("infra.cli.limits.Probe", partial(Probe, clock=clock, sleep=clock.sleep))
    monkeypatch.setattr("infra.cli.limits.call", api.ask)
    return api


def test_the_command_says_what_was_measured(command: Api) -> None:
    """In words, and as a document; the headers that the API wants are sent."""
    command.counted = 6.0
    command.learns = [0.48, 0.98, 0.48, 1.48]
    arguments = ("limits", "measure", "--url", URL, "--samples", "2", "--header", "x-user: u1")
    said = command.desk.try_(*arguments)
    assert (said.code, command.headers[0]) == (0, {"x-user": "u1"})
    assert " ".join(said.out.split()).startswith(
        "a stop is felt after 1,000 ms (p50) and 1,500 ms (p99), a reopening after 500 ms and 500 ms, of 2 each; the "
        "probe's calls were counted after "
    )
    command.learns = [0.48, 0.98]
    document = command.desk.document("limits", "measure", "--url", URL, "--samples", "1", "--plan", "Standard")
    assert document.keys() == {*Measured.__struct_fields__}
    assert (document["where"], document["closed_p99_ms"]) == ("aws", 1000)


@pytest.mark.parametrize("header", ["x-user", "x-user:", ":u1"])
def test_a_header_without_a_name_or_a_value_is_refused(command: Api, header: str) -> None:
    """As it is written wrongly."""
    said = command.desk.try_("limits", "measure", "--url", URL, "--header", header)
    assert (said.code, command.asked) == (2, [])


def test_a_deployment_without_limits_measures_nothing(command: Api) -> None:
    """There is nothing that would act."""
    command.desk.told.clear()
    said = command.desk.try_("limits", "measure", "--url", URL)
    assert (said.code, said.err.strip(), command.desk.gateway.called) == (1, f"error: {NO_LIMITS}", [])

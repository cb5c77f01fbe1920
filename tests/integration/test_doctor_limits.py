"""``metering doctor`` on limits: what feeds them, who is not stopped, whom e-mail reaches, what they do not know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from infra.operate.deployment import Deployment
from infra.operate.doctor.limits import check_limits
from infra.operate.limits.bound import Measured, save_measured
from metering.model.limits import Level, Limit, Slow, Stop
from metering.model.prices import PerUnit, Plan
from metering.model.subscribed import Subscribed
from metering.stores.gate_list import Asked, GateList
from metering.stores.limits import LimitItems
from tests.doubles.aws import Client
from tests.doubles.outputs import outputs
from tests.doubles.usage_plans import UsagePlansOfAws
from tests.integration.limit_desk import CloudWatch
from tests.integration.world import HOUR, METRICS, World

LIMITED = Plan(
    name="standard",
    title="Standard",
    currency="usd",
    prices=(PerUnit(metric="requests", amount=1),),
    limits=(Limit("requests", 100),),
)
WELL = ("ok", "limits are noticed, enforced and told as they should be")


class NotFoundError(Exception):
    """SES knows no such identity."""


class _Exceptions:
    NotFoundException = NotFoundError


@dataclass
class Mail:
    """SES, with what it has verified; ``asked`` is what it was asked for."""

    verified: Mapping[str, bool] = field(default_factory=dict)
    production: bool = True
    asked: list[str] = field(default_factory=list)
    exceptions = _Exceptions

    def get_email_identity(self, *, EmailIdentity: str) -> dict[str, Any]:  # noqa: N803 - SES's own
        """Answer as the API reference has it (SES API v2 Reference, "GetEmailIdentity")."""
        self.asked.append(EmailIdentity)
        if EmailIdentity not in self.verified:
            raise NotFoundError
        return {"VerifiedForSendingStatus": self.verified[EmailIdentity]}

    def get_account(self) -> dict[str, Any]:
        """Say whether it is out of its sandbox (the same, "GetAccount")."""
        return {"ProductionAccessEnabled": self.production}


@dataclass
class Functions:
    """Lambda, with what feeds the two functions, and the settings of the one that notices."""

    sources: dict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: {
            "watch": [("arn:aws:dynamodb:us-east-1:123456789012:table/counters/stream/x", "Enabled")],
            "enforce": [("arn:aws:sqs:us-east-1:123456789012:gate", "Enabled")],
        }
    )
    alerts_from: str = ""

    def get_paginator(self, operation: str) -> "Functions":
        """Return itself, for the one list that there is."""
        assert operation == "list_event_source_mappings"
        return self

    def paginate(self, *, FunctionName: str) -> list[dict[str, Any]]:  # noqa: N803 - Lambda's own
        """Give a function's sources on one page."""
        sources = self.sources[FunctionName]
        return [{"EventSourceMappings": [{"EventSourceArn": arn, "State": state} for arn, state in sources]}]

    def get_function_configuration(self, *, FunctionName: str) -> dict[str, Any]:  # noqa: N803 - Lambda's own
        """Give the settings of the function that notices."""
        assert FunctionName == "watch"
        return {"Environment": {"Variables": {"ALERTS_FROM": self.alerts_from} if self.alerts_from else {}}}


@dataclass
class Patient:
    """A deployment with limits, and what the check says of it."""

    world: World
    lambdas: Functions = field(default_factory=Functions)
    mail: Mail = field(default_factory=Mail)
    plans: tuple[Plan, ...] = (LIMITED,)
    access_table: str | None = "access"
    api: str = "http"
    usage_plans: UsagePlansOfAws = field(default_factory=UsagePlansOfAws)
    cloudwatch: CloudWatch = field(default_factory=CloudWatch)

    @property
    def gate(self) -> GateList:
        """Who is to be looked at by the gate."""
        return GateList(self.world.ledger.client, "access")

    @property
    def items(self) -> LimitItems:
        """What is known of customers' limits."""
        return LimitItems(self.world.ledger.client, self.world.ledger.table)

    def said(self) -> list[tuple[str, str]]:
        """Make the check; whatever is not well says what to do."""
        found = [*check_limits(self.deployment, self.world.now)]
        assert all(bool(one.do) == (one.state != "ok") for one in found)
        return [(str(one.state), one.said) for one in found]

    @property
    def deployment(self) -> Deployment:
        """The deployment as commands reach it; callers of an HTTP API have no keys, so that nothing is bounded."""
        clients = {
            "apigateway": self.usage_plans.client(),
            "cloudwatch": Client("cloudwatch", self.cloudwatch),
            "dynamodb": self.world.ledger.client,
            "lambda": self.lambdas,
            "sesv2": self.mail,
        }
        told = outputs(access_table=self.access_table, watch_limits_function="watch", enforce_limits_function="enforce")
        deployment = Deployment(lambda name, **_: clients[name], told)
        vars(deployment)["declared"] = {
            "metrics": msgspec.to_builtins(METRICS),
            "plans": msgspec.to_builtins(self.plans),
            "access_log": {"api": self.api, "caller": "authorizer.sub" if self.api == "http" else None},
        }
        return deployment


@pytest.fixture
def patient(world: World) -> Patient:
    """One where all is well: acme is known to be subscribed, globex has no Stripe customer."""
    world.customer("acme", "key1", stripe_customer="cus_acme")
    world.customer("globex", "key2")
    made = Patient(world)
    made.items.subscribe("acme", Subscribed(at=1, stripe_customer="cus_acme", status="active", since=1))
    return made


def test_where_limits_act_it_says_so(patient: Patient) -> None:
    """In one line; and nothing at all where there are none."""
    assert patient.said() == [WELL]
    patient.access_table = None
    assert patient.said() == []


@pytest.mark.parametrize(
    ("function", "sources", "said"),
    [
        (
            "watch",
            [],
            "the counters' stream to watch is not there, so that limits act up to an hour later",
        ),
        (
            "watch",
            [("arn:aws:dynamodb:us-east-1:123456789012:table/counters/stream/x", "Disabled")],
            "the counters' stream to watch is Disabled, so that limits act up to an hour later",
        ),
        ("enforce", [], "the gate's queue to enforce is not there, so that limits act a minute or more later"),
    ],
)
def test_a_function_that_nothing_reaches_is_told(
    patient: Patient, function: str, sources: list[tuple[str, str]], said: str
) -> None:
    """As one whose mapping somebody has switched off."""
    patient.lambdas.sources[function] = sources
    assert patient.said() == [("broken", said)]


def test_stops_that_are_not_seen_done_are_told_after_a_minute(patient: Patient) -> None:
    """Only stops: what is slowed or opened later costs nobody anything."""
    at = int(HOUR.start.timestamp())
    patient.world.now = HOUR.start + timedelta(minutes=5)
    patient.gate.ask("acme", Asked(Level.STOPPED, at))
    patient.gate.ask("globex", Asked(Level.OPEN, at))
    patient.gate.ask("initech", Asked(Level.STOPPED, at + 241))
    assert patient.said() == [("broken", "1 customer is not stopped, for up to 5 minutes: acme")]
    patient.world.now += timedelta(seconds=1)
    assert patient.said() == [("broken", "2 customers are not stopped, for up to 5 minutes: acme, initech")]


@pytest.mark.parametrize(
    ("verified", "state"),
    [
        ({"alerts@mail.example.com": True}, WELL[0]),
        ({"mail.example.com": True}, WELL[0]),
        ({"example.com": True, "mail.example.com": False}, WELL[0]),
        ({"alerts@mail.example.com": False}, "broken"),
        ({"com": True}, "broken"),
        ({}, "broken"),
    ],
)
def test_an_address_that_ses_may_not_send_from_is_told(patient: Patient, verified: dict[str, bool], state: str) -> None:
    """It may be verified by itself, or by a domain of it; the address is not said (I8)."""
    patient.lambdas.alerts_from = "alerts@mail.example.com"
    patient.mail.verified = verified
    ((found, said),) = patient.said()
    assert found == state
    assert "example.com" not in said
    assert "com" not in patient.mail.asked


def test_that_ses_is_in_its_sandbox_is_told(patient: Patient) -> None:
    """It sends to verified addresses alone; and nobody is asked where no e-mail is sent."""
    patient.mail.production = False
    assert patient.said() == [WELL]
    assert patient.mail.asked == []
    patient.lambdas.alerts_from, patient.mail.verified = "alerts@example.com", {"example.com": True}
    assert patient.said() == [
        ("warning", "SES is in its sandbox here: e-mail about limits reaches verified addresses alone")
    ]


def test_whose_subscription_limits_do_not_know_is_told(patient: Patient) -> None:
    """Nothing of its plan's limits applies; where no plan has any, nobody needs to know."""
    patient.world.customer("initech", "key3", stripe_customer="cus_initech")
    assert patient.said() == [
        (
            "warning",
            "what 1 customer is subscribed to is not known yet, so that no plan's limits apply: initech",
        )
    ]
    patient.plans = (msgspec.structs.replace(LIMITED, limits=()),)
    assert patient.said() == [WELL]


def test_who_has_prices_that_limits_cannot_read_is_told(patient: Patient) -> None:
    """I9: what it spends is more than what they see."""
    known = patient.items.subscribed("acme")
    assert known is not None
    patient.items.subscribe("acme", msgspec.structs.replace(known, unpriced=("price_1",)))
    assert patient.said() == [
        (
            "warning",
            "1 customer is subscribed to prices that no plan can have, of which limits know nothing: acme",
        )
    ]


MEASURED = Measured(
    at=1,
    where="aws",
    samples=20,
    closed_p50_ms=150,
    closed_p99_ms=400,
    opened_p50_ms=150,
    opened_p99_ms=300,
    counted_ms=7000,
)
DELAY = (
    "a stop is felt 17.4 s after its limit is reached: 10.0 s until a request is counted, 5.0 s until it is looked "
    "at, 2.0 s until the gate runs, 0.4 s until that is felt, and the turns of a customer's keys"
)


@pytest.fixture
def of_keys(patient: Patient) -> Patient:
    """One whose callers have keys, in a plan with a throttle; lines were counted, and the gate was measured on AWS."""
    patient.api = "rest"
    patient.usage_plans.add_plan("Bounded", "api/prod", rate=10)
    patient.cloudwatch.values = [8.0, 10.0, 9.0]
    save_measured(patient.deployment, MEASURED)
    return patient


def test_how_soon_a_stop_acts_is_stated_with_its_parts(of_keys: Patient) -> None:
    """The longest of what was measured; where callers have no keys, there is nothing to state."""
    assert of_keys.said() == [WELL, ("ok", DELAY)]
    of_keys.api = "http"
    assert of_keys.said() == [WELL]


def test_usage_plans_without_a_throttle_are_named(of_keys: Patient) -> None:
    """They are listed once, however many customers there are."""
    of_keys.usage_plans.add_plan("Standard", "api/prod")
    of_keys.usage_plans.add_plan("Gold", "other/prod")
    of_keys.usage_plans.called.clear()
    assert of_keys.said() == [
        WELL,
        (
            "warning",
            "what can still come after a stop is unbounded for keys in a usage plan without a throttle: Gold, Standard",
        ),
        ("ok", DELAY),
    ]
    assert [name for _, name in of_keys.usage_plans.called] == ["get_usage_plans"]


def test_a_slow_without_a_lane_is_told(of_keys: Patient) -> None:
    """Until the API's stack has one; lanes are listed with the other plans."""
    slow = Limit("requests", 100, at=(Slow(90), Stop(100)))
    of_keys.plans = (msgspec.structs.replace(LIMITED, limits=(slow,)),)
    told = ("warning", "a plan has a Slow, and there is no slow lane, so that it is only told")
    assert told in of_keys.said()
    of_keys.usage_plans.add_plan("Lane", "api/prod", rate=1, tags={"metering:lane": "Metering"})
    assert told not in of_keys.said()


def test_what_was_measured_on_the_emulator_alone_is_marked(of_keys: Patient) -> None:
    """It says nothing of how soon API Gateway is felt."""
    save_measured(of_keys.deployment, msgspec.structs.replace(MEASURED, where="emulator"))
    assert of_keys.said() == [
        WELL,
        ("warning", f"{DELAY}; how fast the gate acts was measured on the emulator alone"),
    ]


def test_what_nobody_has_measured_is_told(patient: Patient) -> None:
    """What AWS says of a log's delay is taken where nothing was counted, and nothing is known of the gate."""
    patient.api = "rest"
    (_, (state, said)) = patient.said()
    assert state == "warning"
    assert said.split("; ") == [
        DELAY.replace("17.4", "187.0").replace("10.0 s until", "180.0 s until").replace("0.4 s until", "0.0 s until"),
        "the gate is left out, for how fast it acts was not measured here: run 'metering limits measure'",
        "nothing was counted in the last day: what AWS says of a log's delay, 180 s, is taken for it",
    ]


def test_that_nothing_was_counted_lately_is_no_fault(of_keys: Patient) -> None:
    """What the probe found is taken instead, and said."""
    of_keys.cloudwatch.values = []
    (_, (state, said)) = of_keys.said()
    assert state == "ok"
    assert said.startswith("a stop is felt 14.4 s after its limit is reached: 7.0 s until a request is counted, ")
    assert said.endswith("; nothing was counted in the last day: what was measured then, 7 s, is taken for it")

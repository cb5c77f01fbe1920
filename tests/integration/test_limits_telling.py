"""Telling thresholds: events, e-mail, and what becomes of those that could not be told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from metering.limits.telling import Event, access_events, put_events
from metering.model.limits import Budget, Level, Limit, Notify, OfCustomer, Reason, Slow, Spend
from metering.model.prices import Plan
from metering.stores.limits import Gate
from tests.doubles.dying import Dying, KilledError, Life
from tests.integration.limits import PLAN, Bus, Limited

DOCUMENTED = [
    json.loads(block)
    for block in re.findall(
        "```json\n(.*?)```", (Path(__file__).parents[2] / "functions" / "README.md").read_text(), flags=re.DOTALL
    )
    if '"id"' in block and '"deployment"' in block
]


@pytest.fixture
def limited() -> Limited:
    """Acme, who may use 100 requests a day, with two addresses of its own."""
    made = Limited(sender="usage@metering.example")
    made.customer()
    made.items.address("acme", ["ops@acme.example", "pay@acme.example"])
    return made


def refusal(code: str) -> ClientError:
    """Return what SES answers who may not send."""
    error: Any = {"Error": {"Code": code, "Message": "ops@acme.example is not verified"}}
    return ClientError(error, "SendEmail")


# --- what is told -----------------------------------------------------------------------------------------------------


def test_events_are_as_they_are_documented(limited: Limited) -> None:
    """The examples of functions/README.md are what is sent."""
    limited.use(81)
    limited.look()
    gate = Gate(Level.STOPPED, at=int(limited.now.timestamp()) + 20, changes=3, untold=("3:open:stopped",), keys=2)
    reasons = [Reason("limit:requests/day:2026-11-22T00", Level.STOPPED, 1)]
    put_events(limited.bus, access_events("Metering", "acme", reasons, gate))
    assert [one["Detail"] for one in limited.bus.put] == DOCUMENTED
    assert [(one["Source"], one["DetailType"]) for one in limited.bus.put] == [
        ("metering.limits", "Threshold reached"),
        ("metering.limits", "Access stopped"),
    ]


def test_an_email_says_what_is_used_what_follows_and_where_to_look(limited: Limited) -> None:
    """One for each threshold, in plain text, to the customer's own addresses."""
    limited.use(100)
    limited.look()
    notice, stop = limited.mail.sent
    assert (stop["FromEmailAddress"], stop["Destination"]) == (
        "usage@metering.example",
        {"ToAddresses": ["ops@acme.example", "pay@acme.example"]},
    )
    assert notice["Content"]["Simple"]["Subject"]["Data"] == "80 % of a limit reached: requests of acme"
    assert stop["Content"]["Simple"]["Body"]["Text"]["Data"] == (
        "acme has used 100 of 100 (requests, each day).\n"
        "That is 100 % or more of your plan's limit.\n"
        "\n"
        "Calls are refused until 2026-11-23 00:00 UTC, unless the limit is raised.\n"
        "The day ends on 2026-11-23 00:00 UTC.\n"
        "\n"
        "What is used and left: https://metering.example/usage\n"
    )


def test_money_is_written_as_people_do(limited: Limited) -> None:
    """Of a budget, with its currency."""
    limited.plans = (Plan(name="pro", title="Pro", currency="usd", prices=PLAN.prices, limits=(Spend(10_000),)),)
    limited.items.save_budget("acme", Budget(notify=150))
    limited.use(75)
    limited.look()
    [message] = limited.mail.sent
    assert message["Content"]["Simple"]["Body"]["Text"]["Data"].startswith(
        "acme has used 1.50 USD of 1.50 USD (spending, each period).\nThat is 100 % or more of your own budget.\n"
    )
    assert (limited.bus.put[0]["Detail"]["currency"], limited.bus.put[0]["Detail"]["origin"]) == ("usd", "budget")


def test_units_are_written_as_on_the_page(limited: Limited) -> None:
    """Of a metric that counts thousandths, an e-mail says how many whole ones."""
    limited.scales = {"requests": 3}
    limits = (Limit("requests", 2_000_000, per="day", at=(Notify(1),)),)
    limited.plans = (Plan(name="pro", title="Pro", currency="usd", prices=PLAN.prices, limits=limits),)
    limited.use(20_500)
    limited.look()
    text = limited.mail.sent[0]["Content"]["Simple"]["Body"]["Text"]["Data"]
    assert text.startswith("acme has used 20.5 of 2,000 (requests, each day).\n")


def test_a_slow_step_says_that_calls_may_be_slowed_down(limited: Limited) -> None:
    """Where there is no lane, they are not."""
    limits = (Limit("requests", 100, per="day", at=(Slow(50),)),)
    limited.plans = (Plan(name="pro", title="Pro", currency="usd", prices=PLAN.prices, limits=limits),)
    limited.use(50)
    limited.look()
    assert "Calls may be slowed down until" in limited.mail.sent[0]["Content"]["Simple"]["Body"]["Text"]["Data"]


def test_what_the_operator_noted_is_not_mailed(limited: Limited) -> None:
    """I8: why it set a limit for a customer is its own."""
    limited.items.set("acme", OfCustomer("requests", "month", 10, reason="looks like fraud"))
    limited.use(10)
    limited.look()
    text = limited.mail.sent[0]["Content"]["Simple"]["Body"]["Text"]["Data"]
    assert ("fraud" in text, "more of the limit that was set for you." in text) == (False, True)


@pytest.mark.parametrize("lacking", ["sender", "addresses"])
def test_without_a_sender_or_addresses_there_is_no_email(limited: Limited, lacking: str) -> None:
    """The event is told all the same, and nothing waits."""
    if lacking == "sender":
        limited.sender = ""
    else:
        limited.items.address("acme", [])
    limited.use(80)
    assert limited.look().states["requests/day"].untold == ()
    assert (limited.bus.steps, limited.mail.sent) == (["notify:80"], [])


# --- and what could not be told ---------------------------------------------------------------------------------------


def test_of_events_that_failed_in_part_those_alone_are_told_again(limited: Limited) -> None:
    """Two minutes later, by the next look; what was told is told no more, and e-mail goes out once each."""
    limited.bus.refuses = lambda entry: '"notify"' in entry["Detail"]
    limited.use(100)
    assert [told.step for told in limited.look().states["requests/day"].untold] == ["notify:80"]
    limited.bus.refuses = lambda _: False
    limited.pass_by(seconds=119)
    limited.look()
    assert limited.bus.steps == ["stop:100"]
    limited.pass_by(seconds=1)
    assert limited.look().states["requests/day"].untold == ()
    assert (limited.bus.steps, len(limited.mail.sent)) == (["stop:100", "notify:80"], 2)


def test_a_bus_that_cannot_be_reached_delays_no_stop(limited: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is asked; what was decided is told when the bus is there again, and mailed then."""

    def fail(*_: Any, **__: Any) -> None:
        raise ReadTimeoutError(endpoint_url="events")

    limited.use(100)
    with monkeypatch.context() as patch:
        patch.setattr(Bus, "put_events", fail)
        assert limited.look().level is Level.STOPPED
    assert (limited.gate.asked()["acme"].level, limited.mail.sent) == (Level.STOPPED, [])
    limited.pass_by(minutes=2)
    limited.look()
    assert (limited.bus.steps, len(limited.mail.sent)) == (["notify:80", "stop:100"], 2)


def test_an_email_that_has_no_answer_is_sent_again(limited: Limited) -> None:
    """I9: SES said nothing, not even an error code; the threshold stays to be told, and a later look tells it."""
    limited.use(80)
    limited.mail.error = ReadTimeoutError(endpoint_url="ses")
    looked = limited.look()
    assert [told.step for told in looked.states["requests/day"].untold] == ["notify:80"]
    limited.pass_by(minutes=3)
    limited.look()
    limited.mail.error = None
    limited.pass_by(minutes=3)
    assert limited.look().states["requests/day"].untold == ()
    assert len(limited.mail.sent) == 1
    assert limited.bus.steps == ["notify:80"], "its event was put before, and is not again for as long as SES fails"


def test_an_email_that_is_refused_for_good_is_told_in_the_log_and_not_sent_again(
    limited: Limited, caplog: pytest.LogCaptureFixture
) -> None:
    """I8: the log names the customer, and no address."""
    limited.use(80)
    limited.mail.error = refusal("MessageRejected")
    assert limited.look().states["requests/day"].untold == ()
    [record] = [one for one in caplog.records if one.message == "an e-mail could not be sent"]
    assert (record.customer, record.code) == ("acme", "MessageRejected")  # type: ignore[attr-defined]
    assert "acme.example" not in caplog.text


def test_whoever_dies_after_telling_tells_again_by_the_same_id(limited: Limited) -> None:
    """At least once: the last write of a look says that it is told."""
    limited.use(80)
    with pytest.raises(KilledError):
        limited.looker(Dying(limited.client(), Life(2))).look("acme", limited.now)
    limited.look()
    assert limited.bus.steps == ["notify:80"]
    limited.pass_by(minutes=2)
    limited.look()
    assert (limited.bus.steps, len({one["Detail"]["id"] for one in limited.bus.put})) == (["notify:80"] * 2, 1)


def test_what_was_not_told_of_a_window_that_ended_is_told_to_nobody(limited: Limited) -> None:
    """It is too late to be warned."""
    limited.bus.refuses = lambda _: True
    limited.use(100)
    limited.look()
    limited.bus.refuses = lambda _: False
    limited.pass_by(days=1)
    assert limited.look().states["requests/day"].untold == ()
    assert (limited.bus.put, limited.mail.sent) == ([], [])


def test_what_a_limit_did_that_was_taken_back_is_told_to_nobody(limited: Limited) -> None:
    """It applies no longer when it could be told."""
    limited.bus.refuses = lambda _: True
    limited.items.set("acme", OfCustomer("requests", "month", 10))
    limited.use(10)
    limited.look()
    limited.bus.refuses = lambda _: False
    limited.items.clear("acme", limited.items.of("acme").own[0])
    limited.pass_by(minutes=3)
    assert limited.look().level is Level.OPEN
    assert limited.bus.put == []


def test_events_are_put_ten_at_a_time() -> None:
    """EventBridge takes ten in a call, and says of each what became of it."""
    bus = Bus()
    bus.refuses = lambda entry: '"7"' in entry["Detail"] or '"12"' in entry["Detail"]
    put = put_events(bus, [Event("Access stopped", str(number), {}) for number in range(25)])
    assert put == {str(number) for number in range(25)} - {"7", "12"}

"""`metering connect` and `disconnect` as an operator sees them: the plan, what is done, and what programs are told."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from infra.operate.connections.first_line import FirstLine
from tests.doubles.aws import Account
from tests.doubles.log_groups import LOG_GROUP_ARN
from tests.doubles.outputs import outputs
from tests.integration.cli.command_line import Metering
from tests.integration.live_apis import BILLABLE, KEYED, LACKING, LiveApis

THEIRS = f"{LOG_GROUP_ARN}theirs"
STAGE = ("orders0001", "prod")


@pytest.fixture
def live(aws: Account) -> LiveApis:
    """A Region with a REST API whose stage has no access log."""
    made = LiveApis(aws)
    made.apis.add("orders0001", "Orders", methods=KEYED)
    return made


def test_without_a_yes_the_plan_is_shown_and_nothing_is_done(live: LiveApis, metering: Metering) -> None:
    """On a pipe nobody is asked."""
    before = live.standing()
    result = metering("connect", *STAGE)
    assert (result.code, result.err) == (0, "")
    assert (
        result.out
        == (
            "Orders (orders0001), a REST API, stage prod, of no CloudFormation stack\n"
            "  now:   no access log\n"
            "  then:  our format, into\n"
            f"         {outputs().connected_logs}orders\n"
            "  name:  orders\n"
            "  cost:  $0.56 for a million requests (us-east-1, 2026-11;\n"
            "         infra/stack/README.md, What it costs)\n"
            "  delay: usually seconds; CloudWatch Logs says less than three minutes\n"
        )
        + result.out[result.out.index("What is done:") :]
    )
    assert "this method will be billed to nobody" in result.out
    assert result.out.endswith("nothing is done: say it again with --yes\n")
    assert live.standing() == before
    assert live.deployment().connections.all() == []


def test_a_plan_is_read_at_eighty_columns(live: LiveApis, metering: Metering) -> None:
    """But for names that are longer."""
    live.apis.add("people0001", "People", methods=KEYED, log=(THEIRS, LACKING))
    for arguments in (STAGE, ("people0001", "prod", "--extend")):
        lines = metering("connect", *arguments).out.splitlines()
        assert [line for line in lines if len(line) > 80 and " " in line.strip()] == []


def test_connect_and_disconnect_do_what_they_said(live: LiveApis, metering: Metering) -> None:
    """Progress is on stderr; both can be said again."""
    done = metering("connect", *STAGE, "--yes", "--no-wait")
    assert done.code == 0
    assert done.out.endswith("the stage prod of Orders is connected as orders\n")
    assert "changing what the stage prod of Orders writes ...\n" in done.err
    assert live.apis.log_of("orders0001")[0].endswith("/orders")
    again = metering("connect", *STAGE, "--yes", "--no-wait")
    assert "It is connected; of this, what lacks is made good:" in again.out
    assert "  had:   no access log\n  now:   our format, into\n" in again.out
    back = metering("disconnect", "orders", "--yes")
    assert (back.code, back.out.splitlines()[-1]) == (0, "orders is disconnected")
    assert live.apis.log_of("orders0001") == ("", "")
    assert "orders is disconnected already: nothing to change" in metering("disconnect", *STAGE).out


def test_a_stage_is_given_back_on_a_stack_of_a_version_without_connections(live: LiveApis, metering: Metering) -> None:
    """I7: whoever went back with it connected gives it back by the newer commands; none is connected there."""
    assert metering("connect", *STAGE, "--yes", "--no-wait").code == 0
    del live.stacks.outputs["ConnectedLogs"], live.stacks.outputs["Version"]
    refused = metering("connect", *STAGE, "--yes", "--no-wait")
    assert (refused.code, refused.err.splitlines()[-1]) == (
        1,
        "error: the stack has no ConnectedLogs: another version deployed it. Deploy it again",
    )
    assert metering("disconnect", "orders", "--yes").code == 0
    assert live.apis.log_of("orders0001") == ("", "")


def test_a_program_is_told_the_plan_and_what_came_of_it(live: LiveApis, metering: Metering) -> None:
    """One document each; without --yes nothing is done."""
    planned = metering("connect", *STAGE, "--json").json()
    assert planned["connection"] is None
    assert live.deployment().connections.all() == []
    plan = planned["plan"]
    assert {name: plan[name] for name in ("case", "name", "api", "owner", "caller", "connected", "refusals")} == {
        "case": "A",
        "name": "orders",
        "api": "rest",
        "owner": None,
        "caller": "identity.apiKeyId",
        "connected": False,
        "refusals": [],
    }
    assert plan["before"] == {"destination": "", "format": ""}
    assert plan["after"]["destination"] == f"{LOG_GROUP_ARN}{outputs().connected_logs}orders"
    done = metering("connect", *STAGE, "--yes", "--no-wait", "--json")
    assert done.code == 0
    ended = metering("disconnect", "orders", "--yes", "--json")
    assert '"step": "connected"' in done.out
    assert '"step": "disconnected"' in ended.out


def test_what_is_refused_is_said_with_the_way_out_and_exits_with_1(live: LiveApis, metering: Metering) -> None:
    """On stderr in a sentence, lines to paste on stdout; a program gets the document."""
    live.stacks.made["orders0001"] = "shop"
    result = metering("connect", *STAGE, "--yes")
    assert result.code == 1
    assert result.err == (
        "error: the stage prod of Orders belongs to the CloudFormation stack shop, whose next deployment may undo "
        "this\n    -> put the lines into its template: --print cdk, sam or cloudformation shows them; or say --force\n"
    )
    told = metering("connect", *STAGE, "--yes", "--json")
    assert (told.code, told.err, '"refusals": [\n      {' in told.out) == (1, "", True)
    assert live.apis.changes == []
    assert metering("connect", *STAGE, "--yes", "--force", "--no-wait").code == 0


def test_a_stage_that_is_no_longer_as_it_was_left_is_told_in_a_sentence(live: LiveApis, metering: Metering) -> None:
    """And how to end the metering all the same."""
    assert metering("connect", *STAGE, "--yes", "--no-wait").code == 0
    live.apis.apis["orders0001"].stages["prod"]["log"] = (THEIRS, BILLABLE)
    for arguments in ((), ("--yes",), ("--json",)):
        result = metering("disconnect", "orders", *arguments)
        assert (result.code, result.out) == (1, "")
        assert result.err == (
            "error: the stage prod of Orders is no longer as it was left: it writes to theirs, not to "
            f"{outputs().connected_logs}orders. Say --keep-log to leave it as it is, and only end the metering\n"
        )
    assert metering("disconnect", "orders", "--keep-log", "--yes").code == 0
    assert live.apis.log_of("orders0001") == (THEIRS, BILLABLE)


def test_of_a_stage_that_is_gone_nothing_is_said_to_be_put_back(live: LiveApis, metering: Metering) -> None:
    """It was deleted in the meantime; the metering ends all the same."""
    assert metering("connect", *STAGE, "--yes", "--no-wait").code == 0
    del live.apis.apis["orders0001"]
    gone = metering("disconnect", "orders", "--yes")
    assert (gone.code, gone.out.splitlines()[0], gone.out.splitlines()[-1]) == (
        0,
        "  - the stage prod of Orders is gone: there is nothing to put back",
        "orders is disconnected",
    )


def test_what_is_left_empty_is_neither_an_api_nor_a_stage(live: LiveApis, metering: Metering) -> None:
    """As a script gives it whose variable is not set; AWS takes such a call for one that lists them."""
    no_api, no_stage = metering("connect", "", "prod"), metering("connect", "orders0001", "")
    assert (no_api.code, no_api.err) == (
        1,
        "error: there is no API '' in us-east-1: there are orders0001 (Orders, REST)\n",
    )
    assert (no_stage.code, no_stage.err) == (1, "error: the API Orders has no stage '': it has prod\n")
    assert live.apis.changes == []


def test_an_apis_name_does_nothing_to_a_terminal(live: LiveApis, metering: Metering) -> None:
    """I8: whoever names APIs in the account is not whoever operates this."""
    live.apis.add("hostile001", "\x1b[31mOrders\n\u202e[red]", methods=KEYED, stage="prod")
    result = metering("connect", "hostile001", "prod", "--yes", "--no-wait")
    assert result.code == 0
    assert result.out.startswith(r"\x1b[31mOrders\n\u202e[red] (hostile001), a REST API, stage prod")
    assert live.deployment().connections.get("api-31morders-red") is not None
    assert metering("connect", "\x1b]0;x", "prod").code == 1


@pytest.mark.parametrize("arguments", [("nothing",), ("orders0001", "prod")])
def test_what_is_not_connected_is_not_disconnected(
    live: LiveApis, metering: Metering, arguments: tuple[str, ...]
) -> None:
    """With where to look."""
    del live
    result = metering("disconnect", *arguments, "--yes")
    assert (result.code, result.out) == (1, "")
    assert "'metering connections' lists" in result.err


def waiting_for(first: FirstLine | None) -> Callable[..., FirstLine | None]:
    """Return what waits for a first line, and finds this one."""

    def wait(_deployment: Any, connection: Any, *, patience: timedelta) -> FirstLine | None:
        assert (connection.name, patience) == ("orders", timedelta(minutes=3))
        return first

    return wait


def test_connect_ends_with_the_first_line_or_says_that_none_came(
    live: LiveApis, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how to make one, meanwhile."""
    monkeypatch.setattr("infra.cli.connections.wait_for_first_line", waiting_for(None))
    result = metering("connect", *STAGE, "--yes")
    assert 'up to three minutes for the first line; to make one: curl -i -H "x-api-key: $API_KEY" ' in result.err
    assert result.out.endswith("no line has come yet: 'metering connections' shows the last one of each\n")
    first = FirstLine(live.time, "GET /items, status 200", key="key1", amounts={"requests": 1})
    monkeypatch.setattr("infra.cli.connections.wait_for_first_line", waiting_for(first))
    assert metering("connect", *STAGE, "--yes").out.endswith(f"{first}\n")
    assert '"key": "key1"' in metering("connect", *STAGE, "--yes", "--json").out


def test_a_call_of_a_stage_on_this_machine_goes_to_its_gateway(
    live: LiveApis, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not to API Gateway's own address, of which the embedded AWS knows nothing."""
    here = replace(live.deployment(), embedded_at="http://127.0.0.1:1")
    monkeypatch.setattr("infra.cli.shared._connect", lambda *_: here)
    monkeypatch.setattr("infra.cli.connections.wait_for_first_line", waiting_for(None))
    assert metering("connect", *STAGE, "--yes", "--local").err.endswith(
        "for the first line; to make one: call the address that 'metering local' prints for orders\n"
    )

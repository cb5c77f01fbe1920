"""Connecting a stage that somebody else deployed, and the way back: what dies in between, and who else is there."""

from typing import Any

import msgspec
import pytest

from infra.operate.connections.connecting import Connecting, place_of
from infra.operate.connections.patience import Patience
from infra.operate.connections.permission import EVERY, PREFIX, statement_of
from infra.operate.connections.terms import Case
from infra.operate.deployment import OperatorError
from metering.model.connections import Connection, Form, StageLog, Step, in_force
from metering.stores.connections import Connections
from metering.stores.table import RowChangedError
from tests.doubles.access_log import NONCE
from tests.doubles.api_gateway import RestService
from tests.doubles.aws import Account
from tests.doubles.dying import KilledError
from tests.doubles.log_groups import FUNCTION, LOG_GROUP_ARN, OPERATOR
from tests.doubles.outputs import outputs
from tests.integration.live_apis import BEGIN, BILLABLE, KEYED, LACKING, ROLE, LiveApis, lives

OURS = f"{outputs().connected_logs}orders"
THEIRS = f"{LOG_GROUP_ARN}theirs"
JWT = {"AuthorizerId": "a1", "Name": "login", "AuthorizerType": "JWT"}
CLAIMED = {"GET /items": {"AuthorizationType": "JWT"}, "GET /health": {"AuthorizationType": "NONE"}}


@pytest.fixture
def live(aws: Account) -> LiveApis:
    """A Region without any API."""
    return LiveApis(aws)


def without_log(live: LiveApis) -> None:
    """A: a REST API whose stage has no access log."""
    live.apis.add("orders0001", "Orders", methods=KEYED)


def without_role(live: LiveApis) -> None:
    """A, where API Gateway has no role to write by."""
    live.apis.role = ""
    without_log(live)


def without_log_http(live: LiveApis) -> None:
    """A: an HTTP API."""
    live.apis.add("orders0001", "Orders", protocol="HTTP", methods=CLAIMED, authorizers=[JWT])


def billable(live: LiveApis) -> None:
    """B: a format that does for a bill."""
    live.apis.add("orders0001", "Orders", methods=KEYED, log=(THEIRS, BILLABLE))


def lacking(live: LiveApis) -> None:
    """C: a JSON format that does not."""
    live.apis.add("orders0001", "Orders", methods=KEYED, log=(THEIRS, LACKING))


def lacking_http(live: LiveApis) -> None:
    """C: an HTTP API."""
    live.apis.add("orders0001", "Orders", protocol="HTTP", methods=CLAIMED, authorizers=[JWT], log=(THEIRS, LACKING))


CASES = [
    pytest.param(without_log, {}, id="A"),
    pytest.param(without_role, {"make_role": True}, id="A-role"),
    pytest.param(without_log_http, {}, id="A-http"),
    pytest.param(billable, {}, id="B"),
    pytest.param(lacking, {"extend": True}, id="C"),
    pytest.param(lacking_http, {"extend": True}, id="C-http"),
]


def told(connection: Connection | None) -> dict[str, Any]:
    """Return a connection but for when, by whom and in which version."""
    assert connection
    fields = {name: getattr(connection, name) for name in connection.__struct_fields__}
    return {name: value for name, value in fields.items() if name not in ("since", "until", "version")}


# --- the three ways --------------------------------------------------------------------------------------------------


def test_a_stage_without_a_log_writes_ours_into_a_log_group_that_is_kept_and_read(live: LiveApis) -> None:
    """A: as long as the deployment's own, and nothing of the policy's room is used."""
    without_log(live)
    connection = live.connect()
    assert (connection.name, connection.form, connection.step) == ("orders", Form.OURS, Step.CONNECTED)
    assert (connection.by, connection.since) == (OPERATOR, int(BEGIN.timestamp() * 1000) + 1000)
    destination, written = live.apis.log_of("orders0001")
    assert destination == f"{LOG_GROUP_ARN}{OURS}"
    assert '"api_id":"orders"' in written
    assert '"key":"$context.identity.apiKeyId"' in written
    assert live.groups.groups[OURS]["retentionInDays"] == 90
    assert live.filters(OURS) == {"metering-Metering": FUNCTION}
    assert live.function.statements.keys() == {"stack"}


def test_a_stage_whose_format_does_is_left_alone(live: LiveApis) -> None:
    """B: a statement and a subscription on its own log group."""
    billable(live)
    connection = live.connect()
    assert connection.form is Form.THEIRS
    assert connection.before == connection.after == StageLog(THEIRS, BILLABLE)
    assert live.apis.changes == []
    assert live.filters("theirs") == {"metering-Metering": FUNCTION}
    assert live.function.statements[statement_of("theirs")] == f"{THEIRS}:*"


def test_a_json_format_that_lacks_something_gets_our_line_in_front(live: LiveApis) -> None:
    """C: it goes on where it went, with all that it had."""
    lacking(live)
    connection = live.connect(extend=True)
    destination, written = live.apis.log_of("orders0001")
    assert (connection.form, destination) == (Form.EXTENDED, THEIRS)
    assert written.startswith('{"metering":{"metering":"1:')
    assert written.endswith(LACKING.removeprefix("{"))
    assert live.filters("theirs") == {"metering-Metering": FUNCTION}


def test_a_caller_of_an_http_api_bears_the_connections_name(live: LiveApis) -> None:
    """I7: no sub that somebody chose is another one's key."""
    without_log_http(live)
    assert live.connect().caller == "authorizer.claims.sub"
    assert '"key":"orders:$context.authorizer.claims.sub"' in live.apis.log_of("orders0001")[1]


def test_keys_are_told_apart_where_the_deployments_own_callers_are_none(live: LiveApis) -> None:
    """I7: an API key's id might be somebody's sub."""
    live.access_log = {"api": "http", "caller": "authorizer.claims.sub"}
    without_log(live)
    assert live.connect().keys_apart
    assert '"key":"orders:$context.identity.apiKeyId"' in live.apis.log_of("orders0001")[1]


@pytest.mark.parametrize(("make", "wishes"), CASES)
def test_connecting_again_changes_nothing(live: LiveApis, make: Any, wishes: dict[str, Any]) -> None:
    """Neither the ledger nor AWS; what somebody took away is put back."""
    make(live)
    connection = live.connect(**wishes)
    before = live.standing()
    assert live.plan(**wishes).done
    assert live.connect(**wishes) == connection
    live.groups.filters[connection.log_group].clear()
    assert live.connect(**wishes) == connection
    assert live.standing() == before


@pytest.mark.parametrize(("make", "wishes"), CASES)
def test_a_stage_is_given_back_as_it_was(live: LiveApis, make: Any, wishes: dict[str, Any]) -> None:
    """The log group that was made stays: it is what was billed from."""
    make(live)
    before = live.standing()
    connection = live.connect(**wishes)
    ended = live.disconnect()
    assert (ended.step, ended.until > ended.since) == (Step.DISCONNECTED, True)
    after = live.standing()
    assert after["filters"].pop(OURS, {}) == {}
    assert after | {"role": "", "roles": {}} == before | {"role": "", "roles": {}}
    assert live.disconnect() == ended
    assert in_force(live.deployment().connections.of_log_group(connection.log_group), ended.until) == ()


def test_a_stage_is_connected_again_after_it_was_given_back(live: LiveApis) -> None:
    """Both times are in the ledger, and late lines of the first are read as they were then."""
    without_log(live)
    first = live.connect()
    live.disconnect()
    second = live.connect()
    assert (second.name, second.since > first.since, second.until) == ("orders", True, 0)
    read = live.deployment().connections.of_log_group(OURS)
    assert [(one.since, one.step) for one in read] == [
        (first.since, Step.DISCONNECTED),
        (second.since, Step.CONNECTED),
    ]


def test_what_a_log_group_was_read_by_before_the_last_record_that_counts_is_forgotten(live: LiveApis) -> None:
    """I10: however often it is connected anew, each batch reads few items; what still explains a line stays."""
    without_log(live)
    begun, day = int(BEGIN.timestamp() * 1000), 24 * 3_600_000
    for days_ago in (400, 63, 61):
        moment = begun - days_ago * day
        first = live.plan().connection
        there = live.deployment().connections.get("orders")
        live.deployment().connections.save(
            msgspec.structs.replace(
                first,
                step=Step.DISCONNECTED,
                since=moment,
                until=moment + 1,
                by="ada",
                version=there.version if there else 0,
            )
        )
    live.connect()
    read = live.deployment().connections.of_log_group(OURS)
    assert [(begun - one.since) // day for one in read] == [61, -1]


# --- what dies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "wishes"), CASES)
def test_connect_that_is_killed_at_any_call_leaves_no_stage_without_its_log_and_is_run_again(
    aws: Account, make: Any, wishes: dict[str, Any]
) -> None:
    """Before and after each call: a log that was there is there, and the second run ends as one that was not killed."""
    undisturbed = LiveApis(Account())
    make(undisturbed)
    wanted = told(undisturbed.connect(**wishes))
    del aws
    killed = 0
    for life in lives():
        live = LiveApis(Account())
        make(live)
        destination, written = live.apis.log_of("orders0001")
        try:
            live.connect(life=life, **wishes)
            break
        except KilledError:
            killed += 1
        now = live.apis.log_of("orders0001")
        if destination:
            assert (now[0], written.removeprefix("{") in now[1]) == (destination, True), life
        assert told(live.connect(**wishes)) == wanted, life
        assert live.standing() == undisturbed.standing(), life
        (connection,) = live.deployment().connections.all()
        in_force_now = in_force(live.deployment().connections.of_log_group(connection.log_group), connection.since)
        assert [one.since for one in in_force_now] == [connection.since], life
    assert killed > 2 * 15


@pytest.mark.parametrize("keep_log", [False, True])
@pytest.mark.parametrize(("make", "wishes"), CASES)
def test_disconnect_that_is_killed_at_any_call_leaves_no_stage_without_its_log_and_is_run_again(
    aws: Account, make: Any, wishes: dict[str, Any], *, keep_log: bool
) -> None:
    """The same on the way back."""
    undisturbed = LiveApis(Account())
    make(undisturbed)
    undisturbed.connect(**wishes)
    wanted = told(undisturbed.disconnect(keep_log=keep_log))
    del aws
    killed = 0
    for life in lives():
        live = LiveApis(Account())
        make(live)
        destination, written = live.apis.log_of("orders0001")
        live.connect(**wishes)
        try:
            live.disconnect(life=life, keep_log=keep_log)
            break
        except KilledError:
            killed += 1
        now = live.apis.log_of("orders0001")
        if destination:
            assert (now[0], written.removeprefix("{") in now[1]) == (destination, True), life
        assert told(live.disconnect(keep_log=keep_log)) == wanted, life
        assert live.standing() == undisturbed.standing(), life
    assert killed > 2 * 8


@pytest.mark.parametrize(("make", "wishes"), CASES)
def test_what_was_begun_can_be_given_back_instead(aws: Account, make: Any, wishes: dict[str, Any]) -> None:
    """Wherever connect was killed, disconnect puts back what the ledger says was there."""
    del aws
    for life in lives():
        live = LiveApis(Account())
        make(live)
        before = live.apis.log_of("orders0001")
        try:
            live.connect(life=life, **wishes)
            break
        except KilledError:
            pass
        if live.deployment().connections.get("orders"):
            assert live.disconnect().step is Step.DISCONNECTED
        assert live.apis.log_of("orders0001") == before, life
        assert FUNCTION not in live.filters("theirs").values(), life


def test_a_beginning_that_brought_no_line_begins_when_it_goes_on(live: LiveApis) -> None:
    """B: what was written before the subscription was delivered to nobody, and a recount must not ask for it."""
    billable(live)
    first = live.plan().connection
    deployment = live.deployment()
    begun = deployment.connections.save(
        Connection(
            **{name: getattr(first, name) for name in first.__struct_fields__} | {"since": 1_000_000, "by": "ada"}
        )
    )
    connection = live.connect()
    assert connection.since > begun.since
    read = deployment.connections.of_log_group("theirs")
    assert in_force(read, 1_000_000) == ()
    assert [one.since for one in in_force(read, connection.since)] == [connection.since]


# --- who else is there -----------------------------------------------------------------------------------------------


def test_two_who_connect_the_same_stage_at_once_make_one_connection(live: LiveApis) -> None:
    """The second finds the ledger changed, and says it again."""
    without_log(live)
    late = live.plan()
    live.connect()
    deployment = live.deployment()
    verbs = Connecting(deployment, place_of(deployment), Patience())
    with pytest.raises(OperatorError, match="somebody else has just changed the connection orders"):
        verbs.connect(late.connection)
    assert live.plan().done


def test_two_who_go_on_with_the_same_beginning_both_end_well(live: LiveApis) -> None:
    """What the other has done is as good as one's own."""
    without_log(live)
    for life in lives():
        if life.dies_at > 20 and not life.accepted:
            with pytest.raises(KilledError):
                live.connect(life=life)
            break
    late = live.plan()
    assert late.connection.step is Step.CONNECTING
    done = live.connect()
    deployment = live.deployment()
    assert Connecting(deployment, place_of(deployment), Patience()).connect(late.connection) == done


def test_a_stage_that_somebody_changes_meanwhile_is_not_overwritten(live: LiveApis) -> None:
    """The plan was for another stage than there is now."""
    without_log(live)
    planned = live.plan()
    live.apis.apis["orders0001"].stages["prod"]["log"] = (THEIRS, LACKING)
    deployment = live.deployment()
    verbs = Connecting(deployment, place_of(deployment), Patience())
    with pytest.raises(
        OperatorError, match="somebody has changed the stage prod of Orders meanwhile: it writes to theirs"
    ):
        verbs.connect(planned.connection)
    assert live.apis.log_of("orders0001") == (THEIRS, LACKING)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (("", ""), "it writes no access log"),
        ((THEIRS, LACKING), "it writes another format"),
        ((f"{LOG_GROUP_ARN}other", BILLABLE), "it writes to other, not to theirs"),
    ],
)
def test_a_stage_that_is_not_as_it_was_left_is_not_put_back(live: LiveApis, now: tuple[str, str], said: str) -> None:
    """Nothing at all is changed, and what differs is said; with --keep-log only the metering ends."""
    live.groups.add("other")
    lacking(live)
    connection = live.connect(extend=True)
    before = connection.before
    live.apis.apis["orders0001"].stages["prod"]["log"] = now
    if now == (before.destination, before.format):
        assert live.disconnect().step is Step.DISCONNECTED  # somebody has put it back already
        return
    standing = live.standing()
    with pytest.raises(OperatorError, match=f"{said}. Say --keep-log"):
        live.disconnect()
    assert live.standing() == standing
    assert live.deployment().connections.get("orders") == connection
    assert live.disconnect(keep_log=True).step is Step.DISCONNECTED
    assert live.apis.log_of("orders0001") == now
    assert live.filters("theirs") == {}


@pytest.mark.parametrize(
    ("destination", "change"),
    [
        (THEIRS, ('"agent"', '"browser"')),
        (f"{LOG_GROUP_ARN}other", ("", "")),
        (THEIRS, (NONCE, "n" * 36)),
    ],
)
def test_what_somebody_changed_beside_our_line_is_not_lost(
    live: LiveApis, destination: str, change: tuple[str, str]
) -> None:
    """Our line in front does not make the stage ours: the rest, the place and the nonce must be as they were left."""
    lacking(live)
    connection = live.connect(extend=True)
    now = (destination, connection.after.format.replace(*change))
    live.apis.apis["orders0001"].stages["prod"]["log"] = now
    with pytest.raises(OperatorError, match="is no longer as it was left"):
        live.disconnect()
    assert live.apis.log_of("orders0001") == now


def test_a_change_that_api_gateway_takes_and_does_not_make_is_told(
    live: LiveApis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was set is read back."""
    without_log(live)
    monkeypatch.setattr(RestService, "update_stage", lambda *_, **__: {})
    with pytest.raises(OperatorError, match="API Gateway took the change, but the stage prod of Orders is not so"):
        live.connect()


def test_a_write_whose_answer_was_lost_is_found_in_the_ledger(live: LiveApis, monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: boto3 sends it again, and is told that the item has changed."""
    without_log(live)
    save = Connections.save

    def lost(self: Connections, connection: Connection, *, former: Connection | None = None) -> Connection:
        save(self, connection, former=former)
        raise RowChangedError("an item changed since it was read")

    monkeypatch.setattr(Connections, "save", lost)
    assert live.connect().step is Step.CONNECTED
    assert live.disconnect().step is Step.DISCONNECTED


def test_a_log_group_that_brings_every_line_here_already_is_not_subscribed_again(live: LiveApis) -> None:
    """I2: by two filters each line would come in batches of two cuts."""
    billable(live)
    live.groups.filters["theirs"]["stack"] = {"filterName": "stack", "filterPattern": "", "destinationArn": FUNCTION}
    live.connect()
    assert live.filters("theirs") == {"stack": FUNCTION}


def test_a_stage_that_is_gone_is_disconnected(live: LiveApis) -> None:
    """There is nothing to put back."""
    without_log(live)
    live.connect()
    del live.apis.apis["orders0001"]
    assert live.disconnect().step is Step.DISCONNECTED
    assert live.filters(OURS) == {}


def test_a_stage_that_goes_on_writing_our_format_is_connected_again_with_what_it_had_before(live: LiveApis) -> None:
    """After --keep-log: our own format is not taken for somebody's."""
    lacking(live)
    first = live.connect(extend=True)
    live.disconnect(keep_log=True)
    assert live.apis.log_of("orders0001")[1] == first.after.format
    again = live.connect(extend=True)
    assert (again.before, again.after) == (first.before, first.after)
    live.disconnect()
    assert live.apis.log_of("orders0001") == (THEIRS, LACKING)


def test_a_stage_that_was_deployed_over_is_connected_anew_and_no_moment_is_nobodys(live: LiveApis) -> None:
    """The former way of reading ends where the new one begins, in one transaction (I1)."""
    billable(live)
    first = live.connect()
    changed = BILLABLE.replace('"agent"', '"browser"')
    live.apis.apis["orders0001"].stages["prod"]["log"] = (THEIRS, changed)
    planned = live.plan()
    assert (planned.done, planned.connection.after.format) == (False, changed)
    second = live.connect()
    old, new = live.deployment().connections.of_log_group("theirs")
    assert (old.since, old.step, old.until) == (first.since, Step.DISCONNECTED, second.since)
    assert (new.since, new.step, new.after.format) == (second.since, Step.CONNECTED, changed)
    assert live.deployment().connections.get("orders") == second


def test_lines_of_before_are_read_while_api_gateway_comes_to_write_the_new_format(live: LiveApis) -> None:
    """I1: a metric reads what the stage's own format lacks; until ours is in front, the others count by that."""
    shared = BILLABLE.replace("{", '{"api":"$context.apiId","stage":"$context.stage",', 1)
    live.apis.add("orders0001", "Orders", methods=KEYED, log=(THEIRS, shared))
    live.apis.add("people0001", "People", methods=KEYED, log=(THEIRS, LACKING))
    live.connect()
    live.metrics.append({"type": "sum", "name": "units", "of": "authorizer.units"})
    second = live.connect(extend=True)
    assert (second.form, second.shares_log) == (Form.EXTENDED, True)
    read = live.deployment().connections.of_log_group("theirs")
    forms = {
        seconds: [one.form for one in in_force(read, second.since + seconds * 1000)] for seconds in (-2, 0, 58, 60)
    }
    assert forms == {
        -2: [Form.THEIRS],
        0: [Form.EXTENDED, Form.THEIRS],
        58: [Form.EXTENDED, Form.THEIRS],
        60: [Form.EXTENDED],
    }


def test_whoever_comes_to_write_into_the_log_group_is_known_when_it_is_connected_again(live: LiveApis) -> None:
    """C: else lines of that stage were set aside as broken ones of this."""
    lacking(live)
    first = live.connect(extend=True)
    live.apis.add("people0001", "People", methods=KEYED, log=(THEIRS, LACKING))
    second = live.connect(extend=True)
    assert (first.shares_log, second.shares_log, second.since) == (False, True, first.since)
    assert live.deployment().connections.of_log_group("theirs") == [second]
    assert live.plan(extend=True).done


def test_whose_a_line_is_that_names_no_api_is_known_from_who_else_writes_there(live: LiveApis) -> None:
    """B, I1: as long as nobody does, it is the stage's own, whose format somebody has changed."""
    shared = BILLABLE.replace("{", '{"api":"$context.apiId","stage":"$context.stage",', 1)
    live.apis.add("orders0001", "Orders", methods=KEYED, log=(THEIRS, shared))
    first = live.connect()
    live.apis.add("people0001", "People", methods=KEYED, log=(THEIRS, LACKING))
    second = live.connect()
    assert (first.shares_log, first.alone, second.alone, second.since) == (True, True, False, first.since)
    assert live.deployment().connections.of_log_group("theirs") == [second]
    assert live.plan().done


def test_a_log_group_that_another_connection_reads_stays_subscribed(live: LiveApis) -> None:
    """Each is ended by itself."""
    shared = BILLABLE.replace("{", '{"api":"$context.apiId","stage":"$context.stage",', 1)
    for api_id, name in (("orders0001", "Orders"), ("people0001", "People")):
        live.apis.add(api_id, name, methods=KEYED, log=(THEIRS, shared))
    first, second = live.connect(), live.connect("people0001")
    assert (first.shares_log, second.shares_log) == (True, True)
    assert (first.was_read, second.was_read) == (False, True)
    live.disconnect()
    assert live.filters("theirs") == {"metering-Metering": FUNCTION}
    assert statement_of("theirs") in live.function.statements
    live.disconnect("people")
    assert live.filters("theirs") == {}
    assert live.function.statements.keys() == {"stack"}


# --- metrics that change ---------------------------------------------------------------------------------------------

UNITS = {"type": "sum", "name": "units", "of": "authorizer.units"}


@pytest.mark.parametrize(("make", "wishes"), [case for case in CASES if case.id != "B"])
def test_a_connected_stage_is_given_what_metrics_have_come_to_read(
    aws: Account, make: Any, wishes: dict[str, Any]
) -> None:
    """By connecting it again, killed at whichever call; what it had first is put back all the same."""
    del aws
    for life in lives():
        live = LiveApis(Account())
        make(live)
        before = live.apis.log_of("orders0001")
        first = live.connect(**wishes)
        live.metrics.append(UNITS)
        assert "authorizer.units" not in first.after.format
        died = False
        try:
            live.connect(life=life, **wishes)
        except KilledError:
            died = True
        if life.accepted:
            second = live.connect(**wishes)
            assert (second.since, second.before) == (first.since, first.before)
            assert (second.step, "authorizer.units" in second.after.format) == (Step.CONNECTED, True)
            assert live.apis.log_of("orders0001") == (second.after.destination, second.after.format)
            assert live.plan(**wishes).done
        assert live.disconnect().step is Step.DISCONNECTED
        assert live.apis.log_of("orders0001") == before, life
        if not died:
            break


def test_a_stage_whose_own_format_no_longer_does_is_planned_anew(live: LiveApis) -> None:
    """B becomes C, if that is asked for, and the former way of reading ends."""
    billable(live)
    first = live.connect()
    live.metrics.append(UNITS)
    (refusal,) = live.plan().refusals
    assert "it lacks $context.authorizer.units" in refusal.why
    second = live.connect(extend=True)
    assert (second.form, second.since > first.since) == (Form.EXTENDED, True)
    assert [one.step for one in live.deployment().connections.of_log_group("theirs")] == [
        Step.DISCONNECTED,
        Step.CONNECTED,
    ]


# --- what AWS refuses for a while ------------------------------------------------------------------------------------


def test_what_aws_is_too_busy_for_is_tried_again(live: LiveApis) -> None:
    """Few changes a second are taken, and a permission is not known at once."""
    lacking(live)
    live.apis.refusals, live.groups.refusals = 2, 1
    assert live.connect(extend=True).step is Step.CONNECTED
    assert live.paused == [1.0, 2.0, 1.0]


def test_a_role_is_made_where_there_is_none_and_waited_for(live: LiveApis) -> None:
    """IAM tells API Gateway of it after some seconds."""
    without_role(live)
    live.apis.unknown_for = 3
    live.connect(make_role=True)
    assert live.apis.role == "arn:aws:iam::123456789012:role/api-gateway-logs-us-east-1"
    assert live.roles.roles == {
        "api-gateway-logs-us-east-1": ["arn:aws:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"]
    }
    assert live.paused == [1.0, 2.0, 4.0]


def test_a_role_that_is_there_stays(live: LiveApis) -> None:
    """It is the account's, for all its APIs."""
    without_log(live)
    live.connect(make_role=True)
    assert (live.apis.role, live.roles.roles) == (ROLE, {})


def test_what_aws_refuses_for_good_is_not_tried_again(live: LiveApis) -> None:
    """Nor is it swallowed; the ledger says how far it came, and disconnect goes back."""
    without_role(live)
    planned = live.plan()
    deployment = live.deployment()
    paused: list[float] = []
    verbs = Connecting(deployment, place_of(deployment), Patience(pause=paused.append))
    with pytest.raises(Exception, match="CloudWatch Logs role ARN must be set"):
        verbs.connect(planned.connection)
    assert len(paused) == 6  # a role may be on its way for a minute
    assert live.disconnect().step is Step.DISCONNECTED


# --- the function's policy -------------------------------------------------------------------------------------------


def test_a_policy_that_is_nearly_full_gets_one_statement_for_all(live: LiveApis) -> None:
    """Each log group that is read may start the function at every moment, and the plan says so."""
    for number in range(50):
        live.function.statements[f"{PREFIX}{number}"] = f"{LOG_GROUP_ARN}group-{number}:*"
    billable(live)
    assert any("one statement" in step for step in live.plan().steps)
    live.connect()
    assert live.function.statements == {
        "stack": f"{LOG_GROUP_ARN}{outputs().connected_logs}*",
        EVERY: f"{LOG_GROUP_ARN}*",
    }
    assert live.filters("theirs") == {"metering-Metering": FUNCTION}
    live.disconnect()
    assert live.function.statements.keys() == {"stack"}


def test_a_stage_of_a_stack_is_changed_only_by_force(live: LiveApis) -> None:
    """The plan names the stack; one whose own format does is left alone, and needs no force."""
    without_log(live)
    live.stacks.made["orders0001"] = "shop"
    (refusal,) = live.plan().refusals
    assert "belongs to the CloudFormation stack shop" in refusal.why
    assert any("shop undoes it" in note for note in live.plan(force=True).notes)
    assert live.connect(force=True).step is Step.CONNECTED
    live.disconnect()
    live.apis.apis["orders0001"].stages["prod"]["log"] = (THEIRS, BILLABLE)
    assert (live.plan().case, live.plan().refusals) == (Case.IN_PLACE, ())

"""What is found out of a stage that somebody else deployed, by AWS's answers alone."""

import pytest

from infra.operate.connections.stage import MOST_APIS, Authorizer, Filter, LogGroup, Method, log_of, look
from infra.operate.deployment import OperatorError
from metering.model.connections import StageLog
from metering.model.log_format import Api
from tests.doubles.aws import Account
from tests.doubles.log_groups import LOG_GROUP_ARN
from tests.integration.live_apis import BILLABLE, KEYED, ROLE, LiveApis

THEIRS = f"{LOG_GROUP_ARN}theirs"


@pytest.fixture
def live(aws: Account) -> LiveApis:
    """A Region without any API."""
    return LiveApis(aws)


def test_a_rest_apis_stage_is_found_with_all_that_surrounds_it(live: LiveApis) -> None:
    """Its methods but for a browser's questions, its authorizers, its log group, and the account's role."""
    preflight = {"OPTIONS /items": {"apiKeyRequired": False, "authorizationType": "NONE"}}
    authorizers = [{"name": "pool", "type": "COGNITO_USER_POOLS"}]
    live.groups.add("theirs", retention=7, filters=("shipper",))
    live.apis.add("a1", "Orders", methods=KEYED | preflight, authorizers=authorizers, log=(f"{THEIRS}:*", BILLABLE))
    stage = look(live.deployment(), "a1", "prod")
    assert (stage.api, stage.api_name, stage.log) == (Api.REST, "Orders", StageLog(THEIRS, BILLABLE))
    assert {*stage.methods} == {
        Method("GET /items", asks_for_key=True, authorization="NONE"),
        Method("GET /health", asks_for_key=False, authorization="NONE"),
    }
    assert stage.authorizers == (Authorizer("pool", "COGNITO_USER_POOLS"),)
    elsewhere = Filter("shipper", "arn:aws:lambda:us-east-1:123456789012:function:elsewhere", "")
    assert stage.group == LogGroup(name="theirs", kind="STANDARD", retention=7, filters=(elsewhere,))
    assert (stage.log_role, stage.owner, stage.region) == (ROLE, "", "us-east-1")


@pytest.mark.parametrize(("protocol", "api"), [("HTTP", Api.HTTP), ("WEBSOCKET", Api.WEBSOCKET)])
def test_a_stage_of_the_other_kinds_is_found_as_well(live: LiveApis, protocol: str, api: Api) -> None:
    """By the other service, with its routes."""
    route = {"$connect": {"AuthorizationType": "CUSTOM"}}
    authorizer = {"AuthorizerId": "x", "Name": "callers", "AuthorizerType": "REQUEST"}
    live.apis.add("w1", "Chat", protocol=protocol, methods=route, authorizers=[authorizer], managed=True)
    stage = look(live.deployment(), "w1", "prod")
    assert (stage.api, stage.managed, stage.log, stage.group) == (api, True, StageLog(), None)
    assert stage.methods == (Method("$connect", asks_for_key=False, authorization="CUSTOM"),)
    assert stage.authorizers == (Authorizer("callers", "REQUEST"),)


def test_whose_a_stage_is_its_tag_says_or_its_apis_stack(live: LiveApis) -> None:
    """CloudFormation tags what it makes; a stage that has no tag may be made with its API."""
    live.apis.add("a1", "Orders", tags={"aws:cloudformation:stack-name": "shop-stages"})
    live.apis.add("a2", "People")
    live.apis.add("a3", "Things", tags={"team": "shop"})
    live.stacks.made |= {"a1": "shop", "a2": "people"}
    deployment = live.deployment()
    assert [look(deployment, api_id, "prod").owner for api_id in ("a1", "a2", "a3")] == ["shop-stages", "people", ""]


def test_an_api_that_is_not_there_is_told_with_those_that_are(live: LiveApis) -> None:
    """What was got, and what could have been meant."""
    with pytest.raises(OperatorError, match="no API 'nope' in us-east-1, nor any other: give another --region"):
        look(live.deployment(), "nope", "prod")
    live.apis.add("a1", "Orders")
    live.apis.add("w1", "Chat", protocol="WEBSOCKET")
    with pytest.raises(OperatorError, match=r"there are a1 \(Orders, REST\), w1 \(Chat, WEBSOCKET\)"):
        look(live.deployment(), "nope", "prod")


@pytest.mark.parametrize("protocol", ["REST", "HTTP"])
def test_a_stage_that_is_not_there_is_told_with_those_that_are(live: LiveApis, protocol: str) -> None:
    """A stage is easily misspelled."""
    live.apis.add("a1", "Orders", protocol=protocol, stage="v1")
    with pytest.raises(OperatorError, match="the API Orders has no stage 'prod': it has v1"):
        look(live.deployment(), "a1", "prod")


def test_other_stages_that_write_into_the_log_group_are_found_in_a_bounded_search(live: LiveApis) -> None:
    """I10: of many APIs a hundred are asked, and it is said."""
    live.apis.add("a1", "Orders", log=(THEIRS, BILLABLE))
    live.apis.add("w1", "Chat", protocol="WEBSOCKET", log=(f"{THEIRS}:*", BILLABLE))
    live.apis.add("a2", "People", log=(f"{LOG_GROUP_ARN}other", BILLABLE))
    stage = look(live.deployment(), "a1", "prod")
    assert (stage.sharing, stage.looked_at, stage.apis) == (("the stage prod of Chat",), 3, 3)
    for number in range(MOST_APIS):
        live.apis.add(f"b{number}", f"Another {number}")
    stage = look(live.deployment(), "a1", "prod")
    assert (stage.looked_at, stage.apis) == (MOST_APIS, MOST_APIS + 3)


def test_what_a_stage_writes_now_is_asked_by_itself(live: LiveApis) -> None:
    """None for a stage, or an API, that is gone."""
    live.apis.add("a1", "Orders", log=(THEIRS, BILLABLE))
    deployment = live.deployment()
    assert log_of(deployment, Api.REST, "a1", "prod") == StageLog(THEIRS, BILLABLE)
    assert log_of(deployment, Api.REST, "a1", "v1") is None
    assert log_of(deployment, Api.HTTP, "a1", "prod") is None


def test_a_log_group_that_is_gone_is_none(live: LiveApis) -> None:
    """Also where another one's name begins so."""
    live.groups.add("gone-by")
    live.apis.add("a1", "Orders", log=(f"{LOG_GROUP_ARN}gone", BILLABLE))
    assert look(live.deployment(), "a1", "prod").group is None

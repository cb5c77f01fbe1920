"""Which route takes a message, and whom an authorizer's policy lets in."""

import pytest

from infra.local.aws.socket_stage import Route, SocketStage, allows

CHAT = {key: Route(key) for key in ("$connect", "$default", "say", "7", "say/loud")}
ARN = "arn:aws:execute-api:us-east-1:000000000000:a1b2c3/v1/$connect"


@pytest.mark.parametrize(
    ("selection", "message", "key"),
    [
        ("$request.body.action", '{"action": "say"}', "say"),
        ("${request.body.action}", '{"action": "say"}', "say"),
        ("$request.body.action", '{"action": 7}', "7"),
        ("$request.body.action", '{"action": "sing"}', "$default"),
        ("$request.body.action", "say", "$default"),
        ("$request.body.action", '["action"]', "$default"),
        ("$request.body.action", '{"action": null}', "$default"),
        ("$request.body.to.action", '{"to": {"action": "say"}}', "say"),
        ("${request.body.action}/${request.body.how}", '{"action": "say", "how": "loud"}', "say/loud"),
        ("${request.body.action}/${request.body.how}", '{"action": "say"}', "$default"),
    ],
)
def test_a_message_goes_to_the_route_that_it_names_or_to_the_default(selection: str, message: str, key: str) -> None:
    """As the API's expression selects it; what is no JSON is the default's."""
    route = SocketStage("a1b2c3", "v1", selection, CHAT, None, "", "").select(message)
    assert route is not None
    assert route.key == key


def test_without_a_default_a_message_may_have_no_route() -> None:
    """API Gateway then tells the client that it is forbidden."""
    stage = SocketStage("a1b2c3", "v1", "$request.body.action", {"say": Route("say")}, None, "", "")
    assert stage.select('{"action": "sing"}') is None


@pytest.mark.parametrize(
    ("effects", "let_in"),
    [
        ([("Allow", ARN)], True),
        ([("Allow", ARN.replace("$connect", "*"))], True),
        ([("Allow", [ARN[:-1] + "?", "arn:other"])], True),
        ([("Allow", "*"), ("Deny", ARN)], False),
        ([("Allow", ARN + "ed")], False),
        ([("Deny", "*")], False),
        ([], False),
    ],
)
def test_a_policy_lets_in_whom_it_allows_and_does_not_deny(
    effects: list[tuple[str, str | list[str]]], *, let_in: bool
) -> None:
    """By the ARN of the route `$connect`."""
    statements = [{"Effect": effect, "Resource": resource} for effect, resource in effects]
    assert allows({"Statement": statements}, ARN) is let_in
    if len(statements) == 1:
        assert allows({"Statement": statements[0]}, ARN) is let_in

"""Who a stage's callers are: the variable that names them, as far as API Gateway's answers tell. Pure.

An API key where methods ask for one; else what an authorizer vouches for. Which properties a Lambda authorizer returns
no call of AWS's tells, but for REST and WebSocket APIs' ``principalId``, which each must return (API Gateway Developer
Guide, "Output from an API Gateway Lambda authorizer").
"""

from collections.abc import Iterator
from typing import Final

from infra.operate.connections.stage import Authorizer, LiveStage, Method
from infra.operate.connections.terms import Refusal, Wishes
from infra.operate.deployment import OperatorError
from infra.operate.doctor.findings import named
from metering.model.log_format import API_KEY, AccessLog, Api

_CLAIM: Final = "authorizer.claims.sub"
_PRINCIPAL: Final = "authorizer.principalId"
_MOST_NAMED: Final = 10
_CONNECT: Final = "$connect"


def caller_of(stage: LiveStage, wishes: Wishes) -> tuple[str | None, tuple[Refusal, ...]]:
    """Return the variable that is billed, None for API keys, and why it is unclear which, if so.

    OperatorError for one that is none.
    """
    if wishes.caller:
        try:
            AccessLog(stage.api, wishes.caller)
        except ValueError as error:
            raise OperatorError(f"--caller: {error}") from error
        return (None if wishes.caller == API_KEY else wishes.caller), ()
    proposed = [*dict.fromkeys(_proposed(stage))]
    if len(proposed) == 1:
        return (None if proposed == [API_KEY] else proposed[0]), ()
    # Whatever is shown of a plan that is refused, some caller must be in it.
    example = _CLAIM if stage.api is Api.HTTP else _PRINCIPAL
    shown = None if stage.api is Api.REST else (proposed or [example])[0]
    if proposed:
        why = f"its callers may be told by {' or '.join(proposed)}"
        return shown, (Refusal(why, f"say which of them is billed, for example --caller {proposed[0]}"),)
    return shown, (_unknown(stage),)


def billed_to_nobody(stage: LiveStage, variable: str) -> list[str]:
    """Return the methods, or routes, whose requests name no caller by a variable."""
    if stage.api is Api.WEBSOCKET:  # its authorizer is asked when a connection begins, and never again
        return [method.name for method in stage.methods if method.name == _CONNECT and not _names(method, variable)]
    return [method.name for method in stage.methods if not _names(method, variable)]


def _names(method: Method, variable: str) -> bool:
    """Say whether a method's requests can name a caller by a variable."""
    if variable == API_KEY:
        return method.asks_for_key
    if variable.startswith("authorizer."):
        return method.authorization not in ("NONE", "AWS_IAM")
    if variable.startswith("identity.clientCert."):
        return True  # by the domain, not by the method
    return method.authorization == "AWS_IAM"


def _proposed(stage: LiveStage) -> Iterator[str]:
    if stage.api is Api.REST and any(method.asks_for_key for method in stage.methods):
        yield API_KEY
        return
    for authorizer in stage.authorizers:
        if authorizer.kind in ("JWT", "COGNITO_USER_POOLS"):
            yield _CLAIM
        elif stage.api is not Api.HTTP:
            yield _PRINCIPAL
    if any(method.authorization == "AWS_IAM" for method in stage.methods):
        yield "identity.accountId"


def _unknown(stage: LiveStage) -> Refusal:
    if stage.authorizers:
        return Refusal(
            f"which properties {_called(stage.authorizers)} returns, no call of AWS's tells",
            "name the one that says who is billed: --caller authorizer.<property>; one that callers cannot choose",
        )
    if stage.api is Api.REST:
        return Refusal(
            "no method asks for an API key, and no authorizer says who calls: every request would be billed to nobody",
            "require API keys (apiKeyRequired) and deploy it; or say --caller identity.apiKeyId to connect it as it is",
        )
    certificate = (
        "" if stage.api is Api.WEBSOCKET else "; or bill by mutual TLS: --caller identity.clientCert.subjectDN"
    )
    return Refusal(
        "no authorizer says who calls: every request would be billed to nobody",
        f"give its routes an authorizer{certificate}",
    )


def _called(authorizers: tuple[Authorizer, ...]) -> str:
    return f"the authorizer {named((one.name for one in authorizers), len(authorizers), _MOST_NAMED)}"

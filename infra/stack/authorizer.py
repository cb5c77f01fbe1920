"""A ready authorizer for HTTP APIs, which have no keys: it checks a token, and whether its caller is stopped."""

import re
from collections.abc import Sequence
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from constructs import Construct

from infra.stack import bundle
from infra.stack.metering import MeteringStack
from infra.stack.statements import allow, items
from metering.settings import AuthorizeCallsSettings

KEPT_S: Final = 10
"""Seconds for which API Gateway keeps an answer: it is part of how late a stop is felt."""


def caller_authorizer(  # noqa: PLR0913 - what an API says of its callers, each by name
    scope: Construct,
    construct_id: str,
    *,
    metering: MeteringStack,
    issuer: str,
    audience: Sequence[str],
    claim: str = "sub",
    fails_open: bool = True,
) -> authorizers.HttpLambdaAuthorizer:
    """Return an authorizer for the routes of an HTTP API, whose function stands in ``scope``, in the API's own stack.

    It takes tokens of an ``issuer`` for an ``audience``, as a JWT authorizer does, and refuses callers that are
    stopped, whom the ``claim`` names: ``access_log=AccessLog(Api.HTTP, "authorizer.<claim>")`` bills by the same. What
    else a token claims is there for metrics as ``authorizer.<name>``.

    Where it cannot be read whether a caller is stopped, it may pass if this ``fails_open``: a table that is away for a
    minute then costs what some who are stopped use in it. Otherwise everybody is refused meanwhile.

    Raises ValueError where there are no limits, and for an issuer that could not be asked.
    """
    schemes = "https?" if metering.local else "https"
    if not (cdk.Token.is_unresolved(issuer) or re.match(rf"{schemes}://[^/?#]", issuer)):
        raise ValueError(f"issuer must begin with https://, since its keys are read there, got {issuer!r}")
    if not audience or any(" " in one for one in audience):
        raise ValueError(f"audience must name who tokens are for, without spaces, got {[*audience]!r}")
    if metering.access_table is None:
        raise ValueError("nobody is ever stopped here: declare limits in a plan, or give the stack limits=True")
    function = bundle.function(
        scope,
        construct_id,
        module="authorize_calls",
        local=metering.local,
        settings=AuthorizeCallsSettings(
            access_table=metering.access_table.table_name,
            issuer=issuer,
            audience=" ".join(audience),
            claim=claim,
            fails_open="true" if fails_open else "",
        ).environment(),
        deployment=metering.deployment,
        size=metering.sizes["authorize_calls"],
        description="Lets callers in whose token is good and who are not stopped.",
    )
    allow(function, items("SeeWhoIsStopped", metering.access_table.table_arn, ["GetItem"], "access#*"))
    return authorizers.HttpLambdaAuthorizer(
        f"{construct_id}Authorizer",
        function,
        response_types=[authorizers.HttpLambdaResponseType.SIMPLE],
        identity_source=["$request.header.Authorization"],
        results_cache_ttl=cdk.Duration.seconds(KEPT_S),
    )

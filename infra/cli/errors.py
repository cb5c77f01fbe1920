"""Errors in a sentence, and what to do next: whatever a command may meet."""

from collections.abc import Sequence
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's, which the built-in has nothing in common with
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)

from infra.operate.deployment import OPERATOR_KEY, OperatorError
from infra.outputs import MissingOutputError
from metering.stores.connections import UnreadableConnectionError
from metering.stores.table import UnprocessedError
from metering.stripe.client import StripeForbiddenError, StripeRejectedError, StripeUnavailableError

_OURS: Final = (
    OperatorError,
    MissingOutputError,
    StripeUnavailableError,
    StripeRejectedError,
    UnprocessedError,
    UnreadableConnectionError,
)

_NOT_SIGNED_IN: Final = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}

OTHER_KEY: Final = f"a command that changes something at Stripe takes another key: --operator-key, {OPERATOR_KEY}"


def told(error: Exception) -> Sequence[str]:
    """Return an error's sentence, and perhaps more lines."""
    if isinstance(error, StripeForbiddenError):
        return (*map(str, error.args), OTHER_KEY)
    if isinstance(error, StripeUnavailableError) and error.do:
        return (f"{error}: {error.do}",)
    if isinstance(error, _OURS):
        return [str(line) for line in error.args]
    if isinstance(error, BotoCoreError | ClientError):
        return (_of_aws(error),)
    return (f"unexpected {type(error).__name__}: {error}. This is a defect of the program: please report it",)


def _of_aws(error: BotoCoreError | ClientError) -> str:
    match error:
        case NoCredentialsError():
            return "no AWS credentials are found: sign in with 'aws sso login' or 'aws configure', or use --local"
        case NoRegionError():
            return "no AWS Region is set: give --region, or set AWS_DEFAULT_REGION"
        case ProfileNotFound():
            return f"{error}: give another --profile"
        case ClientError():
            said = error.response["Error"]
            sign_in = ": sign in again, or give another --profile" if said["Code"] in _NOT_SIGNED_IN else ""
            return f"AWS answered {said['Code']} to {error.operation_name}: {said.get('Message', '')}{sign_in}"
        case ConnectionError() | HTTPClientError():
            return f"AWS cannot be reached: {error}: look at the network, the Region and AWS_ENDPOINT_URL"
        case _:
            return f"AWS cannot be asked: {error}: look at the profile, the Region and the credentials"

"""The AWS clients, made once per process, and the way to use them side by side."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from metering.stores.lean_calls import call_leanly

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_events.client import EventBridgeClient
    from mypy_boto3_lambda.client import LambdaClient
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

WORKERS: Final = 16

CONFIG: Final = Config(
    connect_timeout=2,
    read_timeout=5,  # the default of 60 s would outlast the function
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=5 * WORKERS,
)

ERRORS: Final = (BotoCoreError, ClientError)
"""What boto3 raises when AWS, or the way to it, fails."""

LEAN: Final = Config(
    parameter_validation=False,  # the tests validate, and DynamoDB does
    request_checksum_calculation="when_required",  # what is signed is hashed already
    response_checksum_validation="when_required",
)
"""What takes a third off the CPU of each call to DynamoDB, where calls are many and items small."""

Item = dict[str, Any]
"""A DynamoDB item or key as the client takes and gives it: ``{"pk": {"S": "..."}}``."""

T = TypeVar("T")
R = TypeVar("R")


@cache
def dynamodb() -> "DynamoDBClient":
    """Return the process's DynamoDB client."""
    return call_leanly(boto3.client("dynamodb", config=CONFIG.merge(LEAN)))


@cache
def impatient_dynamodb() -> "DynamoDBClient":
    """Return a DynamoDB client for who has to answer in some seconds, with or without it."""
    soon = Config(connect_timeout=1, read_timeout=1, retries={"mode": "standard", "total_max_attempts": 2})
    return boto3.client("dynamodb", config=CONFIG.merge(soon))


@cache
def s3() -> "S3Client":
    """Return the process's S3 client."""
    return boto3.client("s3", config=CONFIG)


@cache
def functions() -> "LambdaClient":
    """Return the process's Lambda client."""
    return boto3.client("lambda", config=CONFIG)


@cache
def events() -> "EventBridgeClient":
    """Return the process's EventBridge client."""
    return boto3.client("events", config=CONFIG)


@cache
def mail() -> Any:
    """Return the process's client of Amazon SES, by its API v2, which is the one that AWS develops."""
    return boto3.client("sesv2", config=CONFIG)


@cache
def cloudwatch() -> Any:
    """Return the process's CloudWatch client."""
    return boto3.client("cloudwatch", config=CONFIG)


@cache
def queues() -> Any:
    """Return the process's SQS client."""
    return boto3.client("sqs", config=CONFIG)


@cache
def apigateway() -> Any:
    """Return the process's client of API Gateway's management, which tries nothing again by itself.

    Its calls are the account's, and counted by whoever makes them.
    """
    return boto3.client("apigateway", config=CONFIG.merge(Config(retries={"total_max_attempts": 1})))


@cache
def secrets() -> "SecretsManagerClient":
    """Return the process's Secrets Manager client."""
    return boto3.client("secretsmanager", config=CONFIG)


def code_of(error: BotoCoreError | ClientError) -> str:
    """Return the code by which AWS refused a call, or the kind of the error where it did not answer."""
    return error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__


def side_by_side(do: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do something to each item, ``WORKERS`` at a time, and return the answers in order; the first error is raised."""
    work = list(items)
    if len(work) <= 1:
        return [do(item) for item in work]
    with ThreadPoolExecutor(min(WORKERS, len(work))) as pool:
        return list(pool.map(do, work))


def each_side_by_side(do: Callable[[T], R], items: Iterable[T]) -> tuple[list[R], list[Exception]]:
    """Do something to each item, whichever fails; return the answers, and what AWS said of the others."""

    def attempt(item: T) -> R | Exception:
        try:
            return do(item)
        except ERRORS as error:
            return error

    done = side_by_side(attempt, items)
    failures = [answer for answer in done if isinstance(answer, Exception)]
    return [answer for answer in done if not isinstance(answer, Exception)], failures


def in_pieces(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cut a sequence into pieces of at most ``size``."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def to_attribute(value: Any) -> Item:
    """Return a string, truth value, whole number, list or dict as DynamoDB's typed attribute."""
    match value:
        case str():
            return {"S": value}
        case bool():  # before the whole numbers, which it is one of
            return {"BOOL": value}
        case int():
            return {"N": str(value)}
        case list() | tuple():
            return {"L": [to_attribute(member) for member in value]}
        case dict():
            return {"M": {name: to_attribute(member) for name, member in value.items()}}
        case _:
            raise TypeError(
                f"an attribute is text, a truth value, a whole number, list or dict, got {type(value).__name__}"
            )


def from_attribute(attribute: Item) -> Any:
    """Return what :func:`to_attribute` was given."""
    ((kind, value),) = attribute.items()
    match kind:
        case "S" | "BOOL":
            return value
        case "N":
            return int(value)
        case "L":
            return [from_attribute(member) for member in value]
        case "M":
            return {name: from_attribute(member) for name, member in value.items()}
        case _:
            raise TypeError(f"an attribute of the kind S, BOOL, N, L or M was expected, got {kind}")


def to_item(values: dict[str, Any]) -> Item:
    """Return a dict as a DynamoDB item."""
    return {name: to_attribute(value) for name, value in values.items()}


def from_item(item: Item) -> dict[str, Any]:
    """Return what :func:`to_item` was given."""
    return {name: from_attribute(attribute) for name, attribute in item.items()}

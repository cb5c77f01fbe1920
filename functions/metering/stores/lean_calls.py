"""Calls to DynamoDB at a third of the CPU that boto3 takes for them, which is what bounds who closes and who posts.

boto3 validates, serialises and parses each attribute in Python, finds the address, the checksums and its own name anew,
and passes each call through some 60 hooks: 1.4 ms for a row's put, of which signing and sending it are 0.37 (DynamoDB
Local; ``tests/benchmarks/close.py`` shows what becomes of it). Here what is asked, which is in the form of the API
already, is signed by the client's own signer and sent, once. What comes of it otherwise than well, or as a condition
that refuses, is left to boto3: it makes the call again, with its retries, and says what is wrong in its own words. That
is no other thing than its own second attempt: a write that had landed is met by its own condition.
"""

import base64
import random
import time
import uuid
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec
import urllib3
from aws_lambda_powertools import Logger
from botocore.awsrequest import AWSRequest
from botocore.client import BaseClient
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

logger = Logger(child=True)

_LEAN: Final = {
    "put_item": "PutItem",
    "query": "Query",
    "batch_get_item": "BatchGetItem",
    "transact_write_items": "TransactWriteItems",
}
"""The calls that are made by the thousand; each may come twice."""

_PAUSE_S: Final = 0.05

_ANSWERS: Final = ("ConditionalCheckFailedException", "TransactionCanceledException")
"""What is an answer, not a failure."""


def call_leanly(client: "DynamoDBClient") -> "DynamoDBClient":
    """Let a client's commonest calls take the short way from now on, unless it needs a proxy; return the client."""
    if isinstance(client, BaseClient) and not get_environ_proxies(client.meta.endpoint_url):
        config: Any = client.meta.config
        url = f"{client.meta.endpoint_url}/"
        pool = urllib3.connection_from_url(
            url,
            maxsize=config.max_pool_connections,
            timeout=urllib3.Timeout(connect=config.connect_timeout, read=config.read_timeout),
            **({"ca_certs": get_cert_path(_verified_by(client))} if url.startswith("https:") else {}),
        )
        for name, operation in _LEAN.items():
            setattr(client, name, LeanCall(client, getattr(client, name), operation, pool, url))
    return client


def _verified_by(client: Any) -> Any:
    """Return by which certificates a client knows AWS: its own, or those of ``AWS_CA_BUNDLE`` and the like."""
    return client._endpoint.http_session._verify  # noqa: SLF001 - nothing public says it


class LeanCall:
    """A method of a client, as the client's own is called."""

    def __init__(self, client: Any, whole: Any, operation: str, pool: urllib3.HTTPConnectionPool, url: str) -> None:
        self.whole = whole
        self._client, self._operation, self._pool, self._url = client, operation, pool, url
        self._headers = {
            "X-Amz-Target": f"DynamoDB_20120810.{operation}",
            "Content-Type": "application/x-amz-json-1.0",
        }

    def __call__(self, **arguments: Any) -> Any:
        """Make the call; a condition that refuses it, and whatever else goes wrong, is raised as boto3 does."""
        if self._operation == "TransactWriteItems":
            arguments.setdefault("ClientRequestToken", str(uuid.uuid4()))  # by which a second attempt is the first
        body = msgspec.json.encode(arguments)
        request = AWSRequest("POST", self._url, headers=dict(self._headers), data=body)
        self._client._request_signer.sign(self._operation, request)  # noqa: SLF001 - public names sign for a Region, not for a client
        try:
            answer = self._pool.urlopen("POST", "/", body=body, headers=dict(request.headers.items()), retries=False)
            said = msgspec.json.decode(answer.data, type=dict[str, Any])
        except (urllib3.exceptions.HTTPError, msgspec.MsgspecError) as error:
            logger.info("a call is made again by boto3", operation=self._operation, reason=str(error))
            return self.whole(**arguments)
        if answer.status == HTTPStatus.OK:
            return _in_bytes(said)
        kind = str(said.get("__type", "")).rpartition("#")[2]
        if answer.status != HTTPStatus.BAD_REQUEST or kind not in _ANSWERS:
            logger.info("a call is made again by boto3", operation=self._operation, reason=kind, status=answer.status)
            time.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311 - no secret; as boto3 waits before its second attempt
            return self.whole(**arguments)
        message = said.get("message", said.get("Message", ""))
        refusal = _in_bytes(said) | {"Error": {"Code": kind, "Message": message}}
        raise getattr(self._client.exceptions, kind)(refusal, self._operation)


def _in_bytes(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer in which what is bytes is so: as text, it is in base64."""
    of_tables = answer.get("Responses", {}).values()
    for item in chain(answer.get("Items", ()), *of_tables, [answer["Item"]] if "Item" in answer else ()):
        for attribute in item.values():
            if "B" in attribute:
                attribute["B"] = base64.b64decode(attribute["B"])
            elif "BS" in attribute:
                attribute["BS"] = [base64.b64decode(one) for one in attribute["BS"]]
    return answer

"""AWS in memory, a hundred times as fast as moto: clients as boto3 makes them, of services that are in this folder.

    account = Account()
    account.client("dynamodb").get_item(TableName="ledger", Key=...)

Each call is checked by botocore's own model of the service, as a call to AWS is.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from threading import RLock
from types import SimpleNamespace
from typing import Any, Final, cast

import botocore.session
from botocore import xform_name
from botocore.model import OperationModel, Shape
from botocore.validate import ParamValidator

from tests.doubles.dynamodb import Tables
from tests.doubles.s3 import Buckets
from tests.doubles.secrets import Secrets

Hook = Callable[[str, Mapping[str, Any]], Any]
"""Is told of a call, by its operation and arguments, before the service: it may look, raise, or answer instead."""

_BEFORE_PARSE: Final = "before-parse.dynamodb."
_GOES_ON: Final = {"LastEvaluatedKey": "ExclusiveStartKey", "NextContinuationToken": "ContinuationToken"}
"""Where a page says where the next one begins, and how that is asked for."""


class Account:
    """An AWS account with tables, a bucket and secrets; ``services`` are what is in memory, by their names."""

    def __init__(self) -> None:
        tables = Tables(made=datetime.now(UTC))
        self.services: dict[str, Any] = {"dynamodb": tables, "s3": Buckets(), "secretsmanager": Secrets()}
        self._turn = RLock()

    def client(self, service: str) -> Any:
        """Return a new client of a service that is in memory."""
        return Client(service, self.services[service], self._turn)


class Client:
    """A client for many threads. Each call is told to the hooks in ``before`` first."""

    def __init__(self, service: str, engine: Any, turn: Any = None) -> None:
        self.before: list[Hook] = []
        self.exceptions = getattr(engine, "exceptions", None)
        self.meta = SimpleNamespace(events=Wire(), region_name="us-east-1")
        self._operations = _operations(service)
        self._engine = engine
        self._turn = turn or RLock()

    def __getattr__(self, name: str) -> Any:
        if name not in self._operations:
            raise AttributeError(f"boto3 has no {name}")
        operation = self._operations[name]

        def call(**arguments: Any) -> Any:
            report = ParamValidator().validate(arguments, cast("Shape", operation.input_shape))
            assert not report.has_errors(), report.generate_report()
            for hook in [*self.before]:
                answer = hook(operation.name, arguments)
                if answer is not None:
                    return answer
            with self._turn:
                answer = getattr(self._engine, name)(**arguments)
            return self.meta.events.read(operation.name, answer)

        return call

    def get_paginator(self, name: str) -> "Pages":
        """Return what reads every page."""
        return Pages(getattr(self, name))


class Wire:
    """Where a client is told who decodes the answers to an operation: botocore's event ``before-parse``."""

    def __init__(self) -> None:
        self._decoders: dict[str, Callable[..., None]] = {}

    def register(self, event: str, decode: Callable[..., None], *_: Any, **__: Any) -> None:
        """Let answers be decoded so; what else may be registered concerns requests on their way, of which none is."""
        if event.startswith(_BEFORE_PARSE):
            self._decoders[event.removeprefix(_BEFORE_PARSE)] = decode

    def read(self, operation: str, answer: Any) -> Any:
        """Return an answer as it comes off the wire."""
        if operation not in self._decoders:
            return answer
        body, decoded = json.dumps(answer, default=_base64).encode(), dict[str, Any]()
        self._decoders[operation](
            response_dict={"status_code": 200, "body": body}, customized_response_dict=decoded, operation=operation
        )
        return decoded


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


class Nobody:
    """A service of which the hooks answer every call."""


class Bus:
    """EventBridge, where nobody listens."""

    def put_events(self, *, Entries: list[Any]) -> dict[str, Any]:  # noqa: N803, ARG002  as EventBridge names them
        """Take events."""
        return {"FailedEntryCount": 0, "Entries": []}


class Pages:
    """A paginator, of one page or more."""

    def __init__(self, ask: Callable[..., dict[str, Any]]) -> None:
        self._ask = ask

    def paginate(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield the pages, of whatever size the service has them."""
        arguments.pop("PaginationConfig", None)
        while True:
            page = self._ask(**arguments)
            yield page
            following = {asked: page[said] for said, asked in _GOES_ON.items() if said in page}
            if not following:
                return
            arguments |= following


@cache
def _operations(service: str) -> dict[str, OperationModel]:
    """Return the operations of a service by the names that boto3 has for them."""
    model = botocore.session.get_session().get_service_model(service)
    return {xform_name(name): model.operation_model(name) for name in model.operation_names}

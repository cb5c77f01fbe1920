"""A proxy between boto3 and DynamoDB, or its emulator, that does to requests what networks and busy services do."""

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from io import BufferedIOBase
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Final, Self, cast

LENGTH: Final = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)


class Fate(Enum):
    """What becomes of a request."""

    PASSED = "passed"
    DELAYED = "reaches DynamoDB late, while the client still waits"
    CUT_BEFORE = "connection closed before DynamoDB got it"
    CUT_AFTER = "connection closed after DynamoDB did it"
    FAILED_AFTER = "answered 500 after DynamoDB did it"
    SWALLOWED = "done by DynamoDB, and never answered: the client runs into its read timeout"
    BELATED = "reaches DynamoDB only after the client has run into its read timeout"
    EXCEEDED = "answered ProvisionedThroughputExceededException"
    THROTTLED = "answered ThrottlingException"


class Proxy:
    """Listens on `port` of 127.0.0.1 for as long as its `with` lasts, and forwards to another port.

    `fate` is asked for each request what becomes of it, and `delay_s` how late a delayed one arrives, or how long after
    the client's timeout a belated one; both may be set anew at any time. `fates` counts what was done.
    """

    def __init__(self, forward_to: int) -> None:
        self.forward_to = forward_to
        self.fate: Callable[[], Fate] = lambda: Fate.PASSED
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.fates: Counter[Fate] = Counter()
        self._under_way = 0
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.proxy = self
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def settle(self) -> None:
        """Wait until nothing is under way any more: neither a belated request nor one that nobody waits for."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way == 0)

    def begin(self) -> Fate:
        """Decide about a request that has come in."""
        with self._changed:
            fate = self.fate()
            self.fates[fate] += 1
            self._under_way += 1
            return fate

    def end(self) -> None:
        """Note that a request has been dealt with."""
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False  # a client keeps its connections open
    request_queue_size = 128
    proxy: Proxy


class _Connection(StreamRequestHandler):
    """One connection of a client, with one of its own to DynamoDB Local."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.proxy = cast("_Server", self.server).proxy
        with socket.create_connection(("127.0.0.1", self.proxy.forward_to)) as self.dynamodb:
            self.dynamodb.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.answers = self.dynamodb.makefile("rb")
            while request := _message(self.rfile):
                fate = self.proxy.begin()
                try:
                    answer = self._suffer(fate, request)
                finally:
                    self.proxy.end()
                if not answer:
                    return
                self.wfile.write(answer)

    def _suffer(self, fate: Fate, request: bytes) -> bytes:  # noqa: PLR0911  a fate each
        """Return what the client is answered; nothing means that the connection is closed."""
        match fate:
            case Fate.PASSED:
                return self._forward(request)
            case Fate.DELAYED:
                time.sleep(self.proxy.delay_s())
                return self._forward(request)
            case Fate.CUT_BEFORE:
                return b""
            case Fate.CUT_AFTER:
                self._forward(request)
                return b""
            case Fate.FAILED_AFTER:
                self._forward(request)
                return _error(500, "InternalServerError")
            case Fate.SWALLOWED:
                self._forward(request)
                self._wait_until_the_client_gives_up()
                return b""
            case Fate.BELATED:
                self._wait_until_the_client_gives_up()
                time.sleep(self.proxy.delay_s())
                self._forward(request)
                return b""
            case Fate.EXCEEDED:
                return _error(400, "ProvisionedThroughputExceededException")
            case Fate.THROTTLED:
                return _error(400, "ThrottlingException")

    def _forward(self, request: bytes) -> bytes:
        """Return DynamoDB's answer, or nothing if it has closed the connection."""
        try:
            self.dynamodb.sendall(request)
        except ConnectionError:
            return b""
        return _message(self.answers)

    def _wait_until_the_client_gives_up(self) -> None:
        self.connection.recv(1)


def _message(file: BufferedIOBase) -> bytes:
    """Read one HTTP message, or nothing if the connection has ended."""
    head = b""
    try:
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            if not line:
                return b""
            head += line
        length = LENGTH.search(head)
        return head + (file.read(int(length[1])) if length else b"")
    except ConnectionResetError:
        return b""


def _error(status: int, name: str) -> bytes:
    """Return an error as DynamoDB answers it (Developer Guide, "Error handling with DynamoDB")."""
    body = b'{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"by the proxy"}' % name.encode()
    head = f"HTTP/1.1 {status} Error\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body

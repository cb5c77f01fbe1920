"""What a process of ``record_usage`` has around it, so that it can die: its clients, its clock, its bucket."""

import io
import random
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

STUCK_S: Final = 120


class KilledError(BaseException):
    """The process has been killed: nothing may catch this and go on."""


class Freely:
    """Lets all threads run side by side."""

    def take(self, who: int) -> None:
        """Go on."""

    def leave(self) -> None:
        """Go."""


class Turns(Freely):
    """Lets one of several threads run at a time, and at each of its steps another, as the seed has it.

    Threads that merely run side by side seldom meet in the narrow places between two steps; here they do.
    """

    def __init__(self, threads: int, seed: int) -> None:
        self._living = threads
        self._waiting: list[int] = []
        self._whose: int | None = None
        self._chance = random.Random(seed)
        self._changed = threading.Condition()

    def take(self, who: int) -> None:
        """End a step, and wait for the turn to do the next."""
        with self._changed:
            self._waiting.append(who)
            self._whose = None
            self._pass_on()
            if not self._changed.wait_for(lambda: self._whose == who, timeout=STUCK_S):
                raise TimeoutError("nobody ends a step: does one task take its steps in several threads?")
            self._waiting.remove(who)

    def leave(self) -> None:
        """End the last step."""
        with self._changed:
            self._living -= 1
            self._pass_on()

    def _pass_on(self) -> None:
        if len(self._waiting) == self._living > 0:
            self._whose = self._chance.choice(sorted(self._waiting))
            self._changed.notify_all()


@dataclass
class Life:
    """The life of a process that dies at its n-th write, counted from 1; 0 stands for never."""

    dies_at: int
    accepted: bool
    """Whether that write is still done."""

    step: Callable[[], None]
    """Called before each write."""

    writes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, do: Callable[[], Any]) -> Any:
        """Do a write, or die; what other threads have under way then is still done, what they begin is not."""
        self.step()
        with self.lock:
            self.writes += 1
            number = self.writes
        if self.dies_at and (number > self.dies_at or (number == self.dies_at and not self.accepted)):
            raise KilledError
        answer = do()
        if number == self.dies_at:
            raise KilledError
        return answer


@dataclass
class Mortal:
    """A boto3 client whose writes are those of a process that may die."""

    client: Any
    life: Life

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def update_item(self, **arguments: Any) -> Any:
        """Write, or die."""
        return self.life.write(lambda: self.client.update_item(**arguments))

    def put_item(self, **arguments: Any) -> Any:
        """Write, or die."""
        return self.life.write(lambda: self.client.put_item(**arguments))

    def put_object(self, **arguments: Any) -> Any:
        """Write, or die."""
        return self.life.write(lambda: self.client.put_object(**arguments))


class Clock:
    """The present moment, which moves on by ``step`` each time that somebody looks."""

    def __init__(self, start: datetime, step: timedelta) -> None:
        self._now = start
        self._step = step
        self._lock = threading.Lock()

    def of_a_machine(self, skew: timedelta) -> Callable[[], datetime]:
        """Return the clock of a machine, which is off by this much."""

        def look() -> datetime:
            with self._lock:
                self._now += self._step
                return self._now + skew

        return look


class NoSuchKey(ClientError):  # noqa: N818  as S3 names it
    """There is no such object."""


class Bucket:
    """An S3 bucket in memory: GetObject, and PutObject with its condition (S3 User Guide, "Conditional writes")."""

    class exceptions:  # noqa: N801  as clients name it
        """What the bucket raises."""

        NoSuchKey = NoSuchKey

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: ARG002, N803  as S3 names them
        """Return an object."""
        if Key not in self.objects:
            raise NoSuchKey({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        body = self.objects[Key]
        return {"Body": io.BytesIO(body), "ETag": _etag(body)}

    def put_object(
        self,
        *,
        Key: str,  # noqa: N803  as S3 names them
        Body: bytes,  # noqa: N803
        IfNoneMatch: str = "",  # noqa: N803
        IfMatch: str = "",  # noqa: N803
        **_: str,
    ) -> None:
        """Write an object, unless it must not exist and does, or must be as it was read and is not."""
        with self._lock:
            there = self.objects.get(Key)
            refused = there is not None if IfNoneMatch == "*" else IfMatch and _etag(there or b"") != IfMatch
            if refused:
                raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")
            self.objects[Key] = Body


def _etag(body: bytes) -> str:
    return f'"{zlib.crc32(body):08x}"'

"""A process that dies: at its n-th write, by whichever client."""

import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

WRITES: Final = frozenset(
    {
        *("put_item", "update_item", "delete_item", "transact_write_items", "put_object", "delete_object"),
        *("create_api_key", "create_usage_plan_key", "delete_usage_plan_key"),
    }
)


class KilledError(BaseException):
    """The process has been killed: nothing may catch this and go on."""


@dataclass
class Life:
    """The life of a process that dies at its n-th write, counted from 1; 0 stands for never."""

    dies_at: int = 0
    accepted: bool = False
    """Whether that write is still done."""

    of: Collection[str] = WRITES
    """Which calls count, by their names."""

    step: Callable[[], object] = lambda: None
    """Called before each write."""

    writes: int = 0
    lock: Any = field(default_factory=threading.Lock, repr=False)

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


class Dying:
    """A client of a process with a life, which it may share with others; ``calls`` counts what was asked of it."""

    def __init__(self, client: Any, life: Life | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self._client = client
        self._life = life or Life()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            with self._life.lock:
                self.calls[name] += 1
            if name not in self._life.of:
                return found(*arguments, **named)
            return self._life.write(lambda: found(*arguments, **named))

        return call

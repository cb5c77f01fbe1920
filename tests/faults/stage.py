"""The stage on which schedules are played: a time of its own, and processes that take turns and die.

One process does something at a time, and after each of its steps the seed picks who goes on: between two steps of one,
others do whole runs. So narrow places are met often, and what is played is the same for the same seed.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, Final, Self
from unittest.mock import patch

from metering.model.periods import CLOCK_SKEW
from metering.stores import aws
from tests.doubles.clock import Clock
from tests.doubles.dying import KilledError, Life

LIFE_S: Final = 300
"""A function's time limit, as the stack sets it: whoever is still at work is killed."""

STUCK_S: Final = 120


@dataclass(frozen=True, slots=True)
class Death:
    """A process dies at its n-th write or Stripe call, counted from 1; 0 stands for never."""

    at: int = 0
    accepted: bool = False
    """Whether that one is still done."""


UNHURT: Final = Death()


@dataclass(frozen=True, slots=True)
class Run:
    """A task as a process does it: by a clock that is off, perhaps to its death."""

    task: Any
    skew: timedelta = timedelta()
    death: Death = UNHURT


@dataclass(frozen=True, slots=True)
class Episode:
    """What happens at once, ``after`` so many seconds since the episode before has ended."""

    after: float
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely each fate of a call to DynamoDB and to Stripe is, and that a process pauses at a step."""

    name: str
    table: Mapping[Enum, float] = field(default_factory=dict)
    stripe: Mapping[Enum, float] = field(default_factory=dict)
    stalls: float = 0.0


CALM: Final = Weather("calm")


def skewed(chance: random.Random) -> timedelta:
    """Draw how far a clock is off: two differ by less than the code allows for."""
    return CLOCK_SKEW * (chance.random() - 0.5) * 0.99


@dataclass
class Process:
    """A run of a function, with a clock that is off, which may die."""

    stage: "Stage"
    skew: timedelta
    death: Death
    ends_at: float = 0.0
    wakes_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Begin to live."""
        self.clock = self.stage.world.of_a_machine(self.skew)
        self.life = Life(self.death.at, self.death.accepted, step=self.stage.step)


class Stage:
    """Runs processes, one step of one of them at a time, which takes up to ``step_s``.

    ``stalls`` is how likely one pauses at a step.

    ``met`` counts which faults were met; ``trace`` is told what happens.
    """

    def __init__(self, world: Clock, seed: int, life_s: float = LIFE_S, step_s: float = 0.2) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.met: Counter[str] = Counter()
        self.trace: Callable[[str], object] = lambda _: None
        self._life_s, self.step_s = life_s, step_s
        self.stalls = 0.0
        self.current: Process | None = None
        self._living: list[Process] = []
        self._chosen: Process | None = None
        self._done = threading.Lock()

    def play(self, tasks: Sequence[tuple[Process, Callable[[], None]]]) -> None:
        """Run processes at once, to the end of each; what one raises is raised when all have ended."""
        self._living = [process for process, _ in tasks]
        for process in self._living:
            process.ends_at = self.world.now + self._life_s
            process.wakes_at = 0.0 if len(tasks) == 1 else self.world.now + self.chance.choice((0, 0, 1, 3, 6))
        if not tasks:
            return
        if len(tasks) == 1:
            self.current = self._living[0]
            self._run(tasks[0][1])
            self._living = []
            return
        self._play_in_turns(tasks)

    def _play_in_turns(self, tasks: Sequence[tuple[Process, Callable[[], None]]]) -> None:
        errors: list[BaseException] = []

        def act(process: Process, do: Callable[[], None]) -> None:
            process.lock.acquire()
            try:
                self._run(do)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
                errors.append(error)
            self._leave(process)

        self._done.acquire()
        for process, _ in tasks:
            process.lock.acquire()
        threads = [threading.Thread(target=act, args=task, daemon=True) for task in tasks]
        for thread in threads:
            thread.start()
        self._wake()
        if not self._done.acquire(timeout=STUCK_S):
            raise TimeoutError("nobody ends a step")
        self._done.release()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _run(self, do: Callable[[], None]) -> None:
        try:
            do()
        except KilledError:
            self.met["deaths"] += 1
        finally:
            self.current = None

    def step(self) -> None:
        """End a step of the current process, and go on with the next one when it is its turn again."""
        process = self.current
        if process is None:
            return
        self.world.advance(self.chance.random() * self.step_s)
        if self.stalls and self.chance.random() < self.stalls:
            process.wakes_at = self.world.now + self.chance.choice((1, 10, 60, 200))
        self._pass_on(process)

    def sleep(self, seconds: float) -> None:
        """Let the current process sleep."""
        process = self.current
        if process is None:
            self.world.advance(seconds)
            return
        process.wakes_at = self.world.now + seconds
        self._pass_on(process)

    def _pass_on(self, process: Process) -> None:
        if self._next() is not process:
            self._wake()
            if not process.lock.acquire(timeout=STUCK_S):
                raise TimeoutError("nobody ends a step")
        self.current = process
        if self.world.now > process.ends_at:
            raise KilledError

    def _next(self) -> Process:
        """Choose who goes on; where all sleep, time moves on to the first who wakes."""
        awake = [one for one in self._living if one.wakes_at <= self.world.now]
        if not awake:
            first = min(self._living, key=lambda one: one.wakes_at)
            self.world.advance(first.wakes_at - self.world.now)
            awake = [first]
        # Half of the steps are followed by another one of the same process: runs of steps meet runs of steps.
        if self._chosen is None or self._chosen not in awake or self.chance.random() < 0.5:
            self._chosen = self.chance.choice(awake)
        return self._chosen

    def _wake(self) -> None:
        chosen = self._chosen if self._chosen is not None and self._chosen in self._living else self._next()
        self.current = chosen
        chosen.lock.release()

    def _leave(self, process: Process) -> None:
        self._living.remove(process)
        if not self._living:
            self._done.release()
            return
        self._next()
        self._wake()


class InTurn:
    """Stands for a ThreadPoolExecutor: does what it is given at once, one after the other, in an order by chance.

    What happens *within* one process side by side is not played, only what happens between processes.
    """

    chance = random.Random(0)

    def __init__(self, _workers: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, do: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Do something to each item; return the answers in the items' order."""
        work = list(enumerate(items))
        self.chance.shuffle(work)
        done = {number: do(item) for number, item in work}
        return (done[number] for number in sorted(done))

    def submit(self, do: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Do something now."""
        future: Future[Any] = Future()
        try:
            future.set_result(do(*arguments))
        except Exception as error:  # noqa: BLE001 - the future keeps it, as the executor's does
            future.set_exception(error)
        return future


@contextmanager
def in_turn(seed: int) -> Iterator[None]:
    """Let what a process does side by side be done one after the other."""
    InTurn.chance = random.Random(seed)
    with patch.object(aws, "ThreadPoolExecutor", InTurn):
        yield

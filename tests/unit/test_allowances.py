"""Nothing passes a threshold unseen, whichever process sees which part of what a customer uses."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from metering.limits import allowances
from metering.limits.allowances import PROCESSES, REMEMBERED_S, Allowances
from metering.stores.gate_list import Near

NOW = 1_795_325_400
"""Half past five."""


def test_a_source_is_looked_at_when_its_allowance_is_used_up() -> None:
    """Of 800 that are left, a single source may use 100 in each of four processes, and half may have been elsewhere."""
    process = Allowances()
    assert not process.allow("acme", {"requests": 800}, ["key1"], NOW)
    assert not process.is_spent("key1", {"requests": 99}, NOW)
    assert process.is_spent("key1", {"requests": 1}, NOW)
    assert process.customer_of("key1") == "acme"


def test_what_is_left_is_shared_out_among_a_customers_sources() -> None:
    """Each of ten gets a tenth."""
    process = Allowances()
    process.allow("acme", {"requests": 800}, [f"key{number}" for number in range(10)], NOW)
    assert not process.is_spent("key3", {"requests": 9}, NOW)
    assert process.is_spent("key3", {"requests": 1}, NOW)
    assert not process.is_spent("key4", {"requests": 9}, NOW)


def test_a_metric_without_a_limit_is_used_freely() -> None:
    """Whatever another one's limit says."""
    process = Allowances()
    process.allow("acme", {"requests": 800}, ["key1"], NOW)
    assert not process.is_spent("key1", {"bytes": 10**12}, NOW)


def test_where_too_little_is_left_each_use_is_looked_at() -> None:
    """And it is said so, since nobody may wait then."""
    process = Allowances()
    assert process.allow("acme", {"requests": 7}, ["key1"], NOW)
    assert process.is_spent("key1", {"requests": 1}, NOW)


def test_a_new_source_of_whoever_is_near_is_looked_at_at_once() -> None:
    """A process that has just begun knows nothing but the list."""
    process = Allowances()
    process.learn({"acme": Near(("key1", "key2"), {"requests": 800}, NOW - 30)}, {}, NOW)
    assert process.is_spent("key2", {"requests": 1}, NOW)
    assert process.customer_of("key2") == "acme"


def test_whoever_was_looked_at_again_elsewhere_is_looked_at_again_here() -> None:
    """What this process found before is too much."""
    process = Allowances()
    process.allow("acme", {"requests": 8000}, ["key1"], NOW - 60)
    process.learn({"acme": Near(("key1",), {"requests": 80}, NOW - 30)}, {}, NOW)
    assert process.is_spent("key1", {"requests": 1}, NOW)
    process.allow("acme", {"requests": 80}, ["key1"], NOW)
    assert not process.is_spent("key1", {"requests": 1}, NOW)


def test_others_may_use_a_part_of_the_least_that_anybody_has_left() -> None:
    """Without a look at anybody; whose the source is is not known then."""
    process = Allowances()
    process.learn({}, {"requests": 800}, NOW)
    assert not process.is_spent("key1", {"requests": 99}, NOW)
    assert process.customer_of("key1") is None
    assert process.is_spent("key1", {"requests": 1}, NOW)


def test_where_others_have_less_left_than_before_that_holds_at_once() -> None:
    """What was used of it before stays used."""
    process = Allowances()
    process.learn({}, {"requests": 800}, NOW)
    assert not process.is_spent("key1", {"requests": 10}, NOW)
    assert not process.is_spent("key2", {"requests": 95}, NOW)
    process.learn({}, {"requests": 400, "bytes": 80}, NOW + 5)
    assert not process.is_spent("key1", {"requests": 49}, NOW + 6)
    assert process.is_spent("key1", {"requests": 1}, NOW + 6)
    assert not process.is_spent("key2", {"requests": 4}, NOW + 6)
    assert process.is_spent("key2", {"requests": 1, "bytes": 1}, NOW + 6)
    assert process.is_spent("key3", {"bytes": 10}, NOW + 6)


def test_what_was_found_ends_after_a_quarter_of_an_hour_and_with_the_hour() -> None:
    """Then windows turn, and keys change hands."""
    half_past, quarter_to_six = NOW, NOW + REMEMBERED_S
    process = Allowances()
    process.allow("acme", {}, ["key1"], half_past)
    process.allow("acme", {}, ["key2"], quarter_to_six + 1)
    process.learn({}, {"requests": 0}, half_past)
    assert not process.is_spent("key1", {"requests": 1}, quarter_to_six - 1)
    assert process.is_spent("key1", {"requests": 1}, quarter_to_six)
    six = NOW + 30 * 60
    assert not process.is_spent("key2", {"requests": 1}, six - 1)
    assert process.is_spent("key2", {"requests": 1}, six)


def test_the_list_is_to_say_no_more_than_twice_what_is_left() -> None:
    """And no less, and of the same metrics; of who is not in it at all, too."""
    process = Allowances()
    process.learn({"acme": Near(("key1",), {"requests": 100}, NOW)}, {}, NOW)
    assert not process.is_to_be_entered("acme", {"requests": 100})
    assert not process.is_to_be_entered("acme", {"requests": 50})
    assert process.is_to_be_entered("acme", {"requests": 49})
    assert process.is_to_be_entered("acme", {"requests": 101})
    assert process.is_to_be_entered("acme", {"requests": 60, "bytes": 5})
    assert process.is_to_be_entered("globex", {"requests": 60})


def test_memory_is_bounded() -> None:
    """Whichever was seen longest ago is new again."""
    process = Allowances()
    process.learn({}, {"requests": 10**6, "bytes": 10**9}, NOW)
    tracemalloc.start()
    for number in range(150_000):
        process.is_spent(f"k{number:09d}", {"requests": 1, "bytes": 1_000}, NOW)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(process._by_source) == allowances.MOST_SOURCES == 100_000
    assert held < 64 << 20


@dataclass
class Limited:
    """A customer with a limit, its sources, the processes that see what they use, and who is near."""

    most: int
    sources: Sequence[str]
    used: int = 0
    seen: bool = False
    listed: dict[str, Near] = field(default_factory=dict)
    processes: dict[int, Allowances] = field(default_factory=dict)

    def use(self, process: int, source: str, amount: int, now: int) -> None:
        """Let a source use something, which a process sees: 0 stands for all that it may use unseen, if it may."""
        known = self.processes.setdefault(process, Allowances())
        known.learn(self.listed, {}, now)
        amount = amount or max(1, most_unseen(known, source))
        self.used += amount
        if known.is_spent(source, {"requests": amount}, now):
            self.look(known, now)

    def look(self, known: Allowances, now: int) -> None:
        """Look exactly, on behalf of a process."""
        left = {"requests": self.most - self.used}
        if left["requests"] <= 0:
            self.seen = True
            return
        known.allow("acme", left, self.sources, now)
        if known.is_to_be_entered("acme", left):
            self.listed["acme"] = Near(tuple(self.sources), left, now)


def most_unseen(process: Allowances, source: str) -> int:
    """Return what a source may use before a process has to look."""
    allowance = process._by_source.get(source)
    return allowance.left["requests"] - 1 if allowance else 0


USES = st.lists(
    st.tuples(st.integers(0, PROCESSES - 1), st.integers(0, 2), st.sampled_from([0, 0, 0, 1, 5, 100]), st.booleans()),
    max_size=100,
)
EACH_ONE = [(process, source, 1, False) for process in range(PROCESSES) for source in range(3)]
EACH_ALL = [(process, source, 0, False) for process, source, _, _ in EACH_ONE]


@settings(max_examples=300)
@given(most=st.integers(1, 5_000), sources=st.integers(1, 3), uses=USES)
@example(most=1, sources=1, uses=[(0, 0, 1, False)])
@example(most=2_000, sources=3, uses=[*EACH_ONE, (0, 0, 900, False), *EACH_ALL])
@example(most=2_000, sources=3, uses=[*EACH_ONE, (0, 0, 1_100, False), (0, 0, 700, False), *EACH_ALL])
def test_whoever_is_near_reaches_no_limit_unseen(
    most: int, sources: int, uses: list[tuple[int, int, int, bool]]
) -> None:
    """Whichever of the processes sees which part, and whichever forgets everything in between."""
    names = [f"key{number}" for number in range(sources)]
    acme = Limited(most, names, listed={"acme": Near(tuple(names), {"requests": most}, NOW)})
    for number, (process, source, amount, forgets) in enumerate(uses, 1):
        if forgets:
            acme.processes.pop(process, None)
        acme.use(process, names[source % sources], amount, NOW + number * 5)
        assert acme.seen == (acme.used >= most)

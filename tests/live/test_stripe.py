"""Stripe is as the table of behaviours says: the local one, and a sandbox of Stripe's own.

STRIPE_SANDBOX_KEY=rk_test_… uv run pytest tests/live -m stripe
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from infra.local.stripe.server import LocalStripe
from tests.conftest import ROOT
from tests.live.stripe_behaviours import BEHAVIOURS, Behaviour, Certainty, Where
from tests.live.stripe_breaks import BREAKS
from tests.live.stripe_place import API, BASE, KEY, PREFIX, NotASandboxError, Paced, Place

FOUND = (AssertionError, pytest.fail.Exception, stripe.StripeError)
"""What a check ends with where Stripe does otherwise."""

HELD_S = 0.02
"""How long the local Stripe is at work with a meter event, so that calls can meet."""


def played(*places: Where) -> list[Any]:
    """Return the facts that can be played there, each as a test's parameter."""
    return [pytest.param(fact, id=fact.name) for fact in BEHAVIOURS.values() if fact.where in places]


def check(fact: Behaviour, place: Place) -> None:
    """Play a fact."""
    assert fact.check is not None
    fact.check(place)


@pytest.fixture(scope="module")
def local() -> Iterator[Place]:
    """The local Stripe, which at the end has nothing left of what was made."""
    with LocalStripe(latency_s=HELD_S) as server:
        place = Place.of_local(server, run=PREFIX)
        yield place
        assert place.left()
        place.remove()
        assert place.left() == []


@pytest.fixture(scope="module")
def sandbox(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The sandbox of the environment's test key; it is only for who asks for it: ``-m stripe``."""
    if "stripe" not in request.config.option.markexpr:
        pytest.skip("it makes and removes things in the sandbox of the environment: ask for it with -m stripe")
    if not os.environ.get(KEY):
        pytest.skip(f"{KEY} names no sandbox: a restricted test key, rk_test_…")
    place = Place.of_sandbox(os.environ[KEY], os.environ.get(BASE, API), run=f"{PREFIX}_{int(time.time())}")
    try:
        yield place
    finally:
        place.remove()
    assert place.left() == []


@pytest.mark.parametrize("fact", played(Where.BOTH, Where.LOCAL))
def test_the_local_stripe_does_so(local: Place, fact: Behaviour) -> None:
    """As the table says."""
    check(fact, local)


@pytest.mark.stripe
@pytest.mark.parametrize("fact", played(Where.BOTH, Where.SANDBOX))
def test_stripe_does_so(sandbox: Place, fact: Behaviour) -> None:
    """As the table says; what fails is to be mended in the table, in the local Stripe, and in what builds on it."""
    if fact.where is Where.SANDBOX and sandbox.api_base != API:
        pytest.skip("the local Stripe does not have it")
    check(fact, sandbox)


@pytest.mark.parametrize("fact", played(Where.BOTH, Where.LOCAL))
def test_a_stripe_that_did_otherwise_would_be_found(fact: Behaviour) -> None:
    """Each fact's check fails on a local Stripe that is broken there."""
    with BREAKS[fact.name](), LocalStripe(latency_s=HELD_S) as server, pytest.raises(FOUND):
        check(fact, Place.of_local(server, run=PREFIX))


def test_each_break_is_of_a_fact() -> None:
    """None is left of a fact that is gone."""
    assert set(BREAKS) == {fact.name for fact in BEHAVIOURS.values() if fact.where in (Where.BOTH, Where.LOCAL)}


def test_what_the_local_stripe_marks_as_uncertain_is_in_the_table() -> None:
    """It says so by a fact's name, with a question mark before it."""
    sources = (ROOT / "infra" / "local" / "stripe").glob("*.py")
    marked = {name.strip() for path in sources for name in re.findall(r"\(\?([^)]*)\)", path.read_text())}
    assert marked
    assert marked <= {fact.name for fact in BEHAVIOURS.values() if fact.certainty is Certainty.UNCONFIRMED}


class Seconds:
    """A clock that goes on when somebody sleeps, and the moments of the calls."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time go by; a call follows."""
        self.now += seconds
        self.calls.append(self.now)


def test_the_run_on_a_sandbox_keeps_its_pace_and_leaves_nothing() -> None:
    """Played on the local Stripe, which is called in every way as a sandbox is; no second has more than 25 calls."""
    seconds = Seconds()
    with LocalStripe(api_keys=["rk_test_sandbox"]) as server:
        transport = Paced(20, seconds, seconds.sleep)
        place = Place.of_sandbox("rk_test_sandbox", server.url, run=PREFIX, transport=transport, patience=0)
        for fact in BEHAVIOURS.values():
            if fact.where is Where.BOTH:
                check_or_skip(fact, place)
        assert place.left()
        place.remove()
        assert place.left() == []
        assert place.client.v1.customers.list().data == []
        assert server.calls.total() == len(seconds.calls)
    assert max(sum(at <= call < at + 1 for call in seconds.calls) for at in seconds.calls) <= 25


def check_or_skip(fact: Behaviour, place: Place) -> None:
    """Play a fact, whether the calls that it makes at once meet or not."""
    try:
        check(fact, place)
    except pytest.skip.Exception:
        return


@pytest.mark.parametrize(
    ("key", "marker", "told"),
    [
        ("rk_test_sandbox", "stripe", "1 passed"),
        ("rk_test_sandbox", "not aws", "1 skipped"),
        ("", "stripe", "1 skipped"),
        ("rk_live_sandbox", "stripe", "1 error"),
    ],
)
def test_a_sandbox_is_for_who_asks_for_it_with_a_test_key(key: str, marker: str, told: str) -> None:
    """In a process of its own; nothing is called with another key, and nothing is left."""
    with LocalStripe(api_keys=["rk_test_sandbox"]) as server:
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__, "-m", marker]
        asked = subprocess.run(  # noqa: S603  this very file
            [*command, "-k", "test_stripe_does_so and duplicate_identifier"],
            env=os.environ | {KEY: key, BASE: server.url},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told in asked.stdout, asked.stdout
        assert bool(server.calls) == (told == "1 passed")
        assert Place.of_sandbox("rk_test_sandbox", server.url, run=PREFIX).left() == []


@pytest.mark.parametrize(
    ("key", "base"),
    [
        ("sk_live_a", API),
        ("rk_live_a", API),
        ("pk_test_a", API),
        ("", API),
        ("rk_test_a", "https://example.com"),
        ("rk_test_a", "http://127.0.0.1.example.com"),
    ],
)
def test_nothing_is_done_with_another_key_or_elsewhere(key: str, base: str) -> None:
    """Only with a test key, at Stripe or on this machine; the error does not tell the key."""
    with pytest.raises(NotASandboxError) as caught:
        Place.of_sandbox(key, base, run=PREFIX)
    assert len(key) < 9 or key not in str(caught.value)


def test_what_a_run_has_left_is_removed_by_name() -> None:
    """Of all runs, if one dies; whatever else is in the sandbox stays."""
    with LocalStripe(api_keys=["rk_test_sandbox"]) as server:
        places = [Place.of_sandbox("rk_test_sandbox", server.url, run=run) for run in ("other", f"{PREFIX}_1")]
        for place in places:
            place.price(place.meter())
            place.customer()
        Place.of_sandbox("rk_test_sandbox", server.url, run=PREFIX).remove()
        assert [bool(place.left()) for place in places] == [True, False]

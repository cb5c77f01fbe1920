"""How much memory and time functions have: the defaults, what is given instead, and what is refused."""

from typing import Any

import pytest

from infra.stack import Size
from infra.stack.sizes import DEFAULTS, sizes_of
from tests.conftest import ROOT


def test_every_function_has_a_size() -> None:
    """One for each handler."""
    assert DEFAULTS.keys() == {path.stem for path in (ROOT / "functions").glob("*.py")}


def test_a_size_that_is_given_takes_the_place_of_the_default() -> None:
    """Of that function alone."""
    sizes = sizes_of({"close_periods": Size(3008, 600)})
    assert sizes == {**DEFAULTS, "close_periods": Size(3008, 600)}
    assert sizes_of(None) == DEFAULTS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"close_period": Size(512)}, "sizes names 'close_period'; the functions are record_usage, close_periods, "),
        ({"close_periods": Size(64)}, "the memory, in MB, of close_periods must be 128 to 10,240, got 64"),
        ({"post_usage": Size(512, 30)}, "the timeout, in seconds, of post_usage must be 120 to 900, got 30"),
        ({"show_usage": Size(512, 30)}, "the timeout, in seconds, of show_usage must be 1 to 29, got 30"),
        ({"receive_events": Size(512, 26)}, "the timeout, in seconds, of receive_events must be 1 to 25, got 26"),
    ],
)
def test_a_size_out_of_bounds_is_refused(given: dict[str, Any], words: str) -> None:
    """With what was got and what is wanted."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are compared
        sizes_of(given)
    assert words in str(caught.value)

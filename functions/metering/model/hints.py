"""Hints: what to write in the place of a word that is not known. Pure."""

import difflib
from collections.abc import Sequence


def one_of(word: str, known: Sequence[str]) -> str:
    """Return the known word that was most likely meant, or all of them."""
    close = difflib.get_close_matches(word, known, 1, 0.4)
    return repr(close[0]) if close else f"one of {', '.join(map(repr, known))}"

"""Moments and windows as tests write them."""

from datetime import UTC, datetime

from metering.model.periods import Hour
from metering.model.subscribed import Window


def at(text: str) -> datetime:
    """Return a moment."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def epoch(text: str) -> int:
    """Return a moment in seconds since 1970."""
    return int(at(text).timestamp())


def window(begin: str, end: str) -> Window:
    """Return a window of whole hours."""
    return Window(Hour.parse(begin), Hour.parse(end))

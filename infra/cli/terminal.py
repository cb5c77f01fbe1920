"""What a terminal is given: nothing that comes from a log, from AWS or from Stripe can act on it."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

_JOINERS: Final = "\u200c\u200d"
"""They are in names of some languages, and only join letters, or keep them apart."""


_SECRETS: Final = re.compile(r"([rs]k_(?:live|test)_|whsec_)[\w+/=-]+")
"""Stripe's keys and signing secrets, as Stripe writes them (Stripe docs, "API keys", "Webhooks")."""


_KEY_VALUE: Final = re.compile(r"\b(?=\w*[a-z])(?=\w*[A-Z])(?=\w*\d)([A-Za-z0-9]{4})[A-Za-z0-9]{36}\b")
"""A value that API Gateway has made for an API key: 40 letters of both cases and digits."""


_MOVING: Final = list[Live]()
"""The spinners and bars that move now, on any console: two consoles of one terminal know nothing of each other."""


class Terminal(Console):
    """A console on which every string is one line, and what would act on it is :func:`visible`, whoever wrote it.

    Names that people chose are no markup, no emoji codes, and are not coloured. On stderr all is :func:`masked`. What
    moves on another console of the terminal (a spinner is on stderr) leaves it while lines are printed.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)
        self._tells_errors = bool(options.get("stderr"))

    def set_live(self, live: Live) -> bool:
        """Note what moves from now on."""
        _MOVING.append(live)
        return super().set_live(live)

    def clear_live(self) -> None:
        """Note that what began to move here last moves no more."""
        _MOVING.remove(next(live for live in reversed(_MOVING) if live.console is self))
        super().clear_live()

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; rich clears the way by itself for what is printed on the console where something moves."""
        others = [live for live in _MOVING if live.console is not self and self.is_terminal]
        for live in reversed(others):
            live.stop()
        super().print(*objects, **options)
        for live in others:
            live.start()

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as it is laid out."""
        return super().render_str(visible(masked(text) if self._tells_errors else text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is written, also of a text that was made elsewhere; the console's own sequences are apart."""
        for segment in super().render(renderable, options):
            lines = map(visible, segment.text.split("\n"))
            yield segment if segment.control else segment._replace(text="\n".join(lines))


def visible(text: str) -> str:
    r"""Return a text in one line with all that would act on a terminal shown as Python writes it: ESC is ``\x1b``.

    So are all control characters, what ends a line or turns the direction of writing, what has no width, and what
    cannot be written at all. Letters, joiners and spaces stay.
    """
    if text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable() or one in _JOINERS or unicodedata.category(one) == "Zs"
        else one.encode("unicode_escape").decode()
        for one in text
    )


def masked(text: str) -> str:
    """Return a text without the values of keys and signing secrets, which somebody gave in a wrong place (I8)."""
    return _KEY_VALUE.sub(r"\1...", _SECRETS.sub(r"\1...", text))


def line(text: str, style: str = "") -> Text:
    """Return a text of one line in a style."""
    return Text(visible(text), style)


out: Final = Terminal()
err: Final = Terminal(stderr=True)

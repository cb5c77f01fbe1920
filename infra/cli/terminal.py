"""What a terminal is given: nothing that comes from a log, from AWS or from Stripe can act on it."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_JOINERS: Final = "\u200c\u200d"
"""They are in names of some languages, and only join letters, or keep them apart."""


_SECRETS: Final = re.compile(r"([rs]k_(?:live|test)_|whsec_)[\w+/=-]+")
"""Stripe's keys and signing secrets, as Stripe writes them (Stripe docs, "API keys", "Webhooks")."""


class Terminal(Console):
    """A console on which every string is one line, and what would act on it is :func:`visible`, whoever wrote it.

    Names that people chose are no markup, no emoji codes, and are not coloured. On stderr all is :func:`masked`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)
        self._tells_errors = bool(options.get("stderr"))

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
    """Return a text without the values of Stripe's keys and signing secrets, which somebody gave in a wrong place."""
    return _SECRETS.sub(r"\1...", text)


def line(text: str, style: str = "") -> Text:
    """Return a text of one line in a style."""
    return Text(visible(text), style)

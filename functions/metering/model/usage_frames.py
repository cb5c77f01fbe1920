"""Frames: what loggers put around a usage line, and how its object is found in there. Pure.

A runtime or a log router writes text before and behind what it is given, and puts it into a field of an object of its
own (``message``, ``msg``, ``log``), as an object or as JSON text. No list of them is complete, so one rule takes all of
them apart:

- A line is a text. What stands in a text are its JSON objects, also those whose quotes are escaped.
- Objects and lists are looked into, and each text in them is a text as the line is.
- An object is *named* if it is the value of ``usage``: as an object, as JSON text, in a list, or behind ``usage=`` in a
  text. A named object is *ours* if it has our fields; any other is nobody's business: ``usage`` is also what an LLM or
  a host calls its own.
- Where JSON begins that cannot be read, its text ends: nothing behind that is believed. If an object that may be ours
  is named there, or anywhere in a text that is no JSON, the line is *broken*, and must be set aside (I1).

Each text is read once. Where one stands in another, its quotes are escaped, so that their backslashes double from each
to the next: a line of 1 MB has no more than about twenty, one in another, and that bounds the work (I10).
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

Object = tuple[tuple[str, Any], ...]
"""A JSON object as its names and values, so that a name that stands there twice is seen."""


class Number(str):  # noqa: SLOT000 - a text with its own repr
    """A JSON number as it is spelled: never a float, and of any size."""

    def __repr__(self) -> str:
        return str(self)


WHOSE: Final = frozenset({"key", "customer"})
WHICH: Final = frozenset({"id", "time"})


@dataclass(frozen=True, slots=True)
class Frames:
    """Finds the objects that are ours, where the metrics have these names."""

    metrics: Collection[str]
    _name: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = "|".join(map(re.escape, sorted({*WHOSE, *WHICH, *self.metrics})))
        object.__setattr__(self, "_name", re.compile(rf"{_BEFORE}({names}){_SIGNS}[:=]"))

    def are_ours(self, names: Collection[str]) -> bool:
        """Say whether an object has the fields of a usage line: whose it is, or which it is and something more."""
        ours = WHICH.union(self.metrics).intersection(names)
        return bool(WHOSE.intersection(names)) or (len(ours) > 1 and bool(WHICH.intersection(names)))

    def open(self, line: str) -> tuple[list[Object], bool]:
        """Return the objects of a line that are ours, and whether it is broken."""
        objects: list[Object] = []
        broken = False
        left: list[tuple[Any, bool]] = [(line, False)]
        while left:
            value, named = left.pop()
            if isinstance(value, str):
                if "{" not in value or not (named or "usage" in value):
                    continue
                values, is_broken = self._in_text(value, named=named)
                left += values
                broken = broken or is_broken
            elif isinstance(value, list):
                left += ((member, named) for member in value)
            elif isinstance(value, tuple):
                if named and self.are_ours({name for name, _ in value}):
                    objects.append(value)  # and not looked into: what its values say is its own business
                else:
                    left += ((member, name == "usage") for name, member in value)
        return objects, broken

    def _in_text(self, text: str, *, named: bool) -> tuple[list[tuple[Any, bool]], bool]:
        """Return what stands in a text, with whether it is named, and whether the text is broken."""
        values: list[tuple[Any, bool]] = []
        broken = False
        read_to = 0
        while opening := _OPENING.search(text, read_to):
            start = opening.start()
            mentions = [mention.end() for mention in _MENTION.finditer(text, read_to, start + 1)]
            is_named = bool(mentions) and mentions[-1] == start + 1
            try:
                value, end = _decode(text, start, escaped=opening[1] not in '"}')
            except (ValueError, RecursionError):
                break
            broken = broken or any(self._may_be_ours(text, mention) for mention in mentions if mention <= start)
            values.append((value, named or is_named))
            read_to = end
        mentions = [mention.end() for mention in _MENTION.finditer(text, read_to)]
        unread = text.find("{", read_to) + 1
        if named and unread:
            mentions.append(unread)
        return values, broken or any(self._may_be_ours(text, mention) for mention in mentions)

    def _may_be_ours(self, text: str, start: int) -> bool:
        """Say whether the fields that begin there may be ours: what goes on unread may have any, or none yet."""
        brace = _BRACE.search(text, start)
        end = brace.start() if brace else len(text)
        names = {name[1] for name in self._name.finditer(text, start, end)}
        if brace and brace[0] == "}":
            return self.are_ours(names)
        return bool(names) or (end == len(text) and not _FIELD.search(text, start))


def _decode(text: str, start: int, *, escaped: bool) -> tuple[Any, int]:
    """Return the object that begins there, one with escaped quotes as the text that it is, and where it ends."""
    if not escaped:
        return _decoder.raw_decode(text, start)
    end = _UNQUOTED.match(text, start).end()  # type: ignore[union-attr]  # it matches nothing, too
    return json.loads(f'"{text[start:end]}"'), end


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=Number, parse_float=Number, parse_constant=_refuse
)

_OPENING: Final = re.compile(r'\{(?:\s|\\[nrt])*(["}]|\\+(?:"|u0022))')
"""How a JSON object begins, also in a text whose quotes are escaped; .NET writes them \\u0022."""

_UNQUOTED: Final = re.compile(r'(?:[^"\\]+|\\.)*+', re.DOTALL)

_BEFORE: Final = r"(?:(?<!\w)|(?<=\\[nrt])|u0022)"
_SIGNS: Final = r"(?:\\[nrt]|u0022|quot|[^\w{}:=]){0,20}"
"""What stands between a name and its value, in any language's way to write an object: no word, and not much."""

_MENTION: Final = re.compile(rf"{_BEFORE}usage{_SIGNS}[:=]{_SIGNS}\{{")
_BRACE: Final = re.compile("[{}]")
_FIELD: Final = re.compile("[:=]")

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
  is named there, or anywhere in a text that is no JSON, the line is *broken*, and must be set aside (I1). There the
  object may be in the form of any language, between any brackets, and with its quotes spelled as any escaping has them.

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


class Number(str):
    """A JSON number as it is spelled: never a float, and of any size."""

    __slots__ = ()

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
        object.__setattr__(self, "_name", re.compile(rf"(?<!\w)({names}){_SIGNS}[:=]"))

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
                if not (named or "usage" in value):
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
        last = len(text) if named else text.rfind("usage")
        while read_to <= last and (opening := _OPENING.search(text, read_to)):
            start = opening.start()
            try:
                value, end = _decode(text, start, escaped=opening[1] != '"')
            except (ValueError, RecursionError):
                break
            is_named, is_broken = self._in_unread(text[read_to : start + 1], named=named, goes_on=True)
            broken = broken or is_broken
            if named or is_named or text.find("usage", start, end) >= 0:
                values.append((value, named or is_named))
            read_to = end
        _, is_broken = self._in_unread(text[read_to:], named=named, goes_on=False)
        return values, broken or is_broken

    def _in_unread(self, text: str, *, named: bool, goes_on: bool) -> tuple[bool, bool]:
        """Say whether a text that is no JSON names the object behind it, if it goes on, and whether it is broken."""
        if (goes_on and text == "{") or not (named or "usage" in text):
            return False, False
        text = _plain(text)
        opened = [(bracket.end(), bracket[0] != "{") for bracket in _BRACKET.finditer(text)] if named else []
        is_cut = False
        for mention in _MENTION.finditer(text):
            signs, brace, typed, end = mention.groups()
            bracket = max(signs.rfind("["), signs.rfind("("))
            if brace or typed:
                opened.append((mention.end(), not brace))
            elif bracket >= 0:
                opened.append((mention.start(1) + bracket + 1, True))
            is_cut = is_cut or (end is not None and not goes_on and "{" in text[: mention.start()])
        behind = len(text) if goes_on else -1
        names_next = any(start == behind and not foreign for start, foreign in opened)
        may_be_ours = any(
            start != behind and self._may_be_ours(text, start, foreign=foreign) for start, foreign in opened
        )
        return names_next, is_cut or may_be_ours

    def _may_be_ours(self, text: str, start: int, *, foreign: bool) -> bool:
        """Say whether the fields that begin there, behind a bracket, may be ours.

        What goes on unread may have any, or none yet; what is no JSON at all, but a list or an object of a language,
        must have two.
        """
        bracket = _ENDS[text[start - 1]].search(text, start)
        end = bracket.start() if bracket else len(text)
        names = {name[1] for name in self._name.finditer(text, start, end)}
        if foreign:
            return len(names) > 1 and not names.isdisjoint(WHOSE | WHICH)
        if bracket and bracket[0] == "}":
            return self.are_ours(names)
        return bool(names) or (end == len(text) and not _FIELD.search(text, start))


def _decode(text: str, start: int, *, escaped: bool) -> tuple[Any, int]:
    """Return the object that begins there, one with escaped quotes as the text that it is, and where it ends."""
    if not escaped:
        return _decoder.raw_decode(text, start)
    end = next(_UNQUOTED.finditer(text, start)).end()  # at the start, since it matches nothing, too
    return json.loads(f'"{text[start:end]}"'), end


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=Number, parse_float=Number, parse_constant=_refuse
)

_OPENING: Final = re.compile(r'\{(?:\s|\\[nrt])*("|\\+(?:"|u0022))')
"""How a JSON object that has fields begins, also in a text whose quotes are escaped; .NET writes them \\u0022."""

_UNQUOTED: Final = re.compile(r'(?:[^"\\]+|\\.)*+', re.DOTALL)


def _plain(text: str) -> str:
    """Return a text, as long as it was, with each sign that some escaping spells as itself, and without colours.

    No letter and no digit is taken for one: nobody spells these so. What was escaped twice was so by two.
    """
    for _ in range(_MOST_ESCAPED):
        plain = _ESCAPED.sub(_sign, text)
        if plain == text:
            break
        text = plain
    return text


def _sign(escaped: re.Match[str]) -> str:
    spelled = escaped[0]
    if escaped.lastindex is None:
        return ("&" if spelled == "&amp;" else " ").rjust(len(spelled))
    sign = chr(int(escaped[escaped.lastindex], _BASES[escaped.lastindex]))
    if sign.isalnum() or sign == "_":
        return spelled
    return (sign if sign.isprintable() else " ").rjust(len(spelled))


_MOST_ESCAPED: Final = 3

_ESCAPED: Final = re.compile(
    r"""(?:\x1b|\\(?:x1[bB]|[uU]001[bB]|u\{1[bB]\}|033|e))\[[0-9;]*[mK]
    |\\[nrt] | &(?:quot|apos|amp);
    |(?:\\x|\\[uU]00|%)([0-9a-fA-F]{2}) | \\u\{([0-9a-fA-F]{2})\} | &\#[xX]([0-9a-fA-F]{2});
    |&\#([0-9]{2,3}); | \\([01][0-7]{2})""",
    re.VERBOSE,
)
"""Colours (ECMA-48, "SGR"), and how a sign is spelled: nginx writes \\x22, PHP &#039;, Rust \\u{22}, an address %22."""

_BASES: Final = {1: 16, 2: 16, 3: 16, 4: 10, 5: 8}

_SIGNS: Final = r"[^\w{}:=]*+"
"""What stands between a name and its value, in any language's way to write an object: no word."""

_MENTION: Final = re.compile(
    rf"""(?<!\w)usage{_SIGNS}[:=]({_SIGNS})
    (?: (\{{)
    | ([\w.$]{{1,80}}+(?:[\[(]\w*[\])]\w*)?+\s*+(?:\{{\}})?+\{{ | [\w.$]{{1,80}}+[\[(] | [aA]rray\s++\()
    | (\Z) )?+""",
    re.VERBOSE,
)
"""The name and what begins behind it: an object, one behind its type (``map[id:``, ``Usage(id=``, ``array(4) {``) as
Go, Java, Kotlin, PHP and Rust write it, or nothing."""

_BRACKET: Final = re.compile(r"[{\[(](?![{}\[\]()])")
_ENDS: Final = {"{": re.compile(r"[{}]"), "[": re.compile(r"[\[\]]"), "(": re.compile(r"[()]")}
_FIELD: Final = re.compile("[:=]")

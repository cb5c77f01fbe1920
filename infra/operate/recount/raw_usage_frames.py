"""Where usage lines of the raw archive stand in what loggers put around them, looked for in the plainest way.

The rule is that of :mod:`metering.model.usage_frames`, which this follows sign by sign, without a pattern for it.
"""

import json
import re
import string
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

FIXED: Final = frozenset({"id", "time", "key", "customer"})
_ESCAPED_SPACES: Final = ("\\n", "\\r", "\\t")
_LONGEST_TYPE: Final = 80
_MOST_ESCAPED: Final = 3


class Pairs(list[tuple[str, Any]]):
    """A JSON object: its names and values, each as often as it stands there."""


class Figure(str):
    """A JSON number as it is spelled."""

    __slots__ = ()


def _no_json(constant: str) -> NoReturn:
    raise ValueError(constant)


_JSON: Final = json.JSONDecoder(object_pairs_hook=Pairs, parse_int=Figure, parse_float=Figure, parse_constant=_no_json)


@dataclass(slots=True)
class Looked:
    """What a look at a line has found: objects that are ours, and whether one may stand where nothing can be read."""

    metrics: frozenset[str]
    usages: list[Pairs] = field(default_factory=list)
    unread: bool = False

    def at(self, text: str, *, is_usage: bool = False) -> None:
        """Look at a text, which is the value of ``usage`` or is not."""
        last = len(text) if is_usage else text.rfind("usage")
        read_to = 0
        brace = text.find("{")
        while brace >= 0 and read_to <= last:
            quote = _first_sign(text, brace + 1)
            end = brace + 1
            if quote:
                try:
                    value, end = self._json(text, brace, escaped=quote == "\\")
                except (ValueError, RecursionError):
                    break
                named = self._pass_by(text[read_to : brace + 1], is_usage=is_usage, goes_on=True)
                if is_usage or named or text.find("usage", brace, end) >= 0:
                    self._look_into(value, is_usage=is_usage or named)
                read_to = end
            brace = text.find("{", end)
        self._pass_by(text[read_to:], is_usage=is_usage, goes_on=False)

    def _json(self, text: str, start: int, *, escaped: bool) -> tuple[Any, int]:
        if not escaped:
            return _JSON.raw_decode(text, start)
        end = start
        while end < len(text) and text[end] != '"':
            pair = 2 if text[end] == "\\" else 1
            if end + pair > len(text):
                break
            end += pair
        return json.loads(f'"{text[start:end]}"'), end

    def _look_into(self, value: Any, *, is_usage: bool) -> None:
        values = deque([(value, is_usage)])
        while values:
            value, is_usage = values.popleft()
            if isinstance(value, Pairs):
                if is_usage and self._is_own({name for name, _ in value}):
                    self.usages.append(value)
                else:
                    values.extend((member, name == "usage") for name, member in value)
            elif isinstance(value, list):
                values.extend((member, is_usage) for member in value)
            elif type(value) is str:
                self.at(value, is_usage=is_usage)

    def _pass_by(self, text: str, *, is_usage: bool, goes_on: bool) -> bool:
        """Note whether what is no JSON may be a usage line; say whether it names the object whose brace is its last."""
        if (goes_on and text == "{") or not (is_usage or "usage" in text):
            return False
        text = _as_meant(text)
        insides = [*_brackets(text)] if is_usage else []
        for start, inside, foreign in _mentions(text):
            if inside:
                insides.append((inside, foreign))
            if not goes_on and (not inside or foreign) and _ends_with_name(text, start) and "{" in text[:start]:
                self.unread = True
        named = False
        for inside, foreign in insides:
            if goes_on and inside == len(text):
                named = named or not foreign
            elif not self.unread:
                self.unread = self._is_own_text(text, inside, foreign=foreign)
        return named

    def _is_own(self, names: Collection[str]) -> bool:
        if "key" in names or "customer" in names:
            return True
        return ("id" in names and "time" in names) or (
            ("id" in names or "time" in names) and any(name in names for name in self.metrics)
        )

    def _is_own_text(self, text: str, start: int, *, foreign: bool) -> bool:
        """Say whether the fields of a usage line may begin there.

        What goes on unread may have any, or none yet; the list or object of a language must have two.
        """
        bracket = re.compile({"{": "[{}]", "[": r"[\[\]]", "(": "[()]"}[text[start - 1]]).search(text, start)
        inside = text[start : bracket.start() if bracket else len(text)]
        names = {name for name in {*FIXED, *self.metrics} if _has_field(inside, name)}
        if foreign:
            return len(names) > 1 and any(name in FIXED for name in names)
        if bracket and bracket[0] == "}":
            return self._is_own(names)
        return bool(names) or (bracket is None and ":" not in inside and "=" not in inside)


def _first_sign(text: str, at: int) -> str:
    """Return the quote with which the inside of an object begins, a backslash if it is escaped, or nothing."""
    while text[at : at + 1].isspace() or text[at : at + 2] in _ESCAPED_SPACES:
        at += 1 if text[at].isspace() else 2
    behind = at
    while text[behind : behind + 1] == "\\":
        behind += 1
    if behind == at:
        return '"' if text[at : at + 1] == '"' else ""
    return "\\" if text.startswith(('"', "u0022"), behind) else ""


def _brackets(text: str) -> Iterator[tuple[int, bool]]:
    """Yield where the inside of each bracket begins that no bracket follows at once, and if that is no JSON."""
    for at, sign in enumerate(text):
        if sign in "{[(" and not text.startswith(("{", "[", "(", "}", "]", ")"), at + 1):
            yield at + 1, sign != "{"


def _mentions(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield where the name stands and a value begins, where its inside begins, or 0, and if that is no JSON at all."""
    at = text.find("usage")
    while at >= 0:
        signs = _past_signs(text, at + len("usage"))
        if not _begins(text, at) or text[signs : signs + 1] not in (":", "="):
            at = text.find("usage", at + 1)
            continue
        end = _past_signs(text, signs + 1)
        bracket = max(text.rfind("[", signs, end), text.rfind("(", signs, end))
        if text[end : end + 1] == "{":
            yield at, end + 1, False
            end += 1
        elif typed := _past_type(text, end):
            yield at, typed, True
            end = typed
        else:
            yield at, bracket + 1, True
        at = text.find("usage", end)


def _ends_with_name(text: str, at: int) -> bool:
    """Say whether nothing stands behind the name there but what would come before its value."""
    return _past_signs(text, _past_signs(text, at + len("usage")) + 1) == len(text)


def _past_type(text: str, at: int) -> int:
    """Return where the inside of an object begins before which a language wrote its type, or 0 if none does."""
    word = at
    while word < min(len(text), at + _LONGEST_TYPE) and (_is_of_a_word(text[word]) or text[word] in ".$"):
        word += 1
    if word == at:
        return 0
    end = word
    if text[word : word + 1] in ("[", "("):
        inner = _past_word(text, word + 1)
        if text[inner : inner + 1] in ("]", ")"):
            end = _past_word(text, inner + 1)
    end = _past_spaces(text, end)
    end += 2 if text.startswith("{}", end) else 0
    if text[end : end + 1] == "{":
        return end + 1
    if text[word : word + 1] in ("[", "("):
        return word + 1
    bracket = _past_spaces(text, word)
    return bracket + 1 if text[at:word] in ("array", "Array") and text[bracket : bracket + 1] == "(" else 0


def _past_word(text: str, at: int) -> int:
    while at < len(text) and _is_of_a_word(text[at]):
        at += 1
    return at


def _past_spaces(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _past_signs(text: str, at: int) -> int:
    """Return where the signs between a name and its value end."""
    while at < len(text) and not _is_of_a_word(text[at]) and text[at] not in "{}:=":
        at += 1
    return at


def _begins(text: str, at: int) -> bool:
    """Say whether a word begins there."""
    return at == 0 or not _is_of_a_word(text[at - 1])


def _is_of_a_word(sign: str) -> bool:
    return sign.isalnum() or sign == "_"


def _has_field(text: str, name: str) -> bool:
    at = text.find(name)
    while at >= 0:
        sign = _past_signs(text, at + len(name))
        if _begins(text, at) and text[sign : sign + 1] in (":", "="):
            return True
        at = text.find(name, at + 1)
    return False


def _as_meant(text: str) -> str:
    """Return a text, as long as it was, with each sign that is spelled in an escaping as itself, and no colours."""
    for _ in range(_MOST_ESCAPED):
        parts = []
        done = 0
        for mark in re.finditer(r"\\(?=[nrte01]|[xuU][0-9a-fA-F]{2}|u\{)|[&%\x1b]", text):
            length, sign = _escaped(text, mark.start())
            if length:
                parts += [text[done : mark.start()], sign.rjust(length)]
                done = mark.start() + length
        if not parts:
            break
        text = "".join(parts) + text[done:]
    return text


def _escaped(text: str, at: int) -> tuple[int, str]:
    """Return how long the spelling of a sign is that begins there, and the sign, a space for one that is not seen."""
    if text.startswith(("&quot;", "&apos;", "&amp;"), at):
        length = text.index(";", at) + 1 - at
        return length, "&" if text.startswith("&amp;", at) else " "
    if text.startswith(_ESCAPED_SPACES, at):
        return 2, " "
    if colour := _length_of_colour(text, at):
        return colour, " "
    for before, length, base, behind in _SPELLINGS[text[at]]:
        start = at + len(before)
        digits = text[start : start + length]
        if not (text.startswith(before, at) and len(digits) == length and text.startswith(behind, start + length)):
            continue
        if not all(digit in string.hexdigits and int(digit, 16) < base for digit in digits):
            continue
        sign = chr(int(digits, base))
        if _is_of_a_word(sign) or (base == 8 and digits[0] > "1"):  # noqa: PLR2004 - octal
            return 0, ""
        return len(before) + length + len(behind), sign if sign.isprintable() else " "
    return 0, ""


def _length_of_colour(text: str, at: int) -> int:
    for escape in _COLOUR_BEGINS[text[at]]:
        end = at + len(escape)
        if text.startswith(escape, at):
            while text[end : end + 1] in _OF_COLOURS:
                end += 1
            return end + 1 - at if text[end : end + 1] in ("m", "K") else 0
    return 0


_OF_COLOURS: Final = frozenset("0123456789;")
_COLOUR_BEGINS: Final = {
    "\x1b": ("\x1b[",),
    "\\": (
        "\\x1b[", "\\x1B[", "\\u001b[", "\\u001B[", "\\U001b[", "\\U001B[", "\\u{1b}[", "\\u{1B}[", "\\033[", "\\e[",
    ),
    "&": (),
    "%": (),
}  # fmt: skip
_SPELLINGS: Final = {
    "\x1b": (),
    "\\": (
        ("\\x", 2, 16, ""), ("\\u00", 2, 16, ""), ("\\U00", 2, 16, ""), ("\\u{", 2, 16, "}"), ("\\", 3, 8, ""),
    ),
    "&": (("&#x", 2, 16, ";"), ("&#X", 2, 16, ";"), ("&#", 2, 10, ";"), ("&#", 3, 10, ";")),
    "%": (("%", 2, 16, ""),),
}  # fmt: skip
"""What stands before the digits of a sign's number, how many there are, their base, and what stands behind them."""

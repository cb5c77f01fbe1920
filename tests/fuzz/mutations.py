"""Mutations: what can go wrong with a line, and what an attacker would try."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

TOKENS: Final = (
    *(
        '"',
        "\\",
        '\\"',
        "'",
        "\n",
        "\r\n",
        "\\n",
        "\t",
        "\0",
        "\\u0000",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        " ",
        "-",
        "\x1f",
    ),
    *(
        "null",
        "true",
        "NaN",
        "Infinity",
        "-1",
        "1e999",
        "-0",
        "0.1",
        "9" * 13,
        "9" * 400,
        "9" * 5_000,
        "1" + "0" * 12,
        "١٢",
    ),
    *("é", "\u2028", "\u202e", "\ufeff", "\U0001f600", "\\ud800", "\\ud83d\\ude00", "\\udc00\\ud800"),
    *('","key":"victim","x":"', '"},{"metering":"1:13"', '{"usage":{', '"usage":', '"status":"200",', "$context.key"),
    *("x" * 300, "[" * 2_000, '{"a":' * 1_500),
)

FIELDS: Final = (
    "metering",
    "request_id",
    "time",
    "key",
    "status",
    "method",
    "resource",
    "response_length",
    "usage",
    "id",
)


def mutated(draw: random.Random, line: str, others: Sequence[str]) -> str:
    """Return a line that was changed up to three times, or not at all; ``others`` are lines to mix it with."""
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        line = draw.choice(_MUTATIONS)(draw, line, others)
    return line.encode(errors="backslashreplace").decode()  # a log event is text: half a surrogate pair is spelled out


def mutated_bytes(draw: random.Random, content: bytes) -> bytes:
    """Return bytes that were changed once to three times."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        place = draw.randrange(len(content) + 1)
        end = place + draw.randrange(1, 40)
        content = draw.choice(
            (
                content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :],
                content[:place] + bytes([draw.randrange(128, 256)]) + content[place + 1 :],
                content[:place],
                content[:place] + content[end:],
                content[:end] + content[place:],
                content[:place] + draw.randbytes(draw.randrange(1, 8)) + content[place:],
                content + content,
            )
        )
    return content


def _flip(draw: random.Random, line: str, _: Sequence[str]) -> str:
    place = draw.randrange(len(line) + 1)
    flipped = "".join(chr(ord(character) ^ (1 << draw.randrange(7))) for character in line[place : place + 1])
    return line[:place] + flipped + line[place + 1 :]


def _truncate(draw: random.Random, line: str, _: Sequence[str]) -> str:
    return line[: draw.randrange(len(line) + 1)]


def _delete(draw: random.Random, line: str, _: Sequence[str]) -> str:
    place = draw.randrange(len(line) + 1)
    return line[:place] + line[place + draw.randrange(1, 20) :]


def _duplicate(draw: random.Random, line: str, _: Sequence[str]) -> str:
    place = draw.randrange(len(line) + 1)
    return line[: place + draw.randrange(1, 60)] + line[place:]


def _insert(draw: random.Random, line: str, _: Sequence[str]) -> str:
    place = draw.randrange(len(line) + 1)
    return line[:place] + draw.choice(TOKENS) + line[place:]


def _concatenate(draw: random.Random, line: str, others: Sequence[str]) -> str:
    return line + draw.choice(("", "\n", ",", " ")) + draw.choice(others)


def _splice(draw: random.Random, line: str, others: Sequence[str]) -> str:
    other = draw.choice(others)
    return line[: draw.randrange(len(line) + 1)] + other[draw.randrange(len(other) + 1) :]


def _wrap(draw: random.Random, line: str, _: Sequence[str]) -> str:
    before, after = draw.choice((("[", "]"), (" ", " "), ("\ufeff", ""), ('{"usage":', "}"), ('"', '"'), ("\n", "")))
    return before + line + after


def _change_field(draw: random.Random, line: str, _: Sequence[str]) -> str:
    """Change one value, leave one field out, name one twice or swap two, so that the line stays JSON."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return line
    inner = values.get("usage") if isinstance(values, dict) else None
    whole = inner if isinstance(inner, dict) and inner else values
    if not isinstance(whole, dict) or not whole:
        return line
    one, other = draw.choice(list(whole)), draw.choice(list(whole))
    match draw.randrange(6):
        case 0:
            whole[one] = draw.choice(_VALUES)
        case 1:
            del whole[one]
        case 2:
            whole[one], whole[other] = whole[other], whole[one]
        case 3:
            whole[draw.choice(FIELDS)] = whole.pop(one)
        case 4:
            return json.dumps(values)[:-1] + f',"{one}":{json.dumps(draw.choice(_VALUES))}}}'
        case _:
            return json.dumps(dict(draw.sample(sorted(values.items(), key=str), len(values))))
    return json.dumps(values, separators=(",", ":"), ensure_ascii=draw.random() < 0.5)


_VALUES: Final[tuple[Any, ...]] = (
    *(
        "",
        "-",
        "0",
        "-1",
        "200",
        "999",
        "12ab",
        "1.5",
        "1.555",
        "1e3",
        "nan",
        "9" * 13,
        "9" * 500,
        " 1",
        "1 ",
        "+1",
        "\uff11",
    ),
    *(0, -1, 200, 10**12, 10**13, 10**400, 1.5, 1e300, True, False, None, [], {}, ["a"], {"a": 1}),
    *("a b", "#", "@acme", "k#1", "é", "\u0000", '"', "\\", "x" * 65, "x" * 300, "2026-11-22T05:00:00Z", "2026-11-22"),
    *(
        "1795325400000",
        "1795325400",
        "0",
        "99999999999999999999",
        1795325400000,
        "9999-12-31T23:59:59Z",
        "1:13",
        "2:11",
    ),
)

_MUTATIONS: Final[tuple[Callable[[random.Random, str, Sequence[str]], str], ...]] = (
    *(_flip, _truncate, _delete, _duplicate, _insert, _concatenate, _splice, _wrap),
    *(_change_field, _change_field, _change_field, _insert),
)

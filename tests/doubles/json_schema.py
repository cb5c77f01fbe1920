"""What ``--json`` prints, held to the schema that says so to users."""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jsonschema_rs import Draft202012Validator

SCHEMA: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "infra" / "cli" / "json_schema.json").read_text()
)
COMMANDS: Final = {name for name in SCHEMA["$defs"] if name[0].islower()}
"""The commands that it describes; what they share begins with a capital."""

EXERCISED: Final = set[str]()
"""The commands of which this run has seen a document."""

WHERE: Final = "infra/cli/json_schema.json says what each command prints: add or mend"


def hold(arguments: Sequence[str], out: str) -> None:
    """Fail if a command line with ``--json`` printed something that the schema does not describe."""
    if "--json" not in arguments or not out:
        return
    words = [word for word in arguments if not word.startswith("-")]
    name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in COMMANDS), "")
    assert name, f"{WHERE} '$defs/{' '.join(words[:2])}'"
    for document in _documents(out):
        wrong = min((_wrong(place, document) for place in _places(name)), key=len)
        assert not wrong, f"{WHERE} '$defs/{name}'; {'; '.join(wrong)}"
    EXERCISED.add(name)


def _documents(out: str) -> Iterator[Any]:
    """Yield each document, of which a command that goes on prints several."""
    decoder, place = json.JSONDecoder(), 0
    while out[place:].strip():
        place += len(out[place:]) - len(out[place:].lstrip())
        document, place = decoder.raw_decode(out, place)
        yield document


def _places(name: str) -> list[str]:
    """Return the schema of a command, or each of which one holds."""
    place = f"#/$defs/{quote(name)}"
    return [f"{place}/oneOf/{number}" for number in range(len(SCHEMA["$defs"][name].get("oneOf", ())))] or [place]


def _wrong(place: str, document: Any) -> list[str]:
    return [
        f"{'.'.join(map(str, error.instance_path))}: {error.message}"
        for error in _validator(place).iter_errors(document)
    ]


@cache
def _validator(place: str) -> Draft202012Validator:
    return Draft202012Validator({**_closed(SCHEMA), "$ref": place}, validate_formats=True)


def _closed(schema: Any) -> Any:
    """Return a schema that takes no field which it does not describe; users' own pass over these."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(one) for name, one in schema.items()}
    return (
        {"additionalProperties": False, **closed}
        if schema.get("type") == "object" and "properties" in schema
        else closed
    )

"""What a request for usage may ask, and how its lines are answered: as JSON or for a spreadsheet."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from metering.model.periods import Hour
from metering.portal.http import LONGEST_SHOWN, ProblemError
from metering.portal.lines import Line

LONGEST_RANGE: Final = timedelta(days=366)
MOST_BYTES: Final = 6_000_000
"""Of what a Lambda may answer, which is 6 MB (Lambda quotas), with some room for its headers."""

LESS: Final = "ask for less time, for a longer period in by, for one metric, or for no dimension"

_FORMULA: Final = re.compile(r"(^|[;\t\r\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?=[\t\r\n])")
"""Where a cell begins, or would where another character separates them, that a spreadsheet takes for a formula."""

_COLUMNS: Final = ("period", "metric", "value", "quantity", "scale", "state")

_FIRST_YEAR: Final = 2020
_LAST_YEAR: Final = 2100


def span(from_: str, to: str, now: datetime) -> tuple[Hour, Hour]:
    """Return the hours that are asked for: from the first up to the second, exclusive."""
    this_hour = Hour.containing(now)
    first = _hour("from", from_) if from_ else this_hour.month_begin
    end = _hour("to", to) if to else this_hour.next()
    if first >= end:
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"from must be before to; got {first} and {end}")
    if end.start - first.start > LONGEST_RANGE:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"from and to must be {LONGEST_RANGE.days} days apart at most; got {first} and {end}",
        )
    return first, end


def _hour(name: str, text: str) -> Hour:
    try:
        asked = Hour.parse(text if "T" in text else f"{text}T00")
    except ValueError as error:  # a month or day that there is not
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"{name} must be a date or hour that exists; got {text!r}"
        ) from error
    if not _FIRST_YEAR <= asked.start.year < _LAST_YEAR:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"{name} must be from {_FIRST_YEAR} on and before {_LAST_YEAR}; got {text!r}"
        )
    return asked


def check_bound(most: int, first: Hour, end: Hour) -> None:
    """Raise ProblemError where more hours are asked for than one answer may be about."""
    asked = end.number - first.number
    if asked > most:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"one answer of this kind is about {most:,} hours at most; got {asked:,}, from {first} to {end}: {LESS}",
        )


def check_size(body: str) -> str:
    """Return an answer's body; raise ProblemError if Lambda would not take it, which writes it as JSON in JSON."""
    size = len(json.dumps(body))
    if size > MOST_BYTES:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"an answer has {MOST_BYTES:,} bytes at most, and this one would have {size:,}: {LESS}",
        )
    return body


def check_known(name: str, given: str, known: Sequence[str]) -> None:
    """Raise ProblemError for a name that there is not; an empty one asks for all."""
    if given and given not in known:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"{name} must be one of {', '.join(known)}; got {given[:LONGEST_SHOWN]!r}"
        )


def row(line: Line, scales: Mapping[str, int]) -> dict[str, Any]:
    """Return a line as it is answered."""
    return {
        "period": line.period,
        "metric": line.metric,
        "value": line.value,
        "quantity": line.quantity,
        "scale": scales.get(line.metric, 0),
        "state": line.standing.name.lower(),
    }


def as_csv(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None) -> str:
    """Return lines as a table for a spreadsheet; ``names`` are what keys are called.

    The first columns are those of 1.0.0. No line has an amount: tiers, packages and rounding make one of a period.
    """
    written = io.StringIO()
    table = csv.writer(written, quoting=csv.QUOTE_ALL)
    table.writerow((*_COLUMNS, "starts_at_utc", "quantity_decimal", "name"))
    for row in rows:
        value = row["value"] or ""
        beside = (_moment(row["period"]), _decimal(row["quantity"], row["scale"]), _text((names or {}).get(value, "")))
        table.writerow((*{**row, "value": _text(value)}.values(), *beside))
    return written.getvalue()


def _text(written: str) -> str:
    """Return what a spreadsheet takes for text, also where it would have taken it for a formula."""
    return _FORMULA.sub(r"\1'", written)


def _moment(period: str) -> str:
    """Return when a period begins, as every spreadsheet reads it: without the T and Z that some take for text."""
    day, _, hour = period.partition("T")
    return f"{day if len(day) == len('2026-11-22') else f'{day}-01'} {hour or '00'}:00:00"


def _decimal(quantity: int, scale: int) -> str:
    """Return a quantity with its decimals, exactly."""
    if not scale:
        return str(quantity)
    digits = str(abs(quantity)).rjust(scale + 1, "0")
    return f"{'-' * (quantity < 0)}{digits[:-scale]}.{digits[-scale:]}"

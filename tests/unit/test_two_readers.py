"""Formats of others, in both ways from a line to a bill: they refuse the same, and read the same."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.local.aws.log_line import render
from infra.operate.recount.raw_connected import ConnectedReader, in_front
from infra.operate.recount.raw_formats import RawFormat
from infra.operate.recount.raw_lines import Record, UnreadableError, hour_of
from metering.model.access_log import Partly, Reader, Rejected
from metering.model.foreign_format import ForeignFormat, FormatError, compile_format, extended, unwrapped
from metering.model.line_forms import forms_of
from metering.model.measuring import measure
from metering.model.metrics import declared
from metering.model.periods import LATEST_RECORD, Hour, epoch_ms
from metering.model.subjects import source_of_key
from tests.doubles.access_log import NONCE
from tests.doubles.foreign import Foreign, foreign
from tests.doubles.hostile import FORMAT, GUESSED, HOSTILE

Fields = dict[str, str] | str | None
"""What is read of a line; None of another stage's, or why nothing is."""

UNREADABLE = "unreadable"
HOUR = Hour.parse("2026-11-22T05")
NOW = HOUR.end - LATEST_RECORD - timedelta(milliseconds=1)


def counted(drawn: Foreign, line: str) -> Fields:
    """Return what the way that counts reads."""
    try:
        return _compiled(drawn).fields(line)
    except ValueError:
        return UNREADABLE


def _compiled(drawn: Foreign) -> ForeignFormat:
    one = drawn.connection
    api_id = one.api_id if one.shares_log else ""
    compiled = compile_format(one.log, one.after.format, drawn.metrics, stage=one.stage, api_id=api_id)
    return replace(compiled, alone=one.alone)


def recounted(drawn: Foreign, line: str) -> Fields:
    """Return what the recount reads."""
    try:
        return RawFormat(drawn.connection).fields(line, drawn.metrics)
    except UnreadableError:
        return UNREADABLE


def in_both_ways(drawn: Foreign, line: str) -> Fields:
    """Return what both ways read of a line, which must be the same."""
    first, second = counted(drawn, line), recounted(drawn, line)
    if isinstance(first, dict) and isinstance(second, dict):
        assert {name: first[name] for name in second} == second
        assert {value for name, value in first.items() if name not in second} <= {"-"}
    else:
        assert first == second
    return second


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_any_format_and_line_is_read_alike_in_both_ways(chance: Random) -> None:
    """I5: they have no code in common, and either refuse it both, or read the same."""
    drawn = foreign(chance)
    in_both_ways(drawn, drawn.line)
    in_both_ways(drawn, drawn.other)


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_any_line_of_a_stages_own_format_adds_up_alike_in_both_ways(chance: Random) -> None:
    """I1, I5: also where a metric was declared later, for which the format lacks something."""
    drawn = foreign(chance)
    for line in (drawn.line, drawn.other):
        first, second = tallied(drawn, line), recorded(drawn, line)
        assert first == second or (first == UNREADABLE and is_nobodys_here(drawn, line))


def is_nobodys_here(drawn: Foreign, line: str) -> bool:
    """Say whether a line is of another stage, or of a time that only the way that counts looks at.

    Of either the recount reads no further, and it bills nobody of any hour that can be recounted.
    """
    try:
        fields = RawFormat(drawn.connection).fields(line, ())
        return fields is None or not Hour.containing(NOW - timedelta(days=60)) <= hour_of(fields) <= HOUR
    except UnreadableError:
        return False


def tallied(drawn: Foreign, line: str) -> str | Record | None:
    """Return what the way that counts makes of a line, as a record of the recount."""
    reader = Reader(NOW, drawn.metrics, forms_of([drawn.connection], (NONCE,), drawn.metrics))
    found = reader.read(line)
    if found is None or isinstance(found, Rejected):
        return None if found is None else UNREADABLE
    record, bad = (found.good, found.bad.metrics) if isinstance(found, Partly) else (found, ())
    if record.key == "-":
        return None
    others = [metric for metric in drawn.metrics if metric.name not in bad]
    usage = measure([record], others, declared(drawn.metrics))
    hour, source = Hour.of_epoch_ms(epoch_ms(record.time)), source_of_key(record.key)
    amounts = usage.cells[hour, source].quantities() if usage.cells else {}
    values = {metric: value for metric, (value,) in usage.seen.get((hour, source), {}).items()}
    return Record(record.request_id, hour, source, amounts, values, bad=tuple(sorted(bad)))


def recorded(drawn: Foreign, line: str) -> str | Record | None:
    """Return what the recount makes of a line, without what is nothing."""
    try:
        found = ConnectedReader(lambda _: drawn.metrics, (NONCE,)).read([drawn.connection], line)
    except UnreadableError:
        return UNREADABLE
    if found is None:
        return None
    amounts = {meter: amount for meter, amount in found.amounts.items() if amount}
    return replace(found, amounts=amounts, bad=tuple(sorted(found.bad)))


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_what_is_read_is_what_api_gateway_wrote_whatever_stands_in_texts(chance: Random) -> None:
    """I7: no text of a caller's or an authorizer's makes another field, or another value of one."""
    drawn = foreign(chance)
    read = in_both_ways(drawn, drawn.line)
    if not isinstance(read, dict):
        return
    log, wrote = drawn.connection.log, {name: _told(name, value) or "-" for name, value in drawn.values.items()}
    key = drawn.values[log.variable] or "-"
    assert read["key"] == (key if key == "-" else f"{log.prefix}{key}")
    for name in read.keys() & wrote.keys() - {"stage"}:
        assert read[name] == wrote[name]


def _told(name: str, value: str) -> str:
    """Return a value without the quotes that a claim may be told in."""
    return value.strip('"') if name.startswith("authorizer.claims.") else value


def test_formats_and_lines_at_random_are_of_every_kind() -> None:
    """Else the tests above would hold nobody to anything."""
    chance, seen = Random(1), Counter[str]()
    for _ in range(3000):
        drawn = foreign(chance)
        try:
            _compiled(drawn)
        except FormatError:
            seen["refused"] += 1
            continue
        for line in (drawn.line, drawn.other):
            read = in_both_ways(drawn, line)
            seen["read" if isinstance(read, dict) else read or "another stage's"] += 1
    assert seen["refused"] > 300
    assert seen["read"] > 300
    assert seen[UNREADABLE] > 300
    assert seen["another stage's"] > 30


@pytest.mark.parametrize("seed", range(3))
def test_many_formats_at_random_are_read_alike(seed: int) -> None:
    """The same, for more of them than are drawn above."""
    chance = Random(seed)
    for _ in range(1000):
        drawn = foreign(chance)
        in_both_ways(drawn, drawn.line)
        in_both_ways(drawn, drawn.other)


@pytest.mark.parametrize("raw", [True, False], ids=["as it is", "escaped"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_our_line_in_front_of_theirs_is_found_alike_in_both_ways(text: str, *, raw: bool) -> None:
    """I7: whatever stands in it and behind it, it ends where the nonce says."""
    theirs = '{"agent":"$context.identity.userAgent","client":"$context.authorizer.client"}'
    for value in (text, f'{text}"end":"{GUESSED}"}}'):
        values = {"authorizer.client": value, "identity.userAgent": value, "authorizer.user": value}
        line = render(extended(FORMAT, theirs), values, raw=raw)
        ours = render(FORMAT, values, raw=raw)
        assert unwrapped(line, (GUESSED[::-1], NONCE)) == in_front(line, (GUESSED[::-1], NONCE)) == ours
    for nonce in (GUESSED, GUESSED[::-1]):
        with pytest.raises(ValueError, match="not the extended format"):
            unwrapped(render(extended(FORMAT, theirs), {}), (nonce,))
        with pytest.raises(UnreadableError):
            in_front(render(extended(FORMAT, theirs), {}), (nonce,))

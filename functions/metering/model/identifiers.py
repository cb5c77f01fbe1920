"""Identifiers: what Stripe knows a posting by, and when it is dated. Pure."""

import hashlib
import re
from typing import Final

from metering.model.periods import Hour
from metering.model.subjects import Kind, Subject, short_id

LAST_EPOCH: Final = 99

_IDENTIFIER: Final = re.compile(
    r"[0-9a-f]{1,6}\.(~?[A-Za-z0-9_-]+)\.([a-z0-9_]+)\.([\dT-]+)\.r[0-9a-z]{1,16}", re.ASCII
)
_EPOCH: Final = re.compile(r"(\d{1,2})([0-9a-f]{4})?", re.ASCII)

_IN_DIGITS: Final = 10_000
"""Revisions below this are written in decimal digits."""

_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def epoch_of(ledger_epoch: str, deployment: str) -> str:
    """Return what a deployment's identifiers begin with: its ledger's epoch, and four digits that stand for its name.

    Stripe keeps identifiers unique in the whole account, which two deployments may share.
    """
    return f"{ledger_epoch}{hashlib.sha256(deployment.encode()).hexdigest()[:4]}"


def identifier(epoch: str, subject: Subject, metric: str, hour: Hour, revision: int) -> str:
    """Return what Stripe knows a posting by: derived, unique to this revision, at most 100 characters."""
    if subject.kind is not Kind.CUSTOMER:
        raise ValueError(f"only a customer's usage is posted, got {subject}")
    return f"{epoch}.{short_id(subject.id)}.{metric}.{hour}.r{_written(revision)}"


def _written(revision: int) -> str:
    """Return a revision in four characters at most: in digits, from ``_IN_DIGITS`` on to the base of 36 from ``a000``.

    That lasts for 1.2 million of them; an hour is closed at most every five minutes, for two months.
    """
    if revision < _IN_DIGITS:
        return str(revision)
    left, letters = revision - _IN_DIGITS + int("a000", 36), ""
    while left:
        left, letter = divmod(left, len(_LETTERS))
        letters = _LETTERS[letter] + letters
    return letters


def named_by(known_as: str) -> tuple[str, str, Hour]:
    """Return the customer's short id, metric and hour of an identifier; raise ValueError if it is none of ours."""
    match = _IDENTIFIER.fullmatch(known_as)
    if match is None:
        raise ValueError(f"no identifier of ours: {known_as[:100]!r}")
    return match[1], match[2], Hour.parse(match[3])


def ends_with(known_as: str, revision: int) -> bool:
    """Say whether an identifier is one of this revision."""
    return known_as.endswith(f".r{_written(revision)}")


def next_date(hour: Hour, epoch: str, *, after: int) -> int:
    """Return when the next posting of a total is dated: in the hour's last ten minutes, and after all before it.

    So an hour in which a subscription begins is billed. Of an hour's events the one counts that Stripe got last; should
    it be the one that is dated last, it is the same (I4). A restored ledger knows nothing of the postings since its
    backup, so that each epoch has a part of the ten minutes for itself, and the first ones, being the usual ones, the
    largest. A total that is posted more often than its part has seconds stays at the last one: there both are dated
    alike, and the last arrival counts. Dates are in seconds since 1970; ``after`` is 0 where nothing was posted before.
    """
    if (written := _EPOCH.fullmatch(epoch)) is None:
        raise ValueError(f"an epoch is a number of two digits, and four that stand for a deployment, got {epoch!r}")
    number, end = int(written[1]), int(hour.end.timestamp())
    begin, last = end - _left_in(number), end - _left_in(number + 1) - 1
    return max(after, min(max(after + 1, begin), last))


def _left_in(epoch: int) -> int:
    """Return how many seconds are left of an hour when an epoch's part of it begins: 598 in the first, then 347."""
    return 500 // epoch + LAST_EPOCH - epoch


FIRST_DATED_S: Final = _left_in(1)
"""Seconds before an hour's end at which its first posting is dated; a restored ledger's are dated later."""


def first_dated(hour: Hour) -> int:
    """Return when an hour's first posting is dated, in seconds since 1970."""
    return int(hour.end.timestamp()) - FIRST_DATED_S

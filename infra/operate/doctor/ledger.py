"""Checks of what is closed, billed, left over, and still valid."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Final

from infra.operate import redrive
from infra.operate.access import in_words
from infra.operate.access_notes import AccessNotes
from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import Finding, broken, named, ok, warning
from metering.billing.standing import MOST_COUNTED, standing
from metering.layout import FAILED_BATCHES
from metering.model.periods import Hour, due_before
from metering.model.usage_row import WhyHeld
from metering.stores.gate_list import GateList
from metering.stores.limits import LimitItems

HOURS_BEHIND: Final = 2
"""So many due hours may be under way."""

MOST_NAMED: Final = 10
MOST_SHOWN: Final = 100
MOST_BATCHES: Final = 1_000


def check_closing(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """See how far the hours are closed."""
    cursor, due = deployment.ledger.progress.cursor(), due_before(now)
    if cursor is None:
        yield warning("no hour is closed yet", "run this again a quarter of an hour after the next full hour")
    elif (behind := due.number - cursor.number) > HOURS_BEHIND:
        yield broken(
            f"{behind} hours are due and not closed, from {cursor} on", "metering close says what waits and why"
        )
    else:
        yield ok(f"every hour before {cursor} is closed")


def check_posting(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """Say whether usage is billed at all."""
    switch = deployment.switch.read()
    if switch.on:
        yield ok(f"posting is on: everything since {switch.since} is billed")
    else:
        since = Hour.parse(switch.since) if switch.since else Hour(0)
        waiting = deployment.ledger.rows.pending_count(since, most=MOST_COUNTED)
        yield warning(
            "posting is off, so that nothing is billed" + f": {_many(waiting)} customers' hours wait" * bool(waiting),
            "metering posting on, once the numbers are right",
        )


def check_standing(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Count what is not billed as things stand: rejected, waiting for Stripe although it is old, or held (I9)."""
    found = standing(deployment.ledger.rows, deployment.switch.read().first, now)
    if found.rejected:
        yield broken(
            f"{_many(found.rejected)} customers' hours hold usage that Stripe refused for good",
            "metering rejected list says why; mend it at Stripe, then metering rejected retry --all",
        )
    if found.unposted:
        yield broken(
            f"{_many(found.unposted)} customers' hours that ended over an hour ago wait for Stripe",
            "metering close says why",
        )
    if poor := found.held[WhyHeld.NO_STRIPE_CUSTOMER]:
        yield warning(
            f"{poor:,} hours of customers without a Stripe customer are held, and nobody is billed for them",
            "metering customers subscribe, or metering customers add with --stripe-customer; then they are posted",
        )
    if old := found.held[WhyHeld.TOO_OLD]:
        yield warning(
            f"{old:,} customers' hours are held as too old for Stripe: each is carried once a subscription bills it",
            "metering customers subscribe; then metering reconcile, or the next hourly run, carries them",
        )
    if not (found.rejected or found.unposted or any(found.held.values())):
        yield ok("no usage is rejected or held")


def _many(count: int) -> str:
    return f"{count:,}{' or more' * (count >= MOST_COUNTED)}"


def check_set_aside(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """Count what was set aside and waits, of the first :data:`MOST_BATCHES` of which anything is kept."""
    looked_at = [*islice(deployment.set_aside.batches(), MOST_BATCHES + 1)]
    entries = [*islice(redrive.waiting(deployment, looked_at[:MOST_BATCHES]), MOST_SHOWN)]
    if not entries:
        first = f" of the first {MOST_BATCHES:,} batches: metering set-aside list reads them all"
        yield ok(f"nothing is set aside that waits{first * (len(looked_at) > MOST_BATCHES)}")
        return
    reasons = sorted({reason for entry in entries for reason in entry.reasons})
    left, batches = sum(entry.left for entry in entries), f"{len(entries)}{'+' * (len(entries) == MOST_SHOWN)}"
    yield warning(
        f"{left:,} lines of {batches} batches are set aside and not billed: {reasons[0]}{', ...' * (len(reasons) > 1)}",
        "metering set-aside list shows why; mend the cause, then metering set-aside redrive --all, or dismiss them",
    )


def check_dead_letters(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See whether a batch, or on the road over Firehose an object, failed for good."""
    s3 = deployment.client("s3")
    listed = s3.list_objects_v2(Bucket=deployment.outputs.bucket, Prefix=FAILED_BATCHES, MaxKeys=MOST_SHOWN)
    failed = listed.get("KeyCount", 0)
    if failed:
        yield broken(
            f"{failed}{'+' * bool(listed.get('IsTruncated'))} batches failed for good and are not counted",
            "read the log of record_usage, mend the cause, then metering set-aside redrive --all",
        )
    queue = deployment.outputs.failed_objects
    waiting = 0
    if queue:
        wanted = ["ApproximateNumberOfMessages"]
        answer = deployment.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=wanted)
        waiting = int(answer["Attributes"][wanted[0]])
    if waiting:
        yield broken(
            f"about {waiting} objects of the access log could not be counted in ten tries",
            "read the log of record_usage, mend the cause, then start the dead-letter redrive of the queue",
        )
    if not failed and not waiting:
        yield ok("no batch failed for good")


def check_rotations(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """See whether replaced keys are still valid that should not be."""
    rotations = [*AccessNotes(deployment.client("dynamodb"), deployment.outputs.ledger_table).rotations()]
    due = [rotation for rotation in rotations if rotation.is_due(now)]
    if due:
        names = ", ".join(f"{rotation.old} of {rotation.customer}" for rotation in due)
        yield broken(
            f"replaced keys still open what they should not: {names}", "metering customers rotate-key --finish"
        )
    for rotation in rotations:
        if not rotation.until:
            do = f"metering customers rotate-key {rotation.customer} --key {rotation.old}"
            yield warning(f"the rotation of the key {rotation.old} of {rotation.customer} was interrupted", do)
    if not due and all(rotation.until for rotation in rotations):
        yield ok(
            f"{len(rotations)} replaced keys are still valid, as they should be"
            if rotations
            else "no replaced key is valid"
        )


def check_closed(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Say whose keys are closed and why, and of whom not all are; without limits nobody is on a list."""
    if not deployment.outputs.access_table:
        return
    dynamodb = deployment.client("dynamodb")
    listed = GateList(dynamodb, deployment.outputs.access_table).closed()
    closed = [name for name, _ in islice(listed, MOST_SHOWN + 1)]
    limits = LimitItems(dynamodb, deployment.outputs.ledger_table)
    known = [limits.of(name) for name in closed[:MOST_SHOWN]]
    if left := [one.name for one in known if one.gate.left]:
        yield warning(
            f"keys are left as they are that should be closed, of {named(left, len(left), MOST_NAMED)}",
            "metering customers show says why: there is no slow lane, no usage plan, or it calls a connected API",
        )
    else:
        number = f"{len(known)}{'+' * (len(closed) > MOST_SHOWN)}"
        whose = (f"{one.name} {', '.join(map(in_words, one.reasons(now)))}".strip() for one in known)
        why = f": {named(whose, len(known), MOST_NAMED)}" if known else ""
        yield ok(f"the keys of {number} customers are closed, as they should be{why}")

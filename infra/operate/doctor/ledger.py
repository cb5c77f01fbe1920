"""Checks of what is closed, billed, left over, and still valid."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Final

from infra.operate import redrive
from infra.operate.access import in_words
from infra.operate.access_notes import AccessNotes
from infra.operate.deployment import Deployment
from infra.operate.doctor.findings import Finding, broken, in_quantities, named, ok, warning
from infra.operate.keys import bills_by_key, is_value, masked_key
from infra.operate.posting import before_posting
from infra.operate.words import count
from metering.billing.snapshots import KEY_OF_NOBODY
from metering.billing.standing import MOST_COUNTED, standing
from metering.layout import FAILED_BATCHES
from metering.limits.usage_plans import looks_like_value
from metering.model.periods import Hour, due_before
from metering.model.subjects import key
from metering.model.unbilled import OPEN_PERIOD
from metering.model.usage_row import State, WhyHeld
from metering.stores.aws import side_by_side
from metering.stores.gate_list import GateList
from metering.stores.limits import LimitItems
from metering.stores.marks import MOST_COUNTED as MOST_MARKS_COUNTED

HOURS_BEHIND: Final = 2
"""So many due hours may be under way."""

MARKS_AT_A_TIME: Final = 1_600
"""So many late marks a run deals with at a time: fewer wait for the next one as a rule."""

MOST_KEYS: Final = 500
"""The rows of so many keys are read: for each a query of those of 35 days."""

MOST_LISTED: Final = 5_000
"""Keys of the directory that are looked at for values: one read, of less than 1 MB."""

MOST_VALUES: Final = 20
"""Keys that may be values of which it is looked up whether usage came by them, in all rows of whoever had them."""

MOST_NAMED: Final = 10
MOST_SHOWN: Final = 100
MOST_BATCHES: Final = 1_000


def check_closing(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """See how far the hours are closed."""
    cursor, due = deployment.ledger.progress.cursor(), due_before(now)
    behind = due.number - cursor.number if cursor else 0
    if cursor is None:
        yield warning("no hour is closed yet", "run this again a quarter of an hour after the next full hour")
    elif behind > HOURS_BEHIND:
        yield broken(
            f"{count(behind, 'hour is', 'hours are')} due and not closed, from {cursor} on",
            "metering close says what waits and why",
        )
    marks = deployment.counters.marks.late_count(due)
    if marks > MARKS_AT_A_TIME:
        yield warning(
            f"{marks:,}{' or more' * (marks >= MOST_MARKS_COUNTED)} late marks wait: hours that are to be "
            "closed again, since something changed in them",
            "metering close deals with them now, else the next runs do; if they do not become fewer, read the log of "
            "close_periods",
        )
    elif cursor is not None and behind <= HOURS_BEHIND:
        wait = f", and {marks:,} late marks wait for the next run" if marks else ""
        yield ok(f"every hour before {cursor} is closed{wait}")


def check_posting(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Say whether usage is billed at all, and how much is not since posting began later (I9)."""
    switch = deployment.switch.read()
    if switch.on:
        lately = before_posting(deployment, switch, first=Hour.containing(now - OPEN_PERIOD))
        ever = before_posting(deployment, switch)
        if lately:
            are = "is" if lately == 1 else "are"
            yield warning(
                f"{_hours(lately)} of the last {OPEN_PERIOD.days} days {are} from before posting began with "
                f"{switch.since}, and never billed",
                "nothing, if they were to be free; else metering posting on with --since and the first hour to bill",
            )
        older = f", and {_hours(ever)} from before {'is' if ever == 1 else 'are'} not" if ever else ""
        yield ok(f"posting is on: everything since {switch.since} is billed{older}")
    else:
        since = Hour.parse(switch.since) if switch.since else Hour(0)
        waiting = deployment.ledger.rows.pending_count(since, most=MOST_COUNTED)
        yield warning(
            "posting is off, so that nothing is billed" + f": {_hours(waiting, 'waits', 'wait')}" * bool(waiting),
            "metering posting on, once the numbers are right",
        )


def check_standing(deployment: Deployment, now: datetime) -> Iterator[Finding]:
    """Count what is not billed as things stand: rejected, waiting for Stripe although it is old, or held (I9)."""
    found = standing(deployment.ledger.rows, deployment.switch.read().first, now)
    if found.rejected:
        yield broken(
            f"{_hours(found.rejected, 'holds', 'hold')} usage that Stripe refused for good",
            "metering rejected list says why; mend it at Stripe, then metering rejected retry --all",
        )
    if found.unposted:
        wait = "waits" if found.unposted == 1 else "wait"
        yield broken(
            f"{_hours(found.unposted)} that ended over an hour ago {wait} for Stripe",
            "metering close says why",
        )
    if poor := found.held[WhyHeld.NO_STRIPE_CUSTOMER]:
        yield warning(
            f"{count(poor, 'hour')} of customers without a Stripe customer {'is' if poor == 1 else 'are'} held, and "
            "nobody is billed for that",
            "metering customers subscribe, or metering customers add with --stripe-customer; then they are posted",
        )
    if old := found.held[WhyHeld.TOO_OLD]:
        yield warning(
            f"{_hours(old, 'is', 'are')} held as too old for Stripe: each is carried once a subscription bills it",
            "metering customers subscribe; then metering reconcile, or the next hourly run, carries them",
        )
    keys, looked_at = _of_nobody(deployment, now)
    if keys:
        names = (f"{name} ({in_quantities(used)})" for name, used in sorted(keys.items()))
        yield warning(
            f"usage of the last {OPEN_PERIOD.days} days is held under "
            f"{count(len(keys), 'key that belongs', 'keys that belong')} to no customer: "
            f"{named(names, len(keys), MOST_NAMED)}",
            "metering customers add ID --name NAME --key KEY --from HOUR bills it, metering keys exclude leaves it out",
        )
    if not (found.rejected or found.unposted or any(found.held.values()) or keys):
        first = f"; of the keys, the first {MOST_KEYS:,} were looked at: metering usage shows all" if looked_at else ""
        yield ok(f"no usage is rejected or held{first}")


def _of_nobody(deployment: Deployment, now: datetime) -> tuple[dict[str, Counter[str]], bool]:
    """Return what is held under keys of nobody, by key and metric, and whether there are more keys than are read."""
    since = deployment.switch.read().since
    end = Hour.containing(now).next()
    first = max(Hour.parse(since) if since else Hour(0), Hour.containing(now - OPEN_PERIOD))
    names = deployment.ledger.holders.key_ids(most=MOST_KEYS + 1)

    def held(name: str) -> Counter[str]:
        used: Counter[str] = Counter()
        for row in deployment.ledger.rows.of(key(name), first, end):
            for metric, total in row.totals.items():
                if total.state is State.HELD and total.reason == KEY_OF_NOBODY:
                    used[metric] += total.quantity
        return +used

    wanted = names[:MOST_KEYS]
    found = zip(wanted, side_by_side(held, wanted), strict=True)
    return {name: used for name, used in found if used}, len(names) > MOST_KEYS


def _hours(number: int, does: str = "", do: str = "") -> str:
    """Say how many customers' hours there are, and what each, or all of them, do."""
    one, many = f"customer's hour {does}".strip(), f"customers' hours {do}".strip()
    return count(number, one, many, more=number >= MOST_COUNTED)


def check_set_aside(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """Count what was set aside and waits, of the first :data:`MOST_BATCHES` of which anything is kept."""
    looked_at = [*islice(deployment.set_aside.batches(), MOST_BATCHES + 1)]
    entries = [*islice(redrive.waiting(deployment, looked_at[:MOST_BATCHES]), MOST_SHOWN)]
    if not entries:
        first = f" of the first {MOST_BATCHES:,} batches: metering set-aside list reads them all"
        yield ok(f"nothing is set aside that waits{first * (len(looked_at) > MOST_BATCHES)}")
        return
    reasons = sorted({reason for entry in entries for reason in entry.reasons})
    left = sum(entry.left for entry in entries)
    lines = count(left, "line"), count(len(entries), "batch", more=len(entries) == MOST_SHOWN)
    yield warning(
        f"{' of '.join(lines)} {'is' if left == 1 else 'are'} set aside and not billed: "
        f"{reasons[0]}{', ...' * (len(reasons) > 1)}",
        "metering set-aside list shows why; mend the cause, then metering set-aside redrive --all, or dismiss them",
    )


def check_dead_letters(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See whether a batch, or on the road over Firehose an object, failed for good."""
    s3 = deployment.client("s3")
    listed = s3.list_objects_v2(Bucket=deployment.outputs.bucket, Prefix=FAILED_BATCHES, MaxKeys=MOST_SHOWN)
    failed = listed.get("KeyCount", 0)
    if failed:
        yield broken(
            f"{count(failed, 'batch', more=bool(listed.get('IsTruncated')))} failed for good and "
            f"{'is' if failed == 1 else 'are'} not counted",
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
        number = count(len(known), "customer", more=len(closed) > MOST_SHOWN)
        whose = (f"{one.name} {', '.join(map(in_words, one.reasons(now)))}".strip() for one in known)
        why = f": {named(whose, len(known), MOST_NAMED)}" if known else ""
        yield ok(f"the keys of {number} are closed, as they should be{why}")


def check_values(deployment: Deployment, _now: datetime) -> Iterator[Finding]:
    """See whether keys' values are stored in the place of their ids, as an older version took them (I8)."""
    if not bills_by_key(deployment):
        return
    names = deployment.ledger.holders.key_ids(most=MOST_LISTED)
    long = [name for name in names if looks_like_value(name)]
    holdings = deployment.ledger.holders.of_keys(long[:MOST_VALUES])
    values = [name for name, holding in holdings.items() if is_value(deployment.ledger, holding)]
    if not values:
        first = f" of the first {MOST_LISTED:,}" * (len(names) == MOST_LISTED)
        yield ok(f"no stored key{first} looks like a key's value")
        return
    said = count(len(values), "stored key looks", "stored keys look", more=len(long) > MOST_VALUES)
    yield warning(
        f"{said} like a value (the secret): {', '.join(dict.fromkeys(map(masked_key, values)))}",
        "metering keys forget, with how it begins, takes one out; give the customer its key's id, and a new key since "
        "copies stay in backups",
    )

"""What connecting a stage will do, said before anything is done. Pure: a stage as it is and the ledger in, words out.

| case | the stage | what is done |
| --- | --- | --- |
| A | has no access log | it writes our format into a log group that is made for it |
| B | writes a log that has all that a bill needs | it is left alone; its log group is subscribed to |
| C | writes JSON that lacks something | with ``--extend`` our line is put in front as the field ``metering`` |
| D | writes to Firehose, or text that lacks something | nothing: the lines to paste are shown |
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Final

import msgspec

from infra.operate.connections.callers import caller_of
from infra.operate.connections.refusing import (
    anybody,
    name_taken,
    no_role,
    no_room,
    not_ours_to_change,
    other_callers,
    read_by_another,
)
from infra.operate.connections.snippets import lines_to_paste, own_log
from infra.operate.connections.stage import LiveStage, group_of
from infra.operate.connections.telling import not_logged, steps, told
from infra.operate.connections.terms import Case, Place, Refusal, Wishes, is_as_left, named_after
from infra.operate.deployment import OperatorError
from metering.model.connections import NAME_PATTERN, Connection, Form, StageLog, Step, is_name
from metering.model.foreign_format import FormatError, compile_format, extended
from metering.model.log_format import API_KEY, LONGEST_FORMAT, AccessLog
from metering.model.metrics import declared

LOGS_USD_PER_GB: Final = 0.50
COUNTING_USD_PER_MILLION: Final = 0.374
_LENGTHS: Final = {"extendedRequestId": 16, "requestId": 16, "requestTimeEpoch": 13, "status": 3, "httpMethod": 4}
_LENGTH: Final = 12
"""What values take in a line: those that are always alike, and a guess for the others."""

PRICES: Final = "us-east-1, 2026-11; infra/stack/README.md, What it costs"
"""CloudWatch Logs' price for an access log, and what counting costs at 100 requests/s by subscription."""


_FORMS: Final = {Case.NO_LOG: Form.OURS, Case.IN_PLACE: Form.THEIRS, Case.EXTEND: Form.EXTENDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be done. ``connection`` is as it will be written, but for when; nothing is done with ``refusals``.

    ``former`` is the connection that the stage has, or had, in the ledger. ``done`` says that it is connected, and as
    it was left: then all is looked at again, and what lacks is made good. ``line_bytes`` are those that each request
    adds to a log.
    """

    case: Case
    stage: LiveStage
    connection: Connection
    former: Connection | None
    done: bool
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    line_bytes: int

    @property
    def usd_per_million(self) -> float:
        """What a million requests cost more than now, in dollars."""
        return self.line_bytes * 1e6 / 2**30 * LOGS_USD_PER_GB + COUNTING_USD_PER_MILLION


def plan(stage: LiveStage, place: Place, wishes: Wishes, ledger: Sequence[Connection]) -> Plan:
    """Return what connecting a stage will do, and why not, if so; ``ledger`` are all connections that there are.

    Raises OperatorError for what no other option would change.
    """
    former = _former(stage, ledger)
    _check(stage, place, wishes, former)
    if former and _stands(former, stage, place):
        return _again(stage, place, wishes, former)
    log, unclear = ours(stage, place, wishes, ledger)
    case, after, unfit = _case(stage, place, log, extend=wishes.extend)
    bearer = next((one for one in ledger if one.name == log.connection), None)
    connection = Connection(
        name=log.connection,
        form=_FORMS.get(case, Form.THEIRS),
        step=Step.CONNECTING,
        log_group=group_of(after.destination),
        since=0,
        by="",
        api=stage.api,
        api_id=stage.api_id,
        api_name=stage.api_name,
        stage=stage.name,
        caller=log.caller,
        keys_apart=log.keys_apart,
        before=stage.log,
        after=after,
        shares_log=_bound(stage, place, log) if case is Case.IN_PLACE else case is Case.EXTEND and bool(stage.sharing),
        alone=case is Case.IN_PLACE and stage.is_alone,
        version=bearer.version if bearer else 0,
    )
    return Plan(
        case=case,
        stage=stage,
        connection=connection,
        former=former if former and former.step is not Step.DISCONNECTED else None,
        done=False,
        steps=() if case is Case.REFUSED else tuple(steps(stage, place, wishes, connection)),
        notes=()
        if case is Case.REFUSED
        else (*told(stage, wishes, connection), *not_logged(stage, place, connection.log)),
        refusals=(
            *unclear,
            *unfit,
            *not_ours_to_change(stage, wishes, case),
            *no_role(stage, wishes, case),
            *no_room(stage, place, case),
            *read_by_another(stage, connection, ledger),
        ),
        line_bytes=_line_bytes(place, log) if connection.form in (Form.OURS, Form.EXTENDED) else 0,
    )


def ours(
    stage: LiveStage, place: Place, wishes: Wishes, ledger: Sequence[Connection]
) -> tuple[AccessLog, tuple[Refusal, ...]]:
    """Return what a stage would write for us, by its name and its callers, and why not, if so.

    Raises OperatorError for a name, or a caller, that is none.
    """
    if wishes.name and not is_name(wishes.name):
        raise OperatorError(f"a connection's name is written {NAME_PATTERN}, got {wishes.name[:40]!r}")
    former = _former(stage, ledger)
    name = wishes.name or (former.name if former else _name(stage, ledger))
    caller, unclear = caller_of(stage, wishes)
    bearer = next((one for one in ledger if one.name == name), None)
    log = AccessLog(stage.api, caller, name, place.access_log.variable != API_KEY)
    taken = (*name_taken(name, stage, wishes, bearer), *other_callers(log, wishes, bearer))
    return log, (*unclear, *taken, *anybody(stage, place, log))


def _former(stage: LiveStage, ledger: Sequence[Connection]) -> Connection | None:
    """Return the connection that a stage has, or else the last that it had."""
    its = [one for one in ledger if (one.api_id, one.stage) == (stage.api_id, stage.name)]
    return max(its, key=lambda one: (one.step is not Step.DISCONNECTED, one.since), default=None)


def _check(stage: LiveStage, place: Place, wishes: Wishes, former: Connection | None) -> None:
    if group_of(stage.log.destination) == place.access_log_group:
        end = ""
        if former and former.step is not Step.DISCONNECTED:
            end = f"; end its connection by 'metering disconnect {former.name} --keep-log'"
        raise OperatorError(f"{stage} writes into this deployment's own access log: there is nothing to connect{end}")
    if former is None or (former.step is Step.DISCONNECTED and not _stands(former, stage, place)):
        return
    if former.step is Step.DISCONNECTING:
        raise OperatorError(
            f"{stage} is being disconnected: go on with 'metering disconnect {former.name}', then connect it again"
        )
    if wishes.name not in ("", former.name) or wishes.caller not in ("", former.log.variable):
        again = (
            f"'metering connect {stage.api_id} {quote(stage.name)}' and " if former.step is Step.DISCONNECTED else ""
        )
        raise OperatorError(
            f"{stage} writes as the connection {former.name}, which bills {former.log.variable}: for another name or "
            f"caller, say {again}'metering disconnect {former.name}' first"
        )


def _stands(former: Connection, stage: LiveStage, place: Place) -> bool:
    """Say whether a stage is as its connection left it, or found it where that has not been done yet.

    Where it was left alone, its format must still do for the metrics, and for who else writes into the log group.
    """
    left = is_as_left(former, stage.log, place.nonce)
    if former.step is Step.DISCONNECTED:
        return left and former.form is not Form.THEIRS  # with --keep-log
    if former.form is Form.THEIRS and left:
        try:
            return _bound(stage, place, former.log) is former.shares_log
        except FormatError:
            return False
    return left or (former.step is Step.CONNECTING and stage.log == former.before)


def _again(stage: LiveStage, place: Place, wishes: Wishes, former: Connection) -> Plan:
    """Return the plan of a connection that was begun, is there, or left its format behind.

    Metrics that have come to name other variables since are in the format then, and others that write into the log
    group are known.
    """
    after, unfit = _after(former, place)
    shares_log = former.shares_log or (former.form is Form.EXTENDED and bool(stage.sharing))
    alone = former.form is Form.THEIRS and stage.is_alone
    connection = former
    if former.step is Step.DISCONNECTED:
        anew = {"step": Step.CONNECTING, "since": 0, "until": 0, "after": after, "shares_log": shares_log}
        connection = msgspec.structs.replace(former, **anew)
    elif (after, shares_log, alone) != (former.after, former.shares_log, former.alone):
        read = {"after": after, "shares_log": shares_log, "alone": alone}
        connection = msgspec.structs.replace(former, step=Step.CONNECTING, **read)
    case = next(case for case, form in _FORMS.items() if form is former.form)
    return Plan(
        case=case,
        stage=stage,
        connection=connection,
        former=None,
        done=connection.step is Step.CONNECTED,
        steps=tuple(steps(stage, place, wishes, connection)),
        notes=(*told(stage, wishes, connection), *not_logged(stage, place, connection.log)),
        refusals=(
            *unfit,
            *anybody(stage, place, connection.log),
            *no_role(stage, wishes, case),
            *no_room(stage, place, case),
        ),
        line_bytes=0 if unfit or former.form is Form.THEIRS else _line_bytes(place, connection.log),
    )


def _after(former: Connection, place: Place) -> tuple[StageLog, tuple[Refusal, ...]]:
    """Return the access log that a connected stage is to have by the metrics as they are now, and why not, if so."""
    if former.form not in (Form.OURS, Form.EXTENDED):
        return former.after, ()
    try:
        written = former.log.format(place.nonce, declared(place.metrics))
        if former.form is Form.EXTENDED:
            written = extended(written, former.before.format)
    except ValueError as error:
        return former.after, (Refusal(str(error), "deploy the stack again, then say this again"),)
    return StageLog(former.after.destination, written), ()


def _name(stage: LiveStage, ledger: Sequence[Connection]) -> str:
    """Return a name for a stage: its API's, with the stage's where another stage of that API bears it."""
    name = named_after(stage.api_name, "api", stage.api_id)
    taken = any(one.name == name and one.api_id == stage.api_id for one in ledger)
    return named_after(f"{name[: 31 - len(stage.name)]}-{stage.name}", "api", stage.api_id) if taken else name


def _case(
    stage: LiveStage, place: Place, log: AccessLog, *, extend: bool
) -> tuple[Case, StageLog, tuple[Refusal, ...]]:
    """Return what was found, the access log that the stage is to have, and why not, if so."""
    try:
        ours = log.format(place.nonce, declared(place.metrics))
    except ValueError as error:
        return Case.REFUSED, stage.log, (Refusal(str(error), "deploy the stack again, then connect"),)
    wanted = StageLog(f"{place.group_arn}{place.connected_logs}{log.connection}", ours)
    if not stage.log.destination:
        return Case.NO_LOG, wanted, ()
    if not group_of(stage.log.destination):
        return (
            Case.REFUSED,
            stage.log,
            (
                Refusal(
                    f"{stage} writes to Firehose ({stage.log.destination.rpartition('/')[2]}), and a stage has one "
                    "destination",
                    "give it this one, and whoever reads the stream a copy of the log group; --print says it in your "
                    "tool's words",
                    lines_to_paste(own_log(place, log)),
                ),
            ),
        )
    try:
        _bound(stage, place, log)
    except FormatError as error:
        return _lacking(stage, place, log, error, extend=extend)
    return Case.IN_PLACE, stage.log, ()


def _bound(stage: LiveStage, place: Place, log: AccessLog) -> bool:
    """Say whether each line of a stage's own format can be held to name its API and the stage.

    Where others write into the log group, too, it must. Raises FormatError for a format that does not do for a bill.
    """
    try:
        compile_format(log, stage.log.format, place.metrics, stage=stage.name, api_id=stage.api_id)
    except FormatError:
        if stage.sharing:
            raise
        compile_format(log, stage.log.format, place.metrics, stage=stage.name)
        return False
    return True


def _lacking(
    stage: LiveStage, place: Place, log: AccessLog, error: FormatError, *, extend: bool
) -> tuple[Case, StageLog, tuple[Refusal, ...]]:
    """Return what is to become of a stage whose own format does not do for a bill."""
    ours = log.format(place.nonce, declared(place.metrics))
    try:
        longer = extended(ours, stage.log.format)
    except FormatError as unfit:
        why = f"{stage} writes a format of its own, and {error}; {unfit}"
        way_out = "give it this format, then connect it again"
        return Case.REFUSED, stage.log, (Refusal(why, way_out, (_mended(stage, place, log, error) or ours,)),)
    after = StageLog(stage.log.destination, longer)
    if extend:
        return Case.EXTEND, after, ()
    way_out = "say --extend to put our line in front of it, as the field metering; the rest stays as it is"
    return Case.EXTEND, after, (Refusal(f"{stage} writes JSON of its own, and {error}", way_out),)


def _mended(stage: LiveStage, place: Place, log: AccessLog, error: FormatError) -> str:
    """Return a stage's own format, with what it lacks in front and without callers' text that must not be there.

    Nothing if it still would not do.
    """
    text = stage.log.format
    for variable in error.in_the_way:
        text = re.sub(rf"\$context\.{re.escape(variable)}(?![\w.:-])", "-", text)
    front = "".join(f"$context.{variable} " for variable in (*error.lacking, *error.to_move))
    mended = StageLog(stage.log.destination, front + text)
    if len(mended.format.encode()) > LONGEST_FORMAT:
        return ""
    try:
        _bound(replace(stage, log=mended), place, log)
    except FormatError:
        return ""
    return mended.format


def _line_bytes(place: Place, log: AccessLog) -> int:
    """Return about how many bytes a line of ours has."""
    text = log.format(place.nonce, declared(place.metrics))
    return len(re.sub(r"\$context\.([\w.:-]+)", lambda found: "0" * _LENGTHS.get(found[1], _LENGTH), text))

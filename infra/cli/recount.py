"""The raw archive against the counters and the ledger."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from infra.cli.shared import (
    Connect,
    Json,
    err,
    hour,
    known_customer,
    now,
    on_deployment,
    out,
    print_json,
    progress,
)
from infra.cli.streams import goes_into_a_pipe
from infra.operate.recount.compared import Compared
from infra.operate.recount.recount import Recount
from infra.operate.words import count
from metering.model.periods import Hour, due_before
from metering.model.subjects import Kind

app: Final = typer.Typer()

_LINE: Final = "{:<13}  {:<20}  {:<24}  {:>12}  {:>12}  {:>12}  {:>10}  {:>10}  {:>11}  {}"
_HEADER: Final = (
    "period",
    "customer",
    "metric",
    "recounted",
    "counted",
    "ledger",
    "corrected",
    "set aside",
    "difference",
    "",
)


@on_deployment(app, "recount")
def recount(
    connect: Connect,
    customer_id: Annotated[str | None, typer.Argument(metavar="CUSTOMER", help="One customer.")] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Every customer, and the keys that have none; shows what differs.")
    ] = False,
    only_hour: Annotated[Hour | None, typer.Option("--hour", parser=hour, metavar="HOUR", help="This hour.")] = None,
    first: Annotated[
        Hour | None, typer.Option("--from", parser=hour, metavar="HOUR", help="From this hour on, instead.")
    ] = None,
    end: Annotated[
        Hour | None,
        typer.Option(
            "--to", parser=hour, metavar="HOUR", help="The hour to stop before; the last that is over if none."
        ),
    ] = None,
    ahead: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=62 * 24,
            metavar="HOURS",
            help="Look for late lines so long after their hour (2; usage lines 24).",
        ),
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Correct what differs, hour by hour; makes no bill less.")] = False,
    lower: Annotated[
        bool,
        typer.Option("--lower", help="With --fix: also what makes a bill less, for which the log was read up to now."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Count the raw archive again, and compare it with the counters and the ledger; exits with 1 if they differ.

    Distinct values are compared by month: give --from with the month's first hour. Each hour is printed, and with --fix
    corrected, when it is done; one of which less was logged than counted is looked at again up to now, and comes last.
    Doing it again corrects nothing twice. An hour that the log no longer holds whole is refused.
    """
    if (customer_id is None) != everyone:
        raise typer.BadParameter("name a customer, or give --all for every one")
    if lower and not fix:
        raise typer.BadParameter("--lower says what --fix may do: give both")
    moment = now()
    begin, stop = _wanted(only_hour, first, end, due_before(moment))
    deployment = connect()
    if customer_id is not None:
        known_customer(deployment.ledger, customer_id)
    who = deployment.who() if fix else ""
    with err.status("reading what was set aside"):
        work = Recount(deployment, customer_id, moment, ahead)
    _say_left_out(work, begin, stop)
    report = _Report(everyone, as_json)
    going = progress("recounting", as_json or goes_into_a_pipe())
    for lines in going(work.compare(begin, stop), stop.number - begin.number):
        report.add([work.fix(line, who, lower=lower) if fix and (line.stays or line.void) else line for line in lines])
    report.end(work.unreadable, work.broken)
    if report.staying:
        raise typer.Exit(1)


def _say_left_out(work: Recount, begin: Hour, stop: Hour) -> None:
    for month in work.months_left_out(begin, stop):
        err.print(f"distinct values of {month} are left out: they need --from {month}-01 and all hours since")
    if words := work.usage_lines_left_out(begin, stop):
        err.print(words)


def _wanted(only_hour: Hour | None, first: Hour | None, end: Hour | None, over: Hour) -> tuple[Hour, Hour]:
    """Return the first hour that is asked for, and the one to stop before."""
    if (only_hour is None) == (first is None) or (only_hour is not None and end is not None):
        raise typer.BadParameter("give --hour, or --from and perhaps --to")
    begin = only_hour or first
    stop = only_hour.next() if only_hour else end or over
    if begin is None or begin >= stop:
        raise typer.BadParameter(f"--from must be before --to, got {begin} and {stop}")
    return begin, stop


@dataclass(slots=True)
class _Report:
    """Prints lines as they come, or one JSON document at the end."""

    only_differences: bool
    as_json: bool
    equal: int = 0
    fixed: int = 0
    staying: int = 0
    document: list[dict[str, Any]] | None = None

    def add(self, lines: Iterable[Compared]) -> None:
        """Take in an hour's lines."""
        for line in lines:
            self._add(line)

    def _add(self, line: Compared) -> None:
        self.fixed += line.fixed
        self.staying += line.stays
        is_plain = not (line.fixed or line.stays or line.waiting or line.note)
        self.equal += is_plain
        if self.only_differences and is_plain:
            return
        if self.document is None:
            self.document = []
            if not self.as_json:
                out.print(_LINE.format(*_HEADER).rstrip())
        if self.as_json:
            self.document.append(_json(line))
        else:
            out.print(_text(line))

    def end(self, unreadable: int, broken: Sequence[str]) -> None:
        """Print what is to be said of all lines, and which objects are broken."""
        if self.as_json:
            print_json(self.document or [])
        else:
            err.print(f"{self.equal:,} equal, {self.fixed:,} fixed, {self.staying:,} different")
        if unreadable and not self.as_json:
            err.print(
                f"{count(unreadable, 'line')} cannot be counted as they stand: 'metering set-aside list' shows them"
            )
        for key in broken:
            err.print(f"{key} is not gzip to its end: nothing after its last whole chunk is counted, here or there")


def _text(line: Compared) -> str:
    whose = line.subject.id if line.subject.kind is Kind.CUSTOMER else f"(key {line.subject.id})"
    said = [line.note, "the ledger is closed again" if line.fixed and line.stale else "", "fixed" if line.fixed else ""]
    if line.stale and not line.fixed:
        said.append("the ledger holds another count")
    return _LINE.format(
        line.period,
        whose,
        line.metric,
        f"{line.recounted:,}",
        f"{line.counted:,}",
        "-" if line.ledger is None else f"{line.ledger:,}",
        f"{line.corrected:+,}" if line.corrected else "-",
        f"{line.waiting:,}" if line.waiting else "-",
        f"{line.difference:+,}" if line.difference else "0",
        "; ".join(filter(None, said)),
    ).rstrip()


def _json(line: Compared) -> dict[str, Any]:
    is_customer = line.subject.kind is Kind.CUSTOMER
    return {
        "period": line.period,
        "customer": line.subject.id if is_customer else None,
        "key": None if is_customer else line.subject.id,
        "metric": line.metric,
        "recounted": line.recounted,
        "counted": line.counted,
        "ledger": line.ledger,
        "corrected": line.corrected,
        "set_aside": line.waiting,
        "difference": line.difference,
        "lowers": line.difference < 0,
        "stale": [str(hour) for hour in line.stale],
        "fixed": line.fixed,
        "note": line.note,
    }

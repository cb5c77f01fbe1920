"""What the stack refuses when it is synthesised, in a sentence each: settings out of bounds.

CloudFormation or Stripe would find out much later.
"""

import re
from collections.abc import Sequence
from typing import Final, cast

import aws_cdk as cdk
from aws_cdk import aws_logs as logs

from infra.stack.delivery import AT_ONCE
from infra.stack.ingest import Road
from metering.model.connections import callers_write
from metering.model.identifiers import LAST_EPOCH
from metering.model.log_format import NONCE_PATTERN, AccessLog, Api
from metering.model.periods import COUNTER_LIFE, Hour
from metering.model.prices import Plan

LEAST_READS: Final = 1000
"""With fewer reads in 30 days hardly anybody would be looked at; Stripe allots ten times as many at least."""

SHORTEST_ARCHIVE: Final = COUNTER_LIFE.days
"""As long as counters live they may have to be recounted."""


def check_road(road: Road, access_log: AccessLog, archive_days: int) -> None:
    """Raise ValueError for a road that this kind of API cannot take, or an archive that is kept too briefly."""
    if road is Road.FIREHOSE and access_log.api is not Api.REST:
        raise ValueError(
            f"{access_log.api.noun} cannot write its access log to Firehose: leave road out, or use a REST API"
        )
    if archive_days < SHORTEST_ARCHIVE:
        raise ValueError(
            f"archive_days must be {SHORTEST_ARCHIVE} or more, as long as counters live, got {archive_days}"
        )


def check_compared(kind: Api) -> None:
    """Raise ValueError for a kind of API whose requests CloudWatch does not count by themselves."""
    if kind is Api.WEBSOCKET:
        raise ValueError(
            "CloudWatch counts a WebSocket API's messages in both directions (MessageCount), which no number of lines "
            "compares with: leave compare_with out; that every line is counted is compared all the same"
        )


def check_posting(stripe_rate: int, stripe_reads_a_month: int, streamed_from: str) -> None:
    """Raise ValueError for a pace or a beginning with which nothing could be posted."""
    for name, value, least in (
        ("stripe_rate", stripe_rate, 1),
        ("stripe_reads_a_month", stripe_reads_a_month, LEAST_READS),
    ):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
    if streamed_from:
        try:
            Hour.parse(streamed_from)
        except ValueError as error:
            raise ValueError(f"streamed_from: {error}") from error


def check_names(deployment: str, ledger_epoch: int, stripe_api_base: str, *, local: bool) -> None:
    """Raise ValueError for a name, an epoch or an address that Stripe's meters cannot have."""
    if not (cdk.Token.is_unresolved(deployment) or re.fullmatch(r"[A-Za-z0-9-]{1,40}", deployment)):
        raise ValueError(f"deployment must be 1 to 40 letters, digits or '-', got {deployment!r}")
    if not 1 <= ledger_epoch <= LAST_EPOCH:
        raise ValueError(f"ledger_epoch must be from 1 to {LAST_EPOCH}, got {ledger_epoch}")
    if not (stripe_api_base.startswith("https://") or local):
        raise ValueError(
            f"stripe_api_base must begin with https://, since the key is sent there, got {stripe_api_base!r}"
        )


def check_concurrency(record_usage: int | None, portal: int | None) -> None:
    """Raise ValueError for no execution at once, or fewer than the queue of Firehose's objects would start."""
    for name, given, least, wanted in (
        ("record_usage_concurrency", record_usage, AT_ONCE, f", {AT_ONCE} or more,"),
        ("portal_concurrency", portal, 1, " above zero,"),
    ):
        if given is not None and not (type(given) is int and given >= least):
            raise ValueError(f"{name} must be a whole number{wanted} or None, got {given!r}")


def check_nonces(**nonces: str | None) -> None:
    """Raise ValueError for a nonce that no line could begin with."""
    for name, given in nonces.items():
        if given and not re.fullmatch(NONCE_PATTERN, given):
            raise ValueError(f"{name} must match {NONCE_PATTERN}, got {given!r}")


LONGEST_GRACE: Final = 90
"""Days that an invoice may stay unpaid at most before its customer is stopped; Stripe itself tries for two months."""


def check_limits(plans: Sequence[Plan], limits: bool | None, *, alerts_from: str, unpaid_days: int | None) -> bool:  # noqa: FBT001 - as it was given
    """Return whether there are limits; raise ValueError where what was given contradicts itself or cannot be."""
    declared = [plan.name for plan in plans if plan.limits]
    if declared and limits is False:
        raise ValueError(f"the plan {declared[0]} has limits, and limits=False has nobody act on them: leave one out")
    wanted = bool(declared) if limits is None else limits
    for name, given in (("alerts_from", alerts_from), ("unpaid_days", unpaid_days)):
        if given not in ("", None) and not wanted:
            raise ValueError(f"{name} acts only where there are limits: declare some in a plan, or give limits=True")
    if alerts_from and not re.fullmatch(
        r"[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", alerts_from
    ):
        raise ValueError(
            f"alerts_from must be an address that SES may send from, 'alerts@example.com', got {alerts_from!r}"
        )
    if unpaid_days is not None and not (type(unpaid_days) is int and 0 <= unpaid_days <= LONGEST_GRACE):
        raise ValueError(f"unpaid_days must be a whole number from 0 to {LONGEST_GRACE}, or None, got {unpaid_days!r}")
    return wanted


def check_slowing(api: Api, *, has_limits: bool) -> None:
    """Raise ValueError where no key could ever be slowed."""
    if not has_limits:
        raise ValueError("nobody is ever slowed here: declare limits in a plan, or give the stack limits=True")
    if not api.bills_by_key:
        raise ValueError(f"{api.noun} has no usage plans, so that nobody can be slowed: use Stop(…), or a REST API")


def check_usage_log(log_group: logs.ILogGroup, ours: Sequence[logs.ILogGroup], *, begins: str) -> None:
    """Raise ValueError for a log group that callers' text gets into, or that is one of our own, also by its name.

    ``begins`` is how names begin that CloudWatch Logs itself delivers into: an HTTP API's, and connected stages'.
    """
    name, stack = log_group.log_group_name, cdk.Stack.of(ours[0])
    given = (stack.get_logical_id(cast("cdk.CfnElement", group.node.default_child)) for group in ours)
    beginnings = [*(f"{stack.stack_name}-{logical_id}-" for logical_id in given), begins]
    if name in [group.log_group_name for group in ours] or name.startswith(tuple(beginnings)):
        raise ValueError(
            f"the log group {log_group.node.path} belongs to metering itself, which would feed itself for ever: "
            "name the log group of your own code"
        )
    if written := callers_write(name):
        raise ValueError(f"{written}: let your own code write its usage lines into a log group of their own")

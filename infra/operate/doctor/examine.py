"""Whether a deployment is well: every check is made, each by itself, and none changes anything."""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from botocore.exceptions import ClientError

from infra.operate.deployment import Deployment
from infra.operate.doctor import account as health_account
from infra.operate.doctor import connections as health_connections
from infra.operate.doctor import corrections as health_corrections
from infra.operate.doctor import ledger as health_ledger
from infra.operate.doctor import limits as health_limits
from infra.operate.doctor import stages as health_stages
from infra.operate.doctor import stripe as health_stripe
from infra.operate.doctor import subscriptions as health_subscriptions
from infra.operate.doctor import way as health_way
from infra.operate.doctor.findings import Check, Finding, State, warning
from metering.stripe.client import StripeUnavailableError

CHECKS: Final[dict[str, Check]] = {
    "credentials": health_account.check_credentials,
    "clock": health_account.check_clock,
    "stack": health_account.check_stack,
    "version": health_account.check_version,
    "log role": health_stages.check_log_role,
    "stages": health_stages.check_stages,
    "connections": health_connections.check_connections,
    "billed lines": health_stages.check_billed,
    "subscription": health_way.check_subscription,
    "usage lines": health_way.check_usage_lines,
    "stream": health_way.check_stream,
    "functions": health_way.check_functions,
    "schedules": health_way.check_schedules,
    "closing": health_ledger.check_closing,
    "set aside": health_ledger.check_set_aside,
    "dead letters": health_ledger.check_dead_letters,
    "Stripe key": health_stripe.check_stripe_key,
    "meters": health_stripe.check_meters,
    "notifications": health_stripe.check_notifications,
    "reads": health_stripe.check_reads,
    "corrections": health_corrections.check_corrections,
    "posting": health_ledger.check_posting,
    "unbilled": health_ledger.check_standing,
    "invoices": health_stripe.check_invoices,
    "subscriptions": health_subscriptions.check_subscriptions,
    "limits": health_limits.check_limits,
    "keys": health_ledger.check_rotations,
    "closed keys": health_ledger.check_closed,
    "key values": health_ledger.check_values,
    "alarms": health_account.check_alarms,
    "API keys": health_account.check_api_keys,
    "concurrency": health_account.check_concurrency,
}

_DENIED: Final = re.compile(r"AccessDenied|Unauthorized|NotAuthorized|AuthorizationError|Forbidden")
_ACTION: Final = re.compile(r"perform: ([a-z0-9-]+:\w+)")


@dataclass(frozen=True, slots=True)
class Line:
    """What one check found."""

    check: str
    state: State
    said: str
    do: str

    def as_json(self) -> dict[str, Any]:
        """Return it as ``metering doctor --json`` prints it."""
        return asdict(self)


def examine(deployment: Deployment, clock: Callable[[], datetime]) -> Iterator[Line]:
    """Make every check and yield what it finds; one that cannot be made is a warning that says why."""
    for name, check in CHECKS.items():
        try:
            for finding in check(deployment, clock()):
                yield Line(name, finding.state, finding.said, finding.do)
        except Exception as error:  # noqa: BLE001 - whatever one check meets, the others are still made, and it is said
            finding = _unchecked(error)
            yield Line(name, finding.state, finding.said, finding.do)


def _unchecked(error: Exception) -> Finding:
    """Say why a check could not be made."""
    if isinstance(error, StripeUnavailableError) and error.do:
        return warning(f"could not be checked: {error}", error.do)
    if not isinstance(error, ClientError):
        return warning(f"could not be checked: {error or type(error).__name__}", "mend that, then run this again")
    code, words = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if _DENIED.search(code):
        named = _ACTION.search(words)
        action = named[1] if named else error.operation_name
        return warning(f"could not be checked: you have no permission for {action}", f"let your own role {action}")
    return warning(
        f"could not be checked: AWS answered {code} to {error.operation_name}: {words}",
        "mend that, then run this again",
    )

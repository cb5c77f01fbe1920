"""Each function's settings: written into its environment by the infrastructure, read once by the function.

A setting's variable is its field's name in capitals; ``environment`` writes what ``read`` reads, so that each is
spelled once.
"""

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Self


class SettingsError(ValueError):
    """A setting is missing or malformed; the message names its variable."""


@dataclass(frozen=True, slots=True)
class _Settings:
    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the settings, or raise SettingsError naming each variable that is missing."""
        needed = [one.name for one in fields(cls) if one.default is MISSING]
        missing = [name for name in map(_variable, needed) if not environ.get(name)]
        if missing:
            raise SettingsError(f"the environment must set {', '.join(missing)}")
        return cls(**{name: environ.get(_variable(name), "") for name in cls._names()})

    def environment(self) -> dict[str, str]:
        """Return the environment variables that hold these settings."""
        return {_variable(name): value for name in self._names() if (value := getattr(self, name))}

    @classmethod
    def _names(cls) -> list[str]:
        return [field.name for field in fields(cls)]


@dataclass(frozen=True, slots=True)
class RecordUsageSettings(_Settings):
    """What ``record_usage`` needs: its table, its bucket, and the metrics as :func:`metrics.encode` writes them.

    ``nonces``, with spaces between them, are those by which it knows the access log's lines.
    Lines of the log group ``access_log_group`` are access-log lines; how those of any other are read, ``ledger_table``
    says, which tells who holds a key, too. Metrics that count distinct values or deduplicate also need ``hash_secret``,
    which names the secret of their hashes.
    """

    counters_table: str
    bucket: str
    metrics: str
    nonces: str
    access_log_group: str
    ledger_table: str
    hash_secret: str = ""


@dataclass(frozen=True, slots=True)
class ClosePeriodsSettings(_Settings):
    """What ``close_periods`` needs: its tables, the function that posts what it has closed, and the metrics.

    These are as :func:`metrics.encode` writes them, and for ``record_usage`` the same. Where there are ``limits``, rows
    that are written anew are noted for them.
    """

    counters_table: str
    ledger_table: str
    post_usage_function: str
    metrics: str
    limits: str = ""


@dataclass(frozen=True, slots=True)
class PostUsageSettings(_Settings):
    """What ``post_usage`` needs.

    ``deployment`` begins the name of each Stripe meter; ``ledger_epoch`` begins each identifier and changes when the
    ledger was restored from a backup; ``stripe_secret`` names the secret that holds the restricted key. Stripe takes
    ``stripe_rate`` calls a second; hours from ``streamed_from`` on, if it is set, go by the event stream.
    """

    counters_table: str
    ledger_table: str
    deployment: str
    ledger_epoch: str
    stripe_secret: str
    stripe_api_base: str
    stripe_rate: str
    streamed_from: str = ""


@dataclass(frozen=True, slots=True)
class ReconcileUsageSettings(_Settings):
    """What ``reconcile_usage`` needs; ``stripe_reads_a_month`` is what Stripe allots.

    Where there are ``limits``, it notes what customers are subscribed to.
    """

    counters_table: str
    ledger_table: str
    deployment: str
    stripe_secret: str
    stripe_api_base: str
    stripe_reads_a_month: str
    limits: str = ""


@dataclass(frozen=True, slots=True)
class CheckCompletenessSettings(_Settings):
    """What ``check_completeness`` needs: what was counted, where the access log is written, and by which stages.

    ``delivery_stream`` is set on the road over Firehose; ``stages`` is what :func:`stages.encode` writes. Those that
    are connected are in ``ledger_table``, so that none needs a deployment.
    """

    counters_table: str
    ledger_table: str
    deployment: str
    access_log_group: str
    delivery_stream: str = ""
    stages: str = ""


@dataclass(frozen=True, slots=True)
class ReceiveEventsSettings(_Settings):
    """What ``receive_events`` needs; ``signing_secret`` names the secret that Stripe signs its notifications with.

    Where there are ``limits``, it notes what customers are subscribed to.
    """

    ledger_table: str
    deployment: str
    stripe_secret: str
    signing_secret: str
    stripe_api_base: str
    limits: str = ""


@dataclass(frozen=True, slots=True)
class ShowUsageSettings(_Settings):
    """What ``show_usage`` needs; ``portal_secret`` names the secret whose value signs tokens.

    Pages of ``portal_origins``, with spaces between them, may call it from browsers; none if it is empty. ``limits``
    says that there are some. ``stripe_portal_login`` is where customers log in at Stripe, if that is said.
    """

    counters_table: str
    ledger_table: str
    deployment: str
    portal_secret: str
    stripe_secret: str
    stripe_api_base: str
    portal_origins: str = ""
    limits: str = ""
    stripe_portal_login: str = ""


@dataclass(frozen=True, slots=True)
class WatchLimitsSettings(_Settings):
    """What ``watch_limits`` needs; what is declared is in its zip.

    It wakes the gate by ``gate_queue``. Where ``alerts_from`` is set, customers get e-mail from that address, which
    leads to the page at ``portal_url``. Whoever has not paid for ``unpaid_days`` is closed; nobody, if it is empty.
    """

    counters_table: str
    ledger_table: str
    access_table: str
    deployment: str
    gate_queue: str
    portal_url: str
    alerts_from: str = ""
    unpaid_days: str = ""


@dataclass(frozen=True, slots=True)
class EnforceLimitsSettings(_Settings):
    """What ``enforce_limits`` needs: ``api`` is the kind of API whose callers are closed, ``rest`` or ``http``."""

    ledger_table: str
    access_table: str
    deployment: str
    gate_queue: str
    api: str


@dataclass(frozen=True, slots=True)
class SetBudgetSettings(_Settings):
    """What ``set_budget`` needs; what is declared is in its zip. The rest as in :class:`ShowUsageSettings`.

    It has ``watch_limits_function`` look at whoever sets one.
    """

    ledger_table: str
    deployment: str
    portal_secret: str
    watch_limits_function: str
    portal_origins: str = ""


@dataclass(frozen=True, slots=True)
class AuthorizeCallsSettings(_Settings):
    """What ``authorize_calls`` needs: whose tokens it takes, for which ``audience`` (with spaces between several).

    ``claim`` names the caller. With ``fails_open`` callers may pass of whom it cannot be read whether they are stopped.
    """

    access_table: str
    issuer: str
    audience: str
    claim: str
    fails_open: str = ""


def _variable(name: str) -> str:
    return name.upper()

"""What the stack writes and the commands read: spelled here alone."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import version
from typing import Final

LAMBDA_TIMEOUT: Final = 900
"""Seconds that a function may run at most (Lambda quotas); a command that invokes one waits a little longer."""

VERSION: Final = version("serverless-metering")
"""The version of this code: of what is deployed with it, and of its commands."""

_WITHOUT_VERSION: Final = "1.0.0"
"""The only version whose stacks do not tell theirs."""

LONGEST_OUTPUT: Final = 1024
"""Characters of the longest output here: what CloudFormation takes of one's description (API Reference, "Output"); of
its value it names no limit."""

METADATA: Final = "Metering"
"""Where the template's metadata hold what ``app.py`` declares, for which an output would be too small."""

_TABLES: Final = {"counters_table", "ledger_table"}


class MissingOutputError(Exception):
    """An output that a stack does not have, in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """A metering stack's outputs. ``counters_table`` is the output ``CountersTable``, and so on.

    To the stack that writes them they may be CDK's tokens; to the commands that read them they are names and addresses.
    What a stack of another version does not have raises MissingOutputError when it is asked for, and not before: a
    command that needs none of it works on.
    """

    version: str = VERSION
    """The version that deployed the stack: its functions', and that of the format that stages are to write."""

    counters_table: str
    """The table of the counters."""

    ledger_table: str
    """The table of what is billed."""

    bucket: str
    """The bucket of what was set aside, of batches that failed, and of the archive."""

    road: str
    """How lines reach the counters: the value of an ``infra.stack.ingest.Road``."""

    access_log_group: str
    """The log group that the subscription brings to ``record_usage``."""

    connected_logs: str
    """How names of log groups begin that are made for connected stages; ends with a slash."""

    record_usage_function: str
    close_periods_function: str
    post_usage_function: str
    reconcile_usage_function: str
    check_completeness_function: str
    receive_events_function: str

    notifications_url: str
    """Where Stripe's notifications are to be sent."""

    show_usage_function: str

    portal_url: str
    """Where the customers' page is; ends with a slash."""

    portal_secret: str
    """The ARN of the secret that signs links to it."""

    stripe_secret: str
    """The ARN of the secret with Stripe's key, which has no value until somebody connects Stripe."""

    signing_secret: str
    """The ARN of the secret that Stripe signs its notifications with, which has no value until somebody gives it."""

    stripe_api_base: str
    """The address of Stripe's API."""

    stripe_reads_a_month: str
    """How many reads in 30 days Stripe allots, in digits."""

    deployment: str
    """What the names of Stripe's meters begin with."""

    metrics: str
    """The names of the metrics that have a meter, with commas between."""

    nonces: str
    """What the access log's lines begin and end with, the stack's own first, with spaces between."""

    alarm_topic: str
    """The ARN of the topic that alarms are told to."""

    dashboard: str
    """The name of CloudWatch's dashboard."""

    access_log_format: str | None = None
    """What a stage is to write, for whoever describes stages with another tool; where it is no longer than an output
    may be."""

    access_log_destination_arn: str | None = None
    """Where a stage is to write: the ARN of the log group, or of Firehose's stream."""

    delivery_stream: str | None = None
    """Firehose's stream, on its road alone."""

    failed_objects: str | None = None
    """The address of the queue of objects that could not be counted, on the road over Firehose alone."""

    access_table: str | None = None
    """The table of who is near a limit and who is closed; this and what follows only where there are limits."""

    watch_limits_function: str | None = None
    enforce_limits_function: str | None = None
    set_budget_function: str | None = None

    gate_queue: str | None = None
    """The address of the queue that wakes ``enforce_limits``."""

    @classmethod
    def read(cls, told: Mapping[str, str]) -> "Outputs":
        """Return what a stack told, by the outputs' names."""
        outputs = cls.__new__(cls)
        there = {field.name: told.get(_name(field.name)) for field in fields(cls)}
        vars(outputs).update({name: value for name, value in there.items() if value is not None})
        return outputs

    def __getattr__(self, name: str) -> str:
        """Return nothing, but say what is missing: only what was not told is looked for here."""
        if name in {field.name for field in fields(self)}:
            raise MissingOutputError(f"the stack has no {_name(name)}: another version deployed it. Deploy it again")
        raise AttributeError(name)

    @property
    def is_metering(self) -> bool:
        """Say whether they are a metering stack's at all."""
        return vars(self).keys() >= _TABLES

    @property
    def deployed_version(self) -> str:
        """The version that deployed the stack, also where it did not tell it yet."""
        return str(vars(self).get("version", _WITHOUT_VERSION))

    @property
    def missing(self) -> list[str]:
        """The names of those that a stack of this version has, and this one has not."""
        needed = [field.name for field in fields(self) if field.default is MISSING]
        return [_name(name) for name in needed if name not in vars(self)]

    def written(self) -> dict[str, str]:
        """Return the outputs that there are by their names, in their order."""
        values = {_name(field.name): getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def functions(self) -> list[str]:
        """The names of the functions among them, in the order of their outputs' names."""
        names = [name for name in sorted(field.name for field in fields(self)) if name.endswith("_function")]
        return [function for name in names if (function := getattr(self, name)) is not None]


def _name(field: str) -> str:
    """Return an output's name in a template, where names have no underscores."""
    return "".join(word.capitalize() for word in field.split("_"))

"""What the stack warns of when it is synthesised: settings that can be, and do less than is thought."""

from collections.abc import Callable, Sequence

import aws_cdk as cdk
import jsii
from aws_cdk import aws_apigateway as apigateway
from constructs import IValidation

from infra.stack.ingest import Road
from metering.model.limit_checks import can_stop, slows, warnings
from metering.model.log_format import Api
from metering.model.prices import Plan


def warn_of(stack: cdk.Stack, plans: Sequence[Plan], road: Road, api: Api, stripe_calls: int | None) -> None:
    """Warn of limits that act late, or without a bound, and of a setting that has no effect any more."""
    for late in warnings(plans, minutes_old=road is Road.FIREHOSE):
        cdk.Annotations.of(stack).add_warning_v2("metering:late-stop", late)
    limits = [limit for plan in plans for limit in plan.limits]
    stops = any(can_stop(limit) for limit in limits)
    if api.bills_by_key and stops:
        stack.node.add_validation(_Unbounded(stack))
    if not api.bills_by_key and any(slows(limit) for limit in limits):
        told = f"callers of {api.noun} are not slowed: a Slow is told like a Notify. Write Notify(...) or Stop(...)"
        cdk.Annotations.of(stack).add_warning_v2("metering:no-lane", told)
    if api is Api.WEBSOCKET and stops:
        told = (
            "whoever is connected to a WebSocket API stays connected when stopped: refuse it in the authorizer of "
            "$connect, by the table of the output AccessTable, and close its connections at the event of its stop"
        )
        cdk.Annotations.of(stack).add_warning_v2("metering:open-connections", told)
    if stripe_calls is not None:
        instead = "stripe_calls has no effect any more: stripe_reads_a_month is what Stripe allots you"
        cdk.Annotations.of(stack).add_warning_v2("metering:stripe_calls", instead)


@jsii.implements(IValidation)
class NoUsageLines:
    """Warns where a metric measures usage lines and no log group of the app is metered for them.

    It looks when the whole app is there. Of log groups that are connected later, ``metering doctor`` knows.
    """

    def __init__(self, stack: cdk.Stack, is_without: Callable[[], bool]) -> None:
        self._stack, self._is_without = stack, is_without

    def validate(self) -> list[str]:
        """Return nothing that is wrong: what it finds is a warning."""
        if self._is_without():
            cdk.Annotations.of(self._stack).add_warning_v2(
                "metering:no-usage-lines",
                "a metric measures usage lines, and none can arrive from this app: call meter_usage_lines(log_group), "
                "or connect a log group that is there by 'metering connect-log'",
            )
        return []


@jsii.implements(IValidation)
class _Unbounded:
    """Warns of each usage plan of the app that has no throttle: its keys may send any number until a stop acts.

    It looks when the whole app is there. A plan that was made elsewhere, ``metering doctor`` finds.
    """

    def __init__(self, stack: cdk.Stack) -> None:
        self._stack = stack

    def validate(self) -> list[str]:
        """Return nothing that is wrong: what it finds is a warning."""
        for made in self._stack.node.root.node.find_all():
            if isinstance(made, apigateway.CfnUsagePlan) and made.throttle is None:
                cdk.Annotations.of(made).add_warning_v2(
                    "metering:unbounded-stop",
                    f"the usage plan {made.node.path.removesuffix('/Resource')} has no throttle, so that what can "
                    "still come after a stop is unbounded: write for example "
                    "throttle=ThrottleSettings(rate_limit=10, burst_limit=20)",
                )
        return []

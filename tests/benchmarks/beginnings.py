"""What each function does once in a process: import its module, make its clients and parts.

One function for each handler, named after it. ``cold_start.py`` puts this file beside a bundle and calls one of them in
a fresh interpreter, so nothing is imported before. A handler whose parts are made otherwise is changed here.
"""
# ruff: noqa: PLC0415 - importing is what is measured


def record_usage() -> None:
    """From the log to the counters."""
    import record_usage

    record_usage._parts()


def close_periods() -> None:
    """From the counters to the ledger."""
    import close_periods

    close_periods._parts()


def post_usage() -> None:
    """From the ledger to Stripe."""
    import post_usage

    post_usage._parts()


def reconcile_usage() -> None:
    """The ledger against Stripe."""
    import reconcile_usage

    reconcile_usage._parts()


def receive_events() -> None:
    """From Stripe to the ledger."""
    import receive_events

    receive_events._receiver()


def watch_limits() -> None:
    """From the counters' stream to limits that act."""
    import watch_limits

    watch_limits._watcher()


def enforce_limits() -> None:
    """From limits that act to the gateway."""
    import enforce_limits

    enforce_limits._gate()


def set_budget() -> None:
    """The budget that a customer gives itself."""
    import set_budget

    set_budget._budgets()
    set_budget._cors()


def authorize_calls() -> None:
    """Whether a caller of an HTTP API is stopped."""
    import authorize_calls

    authorize_calls._authorizer()


def check_completeness() -> None:
    """The counters against what was written."""
    import check_completeness
    from metering.stores import aws

    check_completeness._sources()
    aws.cloudwatch()


def show_usage() -> None:
    """What a customer sees; its routes, too."""
    import show_usage
    from metering.portal.api import application

    show_usage._parts()
    application(cors=show_usage._cors())

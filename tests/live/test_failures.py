"""What is lost, and what comes back, where a part of the way is missing for a while (I1)."""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra.operate.customers import Customers, Entry
from infra.operate.recount.recount import Recount
from infra.operate.redrive import redrive
from metering.layout import ARCHIVE, FAILED_BATCHES
from metering.model.periods import Hour
from tests.live.points import ANYTHING
from tests.live.run import Run

ASYNCHRONOUS = "Lambda Developer Guide, 'Asynchronous invocation'"
SUBSCRIPTIONS = "CloudWatch Logs User Guide, 'Subscriptions': what cannot be retried is skipped for up to ten minutes"


@pytest.fixture(scope="module")
def customer(live: Run) -> str:
    """Whom the key is billed to: a recount corrects what has a customer."""
    deployment = live.deployment
    entry = Entry("live-customer-of-key", "Live", "", (live.key[0],))
    Customers(deployment.ledger, deployment.counters).add(entry, now=datetime.now(UTC))
    return entry.id


def test_lambda_takes_a_destination_that_may_not_write_into_the_archive(live: Run) -> None:
    """Whether ``record_usage`` can be denied to write what a recount trusts.

    Lambda asks whether the role may write anywhere; nobody says whether a denial of a part is looked at. It is asked
    once the role itself is denied, as a new policy is not felt everywhere at once: else the answer would tell nothing.
    """
    functions = live.cloud.client("lambda")
    function = live.deployment.outputs.record_usage_function
    point = "on-failure destination of a role that is denied a part of the bucket"
    with _denied_the_archive(live, function) as is_felt:
        if not is_felt:
            why_not = f"the role was still not denied after {live.cloud.patience_s:.0f} s"
            live.points.skip(point, expected=ANYTHING, source=ASYNCHRONOUS, why_not=why_not)
        try:
            present = functions.get_function_event_invoke_config(FunctionName=function)
        except functions.exceptions.ResourceNotFoundException:
            why_not = "the emulator's CloudFormation makes no such destination"
            live.points.skip(point, expected=ANYTHING, source=ASYNCHRONOUS, why_not=why_not)
        names = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig")
        kept = {name: present[name] for name in names if name in present}
        try:
            functions.put_function_event_invoke_config(FunctionName=function, **kept)
            observed = "taken"
        except ClientError as error:
            observed = str(error)
    live.points.note(point, expected=ANYTHING, observed=observed, source=ASYNCHRONOUS)


@contextmanager
def _denied_the_archive(live: Run, function: str) -> Iterator[bool]:
    """Deny a function's role to put what is in the archive, and tell whether it came to feel that."""
    iam, s3, bucket = live.cloud.client("iam"), live.cloud.client("s3"), live.deployment.outputs.bucket
    role = live.cloud.client("lambda").get_function_configuration(FunctionName=function)["Role"].rpartition("/")[2]
    archive = f"arn:{live.cloud.partition}:s3:::{bucket}/{ARCHIVE}*"
    deny = {"Effect": "Deny", "Action": "s3:PutObject", "Resource": archive}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    with live.acting_as(function) as session, contextlib.ExitStack() as ending:
        theirs = session.client("s3", endpoint_url=s3.meta.endpoint_url)
        ending.callback(theirs.close)
        # What is there already is not written again: so the role writes nothing, denied or not.
        probe = {"Bucket": bucket, "Key": f"{ARCHIVE}probe"}
        version = s3.put_object(**probe)["VersionId"]
        ending.callback(s3.delete_object, **probe, VersionId=version)
        live.wait(lambda: _put_again(theirs, probe) == "PreconditionFailed", "the role may put what is in the archive")
        iam.put_role_policy(RoleName=role, PolicyName="probe", PolicyDocument=policy)
        ending.callback(iam.delete_role_policy, RoleName=role, PolicyName="probe")
        is_felt = True
        try:
            live.wait(lambda: _put_again(theirs, probe) == "AccessDenied", "the role is denied the archive")
        except TimeoutError:
            is_felt = False
        yield is_felt


def _put_again(s3: Any, probe: dict[str, str]) -> str:
    """Return what is said to a put of what is there."""
    try:
        s3.put_object(**probe, IfNoneMatch="*")
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "taken"


def test_a_batch_that_fails_for_good_is_kept_and_redriven(live: Run) -> None:
    """Three attempts over some minutes; then the object, by which the requests are counted after all."""
    point = "requests of a batch of which every attempt failed"
    before = live.counted()
    s3, bucket = live.cloud.client("s3"), live.deployment.outputs.bucket

    def failed() -> list[str]:
        found = s3.list_objects_v2(Bucket=bucket, Prefix=FAILED_BATCHES).get("Contents", [])
        return [stored["Key"] for stored in found]

    with _broken_function(live):
        live.send(3)
        with contextlib.suppress(TimeoutError):
            live.wait(lambda: bool(failed()), "a batch is kept", patience_s=900 if live.cloud.is_aws else 15)
    kept = failed()
    for batch in kept:
        list(redrive(live.deployment, batch, doubtful=False))
    if kept:
        live.wait(lambda: live.counted() >= before + 3, "the requests are counted")
    live.points.beyond_the_emulator(
        point,
        expected={"kept": True, "counted after the redrive": 3},
        observed={"kept": bool(kept), "counted after the redrive": live.counted() - before},
        source=ASYNCHRONOUS,
        why_not="the emulator drops a batch of which every attempt failed",
    )


def test_lines_that_a_subscription_skipped_are_found_by_a_recount(live: Run, customer: str) -> None:
    """Without the permission the subscription stands still; the lines stay in the log group."""
    began = datetime.now(UTC)
    before, missed_before = live.counted(), _missed(live, customer, began)
    with _without_permission(live):
        live.send(3)
        if live.cloud.is_aws:
            live.wait(lambda: _delivery_errors(live, began) > 0, "a delivery was refused", patience_s=1_800)
    sent = 3

    def arrives() -> bool:
        nonlocal sent
        live.send(1)
        sent += 1
        with contextlib.suppress(TimeoutError):
            live.wait(lambda: live.counted() > before, "a request is counted", patience_s=60)
        return live.counted() > before

    live.wait(arrives, "the subscription delivers again", patience_s=1_800)
    live.wait(lambda: _is_quiet(live), "what was delivered is counted")
    skipped = sent - (live.counted() - before)
    found = _missed(live, customer, began) - missed_before
    live.points.note(
        "requests that a recount finds, of those that a subscription skipped",
        expected={"found": skipped, "skipped": True},
        observed={"found": found, "skipped": skipped > 0},
        source=SUBSCRIPTIONS,
    )


def _missed(live: Run, customer: str, since: datetime) -> int:
    """Return how many requests of the customer a recount finds that are not counted."""
    now = datetime.now(UTC)
    # As if the last hour were over: nothing is on its way any more.
    work = Recount(live.deployment, customer, Hour.containing(now).end + timedelta(minutes=11))
    hours = work.compare(Hour.containing(since), Hour.containing(now).next())
    return sum(line.difference for lines in hours for line in lines if line.metric == "requests")


@contextmanager
def _broken_function(live: Run) -> Iterator[None]:
    """Let ``record_usage`` look for a table that is not there."""
    functions, function = live.cloud.client("lambda"), live.deployment.outputs.record_usage_function
    variables = functions.get_function_configuration(FunctionName=function)["Environment"]["Variables"]

    def put(values: dict[str, str]) -> None:
        functions.update_function_configuration(FunctionName=function, Environment={"Variables": values})
        functions.get_waiter("function_updated_v2").wait(FunctionName=function)

    broken = {
        name: "nowhere" if value == live.deployment.outputs.counters_table else value
        for name, value in variables.items()
    }
    put(broken)
    try:
        yield
    finally:
        put(variables)


@contextmanager
def _without_permission(live: Run) -> Iterator[None]:
    """Take away what lets CloudWatch Logs call the function; the emulator asks for none, and loses the subscription."""
    if not live.cloud.is_aws:
        logs, group = live.cloud.client("logs"), live.deployment.outputs.access_log_group
        (there,) = logs.describe_subscription_filters(logGroupName=group)["subscriptionFilters"]
        logs.delete_subscription_filter(logGroupName=group, filterName=there["filterName"])
        try:
            yield
        finally:
            wanted = ("logGroupName", "filterName", "filterPattern", "destinationArn")
            logs.put_subscription_filter(**{name: there.get(name, "") for name in wanted})
        return
    functions, function = live.cloud.client("lambda"), live.deployment.outputs.record_usage_function
    policy = json.loads(functions.get_policy(FunctionName=function)["Policy"])
    statements = [one for one in policy["Statement"] if "logs" in str(one["Principal"])]
    for statement in statements:
        functions.remove_permission(FunctionName=function, StatementId=statement["Sid"])
    try:
        yield
    finally:
        for statement in statements:
            functions.add_permission(FunctionName=function, **_permission(statement))


def _permission(statement: dict[str, Any]) -> dict[str, str]:
    """Return what AddPermission wants to make a statement of a function's policy again."""
    condition = statement.get("Condition", {})
    given = {
        "StatementId": statement["Sid"],
        "Action": statement["Action"],
        "Principal": statement["Principal"]["Service"],
        "SourceArn": condition.get("ArnLike", {}).get("AWS:SourceArn"),
        "SourceAccount": condition.get("StringEquals", {}).get("AWS:SourceAccount"),
    }
    return {name: value for name, value in given.items() if value}


def _delivery_errors(live: Run, since: datetime) -> float:
    """Return how many deliveries of the access log CloudWatch Logs could not make."""
    points = live.cloud.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/Logs",
        MetricName="DeliveryErrors",
        Dimensions=[{"Name": "LogGroupName", "Value": live.deployment.outputs.access_log_group}],
        StartTime=since,
        EndTime=datetime.now(UTC),
        Period=60,
        Statistics=["Sum"],
    )["Datapoints"]
    return sum(float(point["Sum"]) for point in points)


def _is_quiet(live: Run) -> bool:
    """Say whether the count stays as it is for a while."""
    before = live.counted()
    with contextlib.suppress(TimeoutError):
        live.wait(lambda: live.counted() > before, "more is counted", patience_s=60 if live.cloud.is_aws else 2)
    return live.counted() == before

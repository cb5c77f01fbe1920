"""What each function may do: one function here for each Lambda, a statement for each reason.

A statement names its actions and its resource, and on a table the partition keys that it is held to. What else a role
holds is what running needs: its own log, and the queue whose messages it is sent.
"""

from collections.abc import Sequence
from typing import cast

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager

from infra.stack.storage import Storage
from metering.layout import ARCHIVE, ROW, SET_ASIDE
from metering.signals import DETAIL_TYPE, SOURCE


def record_usage(function: lambda_.Function, storage: Storage, *, takes_objects: bool) -> None:
    """Count lines, claim values, set aside what cannot be read; where Firehose delivers, take its objects, too."""
    counters, bucket = storage.counters.table_arn, storage.bucket
    reads = {SET_ASIDE: "It reads lines that were set aside, whatever their batch is called."}
    if takes_objects:
        reads[ARCHIVE] = "It reads the objects that Firehose names by the time of their delivery."
    remember = [_items("RememberHowFar", counters, ["GetItem", "PutItem"], "object#*")] if takes_objects else []
    _allow(
        function,
        _items("CountHours", counters, ["GetItem", "UpdateItem"], "hour#*"),
        _items("CountLines", counters, ["UpdateItem"], "lines#*"),
        _items("MarkLateHours", counters, ["UpdateItem"], "late#*"),
        _items("SeeWhatRecountsBroughtIn", counters, ["Query"], "accounted#*"),
        _items("ClaimValues", counters, ["BatchGetItem", "PutItem"], "unique#*", "once#*"),
        *remember,
        iam.PolicyStatement(
            sid="ReadLines",
            actions=["s3:GetObject"],
            resources=[bucket.arn_for_objects(f"{prefix}*") for prefix in reads],
        ),
        # The on-failure destination writes below aws/lambda/async/ alone, but Lambda refuses it ("does not have
        # permissions to call PutObject on S3") unless the role may put any object. Versions undo an overwrite.
        iam.PolicyStatement(
            sid="SetAsideAndKeepFailedBatches", actions=["s3:PutObject"], resources=[bucket.arn_for_objects("*")]
        ),
        iam.PolicyStatement(
            sid="TagWhatIsDone", actions=["s3:PutObjectTagging"], resources=[bucket.arn_for_objects(f"{SET_ASIDE}*")]
        ),
        # For the on-failure destination, and so that a missing object is answered with 404, not 403.
        iam.PolicyStatement(sid="TellMissingObjects", actions=["s3:ListBucket"], resources=[bucket.bucket_arn]),
    )
    if secret := storage.hash_secret:
        _allow(
            function,
            _items("SeeWhoHoldsKeys", storage.ledger.table_arn, ["BatchGetItem"], "key#*"),
            _read_secret("ReadHashKey", _arn(secret)),
        )
    for prefix, reason in reads.items():
        _acknowledge(function, _many_objects(bucket, f"{prefix}*"), reason)
    _acknowledge(
        function,
        _many_objects(bucket, "*"),
        "Lambda refuses an on-failure destination unless the role may put any object of the bucket.",
    )


def close_periods(function: lambda_.Function, storage: Storage, *, post_usage: lambda_.Function) -> None:
    """Read the counters, keep the ledger, start workers of ``post_usage``."""
    counters, ledger = storage.counters.table_arn, storage.ledger.table_arn
    rows = ("customer#*", "key#*", "period#*")
    _allow(
        function,
        _items("ReadCounters", counters, ["Query"], "hour#*", "late#*", "unique#*"),
        _items("SeeWhatIsAskedFor", counters, ["BatchGetItem"], "late#*"),
        iam.PolicyStatement(sid="SeeWhenCountersWereMade", actions=["dynamodb:DescribeTable"], resources=[counters]),
        _items("KeepLateMarks", counters, ["UpdateItem", "DeleteItem"], "late#*"),
        _items("AskToCheck", counters, ["UpdateItem"], "check#*"),
        _items("ReadLedger", ledger, ["GetItem", "BatchGetItem", "Query"], *rows),
        _items("WriteLedger", ledger, ["PutItem"], *rows, "list#keys"),
        _write_no_profile(ledger),
        _sum_what_is_held(ledger),
        _items("SeeWhetherToPost", ledger, ["GetItem"], "posting"),
        _items("ListPendingUsage", f"{ledger}/index/pending", ["Query"], "pending#*"),
        _list_held(ledger),
        iam.PolicyStatement(sid="StartWorkers", actions=["lambda:InvokeFunction"], resources=[post_usage.function_arn]),
    )
    # A policy of its own: the function waits for its role's usual one, which could not name the function.
    start = iam.PolicyStatement(sid="StartMore", actions=["lambda:InvokeFunction"], resources=[function.function_arn])
    iam.Policy(function, "StartMore", statements=[start], roles=[cast("iam.IRole", function.role)])


def post_usage(function: lambda_.Function, storage: Storage) -> None:
    """Post the rows that are pending, and note in them what Stripe answered."""
    ledger = storage.ledger.table_arn
    _allow(
        function,
        _items("AskToCheck", storage.counters.table_arn, ["UpdateItem"], "check#*"),
        _items("ReadRows", ledger, ["BatchGetItem"], "customer#*"),
        _write_rows(ledger),
        _sum_what_is_held(ledger),
        _items("CheckCustomer", ledger, ["ConditionCheckItem"], "customer#*"),
        _items("LeaseShards", ledger, ["GetItem", "PutItem", "DeleteItem"], "posting"),
        _items("ListPendingUsage", f"{ledger}/index/pending", ["Query"], "pending#*"),
        _read_stripe_key(storage),
        _items("NameCustomers", ledger, ["GetItem"], "list#hashed"),
        _tell_what_was_rejected(function),
    )


def reconcile_usage(function: lambda_.Function, storage: Storage) -> None:
    """Compare the ledger with Stripe, ask for hours to be posted or closed again, and count what is not billed."""
    counters, ledger = storage.counters.table_arn, storage.ledger.table_arn
    read = ("customer#*", "period#*", "stripe#*", "posting", "list#customers", "held#*")
    _allow(
        function,
        _items("ReadWhatToCheck", counters, ["Query", "UpdateItem", "DeleteItem"], "check#*"),
        _items("CloseAgain", counters, ["UpdateItem"], "late#*"),
        _items("ReadLedger", ledger, ["GetItem", "BatchGetItem", "Query"], *read),
        _items("WriteLedger", ledger, ["PutItem"], "customer#*", "period#*", "stripe#*"),
        _items("CountWhatWaits", f"{ledger}/index/pending", ["Query"], "pending#*", "rejected#*"),
        _write_no_profile(ledger),
        _sum_what_is_held(ledger),
        _read_stripe_key(storage),
    )


def receive_events(function: lambda_.Function, storage: Storage) -> None:
    """Mark rows that Stripe could not use; anyone may call it, so that this is the least of all."""
    ledger = storage.ledger.table_arn
    _allow(
        function,
        _items("ReadRows", ledger, ["BatchGetItem"], "customer#*"),
        _write_rows(ledger),
        _sum_what_is_held(ledger),
        _read_stripe_key(storage),
        _read_secret("ReadSigningSecret", storage.signing_secret.attr_id),  # its ARN
        _items("NameCustomers", ledger, ["GetItem"], "list#hashed"),
        _tell_what_was_rejected(function),
    )


def check_completeness(function: lambda_.Function, storage: Storage) -> None:
    """Read metrics, and how many lines were counted."""
    actions = ["cloudwatch:GetMetricData", "cloudwatch:ListMetrics"]
    _allow(
        function,
        iam.PolicyStatement(sid="ReadMetrics", actions=actions, resources=["*"]),
        _items("SumLines", storage.counters.table_arn, ["Query"], "lines#*"),
    )
    _acknowledge(function, "*", "Neither action knows resources (Service Authorization Reference, CloudWatch).")


def show_usage(function: lambda_.Function, storage: Storage, *, portal_key: secretsmanager.Secret) -> None:
    """Read what a customer used, and write nothing anywhere."""
    ledger = storage.ledger.table_arn
    _allow(
        function,
        _items("CountOpenHours", storage.counters.table_arn, ["Query"], "hour#*", "late#*", "unique#*"),
        _items("SeeWhatIsClosed", ledger, ["GetItem"], "period#cursor"),
        _items("ReadRows", ledger, ["Query"], "customer#*"),
        _items("ReadCustomersAndKeys", ledger, ["BatchGetItem"], "customer#*", "key#*"),
        _read_secret("ReadPortalKey", _arn(portal_key)),
        _read_stripe_key(storage),
    )


def _allow(function: lambda_.Function, *statements: iam.PolicyStatement) -> None:
    for statement in statements:
        function.add_to_role_policy(statement)


def _items(sid: str, resource_arn: str, actions: Sequence[str], *partition_keys: str) -> iam.PolicyStatement:
    """Allow ``actions`` on the items whose partition key begins as given.

    ForAllValues also lets a request pass of which AWS tells no partition key. Scan and PartiQL are the ones that name
    none, and neither is ever granted; whether AWS tells those of a transaction and of a query of an index is not
    documented. The usual second condition (``Null``) would refuse these, if not, and everything in the emulator, which
    never fills the key in.
    """
    return iam.PolicyStatement(
        sid=sid,
        actions=[f"dynamodb:{action}" for action in actions],
        resources=[resource_arn],
        conditions={"ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(partition_keys)}},
    )


def _write_rows(ledger: str) -> iam.PolicyStatement:
    """Allow a customer's usage rows to be put, and nothing that says who pays: no profile has a row's attributes alone.

    By the names of a write's attributes, those in its condition included. A put replaces its item, whatever was there,
    and no condition looks at a sort key: so the profile could still be replaced by a row, which is none that can be
    read. Usage could be kept from being posted by that, and not be turned to somebody else.
    """
    statement = _items("WriteRows", ledger, ["PutItem"], "customer#*")
    statement.add_condition("ForAllValues:StringEquals", {"dynamodb:Attributes": list(ROW)})
    return statement


def _list_held(ledger: str) -> iam.PolicyStatement:
    """Allow a customer's keys to be listed in one item, for customers of a version that did not; nothing else of it."""
    statement = _items("ListKeysOfCustomers", ledger, ["UpdateItem"], "customer#*")
    statement.add_condition("ForAllValues:StringEquals", {"dynamodb:Attributes": ["pk", "sk", "keys"]})
    return statement


def _sum_what_is_held(ledger: str) -> iam.PolicyStatement:
    """Allow the sums of held rows to be changed, which is done in one transaction with the row."""
    return _items("SumWhatIsHeld", ledger, ["UpdateItem"], "held#*")


def _write_no_profile(ledger: str) -> iam.PolicyStatement:
    """Deny a customer's profile, which says who pays, to who writes most of what stands beside it.

    By its name, as nothing else there has one; the Stripe customer stands in what an invoice bills, too. What holds of
    :func:`_write_rows` holds here: a profile without a name is none that can be read.
    """
    return iam.PolicyStatement(
        sid="WriteNoProfile",
        effect=iam.Effect.DENY,
        actions=["dynamodb:PutItem"],
        resources=[ledger],
        conditions={
            "ForAnyValue:StringLike": {"dynamodb:LeadingKeys": ["customer#*"]},
            "ForAnyValue:StringEquals": {"dynamodb:Attributes": ["name"]},
        },
    )


def _read_stripe_key(storage: Storage) -> iam.PolicyStatement:
    return _read_secret("ReadStripeKey", storage.stripe_secret.attr_id)  # its ARN


def _read_secret(sid: str, arn: str) -> iam.PolicyStatement:
    return iam.PolicyStatement(sid=sid, actions=["secretsmanager:GetSecretValue"], resources=[arn])


def _arn(secret: secretsmanager.Secret) -> str:
    """Return a secret's ARN, as an attribute: to the emulator a reference means its name."""
    return cast("secretsmanager.CfnSecret", secret.node.default_child).attr_id


def _tell_what_was_rejected(function: lambda_.Function) -> iam.PolicyStatement:
    bus = cdk.Stack.of(function).format_arn(service="events", resource="event-bus", resource_name="default")
    return iam.PolicyStatement(
        sid="TellWhatWasRejected",
        actions=["events:PutEvents"],
        resources=[bus],
        # Of each event of a call: both keys are lists (Service Authorization Reference, EventBridge).
        conditions={"ForAllValues:StringEquals": {"events:source": [SOURCE], "events:detail-type": [DETAIL_TYPE]}},
    )


def _acknowledge(function: lambda_.Function, resource: str, reason: str) -> None:
    """Acknowledge that a function's policy names many resources by one pattern."""
    cdk.Validations.of(cast("iam.Role", function.role).node.find_child("DefaultPolicy")).acknowledge(
        cdk.Acknowledgment(id=f"AwsSolutions-IAM5[Resource::{resource}]", reason=reason)
    )


def _many_objects(bucket: s3.Bucket, objects: str) -> str:
    """Return the pattern of a bucket's objects as cdk-nag writes it."""
    logical_id = cdk.Stack.of(bucket).get_logical_id(cast("cdk.CfnElement", bucket.node.default_child))
    return f"<{logical_id}.Arn>/{objects}"

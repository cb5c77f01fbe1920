"""What each function may do: one function here for each Lambda, a statement for each reason.

A statement names its actions and its resource, and on a table the partition keys that it is held to. What else a role
holds is what running needs: its own log, and the queue whose messages it is sent.
"""

from typing import cast

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs

from infra.stack.statements import (
    acknowledge,
    allow,
    arn,
    items,
    list_held,
    many_objects,
    move_keys,
    read_secret,
    read_stripe_key,
    send_mail,
    start_more,
    sum_what_is_held,
    tell,
    tell_what_was_rejected,
    wake,
    write_no_profile,
    write_rows,
)
from infra.stack.storage import Storage
from metering.layout import ARCHIVE, SET_ASIDE
from metering.model.log_format import Api
from metering.signals import LIMITS_DETAIL_TYPES, LIMITS_SOURCE


def record_usage(function: lambda_.Function, storage: Storage, *, takes_objects: bool) -> None:
    """Count lines, claim values, set aside what cannot be read; where Firehose delivers, take its objects, too."""
    counters, bucket = storage.counters.table_arn, storage.bucket
    reads = {SET_ASIDE: "It reads lines that were set aside, whatever their batch is called."}
    if takes_objects:
        reads[ARCHIVE] = "It reads the objects that Firehose names by the time of their delivery."
    remember = [items("RememberHowFar", counters, ["GetItem", "PutItem"], "object#*")] if takes_objects else []
    allow(
        function,
        items("CountHours", counters, ["GetItem", "UpdateItem"], "hour#*"),
        items("CountLines", counters, ["UpdateItem"], "lines#*"),
        items("MarkLateHours", counters, ["UpdateItem"], "late#*"),
        items("SeeWhatRecountsBroughtIn", counters, ["Query"], "accounted#*"),
        items("SeeHowLogsAreRead", storage.ledger.table_arn, ["Query"], "log-group#*", "connections"),
        items("ClaimValues", counters, ["BatchGetItem", "PutItem"], "unique#*", "once#*"),
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
        allow(
            function,
            items("SeeWhoHoldsKeys", storage.ledger.table_arn, ["BatchGetItem"], "key#*"),
            read_secret("ReadHashKey", arn(secret)),
        )
    for prefix, reason in reads.items():
        acknowledge(function, many_objects(bucket, f"{prefix}*"), reason)
    acknowledge(
        function,
        many_objects(bucket, "*"),
        "Lambda refuses an on-failure destination unless the role may put any object of the bucket.",
    )


def close_periods(function: lambda_.Function, storage: Storage, *, post_usage: lambda_.Function) -> None:
    """Read the counters, keep the ledger, start workers of ``post_usage``."""
    counters, ledger = storage.counters.table_arn, storage.ledger.table_arn
    rows = ("customer#*", "key#*", "period#*")
    allow(
        function,
        items("ReadCounters", counters, ["Query"], "hour#*", "late#*", "unique#*"),
        items("SeeWhatIsAskedFor", counters, ["BatchGetItem"], "late#*"),
        iam.PolicyStatement(sid="SeeWhenCountersWereMade", actions=["dynamodb:DescribeTable"], resources=[counters]),
        items("KeepLateMarks", counters, ["UpdateItem", "DeleteItem"], "late#*"),
        items("AskToCheck", counters, ["UpdateItem"], "check#*"),
        items("ReadLedger", ledger, ["GetItem", "BatchGetItem", "Query"], *rows),
        items("WriteLedger", ledger, ["PutItem"], *rows, "list#keys"),
        write_no_profile(ledger),
        sum_what_is_held(ledger),
        items("SeeWhetherToPost", ledger, ["GetItem"], "posting"),
        items("ListPendingUsage", f"{ledger}/index/pending", ["Query"], "pending#*"),
        list_held(ledger),
        iam.PolicyStatement(sid="StartWorkers", actions=["lambda:InvokeFunction"], resources=[post_usage.function_arn]),
    )
    if storage.access:
        allow(function, items("NoteChangedRows", ledger, ["UpdateItem"], "limits#*"))
    start_more(function)


def post_usage(function: lambda_.Function, storage: Storage) -> None:
    """Post the rows that are pending, and note in them what Stripe answered."""
    ledger = storage.ledger.table_arn
    allow(
        function,
        items("AskToCheck", storage.counters.table_arn, ["UpdateItem"], "check#*"),
        items("ReadRows", ledger, ["BatchGetItem"], "customer#*"),
        write_rows(ledger),
        sum_what_is_held(ledger),
        items("CheckCustomer", ledger, ["ConditionCheckItem"], "customer#*"),
        items("LeaseShards", ledger, ["GetItem", "PutItem", "DeleteItem"], "posting"),
        items("ListPendingUsage", f"{ledger}/index/pending", ["Query"], "pending#*"),
        read_stripe_key(storage),
        items("NameCustomers", ledger, ["GetItem"], "list#hashed"),
        tell_what_was_rejected(function),
    )


def reconcile_usage(function: lambda_.Function, storage: Storage) -> None:
    """Compare the ledger with Stripe, ask for hours to be posted or closed again, and count what is not billed."""
    counters, ledger = storage.counters.table_arn, storage.ledger.table_arn
    read = ("customer#*", "period#*", "stripe#*", "posting", "list#customers", "held#*")
    allow(
        function,
        items("ReadWhatToCheck", counters, ["Query", "UpdateItem", "DeleteItem"], "check#*"),
        items("CloseAgain", counters, ["UpdateItem"], "late#*"),
        items("ReadLedger", ledger, ["GetItem", "BatchGetItem", "Query"], *read),
        items("WriteLedger", ledger, ["PutItem"], "customer#*", "period#*", "stripe#*"),
        items("CountWhatWaits", f"{ledger}/index/pending", ["Query"], "pending#*", "rejected#*"),
        write_no_profile(ledger),
        sum_what_is_held(ledger),
        read_stripe_key(storage),
    )
    if storage.access:
        _note_subscriptions(function, ledger)


def receive_events(function: lambda_.Function, storage: Storage) -> None:
    """Mark rows that Stripe could not use; anyone may call it, so that this is the least of all."""
    ledger = storage.ledger.table_arn
    allow(
        function,
        items("ReadRows", ledger, ["BatchGetItem"], "customer#*"),
        write_rows(ledger),
        sum_what_is_held(ledger),
        read_stripe_key(storage),
        read_secret("ReadSigningSecret", storage.signing_secret.attr_id),  # its ARN
        items("NameCustomers", ledger, ["GetItem"], "list#hashed"),
        tell_what_was_rejected(function),
    )
    if storage.access:
        allow(function, items("SeeWhoseASubscriptionIs", ledger, ["GetItem"], "stripe#*"))
        _note_subscriptions(function, ledger)


def check_completeness(function: lambda_.Function, storage: Storage) -> None:
    """Read metrics, how many lines were counted, and which stages are connected."""
    actions = ["cloudwatch:GetMetricData", "cloudwatch:ListMetrics"]
    allow(
        function,
        iam.PolicyStatement(sid="ReadMetrics", actions=actions, resources=["*"]),
        items("SumLines", storage.counters.table_arn, ["Query"], "lines#*"),
        items("ReadConnections", storage.ledger.table_arn, ["Query"], "connections"),
    )
    acknowledge(function, "*", "Neither action knows resources (Service Authorization Reference, CloudWatch).")


def show_usage(function: lambda_.Function, storage: Storage, *, portal_key: secretsmanager.Secret) -> None:
    """Read what a customer used, and write nothing anywhere."""
    ledger = storage.ledger.table_arn
    allow(
        function,
        items("CountOpenHours", storage.counters.table_arn, ["Query"], "hour#*", "late#*", "unique#*"),
        items("SeeWhatIsClosed", ledger, ["GetItem"], "period#cursor"),
        items("ReadRows", ledger, ["Query"], "customer#*"),
        items("ReadCustomersAndKeys", ledger, ["BatchGetItem"], "customer#*", "key#*"),
        read_secret("ReadPortalKey", arn(portal_key)),
        read_stripe_key(storage),
    )
    if storage.access:
        allow(function, *_read_limits(ledger))


def set_budget(
    function: lambda_.Function,
    storage: Storage,
    *,
    portal_key: secretsmanager.Secret,
    watch_limits: lambda_.Function,
) -> None:
    """Write a customer's own budget, and nothing else anywhere; have that customer looked at."""
    ledger = storage.ledger.table_arn
    allow(
        function,
        items("SeeWhatALimitAllows", ledger, ["Query"], "limits#*"),
        items("KeepBudgets", ledger, ["GetItem", "PutItem"], "budget#*"),
        read_secret("ReadPortalKey", arn(portal_key)),
        iam.PolicyStatement(sid="AskToLook", actions=["lambda:InvokeFunction"], resources=[watch_limits.function_arn]),
    )


def watch_limits(function: lambda_.Function, storage: Storage, *, gate_queue: sqs.Queue, alerts_from: str) -> None:
    """Read what was used, write how limits stand and who is to be closed, and tell; it writes no counter and no row."""
    counters, ledger = storage.counters.table_arn, storage.ledger.table_arn
    access = cast("dynamodb.TableV2", storage.access).table_arn
    stream = cast("str", storage.counters.table_stream_arn)
    allow(
        function,
        iam.PolicyStatement(
            sid="TakeRecords",
            actions=["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"],
            resources=[stream],
        ),
        # Lambda asks for it of whoever reads a stream, and it knows no resource.
        iam.PolicyStatement(sid="FindStreams", actions=["dynamodb:ListStreams"], resources=["*"]),
        items("CountOpenHours", counters, ["Query"], "hour#*", "unique#*"),
        items("ReadRowsAndKeys", ledger, ["Query"], "customer#*", "list#customers"),
        items("ReadHolders", ledger, ["BatchGetItem"], "key#*"),
        items("SeeWhatIsClosed", ledger, ["GetItem"], "period#cursor"),
        items("SeeWhichHoursAreClosed", ledger, ["BatchGetItem"], "period#*"),
        *_read_limits(ledger),
        items("KeepLimits", ledger, ["PutItem", "DeleteItem"], "limits#*"),
        items("SeeHowFar", access, ["GetItem"], "head", "sweep"),
        items("SeeWhoIsNear", access, ["Query"], "near", "gate", "closed"),
        items("TellWhoIsNear", access, ["PutItem", "DeleteItem"], "near"),
        items("SayThatItChanged", access, ["UpdateItem"], "head"),
        items("AskTheGate", access, ["PutItem"], "gate", "sweep"),
        wake(gate_queue),
        tell(function, "TellOfLimits", LIMITS_SOURCE, LIMITS_DETAIL_TYPES),
    )
    if alerts_from:
        allow(function, send_mail(alerts_from))
    acknowledge(
        function,
        "*",
        "ListStreams knows no resources (Service Authorization Reference, DynamoDB), and a condition holds e-mail to "
        "one address, whatever SES has verified it by.",
    )
    start_more(function)


def enforce_limits(function: lambda_.Function, storage: Storage, *, gate_queue: sqs.Queue, api: Api) -> None:
    """Take keys out of usage plans and put them back, or say to authorizers who is closed; it changes no plan."""
    ledger, access = storage.ledger.table_arn, cast("dynamodb.TableV2", storage.access).table_arn
    allow(
        function,
        iam.PolicyStatement(
            sid="TakeWakes",
            actions=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
            resources=[gate_queue.queue_arn],
        ),
        wake(gate_queue),
        *_read_limits(ledger),
        items("ReadKeysAndHomes", ledger, ["BatchGetItem"], "key#*", "home#*"),
        items("ReadKeysOfCustomers", ledger, ["Query"], "customer#*"),
        items("KeepGate", ledger, ["PutItem"], "limits#*", "home#*"),
        items("SeeWhoIsAskedFor", access, ["Query"], "gate"),
        items("SeeWhoIsClosed", access, ["GetItem"], "closed"),
        items("BeTheOnlyOne", access, ["PutItem", "DeleteItem"], "lease", "closed"),
        # A key that changes hands at a later hour is looked at again then.
        items("SayWhatIsDone", access, ["PutItem", "DeleteItem"], "gate"),
        tell(function, "TellOfLimits", LIMITS_SOURCE, LIMITS_DETAIL_TYPES),
    )
    allow(function, items("CloseCallers", access, ["PutItem", "DeleteItem"], "access#*"))
    if api.bills_by_key:
        move_keys(function)
    else:  # whether a caller is one of this API's, or of a connected one's
        allow(function, items("SeeWhoIsConnected", ledger, ["GetItem"], "connections"))


def _read_limits(ledger: str) -> list[iam.PolicyStatement]:
    """Allow what is known of a customer's limits to be read, its budget too."""
    return [
        items("ReadLimits", ledger, ["Query"], "limits#*"),
        items("ReadBudgets", ledger, ["GetItem"], "budget#*"),
    ]


def _note_subscriptions(function: lambda_.Function, ledger: str) -> None:
    """Allow what a customer is subscribed to, and since when it has not paid, to be noted beside its limits."""
    allow(function, items("NoteSubscriptions", ledger, ["GetItem", "PutItem"], "limits#*"))

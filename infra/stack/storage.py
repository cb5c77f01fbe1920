"""What outlives a deployment: its tables, a bucket, the access log, and the places of secrets."""

from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager

from metering.layout import ARCHIVE, DONE

KEPT: Final = cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
"""Whatever becomes of the stack; but a first creation that fails takes away again what it has made, which is empty."""

COLD_AFTER: Final = cdk.Duration.days(90)
SHORTEST_COLD: Final = 90
"""Days that Glacier Instant Retrieval bills at least, whenever an object is deleted (S3 pricing)."""


DONE_DAYS: Final = 400
"""How long one can look up what was set aside after it was counted or dismissed: a year and a month."""


class Storage:
    """The stateful resources, made directly under ``stack`` and retained when it is deleted.

    No construct of their own, so that moving code about never changes a logical id, which would mean a new, empty
    table. No physical names, so that two deployments fit into one account. ``vended`` is how the name of the access log
    begins where CloudWatch Logs itself delivers into it; ``hashes`` says whether a metric needs the key of the keyed
    hashes that values and ids are remembered by; ``archive_days`` is how long the archive is kept; ``limits`` says
    whether there is a table of who is closed.
    """

    def __init__(  # noqa: PLR0913 - each by name
        self,
        stack: cdk.Stack,
        *,
        vended: str | None,
        access_log_retention: logs.RetentionDays,
        archive_days: int,
        hashes: bool,
        limits: bool,
    ) -> None:
        self.counters = _counters(stack)
        self.ledger = _ledger(stack)
        self.bucket = _bucket(stack, archive_days)
        self.access_log = logs.LogGroup(
            stack,
            "AccessLog",
            log_group_name=f"{vended}{guid(stack)}" if vended else None,
            retention=access_log_retention,
            removal_policy=KEPT,
        )
        self.stripe_secret = _stripe_secret(
            stack,
            "StripeSecret",
            "The restricted Stripe key of usage metering; `metering stripe connect` puts its value.",
        )
        # Of its own, so that nobody who can read the key can also write what passes for Stripe's word.
        self.signing_secret = _stripe_secret(
            stack,
            "SigningSecret",
            "What Stripe signs its notifications to usage metering with; `metering stripe webhook` puts its value.",
        )
        self.hash_secret = _hash_secret(stack) if hashes else None
        self.access = _access(stack) if limits else None


def guid(stack: cdk.Stack) -> str:
    """Return the last part of a stack's id, arn:aws:cloudformation:REGION:ACCOUNT:stack/NAME/GUID.

    Of the given stack, whichever one writes it down; one that is made again has another.
    """
    return cdk.Fn.select(2, cdk.Fn.split("/", stack.stack_id))


def _counters(stack: cdk.Stack) -> dynamodb.TableV2:
    """Return the table of the counters, without point-in-time recovery: what is lost is recounted from the log.

    Without deletion protection, too, which would keep a first creation that fails from being undone.
    """
    return dynamodb.TableV2(
        stack,
        "Counters",
        partition_key=_text("pk"),
        sort_key=_text("sk"),
        billing=dynamodb.Billing.on_demand(),
        time_to_live_attribute="ttl",
        dynamo_stream=dynamodb.StreamViewType.NEW_AND_OLD_IMAGES,
        removal_policy=KEPT,
    )


def _ledger(stack: cdk.Stack) -> dynamodb.TableV2:
    """Return the table of what is billed, which nothing could restore but its own backups.

    It is protected from its first moment, and so stays behind, empty and free of charge, where a first creation fails.
    """
    return dynamodb.TableV2(
        stack,
        "Ledger",
        partition_key=_text("pk"),
        sort_key=_text("sk"),
        billing=dynamodb.Billing.on_demand(),
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        deletion_protection=True,
        removal_policy=cdk.RemovalPolicy.RETAIN,
        global_secondary_indexes=[
            dynamodb.GlobalSecondaryIndexPropsV2(
                index_name="pending",
                partition_key=_text("pending"),
                sort_key=_text("sk"),
                projection_type=dynamodb.ProjectionType.KEYS_ONLY,
            )
        ],
    )


def _access(stack: cdk.Stack) -> dynamodb.TableV2:
    """Return the table of who is near a limit and who is closed, which can be made again from the ledger.

    But for where closed keys belong at the gateway, which is here a second time in case the ledger is restored to an
    earlier moment; and authorizers of HTTP APIs, which may stand in stacks of others, read it. So it stays behind,
    with a few kilobytes, where limits are given up while somebody is closed.
    """
    return dynamodb.TableV2(
        stack,
        "Access",
        partition_key=_text("pk"),
        sort_key=_text("sk"),
        billing=dynamodb.Billing.on_demand(),
        removal_policy=KEPT,
    )


def _bucket(stack: cdk.Stack, archive_days: int) -> s3.Bucket:
    """Return the bucket of what was set aside, of batches that failed, and of the archive."""
    bucket = s3.Bucket(
        stack,
        "Bucket",
        encryption=s3.BucketEncryption.S3_MANAGED,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        enforce_ssl=True,
        versioned=True,
        lifecycle_rules=[
            s3.LifecycleRule(
                noncurrent_version_expiration=cdk.Duration.days(90),
                expired_object_delete_marker=True,
                abort_incomplete_multipart_upload_after=cdk.Duration.days(7),
            ),
            # On both roads: a deployment that has left Firehose's still has what it archived.
            _archive(archive_days),
            # What still waits has no tag, and never expires (I1).
            s3.LifecycleRule(id="Done", tag_filters=DONE, expiration=cdk.Duration.days(DONE_DAYS)),
        ],
        removal_policy=KEPT,
    )
    cdk.Validations.of(bucket).acknowledge(
        cdk.Acknowledgment(
            id="AwsSolutions-S1",
            reason="Only record_usage and the operator reach it, and its versions show what changed; a second "
            "bucket for its access logs would hold more objects than the bucket itself.",
        )
    )
    return bucket


def _archive(days: int) -> s3.LifecycleRule:
    """Return how the archive ages: to colder storage, unless it expires before that could save anything."""
    cold = s3.Transition(storage_class=s3.StorageClass.GLACIER_INSTANT_RETRIEVAL, transition_after=COLD_AFTER)
    return s3.LifecycleRule(
        id="Archive",
        prefix=ARCHIVE,
        expiration=cdk.Duration.days(days),
        transitions=[cold] if days >= COLD_AFTER.to_days() + SHORTEST_COLD else [],
    )


def _stripe_secret(stack: cdk.Stack, name: str, description: str) -> secretsmanager.CfnSecret:
    """Return the place of a secret of Stripe's, without a value: to the functions that means "not connected yet".

    The L1: the L2 always generates a value, and a made-up one could not be told from Stripe's.
    """
    secret = secretsmanager.CfnSecret(stack, name, description=description)
    secret.apply_removal_policy(KEPT)  # Stripe shows a secret once
    cdk.Validations.of(secret).acknowledge(
        cdk.Acknowledgment(
            id="AwsSolutions-SMG4",
            reason="Stripe issues it and offers no way to rotate it from here; `metering stripe connect` and "
            "`metering stripe webhook` replace it.",
        )
    )
    return secret


def _hash_secret(stack: cdk.Stack) -> secretsmanager.Secret:
    """Return the secret of the keyed hashes; its value is made at deployment and known to nobody (I8)."""
    secret = secretsmanager.Secret(
        stack,
        "HashSecret",
        description="The key of the hashes that usage metering remembers users, sessions and ids by.",
        generate_secret_string=secretsmanager.SecretStringGenerator(password_length=64, exclude_punctuation=True),
        removal_policy=KEPT,
    )
    cdk.Validations.of(secret).acknowledge(
        cdk.Acknowledgment(
            id="AwsSolutions-SMG4",
            reason="With another key every value that is remembered would count a second time.",
        )
    )
    return secret


def _text(name: str) -> dynamodb.Attribute:
    return dynamodb.Attribute(name=name, type=dynamodb.AttributeType.STRING)

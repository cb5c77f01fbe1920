"""The road over Firehose: its stream, the objects that it puts into the bucket, and a message for each of them."""

import hashlib
from typing import Final, cast

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from metering.layout import ARCHIVE

AT_ONCE: Final = 5
"""How many objects are counted at once: half of what a new account may run."""

TRIES: Final = 1000
"""As often as SQS lets a message be tried: for four days, since one that failed comes again after six minutes."""

AGAIN_AFTER_S: Final = 60
"""How long after the longest run a message comes again: so an object that needs another run goes on a minute or two
after the first.

AWS recommends six times as long as a run may take, so that a message is not tried in vain while Lambda has no room for
it ("Using Lambda with Amazon SQS"): of a thousand tries, and with counters that refuse what they have, some may be.
"""

UNDELIVERED: Final = "access-log-errors/"
"""Where Firehose puts records that it could not process."""


class Delivery(Construct):
    """Firehose into the bucket, and a message to ``record_usage`` for each object that Firehose puts there.

    A message whose object could not be counted for four days ends in ``failed``; the object stays where it is.
    ``timeout`` is how many seconds a run of ``record_usage`` may take.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, bucket: s3.Bucket, record_usage: lambda_.Function, timeout: int
    ) -> None:
        super().__init__(scope, construct_id)
        self.failed = self._queue("Failed")
        queue = self._queue(
            "Objects",
            visibility_timeout=cdk.Duration.seconds(timeout + AGAIN_AFTER_S),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.failed, max_receive_count=TRIES),
        )
        _notify(bucket, queue)
        record_usage.add_to_role_policy(
            iam.PolicyStatement(
                sid="TakeObjects",
                actions=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
                resources=[queue.queue_arn],
            )
        )
        lambda_.EventSourceMapping(
            self,
            "Source",
            target=record_usage,
            event_source_arn=queue.queue_arn,
            # An object holds up to 128 MB of lines: what fails or takes long holds up no other.
            batch_size=1,
            report_batch_item_failures=True,  # the function answers with what it has not counted, and does not raise
            max_concurrency=AT_ONCE,
        )
        self.error_log = logs.LogGroup(
            self, "ErrorLog", retention=logs.RetentionDays.ONE_MONTH, removal_policy=cdk.RemovalPolicy.DESTROY
        )
        self.stream = self._stream(bucket)

    def _queue(
        self,
        name: str,
        *,
        visibility_timeout: cdk.Duration | None = None,
        dead_letter_queue: sqs.DeadLetterQueue | None = None,
    ) -> sqs.Queue:
        return sqs.Queue(
            self,
            name,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(14),
            visibility_timeout=visibility_timeout,
            dead_letter_queue=dead_letter_queue,
        )

    def _stream(self, bucket: s3.Bucket) -> firehose.CfnDeliveryStream:
        errors = logs.LogStream(self, "Errors", log_group=self.error_log, removal_policy=cdk.RemovalPolicy.DESTROY)
        role = self._role(bucket)
        property_type = firehose.CfnDeliveryStream
        return firehose.CfnDeliveryStream(
            self,
            "Stream",
            delivery_stream_name=_stream_name(cdk.Stack.of(self).stack_name),
            delivery_stream_type="DirectPut",
            delivery_stream_encryption_configuration_input=(
                property_type.DeliveryStreamEncryptionConfigurationInputProperty(key_type="AWS_OWNED_CMK")
            ),
            extended_s3_destination_configuration=property_type.ExtendedS3DestinationConfigurationProperty(
                bucket_arn=bucket.bucket_arn,
                role_arn=role.role_arn,
                prefix=f"{ARCHIVE}!{{timestamp:yyyy/MM/dd/HH}}/",
                error_output_prefix=f"{UNDELIVERED}!{{firehose:error-output-type}}/!{{timestamp:yyyy/MM/dd/HH}}/",
                # Whichever is reached first. The longer, the fewer objects, and the fewer writes to the counters.
                buffering_hints=property_type.BufferingHintsProperty(interval_in_seconds=300, size_in_m_bs=128),
                compression_format="GZIP",
                processing_configuration=property_type.ProcessingConfigurationProperty(
                    enabled=True,
                    processors=[
                        property_type.ProcessorProperty(
                            type="AppendDelimiterToRecord",
                            parameters=[
                                property_type.ProcessorParameterProperty(
                                    parameter_name="Delimiter", parameter_value="\\n"
                                )
                            ],
                        )
                    ],
                ),
                cloud_watch_logging_options=property_type.CloudWatchLoggingOptionsProperty(
                    enabled=True, log_group_name=self.error_log.log_group_name, log_stream_name=errors.log_stream_name
                ),
            ),
        )

    def _role(self, bucket: s3.Bucket) -> iam.Role:
        """Return what Firehose may do: its documented list (Data Firehose Developer Guide, "Controlling access")."""
        objects = [bucket.arn_for_objects(f"{prefix}*") for prefix in (ARCHIVE, UNDELIVERED)]
        role = iam.Role(
            self,
            "Firehose",
            assumed_by=iam.ServicePrincipal(
                "firehose.amazonaws.com",
                conditions={"StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account}},
            ),
            inline_policies={
                "Deliver": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            sid="PutObjects",
                            actions=["s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload"],
                            resources=objects,
                        ),
                        iam.PolicyStatement(
                            sid="FindTheBucket",
                            actions=["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
                            resources=[bucket.bucket_arn],
                        ),
                        iam.PolicyStatement(
                            sid="TellErrors",
                            actions=["logs:PutLogEvents"],
                            resources=[self.error_log.log_group_arn],
                        ),
                    ]
                )
            },
        )
        logical_id = cdk.Stack.of(self).get_logical_id(cast("cdk.CfnElement", bucket.node.default_child))
        cdk.Validations.of(role).acknowledge(
            *(
                cdk.Acknowledgment(
                    id=f"AwsSolutions-IAM5[Resource::<{logical_id}.Arn>/{prefix}*]",
                    reason="Firehose names its objects by the time of their delivery.",
                )
                for prefix in (ARCHIVE, UNDELIVERED)
            )
        )
        return role


def _notify(bucket: s3.Bucket, queue: sqs.Queue) -> None:
    """Send a message to the queue for each new object of the archive.

    By the bucket's own property: CDK's notifications bring a function and a role of their own. S3 tries the queue when
    the bucket is made or changed, so that its policy comes first; it names the bucket by how CloudFormation begins its
    name, since by reference it would be a circle.
    """
    stack = cdk.Stack.of(queue)
    buckets = stack.format_arn(service="s3", region="*", account="*", resource=f"{_bucket_prefix(stack.stack_name)}*")
    queue.add_to_resource_policy(
        iam.PolicyStatement(
            sid="ObjectsOfOurBucket",
            principals=[iam.ServicePrincipal("s3.amazonaws.com")],
            actions=["sqs:SendMessage"],
            resources=[queue.queue_arn],
            conditions={"StringEquals": {"aws:SourceAccount": stack.account}, "ArnLike": {"aws:SourceArn": buckets}},
        )
    )
    resource = cast("s3.CfnBucket", bucket.node.default_child)
    resource.node.add_dependency(queue.node.find_child("Policy"))
    resource.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
        queue_configurations=[
            s3.CfnBucket.QueueConfigurationProperty(
                event="s3:ObjectCreated:*",
                queue=queue.queue_arn,
                filter=s3.CfnBucket.NotificationFilterProperty(
                    s3_key=s3.CfnBucket.S3KeyFilterProperty(
                        rules=[s3.CfnBucket.FilterRuleProperty(name="prefix", value=ARCHIVE)]
                    )
                ),
            )
        ]
    )


def _bucket_prefix(stack_name: str) -> str:
    """Return how CloudFormation begins a bucket's name: by the stack's, in small letters, cut where it is long."""
    return stack_name.lower()[:16]


def _stream_name(stack_name: str) -> str:
    """Return a stream's name: it must begin as it does for API Gateway, and may have 64 characters.

    A long stack name is cut and ends in a hash of itself, so that two stacks never share a stream.
    """
    room = 64 - len("amazon-apigateway--access-log")
    name = stack_name.lower()
    if len(name) > room:
        name = f"{name[: room - 9]}-{hashlib.sha256(stack_name.encode()).hexdigest()[:8]}"
    return f"amazon-apigateway-{name}-access-log"

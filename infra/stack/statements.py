"""What the grants are made of: statements that name their actions, a resource, and on a table its partition keys."""

from collections.abc import Sequence
from typing import cast

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs

from infra.stack.storage import Storage
from metering.layout import ROW
from metering.signals import DETAIL_TYPE, SOURCE


def allow(function: lambda_.Function, *statements: iam.PolicyStatement) -> None:
    """Give the function's role these statements."""
    for statement in statements:
        function.add_to_role_policy(statement)


def items(sid: str, resource_arn: str, actions: Sequence[str], *partition_keys: str) -> iam.PolicyStatement:
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


def write_rows(ledger: str) -> iam.PolicyStatement:
    """Allow a customer's usage rows to be put, and nothing that says who pays: no profile has a row's attributes alone.

    By the names of a write's attributes, those in its condition included. A put replaces its item, whatever was there,
    and no condition looks at a sort key: so the profile could still be replaced by a row, which is none that can be
    read. Usage could be kept from being posted by that, and not be turned to somebody else.
    """
    statement = items("WriteRows", ledger, ["PutItem"], "customer#*")
    statement.add_condition("ForAllValues:StringEquals", {"dynamodb:Attributes": list(ROW)})
    return statement


def list_held(ledger: str) -> iam.PolicyStatement:
    """Allow a customer's keys to be listed in one item, for customers of a version that did not; nothing else of it."""
    statement = items("ListKeysOfCustomers", ledger, ["UpdateItem"], "customer#*")
    statement.add_condition("ForAllValues:StringEquals", {"dynamodb:Attributes": ["pk", "sk", "keys"]})
    return statement


def sum_what_is_held(ledger: str) -> iam.PolicyStatement:
    """Allow the sums of held rows to be changed, which is done in one transaction with the row."""
    return items("SumWhatIsHeld", ledger, ["UpdateItem"], "held#*")


def write_no_profile(ledger: str) -> iam.PolicyStatement:
    """Deny a customer's profile, which says who pays, to who writes most of what stands beside it.

    By its name, as nothing else there has one; the Stripe customer stands in what an invoice bills, too. What holds of
    :func:`write_rows` holds here: a profile without a name is none that can be read.
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


def read_stripe_key(storage: Storage) -> iam.PolicyStatement:
    """Allow Stripe's key to be read."""
    return read_secret("ReadStripeKey", storage.stripe_secret.attr_id)  # its ARN


def read_secret(sid: str, arn: str) -> iam.PolicyStatement:
    """Allow a secret's value to be read."""
    return iam.PolicyStatement(sid=sid, actions=["secretsmanager:GetSecretValue"], resources=[arn])


def arn(secret: secretsmanager.Secret) -> str:
    """Return a secret's ARN, as an attribute: to the emulator a reference means its name."""
    return cast("secretsmanager.CfnSecret", secret.node.default_child).attr_id


def tell_what_was_rejected(function: lambda_.Function) -> iam.PolicyStatement:
    """Allow the event about what Stripe rejected to be put on the account's bus."""
    return tell(function, "TellWhatWasRejected", SOURCE, [DETAIL_TYPE])


def tell(function: lambda_.Function, sid: str, source: str, detail_types: Sequence[str]) -> iam.PolicyStatement:
    """Allow events of one source and of these types to be put on the account's bus."""
    bus = cdk.Stack.of(function).format_arn(service="events", resource="event-bus", resource_name="default")
    return iam.PolicyStatement(
        sid=sid,
        actions=["events:PutEvents"],
        resources=[bus],
        # Of each event of a call: both keys are lists (Service Authorization Reference, EventBridge).
        conditions={"ForAllValues:StringEquals": {"events:source": [source], "events:detail-type": [*detail_types]}},
    )


def start_more(function: lambda_.Function) -> None:
    """Allow a function to start itself, by a policy of its own: it waits for its role's, which could not name it."""
    start = iam.PolicyStatement(sid="StartMore", actions=["lambda:InvokeFunction"], resources=[function.function_arn])
    iam.Policy(function, "StartMore", statements=[start], roles=[cast("iam.IRole", function.role)])


def wake(gate_queue: sqs.Queue) -> iam.PolicyStatement:
    """Allow the worker at the gateway to be woken."""
    return iam.PolicyStatement(sid="WakeTheGate", actions=["sqs:SendMessage"], resources=[gate_queue.queue_arn])


def move_keys(function: lambda_.Function) -> None:
    """Allow keys to be put into usage plans and taken out, of any plan: which these are is known at run time alone."""
    plans = cdk.Stack.of(function).format_arn(service="apigateway", account="", resource="/usageplans")
    granted = {
        "SeePlans": ("GET", ["", "/*"]),
        "PutKeys": ("POST", ["/*/keys"]),
        "TakeKeysOut": ("DELETE", ["/*/keys/*"]),
    }
    for sid, (method, paths) in granted.items():
        resources = [f"{plans}{path}" for path in paths]
        allow(function, iam.PolicyStatement(sid=sid, actions=[f"apigateway:{method}"], resources=resources))
        for path in filter(None, paths):
            pattern = f"arn:<AWS::Partition>:apigateway:<AWS::Region>::/usageplans{path}"
            acknowledge(function, pattern, "Plans and keys are the operator's, and known at run time alone.")


def send_mail(alerts_from: str) -> iam.PolicyStatement:
    """Allow e-mail from one address, by whatever SES has verified it: the address, its domain or one above.

    On no resource by name, as SES asks for a right to that identity and to its configuration set (SES Developer Guide,
    "Controlling access to Amazon SES", of restricting the From address). SES fills the key in for every e-mail, and
    the emulator for none: without IfExists it would send none.
    """
    return iam.PolicyStatement(
        sid="SendAlerts",
        actions=["ses:SendEmail"],
        resources=["*"],
        conditions={"StringEqualsIfExists": {"ses:FromAddress": alerts_from}},
    )


def acknowledge(function: lambda_.Function, resource: str, reason: str) -> None:
    """Acknowledge that a function's policy names many resources by one pattern."""
    cdk.Validations.of(cast("iam.Role", function.role).node.find_child("DefaultPolicy")).acknowledge(
        cdk.Acknowledgment(id=f"AwsSolutions-IAM5[Resource::{resource}]", reason=reason)
    )


def many_objects(bucket: s3.Bucket, objects: str) -> str:
    """Return the pattern of a bucket's objects as cdk-nag writes it."""
    logical_id = cdk.Stack.of(bucket).get_logical_id(cast("cdk.CfnElement", bucket.node.default_child))
    return f"<{logical_id}.Arn>/{objects}"

"""Each function may do what it does, to the items it does it to, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
from aws_cdk.assertions import Template as Synthesised

from infra.stack.metering import MeteringStack
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import Count
from metering.model.periods import Hour
from metering.model.subjects import Kind, Subject
from metering.model.usage_row import State, Total, UsageRow, WhyHeld
from metering.stores.holders import _read_customer
from metering.stores.rows import _row_item
from tests.doubles.template import KEYS, LEADING, Template, denials, flat, grants, listed, of_type, policies, properties

RECORD_USAGE = {
    ("logs:CreateLogStream", "IngestRecordUsageLog", ()),
    ("logs:PutLogEvents", "IngestRecordUsageLog", ()),
    ("dynamodb:GetItem", "Counters", ("hour#*",)),
    ("dynamodb:UpdateItem", "Counters", ("hour#*",)),
    ("dynamodb:UpdateItem", "Counters", ("lines#*",)),
    ("dynamodb:UpdateItem", "Counters", ("late#*",)),
    ("dynamodb:Query", "Counters", ("accounted#*",)),
    ("dynamodb:Query", "Ledger", ("log-group#*", "connections")),
    ("dynamodb:BatchGetItem", "Counters", ("unique#*", "once#*")),
    ("dynamodb:PutItem", "Counters", ("unique#*", "once#*")),
    ("s3:GetObject", "Bucket/set-aside/*", ()),
    ("s3:PutObject", "Bucket/*", ()),
    ("s3:PutObjectTagging", "Bucket/set-aside/*", ()),
    ("s3:ListBucket", "Bucket", ()),
}
HASHES = {
    ("dynamodb:BatchGetItem", "Ledger", ("key#*",)),
    ("secretsmanager:GetSecretValue", "HashSecret", ()),
}


def test_record_usage_counts_claims_marks_and_sets_aside(template: Template) -> None:
    """Every action of record_usage, with its resource and the partition keys it is held to."""
    assert grants(template, "IngestRecordUsageRole") == RECORD_USAGE | HASHES


def test_record_usage_reads_no_keys_where_no_values_are_counted(stack: Callable[..., MeteringStack]) -> None:
    """It would have no use for the mapping of keys, nor for a secret."""
    made = dict(Synthesised.from_stack(stack(metrics=[Count(name="requests")])).to_json())
    assert grants(made, "IngestRecordUsageRole") == RECORD_USAGE
    assert not [name for name in of_type(made, "AWS::SecretsManager::Secret") if name.startswith("HashSecret")]


def test_record_usage_takes_objects_on_the_road_over_firehose(firehose_template: Template) -> None:
    """And all that it may do on the other."""
    assert grants(firehose_template, "IngestRecordUsageRole") == RECORD_USAGE | HASHES | {
        ("dynamodb:GetItem", "Counters", ("object#*",)),
        ("dynamodb:PutItem", "Counters", ("object#*",)),
        ("s3:GetObject", "Bucket/access-log/*", ()),
        ("sqs:ReceiveMessage", "IngestDeliveryObjects", ()),
        ("sqs:DeleteMessage", "IngestDeliveryObjects", ()),
        ("sqs:GetQueueAttributes", "IngestDeliveryObjects", ()),
    }


def test_firehose_puts_objects_under_two_prefixes(firehose_template: Template) -> None:
    """What it may do on objects, it may do to the archive and to what it could not process."""
    on_objects = {
        (f"s3:{action}", f"Bucket/{prefix}*", ())
        for action in ("PutObject", "GetObject", "AbortMultipartUpload")
        for prefix in ("access-log/", "access-log-errors/")
    }
    on_bucket = {
        (f"s3:{action}", "Bucket", ()) for action in ("GetBucketLocation", "ListBucket", "ListBucketMultipartUploads")
    }
    assert grants(firehose_template, "IngestDeliveryFirehose") == on_objects | on_bucket | {
        ("logs:PutLogEvents", "IngestDeliveryErrorLog", ())
    }
    trust = properties(firehose_template, "IngestDeliveryFirehose")["AssumeRolePolicyDocument"]["Statement"]
    assert [(one["Principal"], one["Condition"]) for one in trust] == [
        ({"Service": "firehose.amazonaws.com"}, {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}})
    ]


def test_close_periods_reads_counters_and_keeps_the_ledger(template: Template) -> None:
    """Every action of close_periods, with its resource and the partition keys it is held to; it knows no Stripe key."""
    rows = ("customer#*", "key#*", "period#*")
    assert grants(template, "BillingClosePeriodsRole") == {
        ("logs:CreateLogStream", "BillingClosePeriodsLog", ()),
        ("logs:PutLogEvents", "BillingClosePeriodsLog", ()),
        ("dynamodb:DescribeTable", "Counters", ()),
        ("dynamodb:Query", "Counters", ("hour#*", "late#*", "unique#*")),
        ("dynamodb:BatchGetItem", "Counters", ("late#*",)),
        ("dynamodb:UpdateItem", "Counters", ("late#*",)),
        ("dynamodb:DeleteItem", "Counters", ("late#*",)),
        ("dynamodb:UpdateItem", "Counters", ("check#*",)),
        ("dynamodb:GetItem", "Ledger", rows),
        ("dynamodb:BatchGetItem", "Ledger", rows),
        ("dynamodb:Query", "Ledger", rows),
        ("dynamodb:PutItem", "Ledger", (*rows, "list#keys")),
        ("dynamodb:UpdateItem", "Ledger", ("held#*",)),
        ("dynamodb:UpdateItem", "Ledger", ("customer#*",)),
        ("dynamodb:GetItem", "Ledger", ("posting",)),
        ("dynamodb:Query", "Ledger/index/pending", ("pending#*",)),
        ("lambda:InvokeFunction", "BillingPostUsage", ()),
        ("lambda:InvokeFunction", "BillingClosePeriods", ()),
    }


def test_post_usage_posts_what_is_pending(template: Template) -> None:
    """Every action of post_usage: of the counters it sees nothing, and of the ledger only customers' rows."""
    assert grants(template, "BillingPostUsageRole") == {
        ("logs:CreateLogStream", "BillingPostUsageLog", ()),
        ("logs:PutLogEvents", "BillingPostUsageLog", ()),
        ("dynamodb:UpdateItem", "Counters", ("check#*",)),
        ("dynamodb:BatchGetItem", "Ledger", ("customer#*",)),
        ("dynamodb:PutItem", "Ledger", ("customer#*",)),
        ("dynamodb:UpdateItem", "Ledger", ("held#*",)),
        ("dynamodb:ConditionCheckItem", "Ledger", ("customer#*",)),
        ("dynamodb:GetItem", "Ledger", ("posting",)),
        ("dynamodb:PutItem", "Ledger", ("posting",)),
        ("dynamodb:DeleteItem", "Ledger", ("posting",)),
        ("dynamodb:Query", "Ledger/index/pending", ("pending#*",)),
        NAME,
        *STRIPE,
        TELL,
    }


def test_reconcile_usage_reads_the_ledger_and_asks_for_hours_to_be_closed_again(template: Template) -> None:
    """Every action of reconcile_usage: it reads no counter, and deletes nothing but what it was asked to check."""
    read = ("customer#*", "period#*", "stripe#*", "posting", "list#customers", "held#*")
    assert grants(template, "BillingReconcileUsageRole") == {
        ("logs:CreateLogStream", "BillingReconcileUsageLog", ()),
        ("logs:PutLogEvents", "BillingReconcileUsageLog", ()),
        ("dynamodb:Query", "Counters", ("check#*",)),
        ("dynamodb:UpdateItem", "Counters", ("check#*",)),
        ("dynamodb:DeleteItem", "Counters", ("check#*",)),
        ("dynamodb:UpdateItem", "Counters", ("late#*",)),
        ("dynamodb:GetItem", "Ledger", read),
        ("dynamodb:BatchGetItem", "Ledger", read),
        ("dynamodb:Query", "Ledger", read),
        ("dynamodb:PutItem", "Ledger", ("customer#*", "period#*", "stripe#*")),
        ("dynamodb:Query", "Ledger/index/pending", ("pending#*", "rejected#*")),
        ("dynamodb:UpdateItem", "Ledger", ("held#*",)),
        *STRIPE,
    }


def test_receive_events_marks_rows_and_nothing_else(template: Template) -> None:
    """I7: anyone may call it, so that what it may do is the least of all."""
    assert grants(template, "BillingReceiveEventsRole") == {
        ("logs:CreateLogStream", "BillingReceiveEventsLog", ()),
        ("logs:PutLogEvents", "BillingReceiveEventsLog", ()),
        ("dynamodb:BatchGetItem", "Ledger", ("customer#*",)),
        ("dynamodb:PutItem", "Ledger", ("customer#*",)),
        ("dynamodb:UpdateItem", "Ledger", ("held#*",)),
        NAME,
        *STRIPE,
        ("secretsmanager:GetSecretValue", "SigningSecret", ()),
        TELL,
    }


def test_what_stripe_signs_with_is_read_by_one_function_alone(template: Template) -> None:
    """I7: whoever knows it can say what Stripe has said."""
    readers = {
        role for role in ROLES if ("secretsmanager:GetSecretValue", "SigningSecret", ()) in grants(template, role)
    }
    assert readers == {"BillingReceiveEventsRole"}


@pytest.mark.parametrize("role", ["BillingReceiveEventsRole", "BillingPostUsageRole"])
def test_who_writes_rows_alone_cannot_say_who_pays(template: Template, role: str) -> None:
    """I7: nor adjust anything: a put of a row's attributes may replace another item, and never be one.

    Which attributes a row has, the row itself says; a profile without the others is not read as one.
    """
    (conditions,) = [
        statement["Condition"]
        for policy in policies(template, role)
        for statement in policy["Statement"]
        if "dynamodb:PutItem" in listed(statement["Action"]) and statement["Condition"][LEADING][KEYS] == ["customer#*"]
    ]
    allowed = {"pk", "sk", "version", "totals", "only_key", "pending", "summed"}
    assert conditions["ForAllValues:StringEquals"].keys() == {"dynamodb:Attributes"}
    assert set(conditions["ForAllValues:StringEquals"]["dynamodb:Attributes"]) == allowed
    totals = {"requests": Total(counted=1, revision=1, state=State.PENDING)}
    hour = Hour.parse("2026-11-22T05")
    row = UsageRow(Subject(Kind.CUSTOMER, "acme"), hour, 1, totals, only_key="a1b2c3", summed=(WhyHeld.TOO_OLD,))
    assert _row_item(row).keys() == allowed
    erased = {"pk": {"S": "customer#acme"}, "sk": {"S": "profile"}, "version": {"N": "1"}}
    with pytest.raises(KeyError):
        _read_customer(erased)


@pytest.mark.parametrize("role", ["BillingClosePeriodsRole", "BillingReconcileUsageRole"])
def test_who_writes_most_of_a_customers_items_cannot_say_who_pays(template: Template, role: str) -> None:
    """I7: a customer's item with a name is its profile, and a profile without one is not read as one."""
    (denied,) = denials(template, role)
    assert (denied["Action"], flat(denied["Resource"])) == ("dynamodb:PutItem", "Ledger")
    assert denied["Condition"] == {
        "ForAnyValue:StringLike": {"dynamodb:LeadingKeys": ["customer#*"]},
        "ForAnyValue:StringEquals": {"dynamodb:Attributes": ["name"]},
    }
    nameless = {"pk": {"S": "customer#acme"}, "sk": {"S": "profile"}, "stripe_customer": {"S": "cus_evil"}}
    with pytest.raises(KeyError, match="name"):
        _read_customer(nameless)


@pytest.mark.parametrize("role", ["BillingReceiveEventsRole", "BillingPostUsageRole"])
def test_events_are_put_of_one_kind_alone(template: Template, role: str) -> None:
    """I7: the bus is the whole account's."""
    (conditions,) = [
        statement["Condition"]
        for policy in policies(template, role)
        for statement in policy["Statement"]
        if "events:PutEvents" in listed(statement["Action"])
    ]
    assert conditions == {
        "ForAllValues:StringEquals": {"events:source": ["metering"], "events:detail-type": ["Usage rejected"]}
    }


STRIPE = {("secretsmanager:GetSecretValue", "StripeSecret", ())}
NAME = ("dynamodb:GetItem", "Ledger", ("list#hashed",))
TELL = (
    "events:PutEvents",
    "arn:AWS::Partition:events:AWS::Region:AWS::AccountId:event-bus/default",
    (),
)


@pytest.mark.parametrize(("clock", "function"), [("Clock", "ClosePeriods"), ("ReconcileClock", "ReconcileUsage")])
def test_a_clock_invokes_one_function(template: Template, clock: str, function: str) -> None:
    """A schedule's role may invoke its function, and no version of it."""
    assert grants(template, f"Billing{clock}") == {("lambda:InvokeFunction", f"Billing{function}", ())}


def test_check_completeness_reads_metrics_lines_and_connections(template: Template) -> None:
    """Metrics know no resources: reading can be granted on all metrics of the account, or not at all."""
    assert grants(template, "CheckingCheckCompletenessRole") == {
        ("logs:CreateLogStream", "CheckingCheckCompletenessLog", ()),
        ("logs:PutLogEvents", "CheckingCheckCompletenessLog", ()),
        ("cloudwatch:GetMetricData", "*", ()),
        ("cloudwatch:ListMetrics", "*", ()),
        ("dynamodb:Query", "Counters", ("lines#*",)),
        ("dynamodb:Query", "Ledger", ("connections",)),
    }


def test_show_usage_reads_and_changes_nothing(template: Template) -> None:
    """I7: customers' requests reach it, so that it has no right to write anything anywhere."""
    assert grants(template, "PortalShowUsageRole") == {
        ("logs:CreateLogStream", "PortalShowUsageLog", ()),
        ("logs:PutLogEvents", "PortalShowUsageLog", ()),
        ("dynamodb:Query", "Counters", ("hour#*", "late#*", "unique#*")),
        ("dynamodb:GetItem", "Ledger", ("period#cursor",)),
        ("dynamodb:Query", "Ledger", ("customer#*",)),
        ("dynamodb:BatchGetItem", "Ledger", ("customer#*", "key#*")),
        ("secretsmanager:GetSecretValue", "PortalKey", ()),
        *STRIPE,
    }


LIMITS = {
    ("dynamodb:Query", "Ledger", ("limits#*",)),
    ("dynamodb:GetItem", "Ledger", ("budget#*",)),
}
"""How one customer's limits are read: with its budget."""


def test_the_watcher_reads_what_is_counted_and_writes_how_limits_stand(limits_template: Template) -> None:
    """I7: it can write no counter and no row, and say of nobody who pays or who holds a key."""
    assert grants(limits_template, "LimitingWatchLimitsRole") == LIMITS | {
        ("logs:CreateLogStream", "LimitingWatchLimitsLog", ()),
        ("logs:PutLogEvents", "LimitingWatchLimitsLog", ()),
        ("dynamodb:DescribeStream", "Counters/stream", ()),
        ("dynamodb:GetRecords", "Counters/stream", ()),
        ("dynamodb:GetShardIterator", "Counters/stream", ()),
        ("dynamodb:ListStreams", "*", ()),
        ("dynamodb:Query", "Counters", ("hour#*", "unique#*")),
        ("dynamodb:Query", "Ledger", ("customer#*", "list#customers")),
        ("dynamodb:BatchGetItem", "Ledger", ("key#*",)),
        ("dynamodb:GetItem", "Ledger", ("period#cursor",)),
        ("dynamodb:BatchGetItem", "Ledger", ("period#*",)),
        ("dynamodb:PutItem", "Ledger", ("limits#*",)),
        ("dynamodb:DeleteItem", "Ledger", ("limits#*",)),
        ("dynamodb:GetItem", "Access", ("head", "sweep")),
        ("dynamodb:Query", "Access", ("near", "gate", "closed")),
        ("dynamodb:PutItem", "Access", ("near",)),
        ("dynamodb:DeleteItem", "Access", ("near",)),
        ("dynamodb:UpdateItem", "Access", ("head",)),
        ("dynamodb:PutItem", "Access", ("gate", "sweep")),
        ("sqs:SendMessage", "LimitingGate", ()),
        ("lambda:InvokeFunction", "LimitingWatchLimits", ()),
        ("ses:SendEmail", "*", ()),
        TELL,
    }


def test_e_mail_comes_from_one_address_alone(limits_template: Template, stack: Callable[..., MeteringStack]) -> None:
    """I7: whatever identity SES has verified it by; without an address no e-mail is sent at all."""
    assert _conditions(limits_template, "LimitingWatchLimitsRole", "ses:SendEmail") == [
        {"StringEqualsIfExists": {"ses:FromAddress": "alerts@example.com"}}
    ]
    silent = dict(Synthesised.from_stack(stack(limits=True)).to_json())
    assert _conditions(silent, "LimitingWatchLimitsRole", "ses:SendEmail") == []


@pytest.mark.parametrize("role", ["LimitingWatchLimitsRole", "LimitingEnforceLimitsRole"])
def test_events_about_limits_are_put_alone(limits_template: Template, role: str) -> None:
    """I7: the bus is the whole account's."""
    assert _conditions(limits_template, role, "events:PutEvents") == [
        {
            "ForAllValues:StringEquals": {
                "events:source": ["metering.limits"],
                "events:detail-type": [
                    "Threshold reached",
                    "Access slowed",
                    "Access stopped",
                    "Access reopened",
                ],
            }
        }
    ]


ENFORCE_LIMITS = LIMITS | {
    ("logs:CreateLogStream", "LimitingEnforceLimitsLog", ()),
    ("logs:PutLogEvents", "LimitingEnforceLimitsLog", ()),
    ("sqs:ReceiveMessage", "LimitingGate", ()),
    ("sqs:DeleteMessage", "LimitingGate", ()),
    ("sqs:GetQueueAttributes", "LimitingGate", ()),
    ("sqs:SendMessage", "LimitingGate", ()),
    ("dynamodb:BatchGetItem", "Ledger", ("key#*", "home#*")),
    ("dynamodb:Query", "Ledger", ("customer#*",)),
    ("dynamodb:PutItem", "Ledger", ("limits#*", "home#*")),
    ("dynamodb:Query", "Access", ("gate",)),
    ("dynamodb:GetItem", "Access", ("closed",)),
    ("dynamodb:PutItem", "Access", ("lease", "closed")),
    ("dynamodb:DeleteItem", "Access", ("lease", "closed")),
    ("dynamodb:PutItem", "Access", ("gate",)),
    ("dynamodb:DeleteItem", "Access", ("gate",)),
    *((f"dynamodb:{action}", "Access", ("access#*",)) for action in ("PutItem", "DeleteItem")),
    TELL,
}


def test_the_worker_moves_keys_between_plans_and_changes_no_plan(limits_template: Template) -> None:
    """I7: of API Gateway's management it may put keys into usage plans and take them out, and look; nothing else.

    Callers of connected APIs are closed by an item each.
    """
    plans = "arn:AWS::Partition:apigateway:AWS::Region::/usageplans"
    assert grants(limits_template, "LimitingEnforceLimitsRole") == ENFORCE_LIMITS | {
        ("apigateway:GET", plans, ()),
        ("apigateway:GET", f"{plans}/*", ()),
        ("apigateway:POST", f"{plans}/*/keys", ()),
        ("apigateway:DELETE", f"{plans}/*/keys/*", ()),
    }


@pytest.mark.parametrize("api", [Api.HTTP, Api.WEBSOCKET])
def test_where_there_are_no_keys_the_worker_tells_authorizers(stack: Callable[..., MeteringStack], api: Api) -> None:
    """Callers are closed by an item each, and no usage plan is touched; which are a connected API's is looked up."""
    made = stack(limits=True, access_log=AccessLog(api, "authorizer.sub"))
    assert grants(dict(Synthesised.from_stack(made).to_json()), "LimitingEnforceLimitsRole") == ENFORCE_LIMITS | {
        ("dynamodb:GetItem", "Ledger", ("connections",))
    }


def test_a_budget_is_all_that_is_written_by_whoever_has_a_link(limits_template: Template) -> None:
    """I7: customers' requests reach it."""
    assert grants(limits_template, "PortalSetBudgetRole") == LIMITS | {
        ("logs:CreateLogStream", "PortalSetBudgetLog", ()),
        ("logs:PutLogEvents", "PortalSetBudgetLog", ()),
        ("dynamodb:GetItem", "Ledger", ("budget#*",)),
        ("dynamodb:PutItem", "Ledger", ("budget#*",)),
        ("secretsmanager:GetSecretValue", "PortalKey", ()),
        ("lambda:InvokeFunction", "LimitingWatchLimits", ()),
    }


def test_limits_give_others_what_they_note_and_show(template: Template, limits_template: Template) -> None:
    """And the clock its function; nobody else may do more than without limits."""
    more = {role: grants(limits_template, role) - grants(template, role) for role in ROLES}
    noting = {(f"dynamodb:{action}", "Ledger", ("limits#*",)) for action in ("GetItem", "PutItem")}
    assert {role: added for role, added in more.items() if added} == {
        "BillingClosePeriodsRole": {("dynamodb:UpdateItem", "Ledger", ("limits#*",))},
        "BillingReconcileUsageRole": noting,
        "BillingReceiveEventsRole": noting | {("dynamodb:GetItem", "Ledger", ("stripe#*",))},
        "PortalShowUsageRole": LIMITS,
    }
    assert grants(limits_template, "LimitingClock") == {("lambda:InvokeFunction", "LimitingWatchLimits", ())}


def _conditions(template: Template, role: str, action: str) -> list[dict[str, Any]]:
    return [
        statement["Condition"]
        for policy in policies(template, role)
        for statement in policy["Statement"]
        if action in listed(statement["Action"])
    ]


ROLES = {
    "IngestRecordUsageRole",
    "BillingClosePeriodsRole",
    "BillingPostUsageRole",
    "BillingReconcileUsageRole",
    "BillingReceiveEventsRole",
    "BillingClock",
    "BillingReconcileClock",
    "CheckingCheckCompletenessRole",
    "CheckingClock",
    "PortalShowUsageRole",
}
LIMITS_ROLES = {"LimitingWatchLimitsRole", "LimitingEnforceLimitsRole", "LimitingClock", "PortalSetBudgetRole"}
KNOW_NO_RESOURCES = {"cloudwatch:GetMetricData", "cloudwatch:ListMetrics", "dynamodb:ListStreams"}
HELD_OTHERWISE = {"ses:SendEmail"}
"""By its condition, which has a test of its own."""
OF_STREAMS = {f"dynamodb:{action}" for action in ("DescribeStream", "GetRecords", "GetShardIterator", "ListStreams")}


def test_no_other_role_is_made(template: Template, firehose_template: Template, limits_template: Template) -> None:
    """A new role must come with a test of what it may do."""
    assert {name[:-8] for name in of_type(limits_template, "AWS::IAM::Role")} == ROLES | LIMITS_ROLES
    assert {name[:-8] for name in of_type(template, "AWS::IAM::Role")} == ROLES
    assert {name[:-8] for name in of_type(firehose_template, "AWS::IAM::Role")} == {*ROLES, "IngestDeliveryFirehose"}


def test_no_statement_allows_an_unnamed_action_or_resource(
    firehose_template: Template, limits_template: Template
) -> None:
    """No role may do `service:*`, or anything to `*`."""
    roles = [(firehose_template, role) for role in (*ROLES, "IngestDeliveryFirehose")]
    for made, role in [*roles, *((limits_template, role) for role in LIMITS_ROLES)]:
        for policy in policies(made, role):
            for statement in policy["Statement"]:
                assert not [action for action in listed(statement["Action"]) if "*" in action]
                unnamed = [resource for resource in listed(statement["Resource"]) if flat(resource).startswith("*")]
                assert not unnamed or {*listed(statement["Action"])} <= KNOW_NO_RESOURCES | HELD_OTHERWISE


def test_every_grant_on_a_table_is_held_to_partition_keys(limits_template: Template) -> None:
    """I6: not one action reaches an item whose partition key it does not name; Scan, which has none, is not granted."""
    for role in ROLES | LIMITS_ROLES:
        for policy in policies(limits_template, role):
            for statement in policy["Statement"]:
                on_tables = [action for action in listed(statement["Action"]) if action.startswith("dynamodb:")]
                on_items = {*on_tables} - OF_STREAMS - {"dynamodb:DescribeTable"}
                assert not on_items or statement["Effect"] == "Deny" or LEADING in statement["Condition"]
                assert not {"dynamodb:Scan", "dynamodb:PartiQLSelect"} & set(on_tables)

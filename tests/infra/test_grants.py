"""Each function may do what it does, to the items it does it to, and nothing else."""

from tests.infra.resources import LEADING, Template, flat, grants, listed, of_type, policies


def test_record_usage_counts_marks_and_sets_aside(template: Template) -> None:
    """Every action of record_usage, with its resource and the partition keys it is held to."""
    assert grants(template, "IngestRecordUsageRole") == {
        ("logs:CreateLogStream", "IngestRecordUsageLog", ()),
        ("logs:PutLogEvents", "IngestRecordUsageLog", ()),
        ("dynamodb:GetItem", "Counters", ("hour#*",)),
        ("dynamodb:UpdateItem", "Counters", ("hour#*",)),
        ("dynamodb:PutItem", "Counters", ("late#*",)),
        ("s3:GetObject", "Bucket/set-aside/*", ()),
        ("s3:PutObject", "Bucket/*", ()),
        ("s3:ListBucket", "Bucket", ()),
    }


def test_close_periods_reads_counters_and_keeps_the_ledger(template: Template) -> None:
    """Every action of close_periods, with its resource and the partition keys it is held to."""
    rows = ("customer#*", "key#*", "period#*")
    assert grants(template, "BillingClosePeriodsRole") == {
        ("logs:CreateLogStream", "BillingClosePeriodsLog", ()),
        ("logs:PutLogEvents", "BillingClosePeriodsLog", ()),
        ("dynamodb:DescribeTable", "Counters", ()),
        ("dynamodb:Query", "Counters", ("hour#*", "late#*")),
        ("dynamodb:DeleteItem", "Counters", ("late#*",)),
        ("dynamodb:GetItem", "Ledger", rows),
        ("dynamodb:BatchGetItem", "Ledger", rows),
        ("dynamodb:Query", "Ledger", rows),
        ("dynamodb:PutItem", "Ledger", (*rows, "list#keys")),
        ("dynamodb:ConditionCheckItem", "Ledger", ("customer#*",)),
        ("dynamodb:Query", "Ledger/index/pending", ("pending#*",)),
        ("secretsmanager:GetSecretValue", "StripeSecret", ()),
    }


def test_the_clock_invokes_one_function(template: Template) -> None:
    """The schedule's role may invoke close_periods, and no version of it."""
    assert grants(template, "BillingClock") == {("lambda:InvokeFunction", "BillingClosePeriods", ())}


def test_no_other_role_is_made(template: Template) -> None:
    """A new role must come with a test of what it may do."""
    assert {name[:-8] for name in of_type(template, "AWS::IAM::Role")} == {
        "IngestRecordUsageRole",
        "BillingClosePeriodsRole",
        "BillingClock",
    }


def test_no_statement_allows_an_unnamed_action_or_resource(template: Template) -> None:
    """No role may do `service:*`, or anything to `*`."""
    for role in ("IngestRecordUsageRole", "BillingClosePeriodsRole", "BillingClock"):
        for policy in policies(template, role):
            for statement in policy["Statement"]:
                assert not [action for action in listed(statement["Action"]) if "*" in action]
                assert not [resource for resource in listed(statement["Resource"]) if flat(resource).startswith("*")]


def test_every_grant_on_a_table_is_held_to_partition_keys(template: Template) -> None:
    """I6: not one action reaches an item whose partition key it does not name; Scan, which has none, is not granted."""
    for role in ("IngestRecordUsageRole", "BillingClosePeriodsRole"):
        for policy in policies(template, role):
            for statement in policy["Statement"]:
                on_tables = [action for action in listed(statement["Action"]) if action.startswith("dynamodb:")]
                on_items = [action for action in on_tables if action != "dynamodb:DescribeTable"]
                assert not on_items or LEADING in statement["Condition"]
                assert not {"dynamodb:Scan", "dynamodb:PartiQLSelect"} & set(on_tables)

"""What outlives a deployment is kept, protected, and never renamed."""

import json
import re

import pytest

from tests.conftest import ROOT
from tests.doubles.template import Template, of_type, properties

KEPT = (
    "CountersFDB211E7",
    "Bucket83908E77",
    "AccessLogD598EBE9",
    "HashSecret3D9FFBC2",
    "SigningSecret",
    "StripeSecret",
)
LEDGER = "LedgerB7379752"


def test_the_logical_ids_of_stateful_resources_never_change(template: Template) -> None:
    """Another logical id is another, empty resource: whoever changes one of these loses sight of money."""
    stateful = {
        "AWS::DynamoDB::GlobalTable",
        "AWS::S3::Bucket",
        "AWS::SecretsManager::Secret",
    }
    kept = {name for kind in stateful for name in of_type(template, kind)}
    assert kept == {
        "CountersFDB211E7",
        "LedgerB7379752",
        "Bucket83908E77",
        "StripeSecret",
        "SigningSecret",
        "HashSecret3D9FFBC2",
        "PortalKey4F23AF2A",
    }
    assert "AccessLogD598EBE9" in of_type(template, "AWS::Logs::LogGroup")


def test_both_roads_have_the_same_stateful_resources(template: Template, firehose_template: Template) -> None:
    """Changing the road deletes nothing, and finds again what was left."""
    kinds = ("AWS::DynamoDB::GlobalTable", "AWS::S3::Bucket", "AWS::SecretsManager::Secret")
    for kind in kinds:
        assert of_type(template, kind).keys() == of_type(firehose_template, kind).keys()
    assert "AccessLogD598EBE9" in of_type(firehose_template, "AWS::Logs::LogGroup")


def test_what_holds_data_or_a_key_is_retained(template: Template) -> None:
    """Neither deleting nor replacing it deletes what it holds; a first creation that fails leaves nothing behind."""
    for name in KEPT:
        assert template["Resources"][name]["DeletionPolicy"] == "RetainExceptOnCreate"
        assert template["Resources"][name]["UpdateReplacePolicy"] == "Retain"


def test_the_ledger_is_retained_whatever_happens(template: Template) -> None:
    """Its deletion protection would let the undoing of a failed first creation fail, too."""
    assert template["Resources"][LEDGER]["DeletionPolicy"] == "Retain"
    assert template["Resources"][LEDGER]["UpdateReplacePolicy"] == "Retain"


def test_of_what_was_set_aside_only_what_is_done_with_expires(template: Template) -> None:
    """I1: what still waits has no tag. I8: people's ids, which it may hold, are not kept for ever."""
    rules = properties(template, "Bucket")["LifecycleConfiguration"]["Rules"]
    expiring = {rule["Id"]: rule for rule in rules if "ExpirationInDays" in rule}
    assert expiring.keys() == {"Archive", "Done"}
    assert expiring["Archive"]["Prefix"] == "access-log/"
    assert expiring["Done"] == {
        "Id": "Done",
        "Status": "Enabled",
        "TagFilters": [{"Key": "metering", "Value": "done"}],
        "ExpirationInDays": 400,
    }


def test_the_counters_can_be_deleted_again(template: Template) -> None:
    """By a first creation that fails; what is lost of them is recounted from the log."""
    (replica,) = properties(template, "Counters")["Replicas"]
    assert "DeletionProtectionEnabled" not in replica


def test_no_stateful_resource_has_a_physical_name(template: Template) -> None:
    """Two deployments fit into one account and Region."""
    for name in (*KEPT, LEDGER):
        assert not {"TableName", "BucketName", "LogGroupName", "Name"} & set(template["Resources"][name]["Properties"])


def test_counters_expire_and_are_streamed(template: Template) -> None:
    """On demand, keyed by pk and sk, with a time to live and both images in the stream."""
    counters = properties(template, "Counters")
    assert counters["BillingMode"] == "PAY_PER_REQUEST"
    assert counters["KeySchema"] == [
        {"AttributeName": "pk", "KeyType": "HASH"},
        {"AttributeName": "sk", "KeyType": "RANGE"},
    ]
    assert counters["TimeToLiveSpecification"] == {"AttributeName": "ttl", "Enabled": True}
    assert counters["StreamSpecification"] == {"StreamViewType": "NEW_AND_OLD_IMAGES"}


def test_the_ledger_is_protected_and_can_be_restored(template: Template) -> None:
    """Point-in-time recovery and deletion protection; no time to live, since money does not expire."""
    ledger = properties(template, "Ledger")
    (replica,) = ledger["Replicas"]
    assert ledger["BillingMode"] == "PAY_PER_REQUEST"
    assert replica["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert replica["DeletionProtectionEnabled"] is True
    assert "TimeToLiveSpecification" not in ledger


def test_the_ledger_lists_what_is_pending(template: Template) -> None:
    """The sparse index holds keys alone: a run reads the row before it posts it."""
    assert properties(template, "Ledger")["GlobalSecondaryIndexes"] == [
        {
            "IndexName": "pending",
            "KeySchema": [
                {"AttributeName": "pending", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        }
    ]


def test_the_bucket_is_private_and_only_reached_over_tls(template: Template) -> None:
    """I8: what was set aside is nobody else's to read."""
    bucket = properties(template, "Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (deny,) = properties(template, "BucketPolicy")["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Action"]) == ("Deny", "s3:*")
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize("name", ["StripeSecret", "SigningSecret"])
def test_stripes_secrets_have_no_value(template: Template, name: str) -> None:
    """I8: CloudFormation neither knows nor makes one up; `metering stripe connect` and `webhook` put them."""
    assert set(template["Resources"][name]["Properties"]) == {"Description"}


def test_the_key_of_the_hashes_is_made_up_at_deployment(template: Template) -> None:
    """I8: 64 letters and digits that CloudFormation asks for and no template holds; nothing ever rotates them."""
    secret = template["Resources"]["HashSecret3D9FFBC2"]["Properties"]
    assert set(secret) == {"Description", "GenerateSecretString"}
    assert secret["GenerateSecretString"] == {"ExcludePunctuation": True, "PasswordLength": 64}
    assert not of_type(template, "AWS::SecretsManager::RotationSchedule")


def test_no_template_holds_a_key(templates: dict[str, Template]) -> None:
    """I8: nothing in any template looks like a Stripe key or a password."""
    for stack in templates.values():
        text = json.dumps(stack)
        assert not re.search(r'[sr]k_(live|test)|whsec_|"SecretString|"Password"', text)
        assert not of_type(stack, "AWS::ApiGateway::ApiKey")


def test_whoever_deletes_the_stack_reads_of_all_that_stays(
    limits_template: Template, firehose_template: Template
) -> None:
    """In the table of what it costs, by the names that stacks have for it."""
    page = (ROOT / "infra" / "stack" / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"\n## Take it down\n(.*?)\n## ", page, re.DOTALL)
    told = {name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    stays = {
        re.sub(r"[0-9A-F]{8}$", "", name)
        for template in (limits_template, firehose_template)
        for name, resource in template["Resources"].items()
        if resource.get("DeletionPolicy", "Delete").startswith("Retain")
    }
    assert told == stays

"""Each grant of each deployed role is taken away in turn, and what it was for fails; with it, it works again.

What the emulator does not enforce stands in ``NOT_ENFORCED``, with the reason, and is asserted of the template alone,
by ``tests/infra/test_grants.py``. Two things it does not enforce in any role: ``dynamodb:LeadingKeys`` and
``dynamodb:Attributes``, for which :mod:`tests.e2e.roles` stands in, and who may assume a role: these tests assume all
of them.

What the functions do is in :mod:`tests.e2e.grant_scenarios`. The grants are read from the deployed policies, and none
is named here: so a new one fails these tests until a scenario needs it.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
from botocore.exceptions import ClientError

from infra.local.demo import steps as demo
from infra.operate.deployment import OperatorError
from metering.stores import aws
from metering.stores.ledger import Ledger
from metering.stripe.client import StripeUnavailableError
from tests.e2e.conftest import Deployed
from tests.e2e.grant_scenarios import SCENARIOS, Again, Scenario, Told, new_name, process, record
from tests.e2e.limit_scenarios import OF_LIMITS, WITH_LIMITS
from tests.e2e.roles import Grant, Role

NOT_ENFORCED: Final = {
    "logs:CreateLogStream": "the emulator itself writes what a function says into its log",
    "logs:PutLogEvents": "the same",
    "s3:ListBucket": "a missing object is answered 404, not 403, also to who may not list the bucket",
    "sqs:ReceiveMessage": "the emulator itself polls the queue of an event source",
    "sqs:DeleteMessage": "the same",
    "sqs:GetQueueAttributes": "the same",
    "dynamodb:DescribeStream": "the emulator itself reads the stream of an event source",
    "dynamodb:GetRecords": "the same",
    "dynamodb:GetShardIterator": "the same",
    "dynamodb:ListStreams": "the same",
}
"""Actions in the functions' roles, and why a function works without them in the emulator."""

ROLES_NOT_ENFORCED: Final = {
    "Clock": "the emulator's scheduler invokes as itself",
    "DeliveryFirehose": "the emulator's Firehose writes as itself",
}
"""Parts of the names of roles that are not functions', and why none of their grants is enforced."""

FAILURES: Final = (ExceptionGroup, AssertionError, ClientError, GetParameterError, StripeUnavailableError)
"""How a missing grant shows: as AWS's answer, as what the secrets' reader makes of it, or by a missing effect."""


@pytest.fixture(scope="module")
def told(deployed: Deployed) -> Iterator[Told]:
    """The events of the cloud."""
    told = Told(deployed)
    yield told
    told.close()


@pytest.fixture(scope="module")
def told_of_limited(limited: Deployed) -> Iterator[Told]:
    """The events of the cloud that has limits."""
    told = Told(limited)
    yield told
    told.close()


@pytest.mark.parametrize("function", SCENARIOS)
def test_each_grant_is_needed(deployed: Deployed, told: Told, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: no function may do anything that it does not do."""
    wrong = _what_is_wrong(deployed, told, function, monkeypatch)
    assert not wrong, "\n".join(wrong)


def test_each_grant_is_needed_on_the_road_over_firehose(firehose: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    """On that road record_usage may do more; the other functions' roles are the same."""
    with closing(Told(firehose)) as told:
        wrong = _what_is_wrong(firehose, told, "RecordUsage", monkeypatch)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("function", OF_LIMITS)
def test_each_grant_of_the_functions_of_limits_is_needed(
    limited: Deployed, told_of_limited: Told, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: the watcher, the worker at the gate, and who sets budgets."""
    wrong = _what_is_wrong(limited, told_of_limited, function, monkeypatch, scenario=OF_LIMITS[function])
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("function", WITH_LIMITS)
def test_each_grant_that_limits_add_is_needed(
    limited: Deployed, told_of_limited: Told, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: what the others may do besides, for what limits go by."""
    scenario, sids = WITH_LIMITS[function]
    wrong = _what_is_wrong(limited, told_of_limited, function, monkeypatch, scenario=scenario, only=sids)
    assert not wrong, "\n".join(wrong)


def _what_is_wrong(  # noqa: PLR0913 - what is tried, each by name
    deployed: Deployed,
    told: Told,
    function: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    scenario: Scenario | None = None,
    only: Collection[str] = (),
) -> list[str]:
    """Return what a function lacks, and which of its grants and of their key patterns nothing needs.

    ``only`` these statements are looked at, if there are any.
    """
    wrong = []
    scenario = scenario or SCENARIOS[function]
    with process(deployed, function, monkeypatch) as role, scenario(deployed, told) as again:
        again()
        wrong += [f"lacks {action}" for action in sorted(role.denied)]
        unused = [(sid, key) for sid, key in sorted(role.patterns - role.used) if not only or sid in only]
        wrong += [f"{sid}: no key begins {pattern}" for sid, pattern in unused]
        for grant in role.grants:
            if grant.action not in NOT_ENFORCED and (not only or grant.sid in only):
                role.denied = set()
                with role.without(grant):
                    failed = _fails(again)
                if not failed or role.denied != {grant.action}:
                    wrong.append(f"is not needed: {grant}; denied were {sorted(role.denied)}")
        role.denied = set()
        again()
        wrong += [f"lacks afterwards {action}" for action in sorted(role.denied)]
    return wrong


def _fails(again: Again) -> bool:
    try:
        again()
    except FAILURES:
        return True
    return False


def test_what_is_not_enforced_is_listed_rightly(deployed: Deployed) -> None:
    """A grant that turns out to be enforced belongs off the list.

    The clock of check_completeness ticks without the right to, and what the function says is in its log.
    """
    cloud = deployed.cloud
    iam, scheduler, logs = (cloud.emulator.client(name) for name in ("iam", "scheduler", "logs"))
    clock, role = (Role.read(iam, _arn(iam, name)) for name in ("CheckingClock", "CheckCompletenessRole"))
    (name,) = [one["Name"] for one in scheduler.list_schedules()["Schedules"] if "Checking" in one["Name"]]
    target = scheduler.get_schedule(Name=name)["Target"]
    (group,) = [
        one["logGroupName"]
        for one in logs.describe_log_groups()["logGroups"]
        if "CheckCompletenessLog" in one["logGroupName"]
    ]

    def said() -> int:
        events = logs.filter_log_events(logGroupName=group)["events"]
        return sum("completeness checked" in event["message"] for event in events)

    before, once = said(), new_name()
    of_its_log = [grant for grant in role.grants if grant.action in NOT_ENFORCED]
    assert {grant.action for grant in of_its_log} == {"logs:CreateLogStream", "logs:PutLogEvents"}
    with clock.without(*clock.grants), role.without(*of_its_log):
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        scheduler.create_schedule(
            Name=once, ScheduleExpression=f"at({now})", FlexibleTimeWindow={"Mode": "OFF"}, Target=target
        )
        demo.wait_until(lambda: said() > before)
    scheduler.delete_schedule(Name=once)
    for client in (iam, scheduler, logs):
        client.close()


def test_a_missing_object_is_told_also_without_the_right_to_list(
    deployed: Deployed, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On AWS it would be answered 403, and no batch could be recorded."""
    with (
        process(deployed, "RecordUsage", monkeypatch) as role,
        record(deployed, told) as again,
        role.without(*_of(role, "s3:ListBucket")),
    ):
        again()


def test_the_road_over_firehose_goes_without_two_roles(firehose: Deployed) -> None:
    """Neither Firehose's own right to write nor the event source's right to read the queue is asked for."""
    iam, stream = firehose.cloud.emulator.client("iam"), firehose.cloud.emulator.client("firehose")
    delivery, role = (Role.read(iam, _arn(iam, name)) for name in ("DeliveryFirehose", "RecordUsageRole"))
    of_the_queue = [grant for grant in role.grants if grant.action.startswith("sqs:")]
    assert {grant.action for grant in of_the_queue} <= NOT_ENFORCED.keys()
    with delivery.without(*delivery.grants), role.without(*of_the_queue):
        name = firehose.cloud.outputs.delivery_stream
        stream.put_record(DeliveryStreamName=name, Record={"Data": firehose.access_line("without-roles").encode()})
        demo.wait_until(lambda: firehose.counted("without-roles") == 1)
    iam.close()
    stream.close()


def test_the_emulator_does_not_hold_a_call_to_its_partition_keys(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What :mod:`tests.e2e.roles` looks at instead: it refuses the same call."""
    ledger = deployed.cloud.deployment.ledger
    with process(deployed, "ReceiveEvents", monkeypatch) as role:
        theirs = Ledger(aws.dynamodb(), ledger.table)
        with pytest.raises(ClientError, match="is not allowed to"):
            theirs.holders.holdings(["somebody-elses"])
        statements, role.statements = role.statements, []  # to the stand-in alone
        assert theirs.holders.holdings(["somebody-elses"])["somebody-elses"].version == 0
        role.statements = statements


def test_every_role_is_one_of_these(there: Deployed) -> None:
    """A new role comes with a scenario, or with a reason why its grants are not enforced."""
    assert _without_scenario(there, SCENARIOS) == []


def test_every_role_of_limits_is_one_of_these(limited: Deployed) -> None:
    """So does one that limits bring."""
    assert _without_scenario(limited, [*SCENARIOS, *OF_LIMITS]) == []


def _without_scenario(deployed: Deployed, functions: Iterable[str]) -> list[str]:
    """Return the roles that belong to none of these functions, and that the emulator might enforce."""
    known = [f"{function}Role" for function in functions] + list(ROLES_NOT_ENFORCED)
    iam = deployed.cloud.emulator.client("iam")
    names = [one["RoleName"] for one in iam.list_roles()["Roles"] if one["RoleName"].startswith("Metering-")]
    iam.close()
    return [name for name in names if not any(part in name for part in known)]


def test_a_deployed_function_fails_without_a_grant(deployed: Deployed) -> None:
    """I1: and the same batch is counted when it is delivered once more with it."""
    iam = deployed.cloud.emulator.client("iam")
    role = Role.read(iam, _arn(iam, "RecordUsageRole"))
    name = new_name()
    payload = deployed.payload(name)
    for action in ("dynamodb:UpdateItem", "s3:GetObject"):
        with role.without(*_of(role, action)), pytest.raises(OperatorError, match="not authorized"):
            deployed.deliver(payload)
    iam.close()
    assert deployed.deliver(payload)["billed"] == 1
    assert deployed.counted(name) == 1


def _of(role: Role, action: str) -> list[Grant]:
    return [grant for grant in role.grants if grant.action == action]


def _arn(iam: Any, name: str) -> str:
    (arn,) = [one["Arn"] for one in iam.list_roles()["Roles"] if name in one["RoleName"]]
    return str(arn)

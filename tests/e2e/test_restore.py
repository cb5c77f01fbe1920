"""The runbook's "After restoring the ledger", step by step, on the embedded AWS."""

from datetime import UTC, datetime

import pytest

from infra.local.demo.steps import wait_until
from infra.operate.deployment import OperatorError
from infra.operate.posting import turn_off, turn_on
from infra.operate.recount.recount import Recount
from infra.operate.restore import restore
from metering.model.periods import due_before
from tests.e2e.conftest import Deployed


def test_a_ledger_from_a_point_in_time_ends_at_what_was_counted(deployed: Deployed) -> None:
    """I4, I5: what was billed since is not billed twice, and what changed since is found again."""
    deployment, emulator = deployed.cloud.deployment, deployed.cloud.emulator
    dynamodb, functions = emulator.client("dynamodb"), emulator.client("lambda")
    ledger, closing = deployment.outputs.ledger_table, deployment.outputs.close_periods_function
    deployed.customer("early", "early-key")
    _log(deployed, "early-key", "early-key")
    deployment.close()
    dynamodb.restore_table_to_point_in_time(
        SourceTableName=ledger, TargetTableName="restored", UseLatestRestorableTime=True
    )
    _log(deployed, "early-key", "early-key", "early-key")
    deployment.close()
    deployed.customer("since", "since-key")
    assert (deployed.in_ledger("customer#early"), deployed.at_stripe("early")) == ((5, "POSTED"), 5)

    now, who = datetime.now(UTC), deployment.who()
    with pytest.raises(OperatorError, match="posting must be off"):
        restore(deployment, "restored", progress=lambda pieces, _: pieces)
    turn_off(deployment, who=who, now=now)
    with pytest.raises(OperatorError, match="close_periods must be stopped"):
        restore(deployment, "restored", progress=lambda pieces, _: pieces)
    functions.put_function_concurrency(FunctionName=closing, ReservedConcurrentExecutions=0)
    with pytest.raises(OperatorError, match="holds no ledger"):
        restore(deployment, deployment.outputs.counters_table, progress=lambda pieces, _: pieces)
    done = restore(deployment, "restored", progress=lambda pieces, _: pieces)
    assert (done.epoch, done.deleted > 0) == (1, True)
    assert deployed.in_ledger("customer#early") == (2, "POSTED")
    assert deployment.ledger.holders.customers(["since"]) == {}
    assert not deployment.switch.read().on
    assert restore(deployment, "restored", progress=lambda pieces, _: pieces).deleted == 0

    posts = deployment.outputs.post_usage_function
    settings = functions.get_function_configuration(FunctionName=posts)["Environment"]["Variables"]
    functions.update_function_configuration(  # as a deployment with ledger_epoch=2 does
        FunctionName=posts, Environment={"Variables": settings | {"LEDGER_EPOCH": "2"}}
    )
    functions.delete_function_concurrency(FunctionName=closing)
    deployment.close()
    recount = Recount(deployment, "early", now)
    stale = [line for lines in recount.compare(deployed.hour, due_before(now)) for line in lines if line.stays]
    assert [(line.subject.id, line.metric, line.recounted, line.counted, line.ledger) for line in stale] == [
        ("early", "requests", 5, 5, 2),
        ("early", "response_bytes", 50, 50, 20),
    ]
    for line in stale:
        recount.fix(line, who)
    turn_on(deployment, None, who=who, now=now, progress=lambda names, _: names)
    deployment.close()
    assert (deployed.in_ledger("customer#early"), deployed.at_stripe("early")) == ((5, "POSTED"), 5)
    functions.update_function_configuration(FunctionName=posts, Environment={"Variables": settings})
    dynamodb.close()
    functions.close()


def _log(there: Deployed, *keys: str) -> None:
    """Write good requests' lines into the access log, and wait until they are counted."""
    before, key = there.counted(keys[0]), keys[0]
    logs = there.cloud.emulator.client("logs")
    group, stream = there.cloud.outputs.access_log_group, f"by-hand-{there.lines}"
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    at = int(there.hour.start.timestamp() * 1000)
    events = [{"timestamp": at, "message": there.access_line(key)} for key in keys]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)
    logs.close()
    wait_until(lambda: there.counted(key) == before + len(keys))

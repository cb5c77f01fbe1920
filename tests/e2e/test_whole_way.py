"""The whole way on the embedded AWS: requests, access log, deployed functions, tables, Stripe."""

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import pytest
from rich.console import Console

from app import METRICS
from infra.cli import main as cli
from infra.cli.local import try_it
from infra.local import cloud
from infra.local.demo import steps as demo
from infra.local.stripe.faults import Fault
from metering.counting.payloads import subscription
from metering.counting.recording import Hashing, Recorder
from metering.model.log_format import AccessLog
from metering.model.metrics import declared
from metering.model.read_allotment import LEAST
from metering.stores.counters import Counters
from tests.doubles.dying import Dying, KilledError, Life
from tests.doubles.json_schema import hold
from tests.e2e.conftest import Deployed
from tests.e2e.grant_scenarios import new_name

ROOT = Path(__file__).parents[2]
MOST_LOOKS: Final = 10
"""Runs that look at whoever other tests have left in this deployment."""


def test_every_request_is_counted_billed_and_at_stripe(there: Deployed) -> None:
    """I1 to I5: the demo itself, in small: sent = counted = ledger = Stripe, in total and by resource."""
    result = demo.play(there.cloud, requests=120, say=Console(file=io.StringIO()))
    document = result.as_json()
    assert document["equal"] is True, document
    hold(("demo", "--json"), json.dumps(document))
    assert (document["road"], document["requests"]) == (there.road, 120)
    assert [customer["id"] for customer in document["customers"]] == ["acme", "globex", "initech"]
    acme = document["customers"][0]
    assert set(acme["metrics"]) == {"messages", "requests", "response_bytes", "users"}
    assert set(acme["metrics"]["requests"]) == {"sent", "counted", "ledger", "stripe"}
    assert set(acme["by_dimension"]["requests"]) == {"/items", "/items/{id}", "/messages"}
    assert set(acme["by_dimension"]["requests"]["/items"]) == {"sent", "counted", "ledger"}
    # Seven users came through both of its keys, and count once.
    assert set(acme["metrics"]["users"].values()) == {7}


def test_the_deployed_stage_carries_our_format(deployed: Deployed) -> None:
    """I7, I8: what the gateway renders is what the template says."""
    apigateway = deployed.cloud.emulator.client("apigateway")
    sample = deployed.cloud.sample
    stage = apigateway.get_stage(restApiId=sample["ApiId"], stageName=sample["StageName"])
    apigateway.close()
    assert stage["accessLogSettings"]["format"] == AccessLog().format(deployed.cloud.outputs.nonces, declared(METRICS))


def test_a_redelivered_payload_counts_once(deployed: Deployed) -> None:
    """I2: through the deployed function."""
    payload = deployed.payload("redelivered", "redelivered")
    assert deployed.deliver(payload)["billed"] == 2
    deployed.deliver(payload)
    assert deployed.counted("redelivered") == 2


def test_a_crash_between_two_writes_is_made_good_by_the_redelivery(deployed: Deployed) -> None:
    """I1, I2: what was written before the crash is not counted again, what was not is."""
    payload = deployed.payload("crash-1", "crash-2")
    deployment = deployed.cloud.deployment
    dying = Dying(deployment.counters.client, Life(2))
    recorder = Recorder(
        metrics=METRICS,
        nonces=tuple(deployed.cloud.outputs.nonces.split()),
        counters=Counters(cast("Any", dying), deployment.counters.table),
        claims=deployment.uniques.claims,
        set_aside=deployment.set_aside,
        clock=lambda: deployed.hour.end,
        hashing=Hashing(b"no value is seen", deployment.ledger.holders),
    )
    with pytest.raises(KilledError):
        recorder.record(subscription(payload).batch(deployed.cloud.outputs.access_log_group))
    deployed.deliver(payload)
    assert (deployed.counted("crash-1"), deployed.counted("crash-2")) == (1, 1)


def test_a_bad_line_is_set_aside_by_the_deployed_function(deployed: Deployed) -> None:
    """I1: in the bucket, with its reason."""
    logs = deployed.cloud.emulator.client("logs")
    group = deployed.cloud.outputs.access_log_group
    logs.create_log_stream(logGroupName=group, logStreamName="by-hand")
    now = int(deployed.hour.start.timestamp() * 1000)
    lines = [deployed.access_line("aside"), "GET /index.html 200"]
    logs.put_log_events(
        logGroupName=group,
        logStreamName="by-hand",
        logEvents=[{"timestamp": now, "message": line} for line in lines],
    )
    logs.close()
    demo.wait_until(lambda: deployed.counted("aside") == 1)
    set_aside = deployed.cloud.deployment.set_aside
    kept = [batch for name in set_aside.batches() for batch in [set_aside.of(name).certain] if batch]
    by_hand = [batch.lines for batch in kept if batch.origin.endswith("by-hand")]
    assert [[(line.message, line.reason) for line in lines] for lines in by_hand] == [
        [("GET /index.html 200", "not JSON")]
    ]


def test_a_customer_mapped_late_is_billed_for_what_was_kept(deployed: Deployed) -> None:
    """I1: the key's usage waited in the ledger."""
    deployed.deliver(deployed.payload("late-key", "late-key"))
    deployed.cloud.deployment.close()
    assert deployed.in_ledger("key#late-key") == (2, "HELD")
    deployed.customer("latecomer", "late-key", stripe=False)
    deployed.cloud.deployment.close()
    assert deployed.in_ledger("customer#latecomer") == (2, "HELD")
    deployed.customer("latecomer", "late-key")
    deployed.cloud.deployment.close()
    assert deployed.in_ledger("customer#latecomer") == (2, "POSTED")
    assert deployed.at_stripe("latecomer") == 2


def test_an_hour_closed_twice_is_posted_once(deployed: Deployed) -> None:
    """I4: and a late record in between makes one new total."""
    deployed.customer("twice", "twice-key")
    deployed.deliver(deployed.payload("twice-key"))
    deployed.cloud.deployment.close()
    calls = deployed.cloud.stripe.calls["POST /v1/billing/meter_events"]
    deployed.cloud.deployment.close()
    assert deployed.cloud.stripe.calls["POST /v1/billing/meter_events"] == calls
    deployed.deliver(deployed.payload("twice-key"))
    deployed.cloud.deployment.close()
    assert deployed.at_stripe("twice") == 2


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.TIMEOUT_BEFORE, Fault.REFUSED)])
def test_stripe_may_fail_in_any_way(deployed: Deployed, fault: Fault) -> None:
    """I4: the total is there once, at the latest after the next run; a lost request is like a lost answer."""
    name = fault.replace("_", "")
    deployed.customer(name, f"{name}-key")
    deployed.deliver(deployed.payload(f"{name}-key"))
    deployed.cloud.stripe.set_faults([fault], customer=f"cus_{name}")
    deployed.cloud.deployment.close()
    deployed.cloud.stripe.clear_faults()
    deployed.deliver(deployed.payload(f"{name}-key"))
    deployed.cloud.deployment.close()
    deployed.cloud.stripe.land_late_calls()
    assert deployed.in_ledger(f"customer#{name}") == (2, "POSTED")
    assert deployed.at_stripe(name) == 2


def test_stripes_notification_reaches_the_deployed_address(deployed: Deployed) -> None:
    """I4, I6: Stripe accepted a total for a customer that it does not know, and says so later."""
    deployed.customer("unknown", "unknown-key", known=False)
    deployed.deliver(deployed.payload("unknown-key"))
    deployed.cloud.deployment.close()
    assert deployed.in_ledger("customer#unknown") == (1, "POSTED")
    deployed.cloud.deployment.put_signing_secret("whsec_of_this_test")
    url = deployed.cloud.deployment.reachable(deployed.cloud.outputs.notifications_url)
    deployed.cloud.stripe.set_webhook(url, "whsec_of_somebody_else")
    deployed.cloud.stripe.report_errors()
    assert deployed.in_ledger("customer#unknown") == (1, "POSTED")
    deployed.customer("stranger", "stranger-key", known=False)
    deployed.deliver(deployed.payload("stranger-key"))
    deployed.cloud.deployment.close()
    deployed.cloud.stripe.set_webhook(url, "whsec_of_this_test")
    deployed.cloud.stripe.report_errors()
    assert deployed.in_ledger("customer#stranger") == (1, "REJECTED")
    deployed.cloud.stripe.add_customer("cus_unknown")
    deployed.cloud.stripe.add_customer("cus_stranger")


def _look_at_stripe(deployed: Deployed) -> dict[str, Any]:
    """Compare what there is with Stripe, with all the reads that two days allot: other tests have made some."""
    deployed.cloud.deployment.read_budget.note(-LEAST, datetime.now(UTC))
    return deployed.cloud.deployment.invoke(deployed.cloud.outputs.reconcile_usage_function, {})


def test_a_deployed_look_at_stripe_finds_nothing_amiss(deployed: Deployed) -> None:
    """I4: what was posted just now is not judged yet."""
    deployed.customer("compared", "compared-key")
    deployed.deliver(deployed.payload("compared-key"))
    deployed.cloud.deployment.close()
    reports = [_look_at_stripe(deployed)]
    while not reports[-1]["round_over"] and len(reports) < MOST_LOOKS:
        reports.append(_look_at_stripe(deployed))
    assert sum(report["customers"] for report in reports) > 0
    assert {(report["posted_again"], report["differing"]) for report in reports} == {(0, 0)}
    assert reports[-1]["round_over"], reports[-1]


def test_no_secret_is_in_the_log_or_the_environment(deployed: Deployed) -> None:
    """I8: neither the Stripe key nor an API key's value, after all that has happened here."""
    key_id, value = deployed.cloud.add_api_key("secret", plan="Standard")
    deployed.customer("secretive", key_id)
    deployed.deliver(deployed.payload(key_id))
    deployed.cloud.deployment.close()
    logs = deployed.cloud.emulator.client("logs")
    said = "".join(
        event["message"]
        for group in logs.describe_log_groups()["logGroups"]
        for event in logs.filter_log_events(logGroupName=group["logGroupName"])["events"]
    )
    logs.close()
    functions = deployed.cloud.emulator.client("lambda")
    said += json.dumps([one.get("Environment") for one in functions.list_functions()["Functions"]])
    functions.close()
    secrets = deployed.cloud.emulator.client("secretsmanager")
    hash_key = [one["ARN"] for one in secrets.list_secrets()["SecretList"] if "HashSecret" in one["Name"]]
    (hash_value,) = [secrets.get_secret_value(SecretId=arn)["SecretString"] for arn in hash_key]
    secrets.close()
    assert len(hash_value) == 64
    assert hash_value not in said
    assert "batch recorded" in said
    assert "run finished" in said
    assert deployed.cloud.stripe.api_key not in said
    assert value not in said


LOCAL = """
import json, sys
from contextlib import contextmanager
from pathlib import Path
from infra.cli import main
from infra.local import cloud

address, announcement = sys.argv[1:3]
del sys.argv[1:3]
cloud._ANNOUNCEMENT = Path(announcement)

class Running(cloud.LocalCloud):
    address = cloud.Address(**json.loads(address))

@contextmanager
def start(*, road, alerts_from, back, say):
    yield Running(None, None, None, None, {}, None)

cloud.start = start
main.main()
"""
"""The command line, but the cloud that it would start runs already."""


def test_metering_local_says_where_everything_is_and_stops_at_ctrl_c(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another command reaches it with --local."""
    address, announcement = asdict(deployed.cloud.address), tmp_path / "local.json"
    command = [sys.executable, "-c", LOCAL, json.dumps(address), str(announcement), "local", "--json"]
    monkeypatch.setattr(cloud, "_ANNOUNCEMENT", announcement)
    adding = ["metering", "customers", "add", "of-local", "--name", "Acme", "--key", "of-local-1", "--local", "--json"]
    monkeypatch.setattr(sys, "argv", adding)
    with (tmp_path / "stderr").open("w") as stderr:
        running = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT
        )
        try:
            assert running.stdout is not None
            assert json.loads(running.stdout.readline()) == address
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(demo.PATIENCE_S)
            running.stdout.close()  # type: ignore[union-attr]
    assert set(address) == {
        "aws_endpoint_url",
        "region",
        "access_key_id",
        "secret_access_key",
        "api_url",
        "access_log_group",
        "stripe_api_base",
        "stripe_api_key",
        "clock_back_s",
    }
    said = capsys.readouterr()
    unknown = (
        "note: API Gateway knows no key of-local-1 in this account and Region: look whether that is the key's id\n"
    )
    assert (ended.value.code or 0, said.err) == (0, unknown)
    assert json.loads(said.out)["changed"] == ["customer of-local added", "key of-local-1 belongs to of-local"]
    assert running.returncode == 0, (tmp_path / "stderr").read_text()
    assert not announcement.exists()


UV = """#!/bin/sh
shift 2
exec "{python}" -c '
import sys
from pathlib import Path
from infra.cli import main
from infra.local import cloud

cloud._ANNOUNCEMENT = Path("{announcement}")
main.main()
' "$@"
"""
"""``uv run metering``, of the deployment that tests share."""


def test_what_metering_local_says_to_type_ends_in_an_invoice(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line as it is printed, but for acme, which is there: from no customer to a call that is billed."""
    monkeypatch.setattr(cloud, "_ANNOUNCEMENT", tmp_path / "local.json")
    uv = tmp_path / "uv"
    uv.write_text(UV.format(python=sys.executable, announcement=tmp_path / "local.json"))
    uv.chmod(0o700)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def typed(*lines: str) -> str:
        shell = ["sh", "-e", "-c", "\n".join(lines)]
        done = subprocess.run(shell, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    name = new_name()
    lines = [line.replace("acme", name) for line in try_it(deployed.cloud.address)]
    called = next(number for number, line in enumerate(lines, 1) if line.startswith("curl "))
    with cloud.alone():
        deployed.cloud.announce()
        said = typed(*lines[:called])
        assert said.endswith('{"items": ["item 0", "item 1", "item 2"]}')
        (key,) = deployed.cloud.deployment.ledger.holders.keys_of(name)
        demo.wait_until(lambda: deployed.counted(key) == 1)
        said = typed(*lines[called:])
    (users,) = [line.split() for line in said.splitlines() if line.startswith("users ")]
    assert users[-5:] == ["1", "0.25", "USD", "0.25", "USD"]

"""What becomes of a stage's settings, and of a function's, where something else than CloudFormation changes them."""

import json
from typing import Any

from tests.live.app.app import PLAIN, as_format
from tests.live.run import Run

STAGES = "API Gateway API Reference, 'Stage'; CloudFormation User Guide, 'Update behaviors of stack resources'"
OTHER = as_format(PLAIN | {"more": "stage"})


def test_a_setting_that_somebody_made_survives_an_update_that_is_not_about_it(live: Run) -> None:
    """CloudFormation changes what differs between two templates; so a stage may be connected from outside."""
    _put(live, {"/accessLogSettings/format": OTHER})
    live.deploy("-Apis", exclusively=True, as_it_is=True, touch="touched")
    live.points.note(
        "access log of a stage that was changed from outside, after an update of its stack",
        expected="as it was changed",
        observed="as it was changed" if _settings(live).get("format") == OTHER else "as the template says",
        source=STAGES,
    )
    live.cloud.use(live.told)


def test_what_somebody_changed_shows_as_drift(live: Run) -> None:
    """By which an operator can see that a stage does not write what its stack says."""
    point = "drift of a stage whose access log was changed from outside"
    if not live.cloud.is_aws:
        why_not = "the emulator knows no drift"
        live.points.skip(point, expected="MODIFIED", source="CloudFormation User Guide, 'Drift'", why_not=why_not)
    before = _settings(live)["format"]
    _put(live, {"/accessLogSettings/format": OTHER})
    cloudformation, stack = live.cloud.client("cloudformation"), f"{live.name}-Apis"
    detection = cloudformation.detect_stack_drift(StackName=stack)["StackDriftDetectionId"]

    def status() -> str:
        found = cloudformation.describe_stack_drift_detection_status(StackDriftDetectionId=detection)
        return str(found["DetectionStatus"])

    live.wait(lambda: status() != "DETECTION_IN_PROGRESS", "the drift is looked for")
    drifts = cloudformation.describe_stack_resource_drifts(StackName=stack)["StackResourceDrifts"]
    (found,) = [
        drift
        for drift in drifts
        if drift["ResourceType"] == "AWS::ApiGateway::Stage" and drift["PhysicalResourceId"] == "plain"
    ]
    _put(live, {"/accessLogSettings/format": before})
    live.points.note(
        point,
        expected="MODIFIED",
        observed=found["StackResourceDriftStatus"],
        source="CloudFormation User Guide, 'Drift'",
    )


def test_an_access_log_can_be_taken_away_from_a_stage(live: Run) -> None:
    """As a stage would be disconnected; and it can be given again."""
    apigateway, before = live.cloud.client("apigateway"), _settings(live)
    patch = [{"op": "remove", "path": "/accessLogSettings"}]
    apigateway.update_stage(restApiId=live.told["RestId"], stageName="plain", patchOperations=patch)
    after = _settings(live)
    _put(live, {f"/accessLogSettings/{name}": before[name] for name in ("destinationArn", "format")})
    live.points.beyond_the_emulator(
        "access log of a stage after 'remove /accessLogSettings'",
        expected={"after": {}, "again": before},
        observed={"after": after, "again": _settings(live)},
        source=STAGES,
        why_not="the emulator keeps the settings",
    )


def test_a_function_can_be_stopped_in_any_account(live: Run) -> None:
    """A concurrency of 0 needs nothing to spare, unlike any other."""
    functions, function = live.cloud.client("lambda"), live.deployment.outputs.check_completeness_function
    answer = functions.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    functions.delete_function_concurrency(FunctionName=function)
    live.points.note(
        "reserved concurrency of 0",
        expected=0,
        observed=answer["ReservedConcurrentExecutions"],
        source="Lambda Developer Guide, 'Configuring reserved concurrency'",
    )


def _settings(live: Run) -> dict[str, Any]:
    stage = live.cloud.client("apigateway").get_stage(restApiId=live.told["RestId"], stageName="plain")
    found: dict[str, Any] = stage.get("accessLogSettings") or {}
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]  # a copy


def _put(live: Run, values: dict[str, str]) -> None:
    operations = [{"op": "replace", "path": path, "value": value} for path, value in values.items()]
    live.cloud.client("apigateway").update_stage(
        restApiId=live.told["RestId"], stageName="plain", patchOperations=operations
    )

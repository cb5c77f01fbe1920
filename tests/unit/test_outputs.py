"""The stack's outputs as they are written and read."""

import pytest

from infra.outputs import MissingOutputsError, Outputs
from tests.doubles.outputs import outputs


@pytest.mark.parametrize("told", [outputs(), outputs(delivery_stream="stream", failed_objects="https://sqs.example")])
def test_what_is_written_is_read(told: Outputs) -> None:
    """On either road; other outputs of the stack are nobody's business."""
    assert Outputs.read(told.written() | {"ExportsOutputRefAccessLog": "x"}) == told


def test_an_output_is_called_as_its_field() -> None:
    """Without underscores, which CloudFormation's names have not."""
    assert list(outputs(failed_objects="queue").written())[-3:] == ["AlarmTopic", "Dashboard", "FailedObjects"]


def test_each_output_that_is_missing_is_named() -> None:
    """A stack without the tables is no metering stack at all."""
    told = outputs().written()
    without = {name: value for name, value in told.items() if name not in ("Metrics", "PortalUrl")}
    with pytest.raises(MissingOutputsError, match=r"^it has no PortalUrl, Metrics$") as caught:
        Outputs.read(without)
    assert caught.value.is_metering
    del told["LedgerTable"]
    with pytest.raises(MissingOutputsError, match=r"^it has no LedgerTable$") as caught:
        Outputs.read(told)
    assert not caught.value.is_metering


def test_the_functions_are_all_that_the_outputs_name() -> None:
    """Those that the doctor looks at."""
    assert outputs().functions == ["close-periods", "post-usage", "reconcile-usage", "record-usage", "show-usage"]

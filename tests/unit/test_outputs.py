"""The stack's outputs as they are written and read."""

import pytest

from infra.outputs import MissingOutputError, Outputs
from tests.doubles.outputs import outputs


@pytest.mark.parametrize(
    "told",
    [
        outputs(),
        outputs(delivery_stream="stream", failed_objects="https://sqs.example"),
        outputs(access_table="access", watch_limits_function="watch-limits", gate_queue="https://sqs.example"),
    ],
)
def test_what_is_written_is_read(told: Outputs) -> None:
    """On either road; other outputs of the stack are nobody's business."""
    assert Outputs.read(told.written() | {"ExportsOutputRefAccessLog": "x"}) == told


def test_an_output_is_called_as_its_field() -> None:
    """Without underscores, which CloudFormation's names have not."""
    assert list(outputs(failed_objects="queue").written())[-3:] == ["AlarmTopic", "Dashboard", "FailedObjects"]


def test_what_is_missing_is_said_when_it_is_asked_for() -> None:
    """And not before: whoever turns posting off on an older stack needs none of what is new."""
    told = outputs().written()
    read = Outputs.read({name: value for name, value in told.items() if name not in ("Metrics", "PortalUrl")})
    assert (read.missing, read.is_metering, read.ledger_table) == (["PortalUrl", "Metrics"], True, "ledger")
    with pytest.raises(
        MissingOutputError, match=r"^the stack has no PortalUrl: another version deployed it\. Deploy it"
    ):
        _ = read.portal_url
    assert Outputs.read(told).missing == []


def test_a_stack_that_tells_no_version_is_of_the_first() -> None:
    """A later one tells it."""
    told = outputs(version="1.7.0").written()
    assert Outputs.read(told).deployed_version == "1.7.0"
    del told["Version"]
    assert (Outputs.read(told).deployed_version, Outputs.read(told).missing) == ("1.0.0", [])


def test_a_stack_without_the_tables_is_none_of_ours() -> None:
    """Whatever else it tells."""
    told = outputs().written()
    del told["LedgerTable"]
    assert not Outputs.read(told).is_metering


def test_the_functions_are_all_that_the_outputs_name() -> None:
    """Those that the doctor looks at; of a stack without limits, not those that it has not."""
    assert "watch-limits" in outputs(watch_limits_function="watch-limits").functions
    assert outputs().functions == [
        *("check-completeness", "close-periods", "post-usage", "receive-events", "reconcile-usage"),
        *("record-usage", "show-usage"),
    ]

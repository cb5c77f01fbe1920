"""What a deployment leaves behind, and that it can be made again: the last tests of a run."""

from tests.live import removal
from tests.live.run import DeployError, Run

RETAINED = "CloudFormation User Guide, 'DeletionPolicy attribute'"


def test_a_creation_that_fails_leaves_the_ledger_alone(live: Run) -> None:
    """It is protected from deletion, so that a rollback could not delete it; all else goes."""
    try:
        live.deploy_broken()
    except DeployError as error:
        said = str(error)
    else:
        said = "it was created"
    name = f"{live.name}-Broken"
    found = {kind: len(find(live.cloud, name)) for kind, find in removal.KINDS.items()}
    observed = {kind: number for kind, number in found.items() if number and kind != "stack"}
    removal.remove(live.cloud, name)
    assert "pigeon" in said.lower() or not live.cloud.is_aws, said
    live.points.beyond_the_emulator(
        "what a first creation that fails leaves behind",
        expected={"table": 1},
        observed=observed,
        source=RETAINED,
        why_not="the emulator checks no protocol of a subscription, and rolls back in its own way",
    )


def test_what_was_destroyed_can_be_deployed_again(live: Run) -> None:
    """Under the same name, beside what was retained; and a request is counted anew."""
    live.forget_key()
    live.destroy()
    kept = sorted({kind for kind, find in removal.KINDS.items() if kind != "stack" and find(live.cloud, live.name)})
    live.deploy()
    live.send(2)
    live.wait(lambda: live.counted() == 2, "two requests are counted")
    live.points.note(
        "a deployment under the name of one that was destroyed",
        expected={"counted": 2},
        observed={"counted": live.counted()},
        source=RETAINED,
    )
    live.points.tell(retained=kept)

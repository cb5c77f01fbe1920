"""Text of a caller's in a line, as it is or escaped, on both roads and through the recount: it bills nobody (I7).

A REST authorizer may pass on what its caller wrote: a query's parameter, a claim. API Gateway was seen to escape some
values and not others, so each text is played both ways.
"""

from typing import Any

import pytest

from metering.counting.payloads import batches
from tests.doubles.hostile import HOSTILE, METRICS, hostile_line
from tests.integration.raw import Raw


def _lines(written: str) -> dict[str, str]:
    """Return the lines of all hostile texts, in each of two variables, by the keys that they are to be billed to."""
    return {
        f"mallory-{number}-{variable[-1]}": hostile_line(number, text, variable, raw=written == "as it is")
        for number, text in enumerate(HOSTILE.values())
        for variable in ("authorizer.client", "authorizer.user")
    }


@pytest.fixture
def attacked(raw: Raw) -> Raw:
    """A deployment in which the victim has one request of its own, and the attacker a key for each text."""
    raw.world.bill(*METRICS)
    raw.world.customer("victim", "victim", stripe_customer="cus_victim")
    raw.world.customer("mallory", *_lines("escaped"), stripe_customer="cus_mallory")
    honest = hostile_line(99, "app", "authorizer.client", raw=False)
    raw.deliver(honest.replace('"mallory-99-t"', '"victim"').replace('"100"', '"1"'))
    return raw


def _is_unharmed(raw: Raw) -> None:
    """See that the victim pays for its request, and each text's key for all of its own or, set aside, for none yet."""
    counted = raw.world.counted()
    assert counted.pop("victim") == {"requests": 1, "messages": 1, "users": 1}
    assert set(counted) <= _lines("escaped").keys()
    # A value that is too long to be told from others is set aside for that metric alone.
    assert all(found | {"users": 1} == {"requests": 1, "messages": 100, "users": 1} for found in counted.values())
    raw.world.after_grace()
    raw.world.run()
    raw.fix()
    raw.world.run()
    assert raw.world.in_ledger("customer#victim")["messages"][0] == 1
    assert not [line for line in raw.recount() if line.stays]


@pytest.mark.parametrize("written", ["as it is", "escaped"])
@pytest.mark.parametrize("road", ["subscription", "object"])
def test_a_callers_text_bills_nobody_else_and_lowers_no_bill(attacked: Raw, road: str, written: str) -> None:
    """I1, I7: its line counts whole or is set aside whole; what it made beside it is set aside, too."""
    lines = _lines(written)
    if road == "subscription":
        attacked.deliver(*lines.values())
    else:
        content = "".join(f"{line}\n" for line in lines.values())
        attacked.archive(*content.split("\n"))
        for batch in batches([content.encode()], "s3://bucket/access-log/a"):
            attacked.world.recorder().record(batch)
    counted = attacked.world.counted().keys() - {"victim"}
    kept = [attacked.world.set_aside.of(batch) for batch in attacked.world.set_aside.batches()]
    messages = "\n".join(line.message for one in kept for _, line in one.lines)
    assert all(f'"{key}"' in messages for key in lines.keys() - counted)
    if written == "escaped":
        assert counted == lines.keys()
    _is_unharmed(attacked)


@pytest.mark.parametrize("road", ["subscription", "object"])
def test_a_recount_bills_nobody_by_what_was_never_delivered(attacked: Raw, road: str) -> None:
    """I5, I7: what CloudWatch Logs skipped is in the log group alone, and is read as strictly there."""
    lines = _lines("as it is").values()
    if road == "subscription":
        attacked.log(*lines)
    else:
        attacked.archive(*"\n".join(lines).split("\n"))
    _is_unharmed(attacked)


def test_a_recount_bills_nobody_by_what_was_set_aside_and_deleted(attacked: Raw) -> None:
    """I5, I7: an operator who tidies up makes no bill of it."""
    attacked.deliver(*_lines("as it is").values())
    s3: Any = attacked.deployment.client("s3")
    for found in s3.list_objects_v2(Bucket="bucket", Prefix="set-aside/")["Contents"]:
        s3.delete_object(Bucket="bucket", Key=found["Key"])
    _is_unharmed(attacked)

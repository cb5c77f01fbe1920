"""What DynamoDB's condition keys hold a role to where AWS documents it for no call: in transactions, on an index."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import State, Total, UsageRow
from metering.stores.rows import Rows
from metering.stores.table import RowChangedError
from tests.live.points import Points
from tests.live.run import Run

SOURCE = "Service Authorization Reference, 'Condition keys for Amazon DynamoDB'; documented for single calls alone"
KEYS = "dynamodb:LeadingKeys"
ATTRIBUTES = "dynamodb:Attributes"
ANOTHER = "with another key than granted"


@pytest.fixture(scope="module")
def as_post_usage(live: Run) -> Iterator[Any]:
    """DynamoDB, as ``post_usage`` reaches it."""
    yield from _dynamodb(live, live.deployment.outputs.post_usage_function)


@pytest.fixture(scope="module")
def as_reconcile_usage(live: Run) -> Iterator[Any]:
    """DynamoDB, as ``reconcile_usage`` reaches it."""
    yield from _dynamodb(live, live.deployment.outputs.reconcile_usage_function)


def _dynamodb(live: Run, function: str) -> Iterator[Any]:
    with live.acting_as(function) as session:
        dynamodb = session.client("dynamodb", endpoint_url=live.cloud.client("dynamodb").meta.endpoint_url)
        yield dynamodb
        dynamodb.close()


# None of these writes anything: what is asked for first is never so.
NEVER_SO = {"ConditionExpression": "attribute_exists(pk)"}


Write = Callable[..., str]


def _put(dynamodb: Any, live: Run, key: str, **attributes: str) -> str:
    item = _item(key, attributes)
    return _answer(lambda: dynamodb.put_item(TableName=_ledger(live), Item=item, **NEVER_SO))


def _transact(dynamodb: Any, live: Run, key: str, **attributes: str) -> str:
    item = _item(key, attributes)
    write = {"Put": {"TableName": _ledger(live), "Item": item, **NEVER_SO}}
    return _answer(lambda: dynamodb.transact_write_items(TransactItems=[write]))


def _item(key: str, attributes: Mapping[str, str]) -> dict[str, Any]:
    return {"pk": {"S": key}, "sk": {"S": "probe"}} | {name: {"S": value} for name, value in attributes.items()}


def test_a_single_write_is_held_to_its_prefix(live: Run, as_post_usage: Any) -> None:
    """As documented; and what it may write it can."""
    assert _put(as_post_usage, live, "customer#probe") == "allowed"
    _denied(live.points, KEYS, f"PutItem {ANOTHER}", _put(as_post_usage, live, "period#x"))


def test_a_write_in_a_transaction_is_held_to_its_prefix(live: Run, as_post_usage: Any) -> None:
    """If it is not, the prefixes bind single calls alone, and the grants promise less than they seem to."""
    assert _transact(as_post_usage, live, "customer#probe") == "allowed"
    _denied(live.points, KEYS, f"TransactWriteItems {ANOTHER}", _transact(as_post_usage, live, "period#x"))


@pytest.mark.parametrize("key", ["rejected#0", "x#0"])
def test_a_query_of_the_index_is_held_to_its_prefix(live: Run, as_post_usage: Any, key: str) -> None:
    """The index has a partition key of its own, which a condition may or may not look at."""
    assert _query(as_post_usage, live, "pending#0") == "allowed"
    _denied(live.points, KEYS, f"Query of the index pending, {key} {ANOTHER}", _query(as_post_usage, live, key))


def test_a_total_can_be_put_on_hold_beside_a_check_of_who_pays(live: Run, as_post_usage: Any) -> None:
    """A write of a row's attributes alone, in one transaction with a check that names another one."""
    totals = {"requests": Total(counted=1, revision=1, state=State.PENDING)}
    row = UsageRow(customer("probe"), Hour.containing(datetime.now(UTC)), 1, totals)  # which has never been written
    live.points.note(
        "dynamodb:Attributes, a transaction of a row and a check of its customer's profile",
        expected="allowed",
        observed=_answer(lambda: Rows(as_post_usage, _ledger(live)).hold_without_stripe_customer(row)),
        source=SOURCE,
    )


def test_who_writes_rows_cannot_name_who_pays(live: Run, as_post_usage: Any) -> None:
    """A write with one more attribute than a row has."""
    observed = _put(as_post_usage, live, "customer#probe", stripe_customer="cus_evil")
    _denied(live.points, ATTRIBUTES, "PutItem of a row with a Stripe customer", observed)


@pytest.mark.parametrize("write", [_put, _transact])
def test_who_reconciles_cannot_put_a_profile(live: Run, as_reconcile_usage: Any, write: Write) -> None:
    """By its name; what an invoice bills and how far the round has got it can write."""
    assert write(as_reconcile_usage, live, "customer#probe", stripe_customer="cus_acme") == "allowed"
    assert write(as_reconcile_usage, live, "period#probe", name="acme") == "allowed"
    observed = write(as_reconcile_usage, live, "customer#probe", name="Acme", stripe_customer="cus_evil")
    _denied(live.points, ATTRIBUTES, f"{write.__name__.removeprefix('_')} of a profile", observed)


def _denied(points: Points, condition: str, call: str, observed: str) -> None:
    points.beyond_the_emulator(
        f"{condition}, {call}",
        expected="denied",
        observed=observed,
        source=SOURCE,
        why_not=f"the emulator never fills {condition} in",
    )


def _query(dynamodb: Any, live: Run, key: str) -> str:
    return _answer(
        lambda: dynamodb.query(
            TableName=_ledger(live),
            IndexName="pending",
            KeyConditionExpression="pending = :key",
            ExpressionAttributeValues={":key": {"S": key}},
            Limit=1,
        )
    )


def _ledger(live: Run) -> str:
    return live.deployment.outputs.ledger_table


def _answer(ask: Any) -> str:
    """Return whether a call was allowed: refused for its condition, it was."""
    try:
        ask()
    except RowChangedError:
        return "allowed"
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "AccessDeniedException":
            return "denied"
        if code not in ("ConditionalCheckFailedException", "TransactionCanceledException"):
            raise
    return "allowed"

"""Numbers in sentences."""

import pytest

from infra.operate.words import count


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (count(0, "customer"), "0 customers"),
        (count(1, "customer"), "1 customer"),
        (count(2_000, "customer"), "2,000 customers"),
        (count(1, "batch"), "1 batch"),
        (count(2, "batch"), "2 batches"),
        (count(2, "query"), "2 queries"),
        (count(2, "key"), "2 keys"),
        (count(1, "customer's hour waits", "customers' hours wait"), "1 customer's hour waits"),
        (count(3, "customer's hour waits", "customers' hours wait"), "3 customers' hours wait"),
        (count(1_000, "batch", more=True), "1,000 or more batches"),
        (count(1, "batch", more=True), "1 or more batches"),
    ],
)
def test_one_thing_is_not_called_things(said: str, wanted: str) -> None:
    """And numbers are written as everywhere else."""
    assert said == wanted

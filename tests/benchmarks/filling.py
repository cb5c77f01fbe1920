"""What closing is measured with: customers, and what they used in an hour, written straight into the tables.

Items are written as the stores write them, but many at once; what the stores read of some is compared.
"""

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any, Final

from metering.model.batches import TOKEN_BYTES
from metering.model.periods import COUNTER_LIFE, Hour, hours
from metering.model.subjects import customer
from metering.stores.claims import of_value
from metering.stores.counters import SLOTS, Counters, counter_key
from metering.stores.holders import Holder, Holding
from metering.stores.ledger import Ledger
from metering.stores.marks import Mark
from tests.benchmarks.place import METRICS, STILL_S, Place, say

DISTINCT: Final = "users"
VALUES_OF_A_KEY: Final = 10
EARLIER: Final = 24
"""So many rows of the month a customer with a few values has from before."""

_PIECES: Final = 64


@dataclass(frozen=True)
class Customers:
    """So many customers, each with so many keys; ``letter`` begins their names. ``batches`` are those of an hour."""

    letter: str
    keys: int
    count: int
    batches: int = 12

    def name(self, number: int) -> str:
        """Return a customer's id."""
        return f"{self.letter}{number:06d}"

    def keys_of(self, number: int) -> list[str]:
        """Return its keys, which are as long as API Gateway's."""
        return [f"{key}k{self.name(number)}x" for key in range(self.keys)]

    def stripe_customers(self) -> list[str]:
        """Return what Stripe knows them by."""
        return [f"cus_{self.name(number)}" for number in range(self.count)]

    def few(self, most: int) -> "Customers":
        """Return so many of them at most."""
        return replace(self, count=min(most, self.count))


def fill(
    pool: ProcessPoolExecutor, what: str, count: int, do: Callable[[int, int], Counter[str] | None]
) -> Counter[str]:
    """Let processes write ``count`` of something, ``do`` from the first number up to another; add up what they say."""
    step = max(1, -(-count // _PIECES))
    pieces = [pool.submit(do, first, min(first + step, count)) for first in range(0, count, step)]
    total: Counter[str] = Counter()
    began = told = time.monotonic()
    for number, piece in enumerate(as_completed(pieces), 1):
        total += piece.result() or Counter()
        if time.monotonic() - told > STILL_S:
            told = time.monotonic()
            say(f"{what}: {number} of {len(pieces)} pieces are written, {told - began:.0f} s so far")
    return total


def make_customers(place: Place, customers: Customers, first: int, last: int) -> None:
    """Write customers, as ``metering customers add`` does."""
    place.write("Ledger", _customer_items(customers, first, last))
    ledger = Ledger(place.dynamodb(), "Ledger")
    key = customers.keys_of(first)[-1]
    (made,) = ledger.holders.holdings([key]).values()
    if made != Holding(key, (Holder(Hour(0), customers.name(first)),), 1):
        raise RuntimeError(f"the ledger reads another key than was written: {made}")


def _customer_items(customers: Customers, first: int, last: int) -> Iterator[dict[str, Any]]:
    for number in range(first, last):
        name = customers.name(number)
        pk = {"S": f"customer#{name}"}
        yield {"pk": pk, "sk": {"S": "profile"}, "name": {"S": name}, "stripe_customer": {"S": f"cus_{name}"}}
        yield {"pk": pk, "sk": {"S": "keys"}, "keys": {"SS": ["-", *customers.keys_of(number)]}}
        holder = {"since": {"S": str(Hour(0))}, "customer": {"S": name}, "reason": {"S": ""}}
        for key in customers.keys_of(number):
            yield {"pk": pk, "sk": {"S": f"key#{key}"}}
            yield {
                "pk": {"S": f"key#{key}"},
                "sk": {"S": "holders"},
                "version": {"N": "1"},
                "holders": {"L": [{"M": holder}]},
            }


def check_rows(place: Place, hour: Hour, customers: Customers, written: Mapping[str, int]) -> None:
    """Raise RuntimeError unless the customers' rows of an hour add up to what was written for them, by metric.

    And unless their other hours are as they should be: none has a late mark.
    """
    ledger = Ledger(place.dynamodb(), "Ledger")
    there: Counter[str] = Counter()
    for row in ledger.rows.at(hour, [customer(customers.name(number)) for number in range(customers.count)]).values():
        there.update({metric: total.counted for metric, total in row.totals.items()})
    if there != Counter(written):
        raise RuntimeError(f"{dict(written)} were written in {hour}, the rows say {dict(there)}")
    if marks := Counters(place.dynamodb(), "Counters").marks.of_kind(Mark.LATE):
        raise RuntimeError(f"other hours are to be closed again: {marks[:3]}")


def fill_hour(place: Place, hour: Hour, customers: Customers, first: int, last: int) -> Counter[str]:
    """Write the counters of some customers, and return the sums."""
    sums: Counter[str] = Counter()
    place.write("Counters", _counters(hour, customers, range(first, last), sums))
    return sums


def _counters(hour: Hour, customers: Customers, numbers: Sequence[int], sums: Counter[str]) -> Iterator[dict[str, Any]]:
    draw = random.Random(f"{customers.letter} {numbers[0]}")
    ttl = {"N": str(int((hour.end + COUNTER_LIFE).timestamp()))}
    for number in numbers:
        for key in customers.keys_of(number):
            tokens: dict[int, list[bytes]] = {}
            for _ in range(customers.batches // customers.keys):
                token = draw.randbytes(TOKEN_BYTES)
                tokens.setdefault(token[-1] % SLOTS, []).append(token)
            for slot in tokens.values():
                drawn = {metric: sum(draw.randint(1, 500) for _ in slot) for metric in METRICS}
                sums.update(drawn)
                amounts = {f"n:{metric}": {"N": str(amount)} for metric, amount in drawn.items()}
                yield {**counter_key(hour, key, slot[0]), **amounts, "batches": {"BS": slot}, "ttl": ttl}


def month_of(hour: Hour) -> list[Hour]:
    """Return the hours of an hour's month."""
    return list(hours(hour.month_begin, hour.month_end))


def fill_few_values(place: Place, hour: Hour, customers: Customers, first: int, last: int) -> Counter[str]:
    """Write what customers have in an hour, a few values by each key, and rows of hours before; return the sums."""
    counted: Counter[str] = Counter()
    earlier = [Hour(hour.number - ago) for ago in range(1, EARLIER + 1)]

    def counters_and_claims() -> Iterator[dict[str, Any]]:
        for number in range(first, last):
            for nth, key in enumerate(customers.keys_of(number)):
                values = range(nth * VALUES_OF_A_KEY // 2, nth * VALUES_OF_A_KEY // 2 + VALUES_OF_A_KEY)
                yield counter_of_values(hour, key, len(values))
                yield from (claim(hour, key, f"{number} {value}", nth) for value in values)
            counted.update({"requests": customers.keys, DISTINCT: VALUES_OF_A_KEY * 3 // 2})

    place.write("Counters", counters_and_claims())
    names = map(customers.name, range(first, last))
    place.write("Ledger", (row(name, at, requests=5) for name in names for at in earlier))
    check_row(place, customers.name(first), earlier[0], {"requests": 5})
    return counted


def fill_month(place: Place, hour: Hour, customers: Customers, values: int) -> Counter[str]:
    """Write one customer's last hour of a month, and its rows of the hours before; return the requests."""
    month = month_of(hour)
    of_hour = [len(range(nth, values, len(month))) for nth in range(len(month))]
    place.write("Counters", (counter_of_values(hour, key, of_hour[-1]) for key in customers.keys_of(0)))
    earlier = {
        at: {"requests": 5} | ({DISTINCT: count} if count else {}) for at, count in zip(month, of_hour, strict=True)
    }
    del earlier[hour]
    place.write("Ledger", (row(customers.name(0), at, **amounts) for at, amounts in earlier.items()))
    check_row(place, customers.name(0), month[0], earlier[month[0]])
    return Counter(requests=customers.keys)


def fill_many_values(place: Place, hour: Hour, customers: Customers, first: int, last: int) -> Counter[str]:
    """Write the claims of one customer's values, each in an hour of the month; return how many are of the last one.

    Every tenth comes by the other key, too, in the same hour.
    """
    month, keys = month_of(hour), customers.keys_of(0)

    def claims() -> Iterator[dict[str, Any]]:
        for value in range(first, last):
            at = month[value % len(month)]
            brought = [keys[value % 2], keys[(value + 1) % 2]]
            yield from (claim(at, key, str(value), nth) for nth, key in enumerate(brought[: 1 + (value % 10 == 0)]))

    place.write("Counters", claims())
    return Counter({DISTINCT: sum(month[value % len(month)] == hour for value in range(first, last))})


def counter_of_values(hour: Hour, key: str, values: int) -> dict[str, Any]:
    """Return a key's counter of one batch with a request and so many new values."""
    token = hashlib.sha256(key.encode()).digest()[:TOKEN_BYTES]
    distinct = {f"u:{DISTINCT}": {"N": str(values)}} if values else {}
    ttl = {"N": str(int((hour.end + COUNTER_LIFE).timestamp()))}
    return {
        **counter_key(hour, key, token),
        "n:requests": {"N": "1"},
        **distinct,
        "batches": {"BS": [token]},
        "ttl": ttl,
    }


def claim(hour: Hour, key: str, value: str, milliseconds: int) -> dict[str, Any]:
    """Return the claim of a key's value, so long after the hour's beginning."""
    digest = hashlib.sha256(value.encode()).digest()
    pk, sk = of_value(DISTINCT, key, hour, digest[:16].hex(), None)
    return {
        "pk": {"S": pk},
        "sk": {"S": sk},
        "hour": {"S": str(hour)},
        "batch": {"B": digest[-TOKEN_BYTES:]},
        "at": {"N": str(int(hour.start.timestamp()) * 1000 + milliseconds)},
        "ttl": {"N": str(int((hour.month_end.start + COUNTER_LIFE).timestamp()))},
    }


def row(name: str, hour: Hour, **counted: int) -> dict[str, Any]:
    """Return a customer's row of an hour that was posted long ago."""
    totals = {
        metric: {
            "M": {
                "counted": {"N": str(amount)},
                "revision": {"N": "1"},
                "state": {"S": "POSTED"},
                "identifier": {"S": f"1.{name}.{metric}.{hour}.r1"},
                "posted_to": {"S": f"cus_{name}"},
                "posted_at": {"N": str(int(hour.end.timestamp()))},
            }
        }
        for metric, amount in counted.items()
    }
    return {
        "pk": {"S": f"customer#{name}"},
        "sk": {"S": f"usage#{hour}"},
        "version": {"N": "3"},
        "totals": {"M": totals},
    }


def check_row(place: Place, name: str, hour: Hour, counted: Mapping[str, int]) -> None:
    """Raise RuntimeError if the ledger reads another row than was written."""
    (there,) = Ledger(place.dynamodb(), "Ledger").rows.at(hour, [customer(name)]).values()
    if there.version != 3 or {metric: total.counted for metric, total in there.totals.items()} != counted:
        raise RuntimeError(f"the ledger reads another row than was written: {there}")

"""Where schedules are played: on two tables in memory, or in DynamoDB Local, there perhaps through the proxy."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from botocore.config import Config

from infra.local.aws.faults import Fate, Proxy
from metering.stores.aws import Item
from tests.doubles.aws import Client
from tests.doubles.clock import Clock
from tests.doubles.dynamodb import Tables
from tests.doubles.dynamodb_local import client_at


class Backing(Protocol):
    """Two tables. ``client`` is what processes have; ``direct`` what prepares and judges, past all faults."""

    client: Any
    direct: Any
    counters: str
    ledger: str
    calm: bool
    """Whether what is between the client and the tables does no harm."""

    def items(self, table: str) -> Iterable[Item]:
        """Return every item of a table."""


MakeBacking = Callable[[Clock, int, float], Backing]
"""Makes tables for a schedule: of its clock, its seed, and the seconds by which the index may lag."""


class InMemory:
    """The tables in memory; the index lags, by up to so many seconds."""

    counters = "counters"
    ledger = "ledger"
    calm = True

    def __init__(self, world: Clock, seed: int, lag_s: float) -> None:
        chance = random.Random(seed)
        self._tables = Tables(now=world, lag=lambda: chance.random() * lag_s)
        self.client: Any = Client("dynamodb", self._tables)
        self.direct = self.client

    def items(self, table: str) -> Iterable[Item]:
        """Return every item of a table."""
        return list(self._tables.items(table))


CONFIG: Final = Config(
    connect_timeout=2,
    read_timeout=0.4,
    retries={"mode": "standard", "total_max_attempts": 4},  # as the functions have it
)


@dataclass(frozen=True, slots=True)
class Network:
    """How often a request meets each fate of the proxy; ``burst`` is how many in a row may meet the same."""

    chances: Mapping[Fate, float]
    burst: int = 1


# Throttling and silence cost the client seconds (botocore's backoff, its read timeout), so they are the rarer.
NETWORKS: Final = (
    Network({Fate.DELAYED: 0.4}),
    Network({Fate.CUT_BEFORE: 0.03, Fate.CUT_AFTER: 0.05, Fate.FAILED_AFTER: 0.05}),
    Network({Fate.CUT_BEFORE: 0.02, Fate.CUT_AFTER: 0.01, Fate.FAILED_AFTER: 0.01}, burst=100),
    Network({Fate.SWALLOWED: 0.02, Fate.BELATED: 0.03}),
    Network({Fate.EXCEEDED: 0.02, Fate.THROTTLED: 0.02}, burst=4),
)
"""Schedules have them in turns."""


class OnDynamoDBLocal:
    """The tables in DynamoDB Local, new for each schedule."""

    def __init__(self, port: int, proxy: Proxy | None, definitions: Mapping[str, Any], seed: int) -> None:
        self.direct = client_at(port)
        self.client = client_at(proxy.port, CONFIG) if proxy else self.direct
        self.calm = False
        self.counters, self.ledger = f"counters-{os.getpid()}-{seed}", f"ledger-{os.getpid()}-{seed}"
        for name, table in (("Counters", self.counters), ("Ledger", self.ledger)):
            self.direct.create_table(TableName=table, **definitions[name])
        self._proxy = proxy
        if proxy:
            self._let_blow(proxy, NETWORKS[seed % len(NETWORKS)], random.Random(seed))

    def _let_blow(self, proxy: Proxy, network: Network, chance: random.Random) -> None:
        fates, weights = list(network.chances), list(network.chances.values())
        coming: list[Fate] = []

        def fate() -> Fate:
            if self.calm:
                return Fate.PASSED
            if not coming and chance.random() < sum(weights):
                coming.extend(chance.choices(fates, weights) * chance.randint(1, network.burst))
            return coming.pop() if coming else Fate.PASSED

        proxy.fate = fate
        proxy.delay_s = lambda: chance.random() * 0.3

    def items(self, table: str) -> Iterable[Item]:
        """Return every item of a table, once nothing is under way any more."""
        if self._proxy:
            self._proxy.settle()
        pages = self.direct.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        return [item for page in pages for item in page["Items"]]


def met_by(proxy: Proxy) -> Counter[str]:
    """Return how often each fate of the proxy was met."""
    return Counter({fate.name: count for fate, count in proxy.fates.items() if fate is not Fate.PASSED})

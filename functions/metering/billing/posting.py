"""Posting: what is pending in the ledger → Stripe.

Customers are posted side by side, each customer's hours one after the other: Stripe takes one call at a time per
customer and meter, and a customer whose account fails delays no other (I6). Workers share the customers out by the
shards of the index, which they lease; each keeps the share of the account's rate that belongs to its shards.

By the event stream (``streamed_from``) up to a hundred totals go in one call, whoever they are of.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Final

from aws_lambda_powertools import Logger

from metering.billing.sending import OUT_OF_TIME, Posted, Sender
from metering.billing.streaming import post_together
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import UsageRow
from metering.stores.aws import in_pieces
from metering.stores.holders import Customer
from metering.stripe.client import StripeNotConnectedError

logger = Logger(child=True)

CUSTOMERS_AT_ONCE: Final = 64
"""At 100 ms for an answer these are 640 calls a second; one process has no CPU for more."""

_PIECE: Final = 300
"""How many customers' rows are read at once."""


class Poster(Sender):
    """Posts pending totals."""

    def post_pending(self, since: Hour, shards: Iterable[int]) -> Posted:
        """Post everything that is pending in hours from ``since`` on, of the customers in these shards."""
        pending = self.ledger.rows.pending(since, shards)
        if not pending:
            return Posted()
        try:
            self.stripe.key()
        except StripeNotConnectedError as error:
            logger.warning("Stripe is not connected", reason=str(error), customers=len(pending))
            return Posted.total(Posted.left(hours, str(error)) for hours in pending.values())
        streamed, called = self._by_way(pending)
        return Posted.total([*self._post_streamed(streamed), *self._post_side_by_side(called)])

    def _by_way(self, pending: Mapping[str, list[Hour]]) -> tuple[dict[str, list[Hour]], dict[str, list[Hour]]]:
        """Tell the hours that go by the event stream from those that go by a call each."""
        streamed: dict[str, list[Hour]] = {}
        called: dict[str, list[Hour]] = {}
        for name, hours in pending.items():
            for hour in hours:
                (streamed if self.is_streamed(hour) else called).setdefault(name, []).append(hour)
        return streamed, called

    def _in_turn(self, pending: Iterable[str]) -> list[str]:
        """Begin with another customer at each run, so that a run which ends early does not starve the same ones.

        Which one is as good as random: runs that are evenly spaced must not meet the same few again and again.
        """
        names = sorted(pending)
        start = zlib.crc32(str(int(self.clock().timestamp())).encode()) % max(1, len(names))
        return names[start:] + names[:start]

    def _post_streamed(self, pending: Mapping[str, list[Hour]]) -> Iterator[Posted]:
        for names in in_pieces(self._in_turn(pending), _PIECE):
            if self.is_over():
                yield from (Posted.left(pending[name], OUT_OF_TIME) for name in names)
                continue
            owners, by_name = self._read({name: pending[name] for name in names})
            yield from post_together(
                self, [(row, _stripe_customer(owners.get(name))) for name in names for row in by_name[name]]
            )

    def _post_side_by_side(self, pending: Mapping[str, list[Hour]]) -> Iterator[Posted]:
        """Post customers side by side; the rows of some are read while others are posted."""
        free = BoundedSemaphore(2 * CUSTOMERS_AT_ONCE)  # so that not all rows are in memory at once
        with ThreadPoolExecutor(CUSTOMERS_AT_ONCE) as pool:
            runs = []
            for names in in_pieces(self._in_turn(pending), _PIECE):
                owners, rows = self._read({name: pending[name] for name in names})
                for name in names:
                    free.acquire()
                    run = pool.submit(self._post_customer, _stripe_customer(owners.get(name)), rows[name])
                    run.add_done_callback(lambda _: free.release())
                    runs.append(run)
            yield from (run.result() for run in runs)

    def _read(self, pending: Mapping[str, list[Hour]]) -> tuple[dict[str, Customer], dict[str, list[UsageRow]]]:
        """Return these customers and their rows, oldest first."""
        rows = self.ledger.rows.written({(customer(name), hour) for name, hours in pending.items() for hour in hours})
        by_name: dict[str, list[UsageRow]] = {name: [] for name in pending}
        for row in sorted(rows, key=lambda row: row.hour):
            by_name[row.subject.id].append(row)
        return self.ledger.holders.customers(pending), by_name

    def _post_customer(self, stripe_customer: str, rows: Sequence[UsageRow]) -> Posted:
        posted = Posted.total(self._post_in_order(stripe_customer, rows))
        if posted.reasons:
            logger.warning("usage stays pending", customer=rows[0].subject.id, reasons=dict(posted.reasons))
        return posted

    def _post_in_order(self, stripe_customer: str, rows: Sequence[UsageRow]) -> Iterator[Posted]:
        answers = True
        for row in rows:
            if not answers or self.is_over():
                yield Posted.left([row.hour], OUT_OF_TIME if answers else "waits for an earlier hour")
                continue
            posted, answers = self.post_row(row, stripe_customer)
            yield posted


def _stripe_customer(owner: Customer | None) -> str:
    return owner.stripe_customer if owner else ""

"""Posting: what is pending in the ledger → Stripe.

Customers are posted side by side, each customer's hours one after the other: Stripe takes one call at a time per
customer and meter, and a customer whose account fails delays no other (I6). Workers share the customers out by the
shards of the index, which they lease; each keeps the share of the account's rate that belongs to its shards.

By the event stream (``streamed_from``) up to a hundred totals go in one call, whoever they are of. In a sandbox, where
Stripe's documents do not agree that there is one, they go by calls. No total takes two ways there: what has once gone
by the stream is written in its row, and goes on so.
"""

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from queue import SimpleQueue
from typing import Final

from aws_lambda_powertools import Logger

from metering.billing.sending import OUT_OF_TIME, Posted, Sender
from metering.billing.streaming import post_together
from metering.model.periods import Hour
from metering.model.subjects import customer
from metering.model.usage_row import UsageRow
from metering.stores.aws import in_pieces
from metering.stores.holders import Customer
from metering.stores.table import TABLE_ERRORS
from metering.stripe.client import StripeNotConnectedError

logger = Logger(child=True)

CUSTOMERS_AT_ONCE: Final = 64
"""At 100 ms for an answer these are 640 calls a second; one process has no CPU for more."""

MOST_ROWS: Final = 100_000
"""How many rows a run takes up: with one metric each, more than it has the time for. Their places are some 20 MB."""

_PIECE: Final = 300
"""How many customers' rows, or by the event stream how many rows, are read at once."""

_ROWS_AT_ONCE: Final = 20
"""How many of a customer's rows are in memory at once, who may have a month of them."""


class Poster(Sender):
    """Posts pending totals."""

    def post_pending(self, since: Hour, shards: Collection[int]) -> Posted:
        """Post what is pending in hours from ``since`` on, of the customers in these shards: what a run can do.

        A row that AWS fails at stops no other one: that is in ``failures`` of what is returned, for the caller to raise
        in the end.
        """
        pending = self.ledger.rows.next_pending(since, shards, most=MOST_ROWS)
        if not pending:
            return Posted()
        try:
            if self.streamed_from is not None and self.stripe.is_sandbox():
                logger.warning("the event stream is for live mode: in a sandbox each total goes by a call")
                self.streamed_from = None
            self.stripe.key()
        except StripeNotConnectedError as error:
            logger.warning("Stripe is not connected", reason=str(error), customers=len(pending))
            return Posted.total(Posted.left(hours, str(error)) for hours in pending.values())
        streamed, called = self._by_way(pending)
        return Posted.total(chain(self._post_streamed(streamed), self._post_side_by_side(called)))

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
        places = [(name, hour) for name in self._in_turn(pending) for hour in pending[name]]
        for piece in in_pieces(places, _PIECE):
            if self.is_over():
                yield Posted.left([hour for _, hour in piece], OUT_OF_TIME)
                continue
            try:
                owners, rows = self._read(piece)
            except TABLE_ERRORS as error:
                yield Posted.failed([hour for _, hour in piece], error)
                continue
            yield from post_together(self, [(row, _stripe_customer(owners.get(row.subject.id))) for row in rows])

    def _post_side_by_side(self, pending: Mapping[str, list[Hour]]) -> Iterator[Posted]:
        """Post customers side by side; the first rows of some are read while others are posted."""
        ended: SimpleQueue[Future[Posted]] = SimpleQueue()
        running = 0
        with ThreadPoolExecutor(CUSTOMERS_AT_ONCE) as pool:
            for names in in_pieces(self._in_turn(pending), _PIECE):
                first = [(name, hour) for name in names for hour in pending[name][:_ROWS_AT_ONCE]]
                if self.is_over():
                    yield Posted.left([hour for name in names for hour in pending[name]], OUT_OF_TIME)
                    continue
                try:
                    owners, rows = self._read(first)
                except TABLE_ERRORS as error:
                    yield Posted.failed([hour for name in names for hour in pending[name]], error)
                    continue
                by_name: dict[str, list[UsageRow]] = {name: [] for name in names}
                for row in rows:
                    by_name[row.subject.id].append(row)
                for name in names:
                    if running == 2 * CUSTOMERS_AT_ONCE:  # so that not all rows are in memory at once
                        yield ended.get().result()
                        running -= 1
                    later = pending[name][_ROWS_AT_ONCE:]
                    run = pool.submit(self._post_customer, name, owners.get(name), by_name.pop(name), later)
                    run.add_done_callback(ended.put)
                    running += 1
            for _ in range(running):
                yield ended.get().result()

    def _read(self, places: Sequence[tuple[str, Hour]]) -> tuple[dict[str, Customer], list[UsageRow]]:
        """Return the customers of these hours and the rows, oldest first."""
        rows = self.ledger.rows.written((customer(name), hour) for name, hour in places)
        return self.ledger.holders.customers({name for name, _ in places}), sorted(rows, key=lambda row: row.hour)

    def _post_customer(
        self, name: str, owner: Customer | None, rows: Sequence[UsageRow], later: Sequence[Hour]
    ) -> Posted:
        """Post a customer's hours one after the other: the rows that are read, then those of ``later`` ones."""
        posted = Posted.total(self._post_in_order(name, _stripe_customer(owner), rows, later))
        if posted.reasons:
            logger.warning("usage stays pending", customer=name, reasons=dict(posted.reasons))
        return posted

    def _post_in_order(
        self, name: str, stripe_customer: str, rows: Sequence[UsageRow], later: Sequence[Hour]
    ) -> Iterator[Posted]:
        while True:
            for number, row in enumerate(rows):
                left = [*(later_row.hour for later_row in rows[number:]), *later]
                if self.is_over():
                    yield Posted.left(left, OUT_OF_TIME)
                    return
                posted, answers = self.post_row(row, stripe_customer)
                yield posted
                if not answers:
                    yield Posted.left(left[1:], "waits for an earlier hour")
                    return
            if not later:
                return
            piece, later = later[:_ROWS_AT_ONCE], later[_ROWS_AT_ONCE:]
            try:
                _, rows = self._read([(name, hour) for hour in piece])
            except TABLE_ERRORS as error:
                yield Posted.failed(piece, error)
                rows = []


def _stripe_customer(owner: Customer | None) -> str:
    return owner.stripe_customer if owner else ""

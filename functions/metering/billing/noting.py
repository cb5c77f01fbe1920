"""Noting: which invoices became final, or void, and what their lines bill.

Which did is noted for all customers at once, from Stripe's lists, whether usage is posted or not: a read for a hundred
of them, and no more for what other business in the account bills. What an invoice bills is read when its customer is
looked at: so one that cannot be read is looked at again, and keeps nobody else waiting (I6). An invoice of a Stripe
customer that belongs to nobody is kept for whoever gets it; one of an account (Accounts v2) is told instead.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
from aws_lambda_powertools import Logger

from metering.model.periods import Hour
from metering.stores.aws import side_by_side
from metering.stores.changes import Billed, Changes, Noted
from metering.stores.ledger import Ledger
from metering.stores.progress import Seen
from metering.stores.table import RowChangedError
from metering.stripe.client import StripeRejectedError
from metering.stripe.invoices import FinalInvoice, StripeReader, UnreadableInvoiceError

logger = Logger(child=True)

_WINDOW: Final = 6 * 3600
"""Seconds. Invoices are looked for in pieces of time, oldest first, so that a run which ends early has not
looked in vain."""

_OVERLAP: Final = 10 * 60
"""Seconds. An event can show up in Stripe's list later than it is dated."""

_KEPT: Final = 29 * 24 * 3600
"""Seconds. How long Stripe keeps events, less a day; what became final earlier is found by when its draft was made."""

_LONGEST_DRAFT: Final = 35 * 24 * 3600
"""Seconds. An invoice that was a draft for longer than that, and became final while nobody could look for a month, is
not found. By itself Stripe makes one final after an hour, or 72 by a rule of the account."""


@dataclass(frozen=True, slots=True)
class Noter:
    """Notes invoices; nothing of an hour before ``since`` is billed. No page is begun after ``deadline``."""

    ledger: Ledger
    changes: Changes
    stripe: StripeReader
    since: Hour
    clock: Callable[[], datetime]
    deadline: datetime

    def note(self) -> Iterator[int]:
        """Write down the invoices that became final or void since the last run, and ask for each to be looked at.

        Yields how many there were on each page that was dealt with.
        """
        now = int(self.clock().timestamp())
        seen = self.ledger.progress.invoices_seen()
        if seen is None or (seen.first and self.since < Hour.parse(seen.first)):
            seen = Seen(int(self.since.start.timestamp()), first=str(self.since))
        while seen.at + _OVERLAP < now:
            long_ago = seen.at < now - _KEPT
            if long_ago and seen.after.startswith("evt_"):
                seen = Seen(seen.at, first=seen.first)
            end = seen.until or (now - _KEPT + _OVERLAP if long_ago else min(seen.at + _WINDOW, now))
            pages = (
                self.stripe.were_made(seen.at - _LONGEST_DRAFT, end, seen.after)
                if long_ago
                else self.stripe.became_final(seen.at, end, seen.after)
            )
            try:
                for last, invoices in pages:
                    if self.clock() >= self.deadline:
                        return
                    yield self._note_all(invoices)
                    self.ledger.progress.save_invoices_seen(Seen(seen.at, end, last, seen.first))
            except StripeRejectedError:
                if not seen.after:
                    raise
                seen = Seen(seen.at, end, first=seen.first)  # what it was to go on after is gone, as a deleted draft is
                continue
            seen = Seen(end - _OVERLAP, first=seen.first)
            self.ledger.progress.save_invoices_seen(seen)

    def _note_all(self, invoices: Iterable[FinalInvoice]) -> int:
        """Note invoices, side by side, but those of one Stripe customer, who has one mark, in turn."""
        by_name: dict[str, list[FinalInvoice]] = {}
        for invoice in invoices:
            by_name.setdefault(invoice.stripe_customer, []).append(invoice)
        return sum(side_by_side(lambda some: sum(map(self._note, some)), by_name.values()))

    def _note(self, invoice: FinalInvoice) -> bool:
        new = Noted(invoice.invoice, invoice.stripe_customer, invoice.at, invoice.void)
        if not new.stripe_customer:
            return False
        if not self.ledger.holders.owner(new.stripe_customer):
            if invoice.is_of_account:  # nobody can be given it: kept, it would never be seen
                logger.warning("an invoice is of an account, not of a customer: not compared", invoice=new.invoice)
                return False
            self.changes.keep_noted(new)
        # Whoever got the Stripe customer before it was kept is seen here, and whoever does so later finds it.
        name = self.ledger.holders.owner(new.stripe_customer)
        return bool(name) and self._note_for(name, new)

    def _note_for(self, name: str, new: Noted) -> bool:
        """Write an invoice down, or that it is void now; return False if an earlier run has done so."""
        known = self.changes.noted_one(name, new.invoice)
        if known and (known.void or not new.void):
            return False
        try:
            self.changes.note(name, msgspec.structs.replace(known, void=True) if known else new)
        except RowChangedError:
            known = self.changes.noted_one(name, new.invoice)
            if known is None or (new.void and not known.void):
                raise
            return False  # another run was faster
        return True

    def of(self, name: str, stripe_customer: str) -> list[Noted]:
        """Return a customer's invoices, with those from before it got its Stripe customer."""
        known = {noted.invoice: noted for noted in self.changes.noted(name)}
        kept = self.changes.kept(stripe_customer) if stripe_customer else []
        new = [one for one in kept if one.invoice not in known or (one.void and not known[one.invoice].void)]
        for one in new:
            self._note_for(name, one)
        return self.changes.noted(name) if new else [*known.values()]

    def lines_of(self, name: str, stripe_customer: str) -> list[Billed]:
        """Return what the lines bill that have been read, with those from before it got its Stripe customer."""
        lines = self.changes.billed(name)
        known = {line.known_as for line in lines}
        kept = self.changes.kept_lines(stripe_customer) if stripe_customer else []
        new = [line for line in kept if line.known_as not in known]
        for line in new:
            self.changes.add_billed(name, line)
        return self.changes.billed(name) if new else lines

    def read(self, name: str, noted: Noted, known: Iterable[Billed]) -> str:
        """Write down what an invoice's lines bill; return why that cannot be done, or nothing.

        A crash in between is harmless: the next run finds what is there, and writes the rest.
        """
        as_one = {line.metric for line in known if line.invoice == noted.invoice and not line.item}
        try:
            lines = self.stripe.lines(noted.invoice, noted.stripe_customer)
        except (StripeRejectedError, UnreadableInvoiceError) as error:
            logger.error(  # noqa: TRY400 - Stripe's words say it all
                "an invoice cannot be read", customer=name, invoice=noted.invoice, reason=str(error)
            )
            if noted.held != str(error):
                self.changes.save_noted(name, msgspec.structs.replace(noted, held=str(error)))
            return str(error)
        for line in lines:
            if line.metric not in as_one:
                billed = Billed(
                    noted.invoice,
                    noted.stripe_customer,
                    line.metric,
                    str(line.first),
                    str(line.end),
                    line.quantity,
                    item=line.item,
                    packaged=line.packaged,
                    within=line.within,
                    begun=line.begun,
                    ended=line.ended,
                )
                self.changes.add_billed(name, billed)
        self.changes.save_noted(name, msgspec.structs.replace(noted, read=True, held=""))
        return ""

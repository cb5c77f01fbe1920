"""Log groups: how lines are read, by the log group that they come from and the moment at which they were written.

The stack's own access log is ours. Of any other log group the ledger is asked each time, so that no line of a stage
that was connected a moment ago is taken for one of nobody's: a Query of a few items a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Final

from metering.counting.payloads import Subscription
from metering.model.batches import EventBatch, Source
from metering.model.connections import EARLY, Connection
from metering.model.line_forms import forms_of
from metering.model.metrics import Metric
from metering.model.our_lines import LineForm, Ours
from metering.stores.connections import Connections

MOST_ASKED: Final = 4
"""How many names are asked for one by one."""


@dataclass(frozen=True, slots=True)
class LogGroups:
    """How log groups are read; ``own`` is the access log's, whose lines begin and end with one of the ``nonces``."""

    own: str
    nonces: tuple[str, ...]
    metrics: Sequence[Metric]
    connections: Connections

    def batch(self, delivered: Subscription) -> EventBatch:
        """Return what was delivered as a batch, with how its lines are to be read.

        Of a log group that was never connected these are usage lines. Lines of one that was count if they were written
        while it was: however late they come, and however often (I2), since nothing of that depends on when that is.
        """
        batch = delivered.batch(self.own)
        known = [] if batch.source is Source.ACCESS_LOG else self.connections.of_log_group(delivered.log_group)
        if not known:
            return batch
        moments = {event.timestamp for event in delivered.log_events}
        covering = [one for one in reversed(known) if any(one.covers(moment) for moment in moments)]  # the latest first
        metering = {moment: tuple(one for one in covering if one.covers(moment)) for moment in moments}
        ids = {
            event.id
            for event in delivered.log_events
            if (of_line := metering[event.timestamp])
            and not (len(of_line) < len(covering) and self._is_anothers(event.message, of_line))
        }
        lines = [(name, line) for name, line in zip(batch.ids, batch.events, strict=True) if name in ids]
        batch = replace(batch, ids=[name for name, _ in lines], events=[line for _, line in lines])
        if covering and not any(one.is_access_log for one in covering):
            return batch
        return replace(batch, source=Source.ACCESS_LOG, forms=forms_of(covering, self.nonces, self.metrics))

    def _is_anothers(self, line: str, connections: tuple[Connection, ...]) -> bool:
        """Say whether a line is of a stage that none of these is: one that is connected at another moment, perhaps."""
        try:
            forms = forms_of(connections, self.nonces, self.metrics)
            return bool(forms) and all(form.fields(line) is None for form in forms)
        except ValueError:
            return False

    def bears(self) -> Callable[[str], bool]:
        """Return what says whether a connection bears a name.

        The ledger is asked once for each of a few names; then once for all, since a batch may hold any number (I10).
        """
        asked: dict[str, bool] = {}
        names = cache(self.connections.names)

        def bears(name: str) -> bool:
            if name not in asked:
                asked[name] = self.connections.bears(name) if len(asked) < MOST_ASKED else name in names()
            return asked[name]

        return bears

    def forms_of_set_aside(self, origin: str, at: int) -> tuple[LineForm, ...]:
        """Return how lines of the access log are read that were set aside, by where they came from and when.

        A stage that was connected anew, since somebody had changed its format, is read by what it writes now, too: that
        is how its lines are mended. ``at`` is when the first line of the delivery was written, with which others came
        that may have been written when another stage was connected, too.
        """
        group = origin.partition(" ")[0]
        is_own = group == self.own or origin.startswith("s3://")
        known = [] if is_own else [one for one in self.connections.of_log_group(group) if one.is_access_log]
        if not known:
            return (Ours(self.nonces),)
        latest = at + EARLY // timedelta(milliseconds=1)
        then = [one for one in reversed(known) if one.first <= latest and (not one.until or at < one.until)]
        then = then or [*reversed(known)]
        stages = {(one.api_id, one.stage) for one in then}
        since = [one for one in reversed(known) if (one.api_id, one.stage) in stages and one not in then]
        return forms_of([*then, *since], self.nonces, self.metrics)

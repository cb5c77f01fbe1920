"""Waiting: which records of the raw archive were set aside, and so are known not to be counted."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from infra.operate.deployment import Deployment
from infra.operate.recount.raw_connected import ConnectedReader
from infra.operate.recount.raw_lines import Record, UnreadableError, read_access_line
from infra.operate.recount.raw_log import usage_record_id
from metering.model.batches import Source
from metering.model.connections import Connection
from metering.model.metrics import Metric
from metering.stores.set_aside import SetAsideBatch, SetAsideLine


def waiting_records(
    deployment: Deployment, connections: Sequence[Connection], metrics: tuple[Metric, ...]
) -> dict[str, Collection[str]]:
    """Return the metrics, by the ids of records, for which these were set aside, surely not counted, and not since.

    What was dismissed is among them: it explains itself, and nobody is billed for it. ``metrics`` are all that there
    ever were, as ``connections`` are.
    """
    known = _Known(deployment.outputs.nonces.split(), connections, metrics)
    set_aside: dict[str, Collection[str]] = {}
    for name in deployment.set_aside.batches():
        kept = deployment.set_aside.of(name)
        left = {waiting.line.name: waiting.metrics for waiting in kept.waiting if not waiting.doubtful}
        for line in kept.certain.lines if kept.certain else ():
            if kept.certain and (line.name in left or line.name in kept.dismissed):
                record = known.record_of(kept.certain, line)
                if record:
                    set_aside[record] = left.get(line.name, line.metrics)
    return set_aside


@dataclass(frozen=True, slots=True)
class _Known:
    """Knows the records that lines hold."""

    nonces: Sequence[str]
    connections: Sequence[Connection]
    metrics: tuple[Metric, ...]

    def record_of(self, batch: SetAsideBatch, line: SetAsideLine) -> str:
        """Return the id of the record that a line holds, or nothing if it cannot be read in the archive, either."""
        group = batch.origin.split(" ")[0]
        if batch.source is Source.USAGE_LINES:
            return usage_record_id(group, line.id)
        with suppress(UnreadableError):
            record = self._read(group, line.message)
            return record.id if record else ""
        return ""

    def _read(self, group: str, message: str) -> Record | None:
        of_group = [one for one in self.connections if one.log_group == group and one.is_access_log]
        if of_group:
            return ConnectedReader(lambda _: self.metrics, self.nonces).read(of_group, message)
        return read_access_line(message, self.metrics, self.nonces)

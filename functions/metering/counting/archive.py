"""The archive: objects that Firehose wrote, recorded chunk by chunk.

Each chunk is a batch of its own. An object that comes again, under whatever name, has the same chunks, which their
counters refuse; and a run whose time is over stops between two chunks and writes down how far it got, so that the next
one goes on there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from metering.counting.payloads import ArchiveObject, batches
from metering.counting.recording import Recorded, Recorder
from metering.stores.objects import pieces

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

SLOWEST_CHUNK: Final = timedelta(seconds=60)
"""No chunk is begun when less time is left than this."""


class OutOfTimeError(Exception):
    """The run must end now; the object is delivered again, and the next run goes on where this one stopped."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Records objects; no chunk is begun after ``deadline``."""

    client: "S3Client"
    recorder: Recorder
    clock: Callable[[], datetime]
    deadline: datetime

    def record(self, stored: ArchiveObject) -> Recorded:
        """Record an object of any size; raise OutOfTimeError if the next run must go on with it."""
        counters = self.recorder.counters
        name = f"{stored} {stored.version}"
        done = counters.recorded_chunks(name)
        recorded = Recorded()
        content = pieces(self.client, stored.bucket, stored.key)
        for number, batch in enumerate(batches(content, str(stored))):
            if number < done:
                continue
            if self.clock() >= self.deadline:
                counters.save_recorded_chunks(name, number, self.clock())
                raise OutOfTimeError(f"{stored} goes on at chunk {number} in the next run")
            recorded.include(self.recorder.record(batch))
        return recorded

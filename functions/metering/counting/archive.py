"""The archive: objects that Firehose wrote, recorded chunk by chunk.

Each chunk is a batch of its own. An object that comes again, under whatever name, has the same chunks, which their
counters refuse; and a run whose time is over stops between two chunks and writes down how far it got, so that the next
one goes on there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from metering.counting.payloads import ArchiveObject, PayloadError, batches
from metering.counting.recorded import Recorded
from metering.counting.recording import Recorder
from metering.layout import ARCHIVE
from metering.stores.objects import Bucket

SLOWEST_CHUNK: Final = timedelta(seconds=60)
"""No chunk is begun when less time is left than this."""


class OutOfTimeError(Exception):
    """The run must end now; the object is delivered again, and the next run goes on where this one stopped."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Records objects of ``bucket``; no chunk is begun after ``deadline``."""

    bucket: Bucket
    recorder: Recorder
    clock: Callable[[], datetime]
    deadline: datetime

    def record(self, stored: ArchiveObject) -> Recorded:
        """Record an object of any size; raise OutOfTimeError if the next run must go on with it.

        Raises PayloadError for an object that is not where Firehose writes: whoever has a bucket in the account can
        tell the queue of it, and what lies there is no line of ours (I7).
        """
        if stored.bucket != self.bucket.name or not stored.key.startswith(ARCHIVE):
            raise PayloadError(f"wanted an object of s3://{self.bucket.name}/{ARCHIVE}, got {stored}")
        counters = self.recorder.counters
        name = f"{stored} {stored.version}"
        done = counters.recorded_chunks(name)
        recorded = Recorded()
        content = self.bucket.pieces(stored.key)
        for number, batch in enumerate(batches(content, str(stored))):
            if number < done:
                continue
            if self.clock() >= self.deadline:
                counters.save_recorded_chunks(name, number, self.clock())
                raise OutOfTimeError(f"{stored} goes on at chunk {number} in the next run")
            recorded.include(self.recorder.record(batch))
        return recorded

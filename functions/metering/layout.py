"""Names of places in the tables and the bucket that infrastructure, functions and commands share."""

from typing import Final

SHARDS: Final = 16
"""How many partitions the index of pending rows is spread over."""

ARCHIVE: Final = "access-log/"
"""Where Firehose puts the access log's objects in the bucket."""

SET_ASIDE: Final = "set-aside/"
"""Where lines that cannot be counted are kept in the bucket."""

ROW: Final = ("pk", "sk", "version", "totals", "only_key", "pending", "summed")
"""The attributes of a usage row in the ledger; other items below a customer hold others."""

DONE: Final = {"metering": "done"}
"""The tag of what was set aside and waits for nothing any more."""

FAILED_BATCHES: Final = "aws/lambda/async/"
"""Where Lambda puts an event whose every attempt failed (Lambda Developer Guide, "Capturing records of Lambda
asynchronous invocations"): ``aws/lambda/async/<function>/YYYY/MM/DD/…``."""

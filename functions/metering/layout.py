"""Names of places in the tables, the bucket and the gateway that infrastructure, functions and commands share."""

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

LANE_TAG: Final = "metering:lane"
"""The tag of a usage plan that is a slow lane; its value is the deployment's name."""

LANE_NAME: Final = "slow-lane"
"""What a lane's name goes on with after the deployment's and a hyphen, for who has no tags: ``Metering-slow-lane``."""

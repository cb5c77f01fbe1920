# mypy: ignore-errors
"""A delivery of CloudWatch Logs as version 1.0.0 records it: what it counts and sets aside, and its batch's name.

``tests/doubles/released.py`` runs this on the code of 1.0.0, with the payload, the metrics and the moment on stdin.
"""

import base64
import json
import sys
from datetime import datetime

from metering.counting.payloads import subscription
from metering.counting.recording import Recorder
from metering.model.metrics import decode
from metering.stores.claims import Claims
from metering.stores.counters import Counters
from metering.stores.set_aside import SetAside
from tests.doubles.aws import Account


def main() -> None:
    """Record what is given, and print what became of it."""
    given, account = json.load(sys.stdin), Account()
    counters = Counters(account.client("dynamodb"), "counters")
    recorder = Recorder(
        metrics=decode(given["metrics"]),
        nonces=(given["nonce"],),
        counters=counters,
        claims=Claims(account.client("dynamodb"), "counters"),
        set_aside=SetAside(account.client("s3"), "bucket"),
        clock=lambda: datetime.fromisoformat(given["now"]),
    )
    batch = subscription(given["payload"]).batch(given["access_log_group"])
    recorded = recorder.record(batch)
    reasons = [
        line["reason"] for body in account.services["s3"].objects().values() for line in json.loads(body)["lines"]
    ]
    told = {
        "batch": batch.token.hex(),
        "read": recorded.read,
        "set_aside": reasons,
        "counters": [*account.services["dynamodb"].items("counters")],
    }
    json.dump(told, sys.stdout, default=lambda value: base64.b64encode(value).decode())


if __name__ == "__main__":
    main()

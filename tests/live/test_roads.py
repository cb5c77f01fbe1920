"""The road over Firehose, there and back, and what becomes of lines that Firehose does not take at once (I1)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.live.run import USER, Run

FIREHOSE = "Firehose Developer Guide, 'Quota'; API Gateway Developer Guide says nothing of retries"
BATCH = [{"Data": b"\n" * 1_000_000}] * 4
"""Four megabytes of lines that hold nothing, which counting passes over."""


def test_a_stage_goes_over_to_firehose_and_back_without_losing_a_line(live: Run) -> None:
    """There: the metering stack first. Back: the stage first, and the stream once nothing is on its way in it."""
    before = live.counted()
    with _traffic(live) as sent:
        live.deploy("", road="firehose", exclusively=True)
        live.deploy("-Apis", road="firehose", exclusively=True)
        sent(5)
        _saturated_stream(live)
        live.deploy("-Apis", road="subscription", exclusively=True)
        sent(5)
    live.wait(lambda: live.counted() - before >= sent(0), "every request is counted", patience_s=1_800)
    observed = {"lost": sent(0) - (live.counted() - before)}
    live.deploy("", road="subscription", exclusively=True)
    live.points.note(
        "requests lost on the way to Firehose and back",
        expected={"lost": 0},
        observed=observed,
        source="CloudFormation's exports and imports, as synthesised",
    )


def test_what_a_throttled_stream_refuses_comes_later(live: Run) -> None:
    """Noted while the stage wrote into a stream that was filled at the same time."""
    point, expected = "lines that API Gateway has for a stream that throttles", {"throttled": True, "lost": 0}
    if not live.cloud.is_aws:
        why_not = "the emulator's Firehose takes whatever comes"
        live.points.skip(point, expected=expected, source=FIREHOSE, why_not=why_not)
    live.points.note(point, expected=expected, observed=live.points.about["saturated"], source=FIREHOSE)


def _saturated_stream(live: Run) -> None:
    """Fill the stream beyond its quota while a hundred requests are made, and see how many of them are counted."""
    if not live.cloud.is_aws:
        return
    firehose, stream = live.cloud.client("firehose"), live.deployment.outputs.delivery_stream
    ended, refused = threading.Event(), threading.Event()

    def fill() -> None:
        for _ in range(40):  # 160 MB, which nobody counts and which compress to nothing
            if ended.is_set():
                return
            try:
                answer = firehose.put_record_batch(DeliveryStreamName=stream, Records=BATCH)
            except firehose.exceptions.ServiceUnavailableException:
                refused.set()
            else:
                if answer["FailedPutCount"]:
                    refused.set()

    before = live.counted()
    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    live.send(100)
    ended.set()
    filling.join()
    with suppress(TimeoutError):
        live.wait(lambda: live.counted() - before >= 100, "every request is counted", patience_s=1_800)
    live.points.tell(saturated={"throttled": refused.is_set(), "lost": max(0, 100 - (live.counted() - before))})


class _Sent:
    """Sends, and counts what was sent."""

    def __init__(self, live: Run) -> None:
        self.live = live
        self.number = 0
        self.lock = threading.Lock()

    def __call__(self, requests: int) -> int:
        """Send so many good requests more, and return how many were sent in all."""
        if requests:
            self.live.send(requests)
        with self.lock:
            self.number += requests
            return self.number


@contextmanager
def _traffic(live: Run) -> Iterator[_Sent]:
    """On AWS a request is sent every second meanwhile; here a gateway stands for a stage as it was when it was read."""
    sent, ended = _Sent(live), threading.Event()
    sent(5)

    def go_on() -> None:
        while not ended.wait(1):
            if live.call("RestId", "metered", **USER) == 200:
                with sent.lock:
                    sent.number += 1

    if live.cloud.is_aws:
        going = threading.Thread(target=go_on, daemon=True)
        going.start()
    try:
        yield sent
    finally:
        ended.set()
        if live.cloud.is_aws:
            going.join()

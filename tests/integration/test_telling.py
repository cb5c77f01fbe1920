"""Telling thresholds: what becomes of those that could not be told."""

from datetime import timedelta

from botocore.exceptions import ReadTimeoutError

from tests.integration.limits import Limited


def test_an_email_that_has_no_answer_is_sent_again() -> None:
    """I9: SES said nothing, not even an error code; the threshold stays to be told, and a later look tells it."""
    limited = Limited(sender="us@example.com")
    limited.customer()
    limited.items.address("acme", ["owner@acme.example"])
    limited.use(80)
    limited.mail.error = ReadTimeoutError(endpoint_url="ses")
    looked = limited.look()
    assert [told.step for told in looked.states["requests/day"].untold] == ["notify:80"]
    limited.mail.error = None
    limited.time.advance(timedelta(minutes=3).total_seconds())
    assert limited.look().states["requests/day"].untold == ()
    assert [message["Destination"]["ToAddresses"] for message in limited.mail.sent] == [["owner@acme.example"]]

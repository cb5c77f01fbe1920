"""An event on the account's bus for each total that Stripe rejected, for whoever wants to act on it by program."""

import json
from collections.abc import Mapping
from typing import Any, Final

from aws_lambda_powertools import Logger
from botocore.exceptions import BotoCoreError, ClientError

from metering.model.identifiers import named_by
from metering.signals import DETAIL_TYPE, SOURCE
from metering.stores import aws
from metering.stores.holders import Holders

logger = Logger(child=True)

_AT_ONCE: Final = 10  # PutEvents' limit


def tell_rejected(refused: Mapping[str, str], holders: Holders) -> None:
    """Put an event on the default bus for each rejected total, named by its identifier, with Stripe's words.

    The row and the alarm tell of it as well, so that a bus which cannot be reached is no reason to fail.
    """
    for piece in aws.in_pieces(list(refused.items()), _AT_ONCE):
        try:
            entries: list[Any] = [_entry(known_as, words, holders) for known_as, words in piece]
            answer = aws.events().put_events(Entries=entries)
        except (BotoCoreError, ClientError):
            logger.exception("no event could be put")
            return
        if answer["FailedEntryCount"]:
            logger.error("events could not be put", failed=answer["FailedEntryCount"])


def _entry(known_as: str, words: str, holders: Holders) -> dict[str, str]:
    short, metric, hour = named_by(known_as)
    detail = {
        "customer": holders.id_of(short),
        "metric": metric,
        "hour": str(hour),
        "identifier": known_as,
        "reason": words,
    }
    return {"Source": SOURCE, "DetailType": DETAIL_TYPE, "Detail": json.dumps(detail)}

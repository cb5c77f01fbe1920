"""A function that asks a language model what comes through a queue: a line with the tokens of each answer.

Who is billed stands in the message, which only your own API may send (``sqs:SendMessage``): it has authenticated the
caller. The id is the message's, which SQS gives and keeps when it delivers again, so that with ``deduplicate=True`` a
question that is asked twice counts once. An id that the caller chose would let one id pay for many questions.
"""

import json
import os
from functools import cache
from typing import Any

import boto3


@cache
def _model() -> Any:
    return boto3.client("bedrock-runtime")


def handler(event: dict[str, Any], _context: object) -> None:
    """Ask each question, and say what that took; neither question nor answer is logged."""
    for record in event["Records"]:
        question = json.loads(record["body"])
        messages = [{"role": "user", "content": [{"text": question["text"]}]}]
        used = _model().converse(modelId=os.environ["MODEL"], messages=messages)["usage"]
        usage = {
            "id": record["messageId"],
            "time": int(record["attributes"]["SentTimestamp"]),
            "customer": question["customer"],
            "input_tokens": used["inputTokens"],
            "output_tokens": used["outputTokens"],
        }
        print(json.dumps({"usage": usage}))

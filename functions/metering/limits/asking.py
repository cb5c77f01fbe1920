"""Asking the gate to look at a customer: written down first, then the worker is woken."""

from dataclasses import dataclass
from typing import Any

from aws_lambda_powertools import Logger

from metering.stores.aws import ERRORS
from metering.stores.gate_list import Asked, GateList

logger = Logger(child=True)


@dataclass(frozen=True, slots=True)
class Asking:
    """The list of the asked, and the ``queue`` (its URL) that wakes the gate; ``sqs`` is boto3's client."""

    gate: GateList
    sqs: Any
    queue: str

    def ask(self, name: str, asked: Asked) -> None:
        """Write that the gate is to look at a customer; a replay asks for the same."""
        self.gate.ask(name, asked)

    def wake(self) -> None:
        """Wake the gate. Where that fails the sweeper does, a minute later: it wakes whoever is asked still."""
        try:
            self.sqs.send_message(QueueUrl=self.queue, MessageBody="{}")
        except ERRORS:
            logger.exception("the gate could not be woken")

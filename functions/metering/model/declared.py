"""What ``app.py`` declares, as the functions find it that have the file ``declared.json`` in their zips."""

from typing import Self

import msgspec

from metering.model.metrics import Metric
from metering.model.prices import Plan


class Declared(msgspec.Struct, frozen=True):
    """The file."""

    metrics: tuple[Metric, ...]
    plans: tuple[Plan, ...]

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Read what the stack wrote."""
        return msgspec.json.decode(content, type=cls)

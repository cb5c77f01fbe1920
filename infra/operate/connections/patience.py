"""Calls that AWS refuses for a while: API Gateway takes few changes a second, and a new role is not known at once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 20.0)
"""Seconds before each further attempt: a role is known within some ten seconds, UpdateAccount is taken once in twenty
(API Gateway Developer Guide, "Quotas")."""

BUSY: Final = frozenset({"TooManyRequestsException", "ThrottlingException", "OperationAbortedException"})


@dataclass(frozen=True, slots=True)
class Patience:
    """Tries a call again and again, within a minute."""

    say: Callable[[str], object] = lambda _: None
    pause: Callable[[float], object] = time.sleep

    def call(self, do: Callable[[], Any], *, until: str = "") -> Any:
        """Return a call's answer. Tried again is what AWS is too busy for, or refuses with words that hold ``until``.

        Each call must be harmless when it is made again.
        """
        for seconds in PAUSES:
            try:
                return do()
            except ClientError as error:
                said = error.response["Error"]
                not_yet = bool(until) and until in said.get("Message", "").lower()
                if said["Code"] not in BUSY and not not_yet:
                    raise
                self.say(f"AWS answered {said['Code']}: trying again in {seconds:.0f} s")
            self.pause(seconds)
        return do()

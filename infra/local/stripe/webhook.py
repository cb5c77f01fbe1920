"""How the local Stripe delivers events: signed as documented, tried again a few times."""

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ATTEMPTS = 4  # Stripe itself goes on for three days
PAUSE = 0.05  # seconds before the second attempt, doubled before each further one
PATIENCE = 60.0  # seconds that one attempt may take


@dataclass(frozen=True, slots=True)
class Webhook:
    """An endpoint that wants events, and the secret that signs what is sent to it (`whsec_…`)."""

    url: str
    secret: str

    def deliver(self, event: Mapping[str, Any]) -> bool:
        """Post an event until it is answered 2xx; tell whether it was (docs.stripe.com/webhooks, "Retries")."""
        body = json.dumps(event)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": self.sign(body)}
            request = urllib.request.Request(self.url, body.encode(), headers)  # noqa: S310  the test's own address
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE):  # noqa: S310  the same
                    return True
            except (urllib.error.URLError, OSError):
                continue  # anything but 2xx, or no answer: once more
        return False

    def sign(self, body: str) -> str:
        """Sign a body with the time of this attempt (docs.stripe.com/webhooks#verify-manually).

        It is the real time, not the account's: whoever verifies it has no other.
        """
        at = int(time.time())
        signature = hmac.new(self.secret.encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest()
        return f"t={at},v1={signature}"

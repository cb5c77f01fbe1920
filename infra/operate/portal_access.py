"""The operator's side of the portal: links for customers, and the key that signs them."""

import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from infra.operate.deployment import Deployment
from infra.operate.limits.setting import items_of
from metering.portal.tokens import Right, Use, issue

_ALPHABET: Final = string.ascii_letters + string.digits
_LENGTH: Final = 64


@dataclass(frozen=True, slots=True)
class Link:
    """A link, and when it ends."""

    url: str
    expires_at: datetime


def make_link(deployment: Deployment, customer: str, *, hours: int, now: datetime, may: Collection[Right] = ()) -> Link:
    """Return a link that opens a customer's page for so many hours, and lets whoever has it do what it ``may``.

    Raises OperatorError for a right to a budget where there are no limits.
    """
    if Right.BUDGET in may:
        items_of(deployment)
    secret = deployment.outputs.portal_secret
    key = deployment.client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"]
    token, ends = issue(
        key,
        deployment=deployment.outputs.deployment,
        customer=customer,
        now=now,
        life=timedelta(hours=hours),
        use=Use.LINK,
        may=may,
    )
    return Link(f"{portal_url(deployment)}#{token}", ends)


def portal_url(deployment: Deployment) -> str:
    """Return where the page is."""
    return deployment.reachable(deployment.outputs.portal_url)


def rotate_key(deployment: Deployment, *, times: int) -> None:
    """Put another key in the secret; the one before goes on to verify, and of two, none before."""
    client = deployment.client("secretsmanager")
    for _ in range(times):
        key = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
        client.put_secret_value(SecretId=deployment.outputs.portal_secret, SecretString=key)

"""Who calls the sample API and with what, and what they should pay for it by what they saw themselves."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from infra.local.aws.json_web_tokens import Issuer
from infra.local.demo.holdings import Step

WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class Request:
    """One request: the resource that its path belongs to, who uses the customer's key, and the messages it carries."""

    method: str
    path: str
    resource: str
    user: str
    messages: int = 0
    declared: int = 0


Proof = Callable[[Request], dict[str, str]]
"""The headers by which a request shows whose it is."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends requests: a customer of the demo, one of its keys, and how it proves that this is its key."""

    customer: str
    key: str
    proof: Proof


STRANGER: Final = Caller("", "", lambda _: {})
"""Somebody without a key."""


def by_key(value: str) -> Proof:
    """Prove it by an API key's secret value."""
    return lambda _: {"x-api-key": value}


def by_token(issuer: Issuer, subject: str) -> Proof:
    """Prove it by a token, which says who uses the customer's subject, too."""

    def proof(request: Request) -> dict[str, str]:
        claims: dict[str, Any] = {"user": request.user} if request.user else {}
        return {"authorization": f"Bearer {issuer.token(subject, **claims)}"}

    return proof


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller saw of one request."""

    customer: str
    request: Request
    status: int
    length: int


async def send(url: str, callers: Sequence[Caller], requests: int) -> list[Answer]:
    """Send the requests, ``WORKERS`` at a time: mostly good, some without a key or a user, some to a failing backend.

    Some carry more messages than they declare, and are refused.
    """
    waiting = iter(range(requests))
    answers: list[Answer] = []

    async def work(session: aiohttp.ClientSession) -> None:
        answers.extend([await ask(session, url, callers, n) for n in waiting])

    async with aiohttp.ClientSession(auto_decompress=False) as session:
        await asyncio.gather(*(work(session) for _ in range(WORKERS)))
    return answers


async def ask(session: aiohttp.ClientSession, url: str, callers: Sequence[Caller], n: int) -> Answer:
    """Send the n-th request."""
    caller = callers[n % len(callers)] if n % 10 else STRANGER
    request = request_of(n)
    async with session.request(
        request.method, f"{url}{request.path}", headers=_headers(caller, request), json=_body(request)
    ) as answer:
        return Answer(caller.customer, request, answer.status, len(await answer.read()))


def request_of(n: int) -> Request:
    """Return the n-th request; seven users, who come through each key of a customer."""
    user = f"user-{n % 7}" if n % 50 != 33 else ""  # noqa: PLR2004 - one in fifty forgets to say
    if n % 15 == 7:  # noqa: PLR2004 - one in fifteen
        return Request("GET", "/fail", "/fail", user)
    match n % 3:
        case 0:
            return Request("GET", f"/items?n={n % 40}", "/items", user)
        case 1:
            return Request("GET", f"/items/{n}", "/items/{id}", user)
        case _:
            messages = 20 * (1 + n % 5)  # so many that a month's included ones are soon used up, and the price moves
            declared = messages if n % 8 != 5 else 1  # noqa: PLR2004 - one in eight would rather pay for one
            return Request("POST", "/messages", "/messages", user, messages, declared)


def _headers(caller: Caller, request: Request) -> dict[str, str]:
    headers = caller.proof(request) | {"x-user": request.user}
    if request.declared:
        headers["x-messages"] = str(request.declared)
    return {name: value for name, value in headers.items() if value}


def _body(request: Request) -> dict[str, list[str]] | None:
    return {"messages": ["hello"] * request.messages} if request.messages else None


def owed(answers: Iterable[Answer], metrics: Collection[str], *, by_route: bool) -> Step:
    """Count what the callers saw and should pay for, by code that shares nothing with the metering.

    The log of an HTTP API names routes (``GET /items``), that of a REST API resources (``/items``).
    """
    usage: dict[tuple[str, str], int] = {}
    split: dict[tuple[str, str, str], int] = {}
    users: dict[str, set[str]] = {}
    for answer in answers:
        if not (answer.customer and 200 <= answer.status < 400):  # noqa: PLR2004 - what is billed
            continue
        request = answer.request
        for metric, amount in (("requests", 1), ("response_bytes", answer.length), ("messages", request.messages)):
            if amount and metric in metrics:
                usage[answer.customer, metric] = usage.get((answer.customer, metric), 0) + amount
        part = (answer.customer, "requests", f"{request.method} {request.resource}" if by_route else request.resource)
        split[part] = split.get(part, 0) + 1
        if request.user:
            users.setdefault(answer.customer, set()).add(request.user)
    return Step(usage | {(name, "users"): len(seen) for name, seen in users.items()}, split)

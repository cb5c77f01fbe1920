"""What the customers' API answers, as its OpenAPI document describes it; no answer is made of these."""

from typing import Literal

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """What is wrong (RFC 9457)."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str


class UsageLine(BaseModel):
    """What was used of a metric in a period: ``quantity`` units of 10 to the power of -``scale``."""

    period: str
    metric: str
    value: str | None
    quantity: int
    scale: int
    state: Literal["counting", "closed", "posted"]


class UsageAnswer(BaseModel):
    """What was used from ``from`` up to ``to``, exclusive (UTC).

    By key, ``names`` holds what keys are called, by their ids; a key without a name is left out.
    """

    customer: str
    from_: str = Field(alias="from")
    to: str
    by: Literal["hour", "day", "month"]
    as_of: str
    dimension: str | None
    names: dict[str, str]
    usage: list[UsageLine]


class Window(BaseModel):
    """The hours (UTC) in which usage counts against a limit; at ``to`` it counts from nothing again."""

    from_: str = Field(alias="from")
    to: str


class LimitStep(BaseModel):
    """What happens at ``percent`` of a limit, which is ``at`` so much; null until it has, in this window."""

    does: Literal["notify", "slow", "stop"]
    percent: int
    at: int
    acted_at: str | None


class LimitAnswer(BaseModel):
    """A limit and how it stands: units of 10 to the power of -``scale``, or money where ``metric`` is ``spend``.

    ``at_least`` so much is used where the subscription has a price that only Stripe can reckon with.
    """

    limit: str
    metric: str
    per: Literal["hour", "day", "month", "period"]
    window: Window
    most: int
    used: int
    remaining: int
    percent: int
    scale: int
    at_least: bool
    source: Literal["plan", "customer", "budget"]
    source_in_words: str
    steps: list[LimitStep]


class ReasonAnswer(BaseModel):
    """Why access is not open: ``operator``, ``unpaid``, ``budget``, or ``limit:`` with the limit and its window.

    ``until`` is when it ends by itself, at the latest; null if it does not.
    """

    name: str
    access: Literal["slowed", "stopped"]
    since: str | None
    until: str | None


class BudgetAnswer(BaseModel):
    """What the customer has asked for itself, in the currency's smallest unit; null is nothing.

    ``may_stop`` says whether its plan lets it stop itself, ``may_set`` whether this session may set it.
    """

    notify: int | None
    stop: int | None
    may_stop: bool
    may_set: bool


class LimitsAnswer(BaseModel):
    """How a customer stands; amounts in the smallest unit of ``currency``, which is null without a subscription.

    ``access`` is open if and only if there are no ``reasons``.
    """

    customer: str
    access: Literal["open", "slowed", "stopped"]
    reasons: list[ReasonAnswer]
    currency: str | None
    decimals: int
    limits: list[LimitAnswer]
    budget: BudgetAnswer
    as_of: str


class LinkAnswer(BaseModel):
    """A link to one customer's page, to be given to nobody else; it opens the page until ``expires_at``.

    What stands behind its ``#`` opens a session, for the page or for a program.
    """

    url: str
    expires_at: str


class SessionAnswer(BaseModel):
    """What shows one customer its usage until ``expires_at``, as ``Authorization: Bearer``."""

    customer: str
    token: str
    expires_at: str

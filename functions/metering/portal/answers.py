"""What the customers' API answers, as its OpenAPI document describes it; no answer is made of these."""

from typing import Any, Literal

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
    """What was used from ``from`` up to ``to``, exclusive (UTC)."""

    customer: str
    from_: str = Field(alias="from")
    to: str
    by: Literal["hour", "day", "month"]
    as_of: str
    dimension: str | None
    usage: list[UsageLine]


class Step(BaseModel):
    """One line of how an amount comes about; ``first`` and ``last`` are None for a fixed amount."""

    first: int | None
    last: int | None
    quantity: int
    unit_amount: str
    exact: str
    amount: int


class InvoiceLine(BaseModel):
    """What is asked for one price of the plan."""

    price: str
    title: str
    metric: str | None
    kind: Literal["per_unit", "package", "graduated", "volume", "flat"]
    quantity: int
    scale: int
    amount: int
    in_words: str
    steps: list[Step]


class SoFar(BaseModel):
    """What the period costs by what was used until now."""

    total: int
    lines: list[InvoiceLine]


class ForecastLine(BaseModel):
    """What one price is going to ask."""

    price: str
    quantity: int
    amount: int


class Forecast(BaseModel):
    """What the period is going to cost, and what that goes by."""

    total: int
    lines: list[ForecastLine]
    basis: str


class PreviewLine(BaseModel):
    """A line of Stripe's preview."""

    description: str
    price: str
    quantity: int | None
    amount: int


class Preview(BaseModel):
    """Stripe's preview of the invoice, some minutes late."""

    total: int
    as_of: str
    lines: list[PreviewLine]


class Period(BaseModel):
    """Whole hours (UTC)."""

    from_: str = Field(alias="from")
    to: str


class InvoiceAnswer(BaseModel):
    """What the running period costs; amounts in the currency's smallest unit."""

    customer: str
    name: str
    currency: str
    decimals: int
    period: Period
    plans: list[str]
    so_far: SoFar
    forecast: Forecast
    preview: Preview


class PlanAnswer(BaseModel):
    """A plan as it is declared; ``prices`` are of the types per_unit, package, graduated, volume and flat."""

    name: str
    title: str
    currency: str
    decimals: int
    interval: str
    prices: list[dict[str, Any]]


class MetricAnswer(BaseModel):
    """What is counted; ``dimension`` is what its usage can be split by beside the key."""

    name: str
    kind: Literal["count", "sum", "unique", "max"]
    scale: int
    dimension: str | None


class PricesAnswer(BaseModel):
    """The plans and the metrics."""

    plans: list[PlanAnswer]
    metrics: list[MetricAnswer]


class LinkAnswer(BaseModel):
    """A link that shows one customer its usage, to be given to nobody else."""

    url: str
    expires_at: str

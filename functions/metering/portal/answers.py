"""What the customers' API answers, as its OpenAPI document describes it; no answer is made of these."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


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


class Step(BaseModel):
    """One line of how an amount comes about; ``first`` and ``last`` are None for a fixed amount."""

    first: int | None
    last: int | None
    quantity: int
    unit_amount: str
    exact: str
    amount: int


Interval = Literal["day", "week", "month", "year"]


class TierTerms(BaseModel):
    """The units up to ``up_to``, inclusive, that the tier before leaves; the last one's is null.

    Each costs ``amount``; ``flat`` is asked once as soon as the tier is reached.
    """

    up_to: int | None
    amount: str
    flat: str


class PerUnitTerms(BaseModel):
    """``amount`` for each unit."""

    kind: Literal["per_unit"]
    interval: Interval
    amount: str


class PackageTerms(BaseModel):
    """``amount`` for each ``size`` units that are begun."""

    kind: Literal["package"]
    interval: Interval
    amount: str
    size: int


class TieredTerms(BaseModel):
    """For each unit what the tier says in which it lies (graduated), or in which the last unit lies (volume)."""

    kind: Literal["graduated", "volume"]
    interval: Interval
    tiers: list[TierTerms]


class FlatTerms(BaseModel):
    """``amount`` whatever is used.

    ``included`` says how many units of a metric it pays for, as declared. It is empty in an invoice: what is included
    is the first tier of the metric's own price there.
    """

    kind: Literal["flat"]
    interval: Interval
    amount: str
    included: dict[str, int]


Terms = Annotated[PerUnitTerms | PackageTerms | TieredTerms | FlatTerms, Field(discriminator="kind")]
"""What a price asks for each interval; amounts are decimals of the currency's smallest unit."""


class InvoiceLine(BaseModel):
    """What is asked for one price of the plan; ``in_words`` says to people what ``terms`` say to programs.

    What is asked ``in_advance`` is asked as soon as a period begins, whatever is used in it.
    """

    price: str
    title: str
    metric: str | None
    kind: Literal["per_unit", "package", "graduated", "volume", "flat"]
    quantity: int
    scale: int
    amount: int
    in_advance: bool
    in_words: str
    terms: Terms
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
    """What the period is going to cost, and what that goes by.

    Where little of the period has passed, ``low`` and ``high`` say how far off it may be: what it comes to if the
    quieter half of the day before goes on, and if the busier half does. They are null where enough of it has passed.
    """

    total: int
    low: int | None
    high: int | None
    lines: list[ForecastLine]
    basis: str


class Correction(BaseModel):
    """What an hour is billed beside what was counted: ``quantity`` more, or less where it is negative.

    An ``adjustment`` was made by whoever bills you. What is ``carried`` was used in another hour, whose bill was out
    before it was known, or goes to one.
    """

    metric: str
    hour: str
    kind: Literal["adjustment", "carried"]
    quantity: int
    scale: int


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
    """What the running period costs; amounts in the currency's smallest unit.

    ``corrections`` are the hundred latest, by their hours, the latest first.
    """

    customer: str
    name: str
    currency: str
    decimals: int
    period: Period
    plans: list[str]
    so_far: SoFar
    forecast: Forecast
    corrections: list[Correction]
    preview: Preview


class PriceAnswer(BaseModel):
    """A price as it is declared, what is left out there too, and its whole ``terms``."""

    model_config = ConfigDict(extra="allow")

    type: Literal["per_unit", "package", "graduated", "volume", "flat"]
    terms: Terms


class PlanAnswer(BaseModel):
    """A plan as it is declared."""

    name: str
    title: str
    currency: str
    decimals: int
    interval: str
    prices: list[PriceAnswer]


class MetricAnswer(BaseModel):
    """What is counted; ``dimension`` is what its usage can be split by beside the key.

    ``title`` is what people call it, null if nobody says. ``unit`` is that of a quantity: bytes and milliseconds, where
    the log measures these, or what the API's owner says.
    """

    name: str
    kind: Literal["count", "sum", "unique", "max"]
    scale: int
    title: str | None
    unit: str | None
    dimension: str | None


class Limits(BaseModel):
    """How many hours of usage are always answered at once: by any period, and by month for one metric's dimension.

    ``hours_by_key`` is by month for one metric by key, of the keys that the customer has now. More is answered where
    rows are small: 400 says if they are not.
    """

    hours: int
    hours_by_key: int


class PricesAnswer(BaseModel):
    """The plans and the metrics, and how much of their usage may be asked for at once."""

    plans: list[PlanAnswer]
    metrics: list[MetricAnswer]
    limits: Limits


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


class PastInvoice(BaseModel):
    """An invoice that Stripe has finalised; amounts in the smallest unit of ``currency``, moments in UTC.

    ``due`` is what is still to be paid, by ``due_at`` if that is said. It is ``past_due`` where that is over, or where
    ``attempts`` to charge for it have failed; the next one is made at ``next_attempt_at``. Whoever has ``page_url`` or
    ``pdf_url`` can look at the invoice, and pay it.
    """

    id: str
    number: str | None
    from_: str = Field(alias="from")
    to: str
    state: Literal["open", "past_due", "paid", "void", "uncollectible"]
    currency: str
    decimals: int
    total: int
    due: int
    due_at: str | None
    attempts: int
    next_attempt_at: str | None
    page_url: str | None
    pdf_url: str | None


class Payment(BaseModel):
    """How the customer stands with its invoices, and where at Stripe it can change how it pays, if there is a place."""

    state: Literal["settled", "open", "past_due"]
    manage_url: str | None


class PastInvoicesAnswer(BaseModel):
    """What was invoiced, newest first; with ``more``, Stripe has earlier ones, too."""

    customer: str
    invoices: list[PastInvoice]
    more: bool
    payment: Payment
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

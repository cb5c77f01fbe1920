"""What the customers' API answers of prices and invoices; no answer is made of these either."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class Step(BaseModel):
    """One line of how an amount comes about; ``first`` and ``last`` are None for a fixed amount."""

    first: int | None
    last: int | None
    quantity: int
    unit_amount: str
    exact: str
    amount: int


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


class PastInvoice(BaseModel):
    """An invoice that Stripe has finalised; amounts in the smallest unit of ``currency``, moments in UTC.

    ``due`` is what is still to be paid, by ``due_at`` if that is said. It is ``past_due`` where that is over, or where
    ``attempts`` to charge for it have failed; the next one is made at ``next_attempt_at``. For an ``open`` one with
    ``attempts`` a charge is under way, which takes days from a bank account. Who has ``page_url`` or ``pdf_url`` can
    look at it, and pay it.
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
    """How the customer stands with the invoices that are shown, and where it can change how it pays.

    That is at Stripe, and null if there is no such place.
    """

    state: Literal["settled", "open", "past_due"]
    manage_url: str | None


class PastInvoicesAnswer(BaseModel):
    """What was invoiced, newest first; with ``more``, Stripe has others, too, of which ``payment`` says nothing."""

    customer: str
    invoices: list[PastInvoice]
    more: bool
    payment: Payment
    as_of: str

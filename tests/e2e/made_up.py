"""What a customer's API would answer the page, made up, and held to its description: 35 days, 50 keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from playwright.sync_api import Browser, Page, Route

from metering.portal.answers import LimitsAnswer, UsageAnswer
from metering.portal.money_answers import InvoiceAnswer, PastInvoicesAnswer, PricesAnswer
from metering.portal.queries import as_csv
from tests.e2e.reader import answering

NOW = datetime(2026, 11, 16, 5, 30, tzinfo=UTC)
BEGIN, END, RECENT = "2026-10-12T05", "2026-12-12T05", "2026-11-15T00"
TIERS = [{"up_to": 1_000_000, "amount": "0.04", "flat": "0"}, {"up_to": None, "amount": "0.02", "flat": "0"}]
PRICES: dict[str, Any] = {
    "plans": [],
    "metrics": [
        {"name": "requests", "kind": "count", "scale": 0, "title": None, "unit": None, "dimension": "resource"},
        {"name": "credits", "kind": "sum", "scale": 2, "title": None, "unit": None, "dimension": None},
    ],
    "limits": {"hours": 744, "hours_by_key": 744},
}
LIMIT: dict[str, Any] = {
    "limit": "spend/period",
    "metric": "spend",
    "per": "period",
    "window": {"from": BEGIN, "to": END},
    "most": 10**12,
    "used": 10**11,
    "remaining": 9 * 10**11,
    "percent": 10,
    "scale": 0,
    "at_least": False,
    "source": "plan",
    "source_in_words": "the plan standard",
    "steps": [{"does": "stop", "percent": 100, "at": 10**12, "acted_at": None}],
}
"""What is used of a whole budget of 10^12 in the smallest unit."""


@dataclass
class Api:
    """Answers as an API would; what is ``failing`` answers with a status, and what is ``late`` when it is let go."""

    each: int = 3
    """Requests of an hour."""
    currency: str = "usd"
    decimals: int = 2
    begin: str = BEGIN
    failing: dict[str, int] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)
    waiting: list[Route] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    prices: dict[str, Any] = field(default_factory=lambda: PRICES)
    names: dict[str, str] = field(default_factory=dict)
    between: tuple[int | None, int | None] = (None, None)
    """The lowest and the highest that the forecast may come to."""
    corrections: list[dict[str, Any]] = field(default_factory=list)
    invoices: list[dict[str, Any]] | None = None
    """None is the API's 404: nothing is invoiced."""
    payment: dict[str, Any] = field(default_factory=lambda: {"state": "settled", "manage_url": None})
    more: bool = False
    limit: dict[str, Any] = field(default_factory=lambda: LIMIT)
    shared: int = 0
    """How many of the keys' requests are of no single one."""

    def __call__(self, route: Route) -> None:
        """Answer a request."""
        name = self.named(route)
        self.asked.append(name)
        if name in self.late:
            self.waiting.append(route)
        elif route.request.headers.get("accept") == "text/csv":
            made = self.usage(asked(route))
            disposition = {"Content-Disposition": f'attachment; filename="usage-acme-{made["from"]}-{made["to"]}.csv"'}
            route.fulfill(body=as_csv(made["usage"], made["names"]), content_type="text/csv", headers=disposition)
        elif name == "invoices" and self.invoices is None:
            answering({"detail": "there is no subscription"}, 404)(route)
        elif name in self.failing:
            answering({"detail": "something went wrong here"}, self.failing[name])(route)
        else:
            answering(self.answer(name, asked(route)))(route)

    def let_go(self, name: str) -> None:
        """Answer what was asked for and waits."""
        self.late.discard(name)
        waiting, self.waiting = self.waiting, []
        for route in waiting:
            self(route)

    def named(self, route: Route) -> str:
        """Name what is asked for, as the page does."""
        path, query = urlsplit(route.request.url).path, asked(route)
        if path != "/v1/usage":
            return path.removeprefix("/v1/")
        if query["by"] == "month" and moment(query["to"]) - moment(query["from"]) <= timedelta(days=1):
            return f"{query['dimension']} of {query['from']}"
        if query["by"] == "month":
            return "key" if query["dimension"] == "key" else "dimension"
        if query["by"] == "hour":
            return "recent" if "to" not in query else "hours"
        return "before" if query["to"] <= self.begin else "days"

    def answer(self, name: str, query: dict[str, str]) -> Any:
        """Return what is answered."""
        match name:
            case "session":
                return {"customer": "acme", "token": "a.e30.c"}
            case "prices":
                PricesAnswer.model_validate(self.prices)
                return self.prices
            case "invoice":
                return self.invoice()
            case "limits":
                return self.limits()
            case "invoices":
                made: dict[str, Any] = {"customer": "acme", "invoices": self.invoices, "more": self.more}
                made |= {"payment": self.payment, "as_of": "2026-11-16T05:30:00Z"}
                PastInvoicesAnswer.model_validate(made, strict=True)
                return made
            case _:
                return self.usage(query)

    def usage(self, query: dict[str, str]) -> dict[str, Any]:
        """Return the same in each hour, of 50 keys and three resources."""
        first = moment(query["from"])
        end = min(NOW, moment(query["to"])) if "to" in query else NOW
        hours = [first + timedelta(hours=n) for n in range(-int((first - end).total_seconds() // 3600))]
        dimension = query.get("dimension")
        values = {"key": [f"key-{n:02d}" for n in range(50)], "resource": ["/a", "/b", "/c"]}.get(
            dimension or "", [None]
        )
        length = {"hour": 13, "day": 10, "month": 7}[query["by"]]
        periods: dict[str, int] = {}
        for hour in hours:
            period = hour.isoformat()[:length]
            periods[period] = periods.get(period, 0) + self.each
        rows = [
            {
                "period": period,
                "metric": metric,
                "value": value,
                "quantity": quantity * 100**n,
                "scale": 2 * n,
                "state": "posted",
            }
            for period, quantity in periods.items()
            for n, metric in enumerate([query["metric"]] if "metric" in query else ["requests", "credits"])
            for value in values
        ]
        made: dict[str, Any] = {
            "customer": "acme",
            "from": query["from"],
            "to": query.get("to", END),
            "by": query["by"],
        }
        made |= {
            "as_of": "2026-11-16T05:30:00Z",
            "dimension": dimension,
            "names": self.names if dimension == "key" else {},
            "usage": rows,
        }
        if self.shared and dimension == "key":
            rows.append(rows[0] | {"value": "", "quantity": self.shared})
        UsageAnswer.model_validate(made)
        return made

    def invoice(self) -> dict[str, Any]:
        """Return an invoice of a fee and two tiers, as large as an hour's usage says."""
        amount = self.each * 10
        terms = {"kind": "graduated", "interval": "month", "tiers": TIERS}
        step = {"first": 1_000_001, "last": amount, "quantity": amount, "unit_amount": "0.02", "exact": f"{amount}.02"}
        lines = [
            {"price": "base_fee", "title": "Standard: base fee", "metric": None, "kind": "flat", "quantity": 1}
            | {"scale": 0, "amount": 4900, "in_advance": True, "in_words": "", "steps": []}
            | {"terms": {"kind": "flat", "interval": "month", "amount": "4900", "included": {}}},
            {"price": "requests", "title": "Standard: Requests", "metric": "requests", "kind": "graduated"}
            | {"quantity": amount, "scale": 0, "amount": amount, "in_advance": False, "in_words": "", "terms": terms}
            | {"steps": [step | {"amount": amount}]},
        ]
        forecasts = [{field: line[field] for field in ("price", "quantity", "amount")} for line in lines]
        total = 4900 + amount
        made = {
            "customer": "acme",
            "name": "Acme",
            "currency": self.currency,
            "decimals": self.decimals,
            "period": {"from": self.begin, "to": END},
            "plans": ["standard"],
            "so_far": {"total": total, "lines": lines},
            "forecast": {"total": total * 2, "low": self.between[0], "high": self.between[1], "lines": forecasts}
            | {"basis": "the last 24 hours go on"},
            "corrections": self.corrections,
            "preview": {"total": total, "as_of": "2026-11-16T05:30:00Z", "lines": []},
        }
        InvoiceAnswer.model_validate(made)
        return made

    def limits(self) -> dict[str, Any]:
        """Return one limit."""
        made: dict[str, Any] = {
            "customer": "acme",
            "access": "open",
            "reasons": [],
            "currency": self.currency,
            "limits": [self.limit],
        }
        made |= {"decimals": self.decimals, "as_of": "2026-11-16T05:30:00Z"}
        made |= {"budget": {"notify": None, "stop": None, "may_stop": True, "may_set": False}}
        LimitsAnswer.model_validate(made)
        return made


def asked(route: Route) -> dict[str, str]:
    """Return what is asked for."""
    return dict(parse_qsl(urlsplit(route.request.url).query))


def moment(hour: str) -> datetime:
    """Return when an hour begins."""
    return datetime.fromisoformat(f"{hour}:00:00+00:00")


@contextmanager
def opened(  # noqa: PLR0913 - what differs
    site: str,
    browser: Browser,
    api: Api,
    *,
    size: tuple[int, int] = (1280, 900),
    where: str = "",
    link: str = "a.e30.c",
) -> Iterator[Page]:
    """Open the page of a customer to which an API answers so."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale="en-US")
    context.clock.set_fixed_time(NOW)
    page, troubles = context.new_page(), list[str]()
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.route("**/v1/*", api)
    page.route("**/v1/*?*", api)
    page.goto(f"{site}{where}#{link}")
    yield page
    context.close()
    assert troubles == []


def figure(page: Page, metric: str) -> str:
    """Return what the page says was used of a metric."""
    return page.locator(f'[data-metric="{metric}"] .figure').inner_text()

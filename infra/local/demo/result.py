"""The demo's outcome: what each step holds, side by side, and the invoices that Stripe would write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.table import Table

from infra.local.demo.holdings import Split, Step, Usage
from infra.operate.invoice_lines import unit_amount
from metering.model.prices import in_money


@dataclass(frozen=True, slots=True)
class Result:
    """The demo's outcome: each quantity at each step. Stripe bills totals and knows no split."""

    road: str
    requests: int
    elapsed_s: Mapping[str, float]
    sent: Step
    counted: Step
    ledger: Step
    stripe: Usage
    invoices: Sequence[Mapping[str, Any]]
    """Stripe's previews of the running invoices."""

    faults: Mapping[str, Mapping[str, int]]
    """What failed on the way, where it was asked to."""

    metrics: Sequence[str]
    priced: Mapping[str, int]
    """What the usage that was sent costs, by customer, computed here from the plan's prices; without fees."""

    @property
    def equal(self) -> bool:
        """Say whether every step holds the same and is invoiced at the declared prices, and something was sent."""
        same = self.sent == self.counted == self.ledger and self.sent.usage == self.stripe
        return bool(self.sent.usage) and same and self.priced == self.invoiced

    @property
    def invoiced(self) -> dict[str, int]:
        """What Stripe asks for the usage, by customer, in the currency's smallest unit."""
        return {
            invoice["customer"]: sum(line["amount"] for line in invoice["lines"] if line["price"] in self.metrics)
            for invoice in self.invoices
        }

    def as_json(self) -> dict[str, Any]:
        """Return the result as ``metering demo --json`` prints it."""
        customers: dict[str, dict[str, Any]] = {}
        for (name, metric), steps in _table_of(self._usage()).items():
            entry = customers.setdefault(name, {"id": name, "metrics": {}, "by_dimension": {}})
            entry["metrics"][metric] = steps
        for (name, metric, value), steps in _table_of(self._split()).items():
            customers[name]["by_dimension"].setdefault(metric, {})[value] = steps
        return {
            "equal": self.equal,
            "road": self.road,
            "requests": self.requests,
            "elapsed_s": dict(self.elapsed_s),
            "customers": list(customers.values()),
            "invoices": list(self.invoices),
            "faults": dict(self.faults),
        }

    def table(self) -> Table:
        """Return the result as a table: under each metric that is split, its values."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("customer", "metric", *self._usage()):
            table.add_column(column, justify="left" if column in ("customer", "metric") else "right")
        table.add_column("")
        split = _table_of(self._split())
        for (name, metric), steps in _table_of(self._usage()).items():
            table.add_row(name, metric, *(f"{n:,}" for n in steps.values()), _verdict(steps))
            for (whose, of, value), parts in split.items():
                if (whose, of) == (name, metric):
                    table.add_row("", f"  {value}", *(f"{n:,}" for n in parts.values()), "", _verdict(parts))
        return table

    def invoice_table(self) -> Table:
        """Return Stripe's previews line by line, so that a person can do the sums."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("customer", "price", "line", "quantity", "unit amount", "amount"):
            table.add_column(column, justify="right" if column in ("quantity", "unit amount", "amount") else "left")
        for invoice in self.invoices:
            currency = invoice["currency"]
            for line in invoice["lines"]:
                unit, amount = unit_amount(line, currency), in_money(line["amount"], currency)
                quantity = "" if line["quantity"] is None else f"{line['quantity']:,}"
                table.add_row(invoice["customer"], line["price"], line["description"], quantity, unit, amount)
            table.add_row(invoice["customer"], "total", "", "", "", in_money(invoice["total"], currency), style="bold")
        return table

    def _usage(self) -> dict[str, Usage]:
        return {
            "sent": self.sent.usage,
            "counted": self.counted.usage,
            "ledger": self.ledger.usage,
            "stripe": self.stripe,
        }

    def _split(self) -> dict[str, Split]:
        return {"sent": self.sent.split, "counted": self.counted.split, "ledger": self.ledger.split}


Row = TypeVar("Row", bound=tuple[str, ...])


def _table_of(steps: Mapping[str, Mapping[Row, int]]) -> dict[Row, dict[str, int]]:
    """Turn quantities by step into steps by what is counted; a step that lacks one has 0 of it."""
    rows = sorted({row for quantities in steps.values() for row in quantities})
    return {row: {step: quantities.get(row, 0) for step, quantities in steps.items()} for row in rows}


def _verdict(steps: Mapping[str, int]) -> str:
    return "equal" if len(set(steps.values())) == 1 else "DIFFERENT"

"""What the customers' API works with, and how its routes come by that."""

from dataclasses import dataclass

from metering.model.metrics import Metric
from metering.model.prices import Plan
from metering.portal.bounds import Bounds
from metering.portal.charges import Charges
from metering.portal.limits import Limits
from metering.portal.past_invoices import PastInvoices
from metering.portal.reading import UsageReader
from metering.portal.tokens import PortalKeys


@dataclass
class Parts:
    """What the API works with, made once in a process; ``limits`` are None where the deployment has none."""

    deployment: str
    keys: PortalKeys
    reader: UsageReader
    charges: Charges
    past_invoices: PastInvoices
    metrics: tuple[Metric, ...]
    plans: tuple[Plan, ...]
    limits: Limits | None = None

    @property
    def bounds(self) -> Bounds:
        """What one answer may be about."""
        return Bounds(self.metrics)

"""The stack: CDK alone. Synthesising it loads no SDK, no store and no operator's tool.

``app.py`` imports this room and nothing else; who else comes in are the tests.
"""

from infra.stack.authorizer import caller_authorizer
from infra.stack.ingest import Road
from infra.stack.metering import STRIPE, MeteringStack
from infra.stack.sample_api import SampleApi
from infra.stack.sample_http_api import SampleHttpApi
from infra.stack.sizes import Size
from metering.model.limits import Limit, Notify, Slow, Spend, Stop
from metering.model.log_format import AccessLog, Api
from metering.model.metrics import USAGE_LINES, Count, Max, Sum, Unique
from metering.model.prices import Flat, Graduated, Package, PerUnit, Plan, Tier, Volume

__all__ = [
    "STRIPE",
    "USAGE_LINES",
    "AccessLog",
    "Api",
    "Count",
    "Flat",
    "Graduated",
    "Limit",
    "Max",
    "MeteringStack",
    "Notify",
    "Package",
    "PerUnit",
    "Plan",
    "Road",
    "SampleApi",
    "SampleHttpApi",
    "Size",
    "Slow",
    "Spend",
    "Stop",
    "Sum",
    "Tier",
    "Unique",
    "Volume",
    "caller_authorizer",
]

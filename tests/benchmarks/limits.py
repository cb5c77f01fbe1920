"""What limits cost, how soon they act, and how far one is overrun.

``usd_per_million_requests`` is by subscription: 200 customers with three limits each, one in a hundred of them near,
100 requests a second that are delivered each second. ``usd_per_month_per_1000_limited_customers`` is on Firehose, which
brings what was used each five minutes, so that nearly all of it is the sweep's. Both are reckoned from the calls of an
hour in memory, the processor time of a look on DynamoDB Local, and the published prices. ``detect_s`` and ``overshoot``
are measured on the embedded AWS, with the whole deployment.
"""

from collections.abc import Sequence
from typing import Any, Final

from tests.benchmarks import limited_place, limited_stack
from tests.benchmarks.common import parser, report
from tests.benchmarks.watched_hour import GATHERED_S

PARTS: Final = 10
"""Moments at which a record may come while a batch is gathered."""


def memory(held: limited_place.Held, names: int, sources: int) -> dict[str, Any]:
    """Return what watching and sweeping hold."""
    return {
        "names": names,
        "sources": sources,
        "swept": held.swept,
        "watcher_rss_mb": round(held.watcher.rss_mb),
        "watcher_rss_growth_mb": round(held.watcher.rss_growth_mb, 1),
        "watcher_floor_mb": round(held.floor_mb, 1),
        "watcher_ratio_to_floor": round(held.watcher.rss_growth_mb / max(0.1, held.floor_mb), 2),
        "sweeper_rss_mb": round(held.sweeper.rss_mb),
        "sweeper_rss_growth_mb": round(held.sweeper.rss_growth_mb, 1),
    }


def detection(probes: Sequence[limited_stack.Probe]) -> dict[str, Any]:
    """Return how long it takes from a counter's write to the decision, near a limit.

    The embedded AWS hands a record over at once; on AWS it waits until its batch is gathered, which is added: evenly
    spread over that time.
    """
    seen = sorted(probe.detect for probe in probes)
    waits = [GATHERED_S * (number + 0.5) / PARTS for number in range(PARTS)]
    spread = sorted(one + wait for one in seen for wait in waits)
    return {
        "p50": round(_percentile(spread, 50), 2),
        "p99": round(_percentile(spread, 99), 2),
        "samples": len(seen),
        "gathered": GATHERED_S,
        "without_gathering_p50": round(_percentile(seen, 50), 2),
        "without_gathering_p99": round(_percentile(seen, 99), 2),
    }


def _percentile(values: Sequence[float], percent: int) -> float:
    return values[min(len(values) - 1, len(values) * percent // 100)]


def main() -> None:
    """Print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=int, default=3600, help="of traffic, in memory (default: 3600)")
    arguments.add_argument("--customers", type=int, default=1000, help="with limits, on Firehose (default: 1000)")
    arguments.add_argument("--limited", type=int, default=5000, help="with limits, of whom a sweep is (default: 5000)")
    arguments.add_argument("--names", type=int, default=100_000, help="customers in all (default: 100000)")
    arguments.add_argument("--sources", type=int, default=100_000, help="that are watched (default: 100000)")
    arguments.add_argument("--sweep-seconds", type=float, default=45, help="that a sweep lasts (default: 45)")
    arguments.add_argument("--samples", type=int, default=40, help="of the time that it takes to act (default: 40)")
    arguments.add_argument("--rates", type=int, nargs="*", default=[50, 500], help="of those who overrun theirs")
    options = arguments.parse_args()
    with limited_stack.running() as stack:
        probes = limited_stack.probed(stack, options.samples)
        overshoot = [limited_stack.overrun(stack, rate, max(2, options.samples // 5)) for rate in options.rates]
    held = limited_place.measured(options.limited, options.names, options.sources, seconds=options.sweep_seconds)
    from tests.benchmarks.limited_cost import costs  # noqa: PLC0415 - the CDK, which processes measured above do not hold

    told = {
        "overshoot": overshoot,
        "detect_s": detection(probes),
        **costs(options.seconds, options.customers, held.look_cpu_s),
        "memory": memory(held, options.names, options.sources),
    }
    report(told, as_json=options.json)


if __name__ == "__main__":
    main()

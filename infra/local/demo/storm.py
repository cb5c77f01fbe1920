"""A storm over the local cloud: DynamoDB, as the functions see it, and Stripe fail at random."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from infra.local.aws.faults import Fate, Proxy
from infra.local.cloud import LocalCloud
from infra.local.stripe.faults import Fault

DYNAMODB: Final = {
    Fate.DELAYED: 0.02,
    Fate.CUT_BEFORE: 0.02,
    Fate.CUT_AFTER: 0.02,
    Fate.FAILED_AFTER: 0.02,
    Fate.EXCEEDED: 0.02,
    Fate.THROTTLED: 0.02,
}
"""How often a request meets each fate. boto3 tries four times, so that one call in 5,000 fails for good, and with it
the run of its function."""

STRIPE: Final = {
    Fault.RATE_LIMITED: 0.05,
    Fault.RATE_LIMITED_RETRY: 0.05,
    Fault.ERROR_BEFORE: 0.05,
    Fault.ERROR_AFTER: 0.05,
    Fault.RESET_BEFORE: 0.05,
    Fault.RESET_AFTER: 0.05,
    Fault.TIMEOUT_AFTER: 0.02,
    Fault.LANDS_LATE: 0.05,
}


@contextmanager
def storm(cloud: LocalCloud, *, seed: int) -> Iterator["Storm"]:
    """Let it storm until it is told to be calm; at the end the functions cannot reach DynamoDB any more."""
    port = urlsplit(cloud.emulator.endpoint_url).port
    if port is None:
        raise ValueError(f"an endpoint with a port was expected, got {cloud.emulator.endpoint_url}")
    with Proxy(port) as proxy:
        functions = cloud.emulator.client("lambda")
        outputs = cloud.outputs
        for name in (outputs.record_usage_function, outputs.close_periods_function, outputs.post_usage_function):
            settings = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
            through = settings | {"AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{proxy.port}"}
            functions.update_function_configuration(FunctionName=name, Environment={"Variables": through})
        functions.close()
        yield Storm(cloud, proxy, seed)


class Storm:
    """What fails, and how often it did."""

    def __init__(self, cloud: LocalCloud, proxy: Proxy, seed: int) -> None:
        self._cloud, self._proxy = cloud, proxy
        chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
        fates, weights = [*DYNAMODB, Fate.PASSED], [*DYNAMODB.values(), 1 - sum(DYNAMODB.values())]
        proxy.delay_s = lambda: chance.uniform(0.05, 0.5)
        proxy.fate = lambda: chance.choices(fates, weights)[0]
        cloud.stripe.set_faults(STRIPE, seed=seed, late_s=0.5)

    def calm(self) -> dict[str, Any]:
        """Let nothing fail from now on; return what did."""
        failed = {
            "dynamodb": {fate.name.lower(): n for fate, n in self._proxy.fates.items() if fate is not Fate.PASSED},
            "stripe": {str(fault): n for fault, n in self._cloud.stripe.faults.items()},
        }
        self._proxy.fate = lambda: Fate.PASSED
        self._cloud.stripe.clear_faults()
        return failed

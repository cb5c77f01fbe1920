"""What a stack tells the ``metering`` command: its outputs, and in its metadata what ``app.py`` declares."""

import json
from collections.abc import Sequence

import aws_cdk as cdk

from infra.outputs import METADATA, Outputs
from metering.model.log_format import AccessLog
from metering.model.metrics import Metric, encode
from metering.model.prices import Plan
from metering.model.prices import encode as encode_plans


def tell(
    stack: cdk.Stack, outputs: Outputs, *, metrics: Sequence[Metric], plans: Sequence[Plan], access_log: AccessLog
) -> None:
    """Write both into the stack's template."""
    for name, value in outputs.written().items():
        # Under a name that no construct can take from it.
        cdk.CfnOutput(stack, f"{name}Output", value=value).override_logical_id(name)
    stack.template_options.metadata = {
        METADATA: {
            "metrics": json.loads(encode(metrics)),
            "plans": json.loads(encode_plans(plans)),
            "access_log": {"api": access_log.api.value, "caller": access_log.caller},
        }
    }

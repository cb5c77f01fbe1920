"""What a synthesis loads."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

SYNTHESIS = """
import sys
import app
app.build(app.cdk.App()).synth()
print("\\n".join(sys.modules))
"""


def test_a_synthesis_loads_no_sdk_no_store_and_no_operator(context: Mapping[str, Any], tmp_path: Path) -> None:
    """app.py needs no more than CDK and what is declared: whoever deploys waits for nothing else."""
    environment = os.environ | {
        "CDK_CONTEXT_JSON": json.dumps(dict(context)),
        "CDK_OUTDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "functions"))),
    }
    ran = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-c", SYNTHESIS], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    loaded = set(ran.stdout.split())
    assert {"infra.stack.metering", "metering.model.metrics"} <= loaded
    assert (tmp_path / "Metering.template.json").exists()
    assert not loaded & {
        "boto3",
        "botocore",
        "stripe",
        "urllib3",
        "metering.stores",
        "metering.stripe",
        "metering.counting",
        "metering.billing",
        "infra.operate",
        "infra.cli",
        "infra.local",
    }

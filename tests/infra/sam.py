# /// script
# requires-python = ">=3.11"
# dependencies = ["aws-sam-translator==1.115.0"]
# ///
"""SAM's own translator, as CloudFormation runs it: a template on stdin, what becomes of it on stdout, both as JSON.

In an environment of its own, which `sam.py.lock` beside it describes to the hash, since it asks for older packages than
functions get; `uv lock --script tests/infra/sam.py` writes that anew.
"""

import json
import os
import sys

from samtranslator.translator.transform import transform


class NoManagedPolicies:
    """A template of ours names none."""

    def load(self) -> dict[str, str]:
        """Return their ARNs by name."""
        return {}


if __name__ == "__main__":
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    json.dump(transform(json.load(sys.stdin), {}, NoManagedPolicies()), sys.stdout)

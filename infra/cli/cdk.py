"""``uv run cdk``: the CDK CLI, of the version and the content that the project locks, on the project's own Node."""

import os
import sys
from typing import NoReturn

from infra.local import npm


def main() -> NoReturn:
    """Become the CDK CLI, with the same arguments."""
    try:
        cdk = npm.installed(npm.CDK) / ".bin" / "cdk"
    except npm.NpmError as error:
        sys.exit(str(error))
    os.environ["PATH"] = npm.path()
    os.execv(cdk, ["cdk", *sys.argv[1:]])  # noqa: S606  its own arguments

"""TypeScript's compiler, which checks the types of the page's modules: fetched from npm, once on a machine.

Run by itself, it checks them and ends as the compiler does.
"""

import os
import subprocess
import sys
from pathlib import Path

from infra.local import npm
from tests.conftest import ROOT


def compiler() -> Path:
    """Return where the compiler is; NpmError if it cannot be had."""
    return npm.installed(ROOT / "tests" / "npm") / ".bin" / "tsc"


def complaints(project: Path) -> str:
    """Return what the compiler says of a project, a folder with a ``jsconfig.json``; nothing if all is well."""
    done = _run(str(compiler()), "--project", str(project / "jsconfig.json"), "--pretty", "false")
    if done.returncode == 0:
        return ""
    return done.stdout + done.stderr or f"tsc ended with status {done.returncode}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own arguments
        command, cwd=ROOT, env={**os.environ, "PATH": npm.path()}, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    sys.exit(complaints(ROOT / "functions" / "page") or None)

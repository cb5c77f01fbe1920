"""TypeScript's compiler, which checks the types of the page's modules: fetched from npm, once on a machine.

Run by itself, it checks them and ends as the compiler does.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.conftest import ROOT

COMPILER: Final = "typescript@7.0.2"
BIN: Final = Path(sys.executable).parent  # the Node that is locked with the project is there


class CannotRunError(RuntimeError):
    """The compiler cannot be had; the message says why."""


def compiler() -> Path:
    """Return where the compiler is; npm is asked for it only where it has not been yet."""
    found = ["--yes", "--package", COMPILER, "--call", "command -v tsc"]
    done = _run("npx", "--offline", *found)
    if done.returncode != 0:
        done = _run("npx", *found)
    if done.returncode != 0:
        raise CannotRunError(f"npm could not fetch {COMPILER}: {done.stderr.strip()}")
    return Path(done.stdout.strip())


def complaints(project: Path) -> str:
    """Return what the compiler says of a project, a folder with a ``jsconfig.json``; nothing if all is well."""
    done = _run(str(compiler()), "--project", str(project / "jsconfig.json"), "--pretty", "false")
    if done.returncode == 0:
        return ""
    return done.stdout + done.stderr or f"tsc ended with status {done.returncode}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    return subprocess.run(  # noqa: S603 - our own arguments
        command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    sys.exit(complaints(ROOT / "functions" / "page") or None)

"""Packages of npm, of the versions and the contents that a folder's ``package-lock.json`` names."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from infra.local.cache import kept

CDK: Final = Path(__file__).with_name("cdk")
"""The folder whose lock names the CDK CLI."""

_LOCKED: Final = ("package.json", "package-lock.json")


class NpmError(RuntimeError):
    """npm could not install what is locked; the message says why."""


def installed(locked: Path) -> Path:
    """Return a ``node_modules`` of what the lock in the folder ``locked`` names, each package by its integrity.

    It is installed once on a machine, by the project's own npm, and nothing of it is run meanwhile. Raises NpmError.
    """
    content = b"".join((locked / name).read_bytes() for name in _LOCKED)
    name = f"npm-{locked.name}-{hashlib.sha256(content).hexdigest()[:16]}"
    return kept(name, lambda folder: _install(locked, folder)) / "node_modules"


def path() -> str:
    """Return the PATH on which the environment's programs come first, the Node that is locked with it among them."""
    return os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH")]))


def _install(locked: Path, folder: Path) -> None:
    for name in _LOCKED:
        shutil.copyfile(locked / name, folder / name)
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(  # noqa: S603  npm, as it is locked with the project
        npm, cwd=folder, env=os.environ | {"PATH": path()}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NpmError(f"npm could not install what {locked / _LOCKED[1]} names: {done.stderr.strip()}")

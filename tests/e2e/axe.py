"""axe-core, which finds what people with disabilities stumble over: fetched from npm, once on a machine."""

import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

VERSION: Final = "4.14.1"


class CannotRunError(RuntimeError):
    """axe-core cannot be had; the message says why."""


def source() -> str:
    """Return the script, fetched with the project's own npm the first time (5 MB).

    Two processes may do so at once: each fetches into a folder of its own, and the first to be done gives its name.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serverless-metering"
    script = cache / f"axe-core-{VERSION}.min.js"
    if not script.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
            _fetch(Path(name))
            with contextlib.suppress(OSError):  # another process was faster
                (Path(name) / "axe.min.js").rename(script)
    return script.read_text(encoding="utf-8")


def _fetch(folder: Path) -> None:
    npm = Path(sys.executable).with_name("npm")
    # What is packed is unpacked here: nothing of it is run by npm.
    done = subprocess.run(  # noqa: S603  npm, as it is locked with the project
        [str(npm), "pack", "--silent", f"axe-core@{VERSION}"], cwd=folder, capture_output=True, text=True, check=False
    )
    packed = folder / f"axe-core-{VERSION}.tgz"
    if done.returncode != 0 or not packed.exists():
        raise CannotRunError(f"npm could not fetch axe-core {VERSION}: {done.stderr.strip()}")
    with tarfile.open(packed) as archive:
        found = archive.extractfile("package/axe.min.js")
        if found is None:
            raise CannotRunError(f"axe-core {VERSION} has no axe.min.js")
        (folder / "axe.min.js").write_bytes(found.read())

"""The machine's cache: what is fetched once and used by every checkout."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return the cache's folder of this name, which ``fetch`` fills the first time; what it raises leaves no folder.

    Two processes may do so at once: each fetches into a folder of its own, and the first to be done gives its name.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serverless-metering"
    folder = cache / name
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as fetching:
            made = Path(fetching) / name
            made.mkdir()
            fetch(made)
            with contextlib.suppress(OSError):  # another process was faster
                made.rename(folder)
    return folder

"""The page's files: what is put into the zip, routed and answered comes from this list."""

from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[2] / "page"

SCRIPTS: Final = (
    "main",
    "api",
    "chart",
    "elements",
    "figures",
    "invoices",
    "limits",
    "parts",
    "price",
    "reading",
    "view",
    "words",
)
"""The page's modules; the first is what its HTML loads."""

FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
}
"""The name and media type of each file in ``page/``, by the path that it is found under."""


@cache
def read(name: str) -> str:
    """Return a file of the page, read once in a process."""
    return (FOLDER / name).read_text(encoding="utf-8")

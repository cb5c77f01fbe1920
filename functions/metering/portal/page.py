"""The page's files: what is put into the zip, routed and answered comes from this list."""

from typing import Final

SCRIPTS: Final = ("main", "api", "chart", "elements", "figures", "reading", "view")
"""The page's modules; the first is what its HTML loads."""

FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
}
"""The name and media type of each file in ``page/``, by the path that it is found under."""

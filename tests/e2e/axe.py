"""axe-core, which finds what people with disabilities stumble over: fetched from npm, once on a machine."""

from infra.local import npm
from tests.conftest import ROOT


def source() -> str:
    """Return the script; NpmError if it cannot be had."""
    return (npm.installed(ROOT / "tests" / "npm") / "axe-core" / "axe.min.js").read_text(encoding="utf-8")

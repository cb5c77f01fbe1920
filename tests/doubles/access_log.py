"""Lines of the access log, as API Gateway writes them by the stage's own format."""

import json
from collections.abc import Mapping
from typing import Final

from metering.model.log_format import NOTHING_DECLARED, AccessLog, Declared

NONCE: Final = "0a1b2c3d-0000-11f0-8000-0a58a9feac02"


def line_of(fields: Mapping[str, str | None], log: Declared = NOTHING_DECLARED) -> str:
    """Return a line of these values, with `-` for every other field of the format.

    Fields that the format does not have are added before its end, and None takes one out: then the line is one of a
    format with more of them, or fewer, and says so.
    """
    written: dict[str, str] = json.loads(AccessLog().format(NONCE, log))
    values = {name: "-" if value.startswith("$context.") else value for name, value in written.items()}
    end = values.pop("end")
    changed = {**values, **fields, "end": fields.get("end", end)}
    line = {name: value for name, value in changed.items() if value is not None}
    line["metering"] = fields.get("metering") or f"1:{len(line)}:{NONCE}"
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False)

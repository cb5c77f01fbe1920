"""What the stack writes and the commands read: spelled here alone."""

from typing import Final

LAMBDA_TIMEOUT: Final = 300
"""Seconds that a function may run; a command that invokes one waits a little longer."""

METADATA: Final = "Metering"
"""Where the template's metadata hold what ``app.py`` declares, for which an output would be too small."""

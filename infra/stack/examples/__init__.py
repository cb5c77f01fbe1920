"""Apps to begin from, each for one way of using the stack: copy one in place of ``app.py``.

Where they stand, ``--app "uv run --frozen python -m infra.stack.examples.http_api"`` gives one to the CDK CLI. They
import :mod:`infra.stack` alone, as your own app does; who comes in are the tests that synthesise them.
"""

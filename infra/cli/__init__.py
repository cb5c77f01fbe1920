"""The ``metering`` command: typer and rich alone; what is done is done in ``infra.operate`` and ``infra.local``.

Nobody imports it.
"""

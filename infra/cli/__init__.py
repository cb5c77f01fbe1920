"""The ``metering`` command: arguments in, words out; what is done is done in ``infra.operate`` and ``infra.local``.

Nobody imports it.
"""

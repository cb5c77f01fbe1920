"""The domain as plain data and pure rules: no SDK, no clock, no thread.

Everyone may come in; it knows the settings, the signals and the names of places alone.
"""

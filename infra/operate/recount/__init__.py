"""The raw log, counted a second time by code of its own.

For the command line; its readers know nothing of the way that counts.
"""

"""The embedded AWS: an emulator, and what it lacks.

For the local cloud and the tests.
"""

"""The demo: the whole way of a request, played and compared at each step.

For the command line and the tests.
"""

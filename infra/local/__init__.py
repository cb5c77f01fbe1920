"""The embedded AWS and Stripe: the whole deployment on one machine.

For the command line and the tests.
"""

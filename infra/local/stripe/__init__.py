"""A local Stripe, written from Stripe's documents: it imports nothing of ours.

For the local cloud and the tests.
"""

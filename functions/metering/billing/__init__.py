"""Counters → ledger → Stripe, and back.

For the handlers and the operator's tools; it knows the stores, Stripe and the model, and no other room that acts.
"""

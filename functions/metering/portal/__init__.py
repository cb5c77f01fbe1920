"""What one customer sees of its usage, and what it costs.

For the handler and the operator's tools; it knows the stores, Stripe and the model, and no other room that acts.
"""

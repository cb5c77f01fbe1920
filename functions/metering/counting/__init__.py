"""What AWS delivers → counters.

For the handlers and the operator's tools; it knows the stores and the model, and no other room that acts.
"""

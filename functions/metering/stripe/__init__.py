"""The only room that talks to Stripe.

For billing, the portal, the handlers and the operator's tools; it knows the model alone.
"""

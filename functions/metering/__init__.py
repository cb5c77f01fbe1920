"""The metering domain: access log → usage → counters → ledger → Stripe."""

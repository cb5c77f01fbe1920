"""The embedded AWS and Stripe: the whole deployment on one machine."""

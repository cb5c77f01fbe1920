"""What an operator does to a deployment, by AWS's and Stripe's interfaces.

For the command line and the local cloud; it knows the stack by its outputs alone.
"""

"""What two restricted Stripe keys must be allowed: the functions', and that of an operator who changes something.

By the names that Stripe uses when it refuses, ``rak_<resource>_<level>``, where writing includes reading; prices are
``plan``, event destinations ``webhook``.
"""

from typing import Final

FUNCTIONS: Final = {
    "billing_meter_event": "write",
    "billing_meter": "read",
    "plan": "read",
    "subscription": "read",
    "invoice": "read",
    "event": "read",
}
"""Of the key that is in the secret: it tells Stripe usage, and changes nothing else there."""

OPERATORS: Final = {
    "billing_meter": "write",
    "product": "write",
    "plan": "write",
    "customer": "write",
    "subscription": "write",
    "payment_method": "read",
    "checkout_session": "write",
    "customer_portal": "write",
    "webhook": "write",
}
"""Of the key that is given to a command, and kept nowhere."""

"""Whom e-mail about a customer's limits goes to."""

import pytest

from tests.integration.limit_desk import Desk


def test_e_mail_goes_to_the_addresses_that_were_given_last(desk: Desk) -> None:
    """Each once; and to nobody, if that is said."""
    assert desk.run("customers", "alerts", "acme") == "acme gets no e-mail about its limits"
    to = ("--to", "ops@acme.example", "--to", "a.b+c@mail.acme.example", "--to", "ops@acme.example")
    assert desk.run("customers", "alerts", "acme", *to) == "ops@acme.example, a.b+c@mail.acme.example"
    assert desk.document("customers", "alerts", "acme")["addresses"] == ["ops@acme.example", "a.b+c@mail.acme.example"]
    assert desk.document("limits", "show", "acme")["addresses"] == 2
    assert desk.document("customers", "alerts", "acme", "--none") == {"customer": "acme", "addresses": []}
    assert desk.world.items.of("acme").addresses == ()


@pytest.mark.parametrize(
    "address",
    [
        "acme",
        "@acme.example",
        "ops@acme",
        "ops@acme..example",
        "Ops <ops@acme.example>",
        "ops@acme.example,b@acme.example",
        "ops@acme.example\nBcc: eve@evil.example",
        "ops@-acme.example",
        "öps@acme.example",
        f"{'o' * 65}@acme.example",
        f"ops@{'a.' * 130}example",
    ],
)
def test_what_is_no_address_is_refused_and_never_repeated(desk: Desk, address: str) -> None:
    """I8: an address is somebody's personal datum, also one that is spelled wrongly."""
    why = desk.refused("customers", "alerts", "acme", "--to", "ops@acme.example", "--to", address)
    assert why == "an address is written name@example.com; number 2 of those given is not"


def test_a_customer_has_so_many_addresses(desk: Desk) -> None:
    """Each is sent an e-mail."""
    to = [option for number in range(11) for option in ("--to", f"ops{number}@acme.example")]
    assert desk.refused("customers", "alerts", "acme", *to) == "a customer has up to 10 addresses, got 11"
    assert desk.try_("customers", "alerts", "acme", "--none", "--to", "ops@acme.example").code == 2

"""How customers of the local Stripe pay: what a subscription needs, Checkout, the portal, and whole first periods."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from stripe import InvalidRequestError, RequestsClient, StripeClient

from infra.local.stripe.server import LocalStripe

START = int(datetime(2027, 1, 31, 10, tzinfo=UTC).timestamp())
NO_METHOD = "This customer has no attached payment source or default payment method"


class Account:
    """An account with a monthly fee of 30 dollars, and a clock at 10:40 of 31 January."""

    def __init__(self, stripe: LocalStripe, http_client: RequestsClient) -> None:
        self.stripe = stripe
        self.client = StripeClient(stripe.api_key, base_addresses={"api": stripe.url}, http_client=http_client)
        product = self.client.v1.products.create({"name": "Fee"}).id
        monthly: Any = {"product": product, "currency": "usd", "recurring": {"interval": "month"}}
        self.fee = self.client.v1.prices.create(monthly | {"unit_amount": 3_000}).id
        self.free = self.client.v1.prices.create(monthly | {"unit_amount": 0}).id

    def customer(self, **params: Any) -> str:
        """Make a customer."""
        wanted: Any = params
        return self.client.v1.customers.create(wanted).id

    def subscribe(self, customer: str, price: str = "", **params: Any) -> Any:
        """Subscribe a customer to the fee, from the begin of the hour."""
        wanted: Any = {"customer": customer, "items": [{"price": price or self.fee}], "backdate_start_date": START}
        return self.client.v1.subscriptions.create(wanted | params)


@pytest.fixture
def account() -> Iterator[Account]:
    """An account."""
    with LocalStripe(now=lambda: START + 2_400) as stripe, closing(RequestsClient()) as http_client:
        yield Account(stripe, http_client)


def test_a_fee_needs_a_payment_method(account: Account) -> None:
    """Observed; attached alone it is none yet, since it is no default."""
    customer = account.customer()
    with pytest.raises(InvalidRequestError, match=NO_METHOD) as refused:
        account.subscribe(customer)
    assert refused.value.http_status == 400
    card = account.client.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
    with pytest.raises(InvalidRequestError, match=NO_METHOD):
        account.subscribe(customer)
    made = account.subscribe(customer, default_payment_method=card)
    assert (made.status, made.default_payment_method) == ("active", card)


def test_a_customers_default_pays_a_fee(account: Account) -> None:
    """Given when it is made, or later."""
    card: Any = {"payment_method": "pm_card_visa", "invoice_settings": {"default_payment_method": "pm_card_visa"}}
    assert account.subscribe(account.customer(**card)).status == "active"
    customer = account.customer()
    method = account.client.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
    account.client.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": method}})
    assert account.subscribe(customer).status == "active"


def test_another_customers_card_is_refused(account: Account) -> None:
    """It must be attached to the one who pays."""
    card = account.client.v1.payment_methods.attach("pm_card_visa", {"customer": account.customer()}).id
    with pytest.raises(InvalidRequestError, match="does not have a payment method with the ID"):
        account.subscribe(account.customer(), default_payment_method=card)


def test_what_costs_nothing_at_first_needs_no_payment_method(account: Account) -> None:
    """Nor does what is paid later: that subscription is incomplete, is listed, and is never billed."""
    customer = account.customer()
    assert account.subscribe(customer, account.free).status == "active"
    waiting = account.subscribe(customer, payment_behavior="default_incomplete")
    assert waiting.status == "incomplete"
    listed = account.client.v1.subscriptions.list({"customer": customer}).data
    assert [each.status for each in listed] == ["incomplete", "active"]


def test_invoices_are_sent_to_an_address(account: Account) -> None:
    """Observed; no payment method is needed."""
    sent: Any = {"collection_method": "send_invoice", "days_until_due": 30}
    with pytest.raises(InvalidRequestError, match="Missing email"):
        account.subscribe(account.customer(), **sent)
    assert account.subscribe(account.customer(email="a@acme.example"), **sent).status == "active"


def test_checkout_attaches_a_card(account: Account) -> None:
    """Which is not the customer's default by that: observed."""
    customer = account.customer()
    session = account.client.v1.checkout.sessions.create(
        {"mode": "setup", "customer": customer, "currency": "usd", "success_url": "https://usage.example/"}
    )
    assert (session.status, str(session.url)[:28]) == ("open", "https://checkout.stripe.com/")
    account.stripe.complete_checkout(session.id)
    completed = account.client.v1.checkout.sessions.retrieve(session.id)
    assert (completed.status, completed.url) == ("complete", None)
    assert len(account.client.v1.customers.payment_methods.list(customer).data) == 1
    settings: Any = account.client.v1.customers.retrieve(customer).invoice_settings
    assert settings.default_payment_method is None


def test_the_portal_is_a_link_for_a_customer_that_there_is(account: Account) -> None:
    """With the way back."""
    made = account.client.v1.billing_portal.sessions.create(
        {"customer": account.customer(), "return_url": "https://usage.example/"}
    )
    assert (made.url[:27], made.return_url) == ("https://billing.stripe.com/", "https://usage.example/")
    with pytest.raises(InvalidRequestError, match="No such customer: 'cus_nobody'"):
        account.client.v1.billing_portal.sessions.create({"customer": "cus_nobody"})


def test_from_the_31st_on_the_31st_stays_the_31st(account: Account) -> None:
    """A backdated start is the anchor: months that lack the day end on their last, and no fee is a part of one."""
    customer = account.customer(email="a@acme.example")
    made = account.subscribe(customer, collection_method="send_invoice", days_until_due=30)
    ends = []
    for _ in range(3):
        end = account.client.v1.subscriptions.retrieve(made.id)["items"].data[0].current_period_end
        ends.append(datetime.fromtimestamp(end, UTC).strftime("%m-%dT%H"))
        account.stripe.advance(end + 3_700 - account.stripe.now)
    assert ends == ["02-28T10", "03-31T10", "04-30T10"]
    invoices = account.client.v1.invoices.list({"customer": customer}).data
    assert [invoice.total for invoice in invoices] == [3_000] * 4

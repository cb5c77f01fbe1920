"""Subscribing a customer to a plan at Stripe.

Stripe bills a meter event in the period in which its timestamp lies, and an hour's total is one event in the hour's
last ten minutes. So periods begin and end at whole hours: each hour's total then falls into one period as a whole. A
subscription begins with the hour in which it is made: that hour is billed from its first minute, and none before it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from stripe import Subscription

from infra.operate.catalog import Catalog
from infra.operate.changing import (
    begin_after,
    end_of,
    ended_for_another,
    how_to_go_on,
    is_let_go_on,
    is_told_to_end,
    left_out,
    next_plan,
)
from infra.operate.customers import Change, Customers, Entry, at_stripe
from infra.operate.deployment import Deployment, OperatorError
from infra.operate.making import CUSTOMER, made_customer, make_once
from infra.operate.paying import attached_to, checkout_link, default_of, has_fee
from infra.operate.portal_access import portal_url
from infra.operate.words import count
from metering.model.periods import Hour
from metering.model.prices import Plan, name_of
from metering.stores.holders import Customer
from metering.stripe.meters import StripeMeters
from metering.stripe.prices import DEPLOYMENT, PLAN, PRICE, metadata_of
from metering.stripe.subscriptions import MAY_BILL_YET, ended_too, is_running, plans_of, with_all_items

if TYPE_CHECKING:
    import stripe as stripe_sdk

DAYS_UNTIL_DUE: Final = 30
SECONDS_OF_HOUR: Final = 3600

_NOTHING_TO_CHARGE: Final = (
    "the plan has a fee, and Stripe has no payment method to charge. Have the customer give one at the link, which "
    "holds for 24 hours, and say the same again; or have invoices sent, with --email or --due"
)


@dataclass(slots=True)
class Subscribed:
    """What there is now, what subscribing changed, and what is to be known of it, in sentences.

    ``begins`` is the first hour that is billed. With a ``checkout_url`` there is no subscription yet: the customer is
    to give a payment method there first. Nor is there where another, which ``ends`` then, runs until it begins.
    """

    customer: str
    plan: str
    stripe_customer: str = ""
    subscription: str = ""
    begins: str = ""
    said: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checkout_url: str = ""
    ends: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as ``metering customers subscribe --json`` prints it."""
        return {
            "customer": self.customer,
            "plan": self.plan,
            "stripe_customer": self.stripe_customer,
            "subscription": self.subscription,
            "begins": self.begins,
            "changed": self.said,
            "notes": self.notes,
            "checkout_url": self.checkout_url,
            "ends": self.ends or None,
        }


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an operator gives beside the customer and the plan; what is left empty is made, or taken as it is.

    ``email`` goes to Stripe with a customer that is made, or has none there. With it, or with ``days_until_due``,
    invoices are sent; without, the customer's payment method at Stripe is charged. ``return_url`` is where Stripe's
    Checkout sends the customer afterwards.
    """

    stripe_customer: str = ""
    subscription: str = ""
    email: str = ""
    days_until_due: int | None = None
    return_url: str = ""

    @property
    def sends(self) -> bool:
        """Whether invoices are sent, and nothing is charged."""
        return bool(self.email or self.days_until_due)


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Subscribes the customers of a deployment, whose ``page`` is where they come back to from Stripe's own."""

    stripe: StripeMeters
    catalog: Catalog
    customers: Customers
    page: str = ""

    @classmethod
    def of(cls, deployment: Deployment) -> "Subscriber":
        """Return that of a deployment."""
        customers = Customers(deployment.ledger, deployment.counters)
        return cls(deployment.operators_stripe(), Catalog.of(deployment), customers, portal_url(deployment))

    def subscribe(self, customer: Customer, plan_name: str, wishes: Wishes, *, now: datetime) -> Subscribed:
        """Subscribe a customer to a plan; doing it again changes nothing.

        Everything is looked at before anything is written. Where a fee is to be charged and there is nothing to charge,
        the answer holds a link to Stripe's Checkout in place of a subscription: once the customer has given a payment
        method there, the same again subscribes it.

        Raises OperatorError for a plan that is not declared or not at Stripe as declared, for ids that do not fit, for
        invoices that have no address, and for a customer that is subscribed to another plan.
        """
        plan = self._plan(plan_name)
        prices = self.catalog.current_prices(plan)
        known = self._known_stripe_customer(customer, wishes.stripe_customer)
        shown = at_stripe(self.stripe, known) if known else None
        if wishes.subscription:
            subscription = self._given(wishes.subscription, plan, known)
            if shown is None:
                at_stripe(self.stripe, str(subscription.customer))
            change = self._keep(customer, str(subscription.customer), now=now)
            return self._subscribed(customer, plan, subscription, prices, change)
        former = self._subscriptions(known) if known else []
        if already := self._billing(former, plan, customer):
            change = self._keep(customer, known, now=now)
            return self._subscribed(customer, plan, already, prices, change, _left_as_it_is(shown, wishes))
        ended = ended_for_another(former)
        wishes = _paid_alike(wishes, ended)
        if wishes.sends and not (wishes.email or (shown and shown.email)):
            raise OperatorError(f"Stripe knows no address of {known or customer.id} to send invoices to: say --email")
        charged = shown is not None and not wishes.sends
        default = default_of(shown) if shown and charged else ""
        attached = attached_to(self.stripe, known) if charged and not default else ""
        to_give = has_fee(plan) and not (wishes.sends or default or attached)
        page = wishes.return_url or self.page
        if to_give and not page:
            raise OperatorError("say with --return-url to which page the customer comes back from Stripe")
        stripe_customer = known or made_customer(self.stripe, customer, wishes.email)
        change = self._keep(customer, stripe_customer, now=now)
        if to_give:
            link = checkout_link(self.stripe, stripe_customer, plan.currency, page)
            notes = [*_of_marks(change.marks), f"{customer.id} is not subscribed yet: {_NOTHING_TO_CHARGE}"]
            return Subscribed(customer.id, plan.name, stripe_customer, said=change.said, notes=notes, checkout_url=link)
        if shown and wishes.email and not shown.email:
            self.stripe.call(lambda client: client.v1.customers.update(stripe_customer, {"email": wishes.email}))
        owner = replace(customer, stripe_customer=stripe_customer)
        begin = begin_after(ended, plan.interval, now)
        subscription = self._make(owner, plan, prices, wishes, len(former), begin, payment_method=attached)
        change += Change(
            [f"{owner.id} is subscribed to {plan.name} as {subscription.id}, from {_begin(subscription)} on"]
        )
        notes = [*left_out(ended, begin), *_left_as_it_is(shown, wishes)]
        if not (wishes.sends or default or attached):
            notes.append(
                f"{stripe_customer} has no payment method at Stripe: its invoices stay unpaid until it gives one, for "
                f"which 'metering customers portal {owner.id}' makes a link"
            )
        return self._subscribed(owner, plan, subscription, prices, change, notes)

    def change(self, customer: Customer, plan_name: str, wishes: Wishes, *, now: datetime) -> Subscribed:
        """Let a subscription to another plan end with its period, for this one to follow; else subscribe.

        Of the plan that the customer has, take back that it ends. Raises OperatorError as :meth:`subscribe` does.
        """
        plan = self._plan(plan_name)
        known = self._known_stripe_customer(customer, wishes.stripe_customer)
        former = self._subscriptions(known) if known else []
        runs = next(filter(is_running, former), None)
        if runs is None:
            return self.subscribe(customer, plan_name, wishes, now=now)
        if plans_of(runs, self.stripe.deployment) == {plan.name}:
            gone_on = [f"{runs.id} goes on after its period"] if is_let_go_on(self.stripe, runs) else []
            done = self.subscribe(customer, plan_name, wishes, now=now)
            return replace(done, said=[*gone_on, *done.said])
        self.catalog.current_prices(plan)
        ends, until = end_of(runs), ", ".join(sorted(plans_of(runs, self.stripe.deployment)))
        change = self._keep(customer, known, now=now)
        if is_told_to_end(self.stripe, runs, plan.name):
            change += Change([f"{runs.id} to {until} ends with its period, at {ends}, and {plan.name} comes next"])
        notes = [*_of_marks(change.marks), *how_to_go_on(customer, until, plan, ends)]
        if wishes != Wishes(wishes.stripe_customer):
            notes.append(f"how {plan.name} is paid for is said then, too: nothing of that is kept now")
        return Subscribed(customer.id, plan.name, known, begins=str(ends), said=change.said, notes=notes, ends=runs.id)

    def _subscribed(  # noqa: PLR0913, PLR0917 - what there is to be said
        self,
        customer: Customer,
        plan: Plan,
        subscription: Subscription,
        prices: Mapping[str, str],
        change: Change,
        notes: Iterable[str] = (),
    ) -> Subscribed:
        return Subscribed(
            customer.id,
            plan.name,
            str(subscription.customer),
            subscription.id,
            begins=_begin(subscription),
            said=change.said,
            notes=[*_of_marks(change.marks), *notes, *self._notes(subscription, prices)],
        )

    def _notes(self, subscription: Subscription, prices: Mapping[str, str]) -> Iterator[str]:
        """Say what a subscription lacks, against a plan's prices at Stripe by name."""
        if subscription.status not in ("active", "trialing"):
            yield (
                f"{subscription.id} is {subscription.status}: give the customer a payment method at Stripe, without "
                "which a fee cannot be charged; a subscription that stays incomplete ends after 23 hours"
            )
        if coming := next_plan(subscription):
            yield f"{subscription.id} ends with its period, at {end_of(subscription)}, and {coming} comes next"
        items = self._items(subscription)
        if older := sorted(name for name, price in items.items() if prices.get(name) != price):
            yield f"{subscription.id} stays on older prices of {', '.join(older)}: move it when its period ends"
        if lacking := sorted(prices.keys() - items.keys()):
            yield f"{subscription.id} is older than the prices of {', '.join(lacking)}: add them at Stripe"

    def _plan(self, name: str) -> Plan:
        plans = {plan.name: plan for plan in self.catalog.plans}
        if name not in plans:
            known = f"app.py declares {', '.join(plans)}" if plans else "app.py declares none: see PLANS there"
            raise OperatorError(f"there is no plan {name!r}: {known}")
        return plans[name]

    def _known_stripe_customer(self, customer: Customer, given: str) -> str:
        """Return the Stripe customer that the ledger or the operator names, or an empty string."""
        known = customer.stripe_customer
        if given and known and given != known:
            raise OperatorError(
                f"the Stripe customer of {customer.id} is {known}, not {given}: change it with 'metering customers add'"
            )
        return known or given

    def _keep(self, customer: Customer, stripe_customer: str, *, now: datetime) -> Change:
        """Write a Stripe customer into the ledger, before anything is made that bills it."""
        if stripe_customer == customer.stripe_customer:
            return Change()
        return self.customers.add(Entry(customer.id, customer.name, stripe_customer), now=now)

    def _subscriptions(self, stripe_customer: str) -> list[Subscription]:
        """Return all subscriptions that a customer has had, as far as they are to our plans."""
        found = ended_too(self.stripe, stripe_customer)
        return [subscription for subscription in found if self._items(subscription)]

    def _items(self, subscription: Subscription) -> dict[str, str]:
        """Return the ids of a subscription's prices that are ours, by name."""
        return {
            metadata_of(item.price)[PRICE]: item.price.id
            for item in subscription["items"].data
            if metadata_of(item.price).get(DEPLOYMENT) == self.stripe.deployment
        }

    def _billing(self, former: list[Subscription], plan: Plan, customer: Customer) -> Subscription | None:
        """Return the subscription to the plan that bills, if there is one.

        Raises OperatorError if one to another does, or one waits that would bill beside a new one as soon as it is paid
        or resumed.
        """
        billing = list(filter(is_running, former))
        if not billing and (waiting := [other for other in former if other.status in MAY_BILL_YET]):
            raise OperatorError(
                f"{customer.id} has the subscription {waiting[0].id}, which is {waiting[0].status} and bills nothing "
                "yet: have it paid or resumed at Stripe, or cancel it there, and subscribe then"
            )
        for subscription in billing:
            if plans_of(subscription, self.stripe.deployment) != {plan.name}:
                others = ", ".join(sorted(plans_of(subscription, self.stripe.deployment)))
                raise OperatorError(
                    f"{customer.id} is subscribed to {others} ({subscription.id}), and both would bill the same usage: "
                    f"say --change, so that it ends with its period and {plan.name} comes next"
                )
        return billing[0] if billing else None

    def _given(self, name: str, plan: Plan, stripe_customer: str) -> Subscription:
        """Return the subscription of this id, or raise OperatorError that says why it does not fit."""
        subscription = self.stripe.call(lambda client: with_all_items(client.v1.subscriptions.retrieve(name)))
        if stripe_customer and subscription.customer != stripe_customer:
            raise OperatorError(f"the subscription {name} is of {subscription.customer}, not of {stripe_customer}")
        if not is_running(subscription):
            raise OperatorError(f"the subscription {name} is {subscription.status}: give another, or none")
        billing = filter(is_running, self._subscriptions(str(subscription.customer)))
        others = [other.id for other in billing if other.id != name]
        if others:
            raise OperatorError(
                f"{subscription.customer} is subscribed as {', '.join(others)} already: cancel that at Stripe first"
            )
        missing = sorted({name_of(price) for price in plan.prices} - self._items(subscription).keys())
        if missing or plans_of(subscription, self.stripe.deployment) != {plan.name}:
            raise OperatorError(
                f"the subscription {name} is none to the plan {plan.name!r}: it lacks its prices "
                f"{', '.join(missing) or 'alone'}; add them at Stripe, or leave --subscription out"
            )
        starts = {item.current_period_start for item in subscription["items"].data}
        if odd := sorted(start for start in {*starts, subscription.billing_cycle_anchor} if start % SECONDS_OF_HOUR):
            moment = datetime.fromtimestamp(odd[0], UTC)
            raise OperatorError(
                f"the periods of {name} begin at {moment:%H:%M:%S}, within an hour, whose usage would be billed in the "
                "wrong one: reset its billing cycle at a whole hour (UTC), or leave --subscription out for a new one"
            )
        return subscription

    def _make(  # noqa: PLR0913, PLR0917 - each is used once
        self,
        customer: Customer,
        plan: Plan,
        prices: Mapping[str, str],
        wishes: Wishes,
        before: int,
        begin: Hour,
        *,
        payment_method: str,
    ) -> Subscription:
        """Make a subscription from an hour on, where ``before`` others ended.

        No ``billing_cycle_anchor`` is given: Stripe then aligns it to the start ("billing_mode": flexible), so that the
        first period is a whole one, with its whole fee, and the 31st stays the 31st.
        """
        parameters: dict[str, Any] = {
            "customer": customer.stripe_customer,
            "items": [{"price": prices[name_of(price)]} for price in plan.prices],
            "backdate_start_date": int(begin.start.timestamp()),  # is the anchor, too, where none is given
            "metadata": {DEPLOYMENT: self.stripe.deployment, PLAN: plan.name, CUSTOMER: customer.id},
        }
        if payment_method:
            parameters["default_payment_method"] = payment_method
        if wishes.sends:
            due = wishes.days_until_due or DAYS_UNTIL_DUE
            parameters |= {"collection_method": "send_invoice", "days_until_due": due}

        def there() -> list[Subscription]:
            made = self._subscriptions(customer.stripe_customer)
            return [one for one in made if is_running(one) or one.status in MAY_BILL_YET]

        made: Subscription = make_once(
            self.stripe,
            f"subscription.{customer.stripe_customer}.{before}",  # after one was cancelled, another is made
            parameters,
            lambda given, options: lambda client: client.v1.subscriptions.create(given, options),
            lambda: next(iter(there()), None),
        )
        if len(names := [subscription.id for subscription in there()]) > 1:
            raise OperatorError(
                f"somebody else subscribed {customer.id} just now, too: cancel one of {', '.join(names)} at Stripe, or "
                "both bill the same usage"
            )
        return made


def _paid_alike(wishes: Wishes, ended: Subscription | None) -> Wishes:
    """Have invoices sent where those of the subscription before were, unless something else is wished."""
    if ended is None or ended.collection_method != "send_invoice" or wishes.sends:
        return wishes
    return replace(wishes, days_until_due=ended.days_until_due or DAYS_UNTIL_DUE)


def _of_marks(marks: int) -> Iterator[str]:
    """Say what becomes of closed hours that are closed again."""
    if marks:
        hours = count(marks, "closed hour is", "closed hours are")
        yield (
            f"{hours} posted at the next tick, or by 'metering close'; Stripe bills what of it the customer is "
            "subscribed for"
        )


def _left_as_it_is(shown: "stripe_sdk.Customer | None", wishes: Wishes) -> Iterator[str]:
    """Say what becomes of an address for a customer that has one at Stripe."""
    if wishes.email and shown and shown.email and shown.email != wishes.email:
        yield f"{shown.id} was there already: its address at Stripe is left as it is"


def _begin(subscription: Subscription) -> str:
    return str(Hour.of_epoch_ms(subscription.start_date * 1000))

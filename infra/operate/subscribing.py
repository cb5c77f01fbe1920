"""Subscribing a customer to a plan at Stripe, and Stripe's own preview of what it will pay.

Stripe bills a meter event in the period in which its timestamp lies, and an hour's total is one event in the hour's
last ten minutes. So periods begin and end at whole hours: each hour's total then falls into one period as a whole. A
subscription begins with the hour in which it is made: that hour is billed from its first minute, and none before it.
"""

import calendar
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stripe import StripeClient, Subscription

from infra.operate.catalog import Catalog
from infra.operate.customers import Change, Customers, Entry
from infra.operate.deployment import Deployment, OperatorError
from metering.model.periods import Hour
from metering.model.prices import Flat, Plan, explain, name_of, terms, title_of, written
from metering.model.subjects import customer as subject_of
from metering.model.subjects import short_id
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stripe.client import StripeUnavailableError
from metering.stripe.meters import StripeMeters
from metering.stripe.prices import DEPLOYMENT, PLAN, PRICE, metadata_of
from metering.stripe.subscriptions import plans_of, preview_of, running, with_all_items

CUSTOMER: Final = "metering_customer"
DAYS_UNTIL_DUE: Final = 30
ATTEMPTS: Final = 4
FIRST_FAILURE: Final = 500
SECONDS_OF_HOUR: Final = 3600


@dataclass(slots=True)
class Subscribed:
    """What there is now, what subscribing changed, and what is to be known of it, in sentences.

    ``begins`` is the first hour that is billed.
    """

    customer: str
    plan: str
    stripe_customer: str = ""
    subscription: str = ""
    begins: str = ""
    said: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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
        }


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an operator gives beside the customer and the plan; what is left empty is made, or taken as it is.

    ``email`` goes to Stripe with a customer that is made. With it, or with ``days_until_due``, invoices are sent;
    without, the customer's payment method at Stripe is charged.
    """

    stripe_customer: str = ""
    subscription: str = ""
    email: str = ""
    days_until_due: int | None = None


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Subscribes the customers of a deployment."""

    stripe: StripeMeters
    catalog: Catalog
    customers: Customers

    @classmethod
    def of(cls, deployment: Deployment) -> "Subscriber":
        """Return that of a deployment."""
        customers = Customers(deployment.ledger, deployment.counters)
        return cls(deployment.operators_stripe(), Catalog.of(deployment), customers)

    def subscribe(self, customer: Customer, plan_name: str, wishes: Wishes, *, now: datetime) -> Subscribed:
        """Subscribe a customer to a plan; doing it again changes nothing.

        Raises OperatorError for a plan that is not declared or not at Stripe as declared, for ids that do not fit, and
        for a customer that is subscribed to another plan.
        """
        plan = self._plan(plan_name)
        prices = self.catalog.current_prices(plan)
        known = self._known_stripe_customer(customer, wishes.stripe_customer)
        made: list[str] = []
        if wishes.subscription:
            subscription = self._given(wishes.subscription, plan, known)
            stripe_customer = str(subscription.customer)
            change = self._keep(customer, stripe_customer, now=now)
        else:
            stripe_customer = known or self._make_customer(customer, wishes.email)
            change = self._keep(customer, stripe_customer, now=now)
            former = self._subscriptions(stripe_customer)
            billing = self._billing(former, plan, customer)
            subscription = billing or self._make(
                replace(customer, stripe_customer=stripe_customer), plan, prices, wishes, len(former), now
            )
            if not billing:
                hour = Hour.containing(now)
                made = [f"{customer.id} is subscribed to {plan.name} as {subscription.id}, from {hour} on"]
        left = [f"{known} was there already: its address at Stripe is left as it is"] if wishes.email and known else []
        return Subscribed(
            customer.id,
            plan.name,
            stripe_customer,
            subscription.id,
            begins=str(Hour.of_epoch_ms(subscription.start_date * 1000)),
            said=change.said + made,
            notes=[*_of_marks(change.marks), *left, *self._notes(subscription, prices)],
        )

    def _notes(self, subscription: Subscription, prices: Mapping[str, str]) -> Iterator[str]:
        """Say what a subscription lacks, against a plan's prices at Stripe by name."""
        if subscription.status not in ("active", "trialing"):
            yield (
                f"{subscription.id} is {subscription.status}: give the customer a payment method at Stripe, without "
                "which a fee cannot be charged; a subscription that stays incomplete ends after 23 hours"
            )
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
        if not given or known:
            return known
        if getattr(self.stripe.call(lambda client: client.v1.customers.retrieve(given)), "deleted", False):
            raise OperatorError(f"the Stripe customer {given} was deleted: give another, or none")
        return given

    def _keep(self, customer: Customer, stripe_customer: str, *, now: datetime) -> Change:
        """Write a Stripe customer into the ledger, before anything is made that bills it."""
        if stripe_customer == customer.stripe_customer:
            return Change()
        return self.customers.add(Entry(customer.id, customer.name, stripe_customer), now=now)

    def _make_customer(self, customer: Customer, email: str) -> str:
        ours = {DEPLOYMENT: self.stripe.deployment, CUSTOMER: customer.id}
        parameters = {"name": customer.name, "metadata": ours} | ({"email": email} if email else {})

        def just_made() -> Any:
            newest = self.stripe.call(lambda client: client.v1.customers.list({"limit": 100}).data)
            return next((made for made in newest if metadata_of(made) == ours), None)

        made = self._once(
            f"customer.{self.stripe.deployment}.{short_id(customer.id)}",
            parameters,
            lambda given, options: lambda client: client.v1.customers.create(given, options),
            just_made,
        )
        return str(made.id)

    def _once(
        self,
        what: str,
        parameters: Mapping[str, Any],
        make: Callable[[Any, Any], Callable[[StripeClient], Any]],
        find: Callable[[], Any],
    ) -> Any:
        """Make something whose id is Stripe's choice, once for the 24 hours that Stripe remembers a key.

        A key that met a failure of Stripe's own is answered with it ever after, and the thing may have been made all
        the same (API reference, "Idempotent requests"): so it is looked for, and then the next key is tried.
        """
        said = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]
        failure: StripeUnavailableError
        for attempt in range(ATTEMPTS):
            options = {"idempotency_key": f"{what}.{said}.{attempt}"}
            try:
                return self.stripe.call(make(dict(parameters), options))
            except StripeUnavailableError as error:
                if (getattr(error.__cause__, "http_status", None) or 0) < FIRST_FAILURE:
                    raise
                failure = error
            if (made := find()) is not None:
                return made
        raise failure

    def _subscriptions(self, stripe_customer: str) -> list[Subscription]:
        """Return all subscriptions that a customer has had, as far as they are to our plans."""

        def fetch(client: StripeClient) -> list[Subscription]:
            listed = client.v1.subscriptions.list({"customer": stripe_customer, "status": "all", "limit": 100})
            return [with_all_items(one) for one in listed.auto_paging_iter()]

        return [subscription for subscription in self.stripe.call(fetch) if self._items(subscription)]

    def _items(self, subscription: Subscription) -> dict[str, str]:
        """Return the ids of a subscription's prices that are ours, by name."""
        return {
            metadata_of(item.price)[PRICE]: item.price.id
            for item in subscription["items"].data
            if metadata_of(item.price).get(DEPLOYMENT) == self.stripe.deployment
        }

    def _billing(self, former: list[Subscription], plan: Plan, customer: Customer) -> Subscription | None:
        """Return the subscription to the plan that bills, if there is one; OperatorError if one to another does."""
        billing = list(filter(is_running, former))
        for subscription in billing:
            if plans_of(subscription, self.stripe.deployment) != {plan.name}:
                others = ", ".join(sorted(plans_of(subscription, self.stripe.deployment)))
                raise OperatorError(
                    f"{customer.id} is subscribed to {others} ({subscription.id}): cancel that at Stripe when its "
                    f"period ends, and subscribe to {plan.name} then; both would bill the same usage"
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
        now: datetime,
    ) -> Subscription:
        """Make a subscription from the running hour on, where ``before`` others ended."""
        begin = Hour.containing(now).start
        parameters: dict[str, Any] = {
            "customer": customer.stripe_customer,
            "items": [{"price": prices[name_of(price)]} for price in plan.prices],
            "backdate_start_date": int(begin.timestamp()),
            "billing_cycle_anchor": int(later(begin, plan.interval).timestamp()),
            "metadata": {DEPLOYMENT: self.stripe.deployment, PLAN: plan.name, CUSTOMER: customer.id},
        }
        if wishes.email or wishes.days_until_due:
            due = wishes.days_until_due or DAYS_UNTIL_DUE
            parameters |= {"collection_method": "send_invoice", "days_until_due": due}

        def there() -> list[Subscription]:
            return list(filter(is_running, self._subscriptions(customer.stripe_customer)))

        made: Subscription = self._once(
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


def _of_marks(marks: int) -> Iterator[str]:
    """Say what becomes of closed hours that are closed again."""
    if marks:
        yield (
            f"{marks} closed hours are posted at the next tick, or by 'metering close'; Stripe bills those in which "
            "the customer is subscribed"
        )


def later(begin: datetime, interval: str) -> datetime:
    """Return the moment one interval later; a month that lacks the day ends on its last one, as at Stripe."""
    if interval in ("day", "week"):
        return begin + timedelta(days=1 if interval == "day" else 7)
    year, month = divmod(begin.year * 12 + begin.month - 1 + (1 if interval == "month" else 12), 12)
    return begin.replace(year=year, month=month + 1, day=min(begin.day, calendar.monthrange(year, month + 1)[1]))


def is_running(subscription: Subscription) -> bool:
    """Say whether a subscription bills, or will."""
    return subscription.status not in ("canceled", "incomplete_expired")


def preview(stripe: StripeMeters, customer: Customer) -> dict[str, Any]:
    """Return Stripe's preview of a customer's running invoice, amounts in the currency's smallest unit.

    Raises OperatorError where the customer has no subscription to a plan.
    """
    subscribe = f"subscribe it with 'metering customers subscribe {customer.id} PLAN'"
    if not customer.stripe_customer:
        raise OperatorError(f"{customer.id} has no Stripe customer yet, so that nothing is invoiced: {subscribe}")
    subscription = running(stripe, customer.stripe_customer)
    if subscription is None:
        raise OperatorError(f"{customer.id} has no subscription to a plan, so that nothing is invoiced: {subscribe}")
    return {
        "customer": customer.id,
        "stripe_customer": customer.stripe_customer,
        **preview_of(stripe, subscription),
    }


def as_it_would_be(
    ledger: Ledger, plans: Sequence[Plan], customer: Customer, shown: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a preview with what the ledger holds of its period, at the declared prices, not with what was posted."""
    first, end = (Hour.containing(datetime.fromisoformat(shown["period"][name])) for name in ("from", "to"))
    used: Counter[str] = Counter()
    for row in ledger.rows.of(subject_of(customer.id), first, end):
        used.update({metric: total.quantity for metric, total in row.totals.items()})
    metered = {
        name: price
        for plan in plans
        if plan.name in shown["plans"]
        for name, price in terms(plan).items()
        if not isinstance(price, Flat)
    }
    lines = [line for line in shown["lines"] if line["price"] not in metered]
    for name, price in metered.items():
        lines += [
            {
                "price": name,
                "description": title_of(price),
                "quantity": line.quantity,
                "unit_amount": written(line.unit_amount),
                "amount": line.amount,
                "period": shown["period"],
            }
            for line in explain(price, used[name])
        ]
    return {**shown, "lines": lines, "total": sum(line["amount"] for line in lines)}

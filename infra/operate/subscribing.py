"""Subscribing a customer to a plan at Stripe, and Stripe's own preview of what it will pay.

Stripe bills a meter event in the period in which its timestamp lies, and an hour's total is one event in the hour's
last ten minutes. So periods begin and end at whole hours: each hour's total then falls into one period as a whole. A
subscription begins with the hour in which it is made: that hour is billed from its first minute, and none before it.
"""

import calendar
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stripe import StripeClient, Subscription

from infra.operate.catalog import Catalog
from infra.operate.customers import Customers, Entry
from infra.operate.deployment import Deployment, OperatorError
from metering.model.periods import Hour
from metering.model.prices import Flat, Plan, explain, name_of, terms, title_of, written
from metering.model.subjects import customer as subject_of
from metering.stores.holders import Customer
from metering.stores.ledger import Ledger
from metering.stripe.client import StripeUnavailableError
from metering.stripe.meters import StripeMeters
from metering.stripe.prices import DEPLOYMENT, PLAN, PRICE, metadata_of
from metering.stripe.subscriptions import plans_of, preview_of, running

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
        return cls(deployment.stripe(), Catalog.of(deployment), customers)

    def subscribe(self, customer: Customer, plan_name: str, wishes: Wishes, *, now: datetime) -> Subscribed:
        """Subscribe a customer to a plan; doing it again changes nothing.

        Raises OperatorError for a plan that is not declared or not at Stripe as declared, for ids that do not fit, and
        for a customer that is subscribed to another plan.
        """
        plan = self._plan(plan_name)
        prices = self.catalog.current_prices(plan)
        done = Subscribed(customer.id, plan.name)
        known = self._known_stripe_customer(customer, wishes.stripe_customer)
        if wishes.subscription:
            found = self._given(wishes.subscription, plan, known)
            done.stripe_customer = self._keep(customer, str(found.customer), done, now=now)
        else:
            name = known or self._make_customer(customer, wishes.email)
            done.stripe_customer = self._keep(customer, name, done, now=now)
            there = self._subscriptions(name)
            found = self._there(there, plan, customer) or self._make(
                customer, plan, prices, wishes, len(there), done, now
            )
        if wishes.email and known:
            done.notes.append(f"{known} was there already: its address at Stripe is left as it is")
        if found.status not in ("active", "trialing"):
            done.notes.append(
                f"{found.id} is {found.status}: give the customer a payment method at Stripe, without which a fee "
                "cannot be charged; a subscription that stays incomplete ends after 23 hours"
            )
        done.subscription = found.id
        done.begins = str(Hour.of_epoch_ms(found.start_date * 1000))
        items = self._items(found)
        if older := sorted(name for name, price in items.items() if prices.get(name) != price):
            done.notes.append(f"{found.id} stays on older prices of {', '.join(older)}: move it when its period ends")
        if lacking := sorted(prices.keys() - items.keys()):
            done.notes.append(f"{found.id} is older than the prices of {', '.join(lacking)}: add them at Stripe")
        return done

    def _plan(self, name: str) -> Plan:
        found = {plan.name: plan for plan in self.catalog.plans}
        if name not in found:
            known = f"app.py declares {', '.join(found)}" if found else "app.py declares none: see PLANS there"
            raise OperatorError(f"there is no plan {name!r}: {known}")
        return found[name]

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

    def _keep(self, customer: Customer, stripe_customer: str, done: Subscribed, *, now: datetime) -> str:
        """Write a Stripe customer into the ledger, before anything is made that bills it."""
        if stripe_customer != customer.stripe_customer:
            change = self.customers.add(Entry(customer.id, customer.name, stripe_customer), now=now)
            done.said += change.said
            if change.marks:
                done.notes.append(
                    f"{change.marks} closed hours are posted at the next tick, or by 'metering close'; Stripe bills "
                    "those in which the customer is subscribed"
                )
        return stripe_customer

    def _make_customer(self, customer: Customer, email: str) -> str:
        ours = {DEPLOYMENT: self.stripe.deployment, CUSTOMER: customer.id}
        parameters = {"name": customer.name, "metadata": ours} | ({"email": email} if email else {})

        def just_made() -> Any:
            newest = self.stripe.call(lambda client: client.v1.customers.list({"limit": 100}).data)
            return next((one for one in newest if metadata_of(one) == ours), None)

        made = self._once(
            f"customer.{self.stripe.deployment}.{customer.id}",
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
            if (found := find()) is not None:
                return found
        raise failure

    def _subscriptions(self, stripe_customer: str) -> list[Subscription]:
        """Return all subscriptions that a customer has had, as far as they are to our plans."""

        def fetch(client: StripeClient) -> list[Subscription]:
            listed = client.v1.subscriptions.list({"customer": stripe_customer, "status": "all", "limit": 100})
            return list(listed.auto_paging_iter())

        return [one for one in self.stripe.call(fetch) if self._items(one)]

    def _items(self, subscription: Subscription) -> dict[str, str]:
        """Return the ids of a subscription's prices that are ours, by name."""
        return {
            metadata_of(item.price)[PRICE]: item.price.id
            for item in subscription["items"].data
            if metadata_of(item.price).get(DEPLOYMENT) == self.stripe.deployment
        }

    def _there(self, there: list[Subscription], plan: Plan, customer: Customer) -> Subscription | None:
        running = [one for one in there if is_running(one)]
        for one in running:
            if plans_of(one, self.stripe.deployment) != {plan.name}:
                others = ", ".join(sorted(plans_of(one, self.stripe.deployment)))
                raise OperatorError(
                    f"{customer.id} is subscribed to {others} ({one.id}): cancel that at Stripe when its period ends, "
                    f"and subscribe to {plan.name} then; both would bill the same usage"
                )
        return running[0] if running else None

    def _given(self, name: str, plan: Plan, stripe_customer: str) -> Subscription:
        """Return the subscription of this id, or raise OperatorError that says why it does not fit."""
        found = self.stripe.call(lambda client: client.v1.subscriptions.retrieve(name))
        if stripe_customer and found.customer != stripe_customer:
            raise OperatorError(f"the subscription {name} is of {found.customer}, not of {stripe_customer}")
        if not is_running(found):
            raise OperatorError(f"the subscription {name} is {found.status}: give another, or none")
        others = [one.id for one in self._subscriptions(str(found.customer)) if is_running(one) and one.id != name]
        if others:
            raise OperatorError(
                f"{found.customer} is subscribed as {', '.join(others)} already: cancel that at Stripe first"
            )
        missing = sorted({name_of(price) for price in plan.prices} - self._items(found).keys())
        if missing or plans_of(found, self.stripe.deployment) != {plan.name}:
            raise OperatorError(
                f"the subscription {name} is none to the plan {plan.name!r}: it lacks its prices "
                f"{', '.join(missing) or 'alone'}; add them at Stripe, or leave --subscription out"
            )
        starts = {item.current_period_start for item in found["items"].data}
        if odd := sorted(start for start in {*starts, found.billing_cycle_anchor} if start % SECONDS_OF_HOUR):
            moment = datetime.fromtimestamp(odd[0], UTC)
            raise OperatorError(
                f"the periods of {name} begin at {moment:%H:%M:%S}, within an hour, whose usage would be billed in the "
                "wrong one: reset its billing cycle at a whole hour (UTC), or leave --subscription out for a new one"
            )
        return found

    def _make(  # noqa: PLR0913, PLR0917 - each is used once
        self,
        customer: Customer,
        plan: Plan,
        prices: Mapping[str, str],
        wishes: Wishes,
        before: int,
        done: Subscribed,
        now: datetime,
    ) -> Subscription:
        begin = Hour.containing(now).start
        parameters: dict[str, Any] = {
            "customer": done.stripe_customer,
            "items": [{"price": prices[name_of(price)]} for price in plan.prices],
            "backdate_start_date": int(begin.timestamp()),
            "billing_cycle_anchor": int(later(begin, plan.interval).timestamp()),
            "metadata": {DEPLOYMENT: self.stripe.deployment, PLAN: plan.name, CUSTOMER: customer.id},
        }
        if wishes.email or wishes.days_until_due:
            due = wishes.days_until_due or DAYS_UNTIL_DUE
            parameters |= {"collection_method": "send_invoice", "days_until_due": due}

        def there() -> list[Subscription]:
            return [one for one in self._subscriptions(done.stripe_customer) if is_running(one)]

        made: Subscription = self._once(
            f"subscription.{done.stripe_customer}.{before}",  # after one was cancelled, another is made
            parameters,
            lambda given, options: lambda client: client.v1.subscriptions.create(given, options),
            lambda: next(iter(there()), None),
        )
        if len(names := [one.id for one in there()]) > 1:
            raise OperatorError(
                f"somebody else subscribed {customer.id} just now, too: cancel one of {', '.join(names)} at Stripe, or "
                "both bill the same usage"
            )
        done.said.append(f"{customer.id} is subscribed to {plan.name} as {made.id}, from {Hour.containing(now)} on")
        return made


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

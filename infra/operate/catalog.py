"""Meters, products and prices at Stripe: what ``app.py`` declares against what is there.

Everything that is made has an id that is derived from what it is for, of which Stripe takes no second one: a meter its
event name, a product its id, a price its lookup key, which ends with a fingerprint of what the price says. So two runs
at once, or one that was interrupted, end with the same objects. A price is never changed; one that says something else
stands beside it, and the old one is archived, which keeps billing those who are subscribed to it.

Each price has a product of its own, since a product's name is what an invoice calls the line.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from stripe import Price as StripePrice
from stripe import Product, StripeClient

from infra.operate.connecting_stripe import meters_in_the_way
from infra.operate.deployment import Deployment, OperatorError
from metering.model.metrics import meters
from metering.model.prices import Flat, Plan, Price, name_of, terms, title_of
from metering.stores.aws import in_pieces
from metering.stripe.client import StripeRejectedError
from metering.stripe.meters import Meter, StripeMeters
from metering.stripe.prices import DEPLOYMENT, FINGERPRINT, PLAN, PRICE, Offer, metadata_of, offer_of

_MOST_LOOKUP_KEYS: Final = 10
"""In one call (Stripe API reference, "List all prices")."""

_SHOWN: Final = 3
"""How many subscriptions are named: enough to find the others by."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One price of a declared plan, at a deployment."""

    deployment: str
    plan: Plan
    price: Price

    @property
    def name(self) -> str:
        """How the price is called in what is printed."""
        return f"{self.plan.name}.{name_of(self.price)}"

    @property
    def title(self) -> str:
        """What an invoice calls it."""
        return f"{self.plan.title}: {title_of(self.price)}"

    @property
    def product(self) -> str:
        """The id of its product; neither a plan's name nor a price's has a '-' in it."""
        return f"{self.deployment}-{self.plan.name}-{name_of(self.price)}"

    @property
    def metadata(self) -> dict[str, str]:
        """What says that a product or price is ours, and which."""
        return {DEPLOYMENT: self.deployment, PLAN: self.plan.name, PRICE: name_of(self.price)}

    def offer(self, meter: str) -> Offer:
        """Return what it says, by the meter of this id."""
        return Offer(self.price, self.plan.currency, self.plan.interval, meter)

    def lookup_key(self, offer: Offer) -> str:
        """Return the name under which Stripe takes one price that says this, and no second one."""
        return f"{self.product}-{offer.fingerprint}"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do at Stripe: ``action`` a ``kind`` of thing; ``says`` is what it will be, ``said`` what it is."""

    action: str
    kind: str
    name: str
    do: Callable[[], object] = field(repr=False, compare=False)
    says: str = ""
    said: str = ""
    note: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the step as ``metering stripe plan --json`` prints it."""
        shown = {"action": self.action, "kind": self.kind, "name": self.name}
        more = {"is": self.said, "will_be": self.says, "note": self.note}
        return shown | {key: value for key, value in more.items() if value}

    def __str__(self) -> str:
        sign = {"make": "+", "archive": "-"}.get(self.action, "~")
        change = " -> ".join(filter(None, (self.said, self.says)))
        return (
            f"{sign} {self.action} {self.kind} {self.name}"
            + (f": {change}" if change else "")
            + (f" ({self.note})" if self.note else "")
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """What is to be done, what prevents it, and which metrics no plan has a price for."""

    steps: Sequence[Step]
    in_the_way: Sequence[str]
    unpriced: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Return it as ``metering stripe plan --json`` prints it."""
        return {
            "steps": [step.as_json() for step in self.steps],
            "in_the_way": list(self.in_the_way),
            "unpriced": list(self.unpriced),
        }


@dataclass(frozen=True, slots=True)
class Catalog:
    """What a deployment sells, at Stripe: ``metrics`` are the names of its meters."""

    stripe: StripeMeters
    metrics: Sequence[str]
    plans: Sequence[Plan]

    @classmethod
    def of(cls, deployment: Deployment) -> "Catalog":
        """Return that of a deployment, as ``app.py`` declared it when it was deployed."""
        return cls(deployment.operators_stripe(), meters(deployment.declared_metrics), deployment.declared_plans)

    def difference(self) -> Difference:
        """Compare what is declared with what is at Stripe. Changes nothing."""
        there = self.stripe.meters()
        in_the_way = meters_in_the_way(self.stripe, there, self.metrics)
        steps = [
            Step("make", "meter", self.stripe.event_name(metric), partial(self.stripe.create_meter, metric))
            for metric in self.metrics
            if self.stripe.event_name(metric) not in there
        ]
        wanted = {declared.product: declared for plan in self.plans for declared in self.wanted(plan)}
        ours, foreign = self._products(wanted)
        in_the_way += [
            f"the product {name} at Stripe is none of ours: give its plan or price another name" for name in foreign
        ]
        prices = self._prices() if ours else {}
        for product, declared in wanted.items():
            if product not in foreign:
                steps += self._product_steps(declared, ours.get(product))
                steps += self._price_steps(declared, self._offer(declared, there), prices.get(product, []))
        for product in sorted(ours.keys() - wanted.keys()):
            steps += self._withdraw(ours[product], prices.get(product, []))
        priced = {name_of(declared.price) for declared in wanted.values()}
        return Difference(steps, in_the_way, [metric for metric in self.metrics if self.plans and metric not in priced])

    def apply(self, say: Callable[[Step], None]) -> list[Step]:
        """Do what is to be done, and return it; ``say`` is told each step once it is done.

        Raises OperatorError, before anything is done, if something is in the way; StripeRejectedError if Stripe
        refuses a step and it is still to be done afterwards: another run may have been faster.
        """
        done: dict[tuple[str, ...], Step] = {}
        refused: dict[tuple[str, ...], StripeRejectedError] = {}
        while True:
            difference = self.difference()
            if difference.in_the_way:
                raise OperatorError("; ".join(difference.in_the_way) + ("" if done else ". Nothing was changed"))
            # A price needs the id of its meter, so that nothing else is begun while one is missing.
            meters_first = [step for step in difference.steps if step.kind == "meter"] or difference.steps
            if not meters_first:
                return [*done.values()]
            for step in meters_first:
                key = (step.action, step.kind, step.name, step.says)
                if key in refused:
                    raise refused[key]
                if key in done:
                    raise OperatorError(f"Stripe took it and still shows it undone: {step}")
                try:
                    step.do()
                except StripeRejectedError as error:
                    refused[key] = error
                    break
                done[key] = step
                say(step)

    def wanted(self, plan: Plan) -> list[Wanted]:
        """Return the prices of a plan."""
        return [Wanted(self.stripe.deployment, plan, price) for price in terms(plan).values()]

    def current_prices(self, plan: Plan) -> dict[str, str]:
        """Return the ids of a plan's prices at Stripe, by name; OperatorError if one of them is not there."""
        there = self.stripe.meters()
        wanted = self.wanted(plan)
        keys = {declared.lookup_key(offer): declared for declared in wanted if (offer := self._offer(declared, there))}
        ids: dict[str, str] = {}
        for some in in_pieces([*keys], _MOST_LOOKUP_KEYS):
            for price in self._list_prices(lookup_keys=some, active=True):
                ids[name_of(keys[str(price.lookup_key)].price)] = price.id
        if missing := [declared.name for declared in wanted if name_of(declared.price) not in ids]:
            raise OperatorError(
                f"Stripe does not have {', '.join(missing)} as app.py declares it: run 'metering stripe apply' first"
            )
        return {name: ids[name] for name in map(name_of, plan.prices)}

    def _offer(self, wanted: Wanted, there: dict[str, Meter]) -> Offer | None:
        """Return what a price must say, or None as long as its meter is missing."""
        if isinstance(wanted.price, Flat):
            return wanted.offer("")
        meter = there.get(self.stripe.event_name(wanted.price.metric))
        return wanted.offer(meter.id) if meter else None

    def _products(self, wanted: Iterable[str]) -> tuple[dict[str, Product], list[str]]:
        """Return our products by id, and the ids of ours that others have taken."""

        def fetch(client: StripeClient) -> list[Product]:
            return list(client.v1.products.list({"limit": 100}).auto_paging_iter())

        there = {product.id: product for product in self.stripe.call(fetch)}
        ours = {name: product for name, product in there.items() if self._is_ours(product)}
        return ours, [name for name in wanted if name in there and name not in ours]

    def _prices(self) -> dict[str, list[StripePrice]]:
        """Return our prices by product, those in use first; one that others have added to a product is not ours.

        All of the account, in two lists, however many products there are: Stripe takes 25 reads of prices a second.
        """
        ours: dict[str, list[StripePrice]] = {}
        for active in (
            True,
            False,
        ):  # without `active`, it lists the active ones alone (API reference, "List all prices")
            for price in self._list_prices(active=active):
                if self._is_ours(price):
                    ours.setdefault(str(price.product), []).append(price)
        return ours

    def _list_prices(self, **wanted: Any) -> list[StripePrice]:
        parameters: Any = {"limit": 100, "expand": ["data.tiers"], **wanted}
        return self.stripe.call(lambda client: list(client.v1.prices.list(parameters).auto_paging_iter()))

    def _is_ours(self, thing: Product | StripePrice) -> bool:
        return metadata_of(thing).get(DEPLOYMENT) == self.stripe.deployment

    def _product_steps(self, wanted: Wanted, product: Product | None) -> Iterable[Step]:
        if product is None:
            parameters: Any = {"id": wanted.product, "name": wanted.title, "metadata": wanted.metadata}
            yield self._step(
                "make", "product", wanted.name, lambda client: client.v1.products.create(parameters), says=wanted.title
            )
        elif (product.name, product.active) != (wanted.title, True):
            changes: Any = {"name": wanted.title, "active": True}
            yield self._step(
                "rename" if product.active else "activate",
                "product",
                wanted.name,
                lambda client: client.v1.products.update(wanted.product, changes),
                says=wanted.title,
                said=product.name if product.name != wanted.title else "",
            )

    def _price_steps(self, wanted: Wanted, offer: Offer | None, prices: Sequence[StripePrice]) -> Iterable[Step]:
        said = {price.id: offer_of(price, name_of(wanted.price)) for price in prices}
        kept = next((price for price in prices if offer and self._is(price, wanted, offer, said[price.id])), None)
        older = [price for price in prices if price.active and price is not kept]
        words = str(offer or wanted.offer(""))
        was = str(said[older[0].id] or "something else") if older else ""
        if kept is None:
            parameters: Any = {} if offer is None else self._new_price(wanted, offer)
            yield self._step(
                "replace" if older else "make",
                "price",
                wanted.name,
                lambda client: client.v1.prices.create(parameters),
                says=words,
                said=was,
            )
        elif not kept.active:
            yield self._step(
                "activate", "price", wanted.name, self._set_active(kept.id, active=True), says=words, said=was
            )
        for price in older:
            yield self._archive(f"{wanted.name} {price.id}", price, str(said[price.id] or ""))

    def _is(self, price: StripePrice, wanted: Wanted, offer: Offer, said: Offer | None) -> bool:
        """Say whether a price is the one that is wanted: says the same, and is found where it is subscribed to."""
        return (
            said is not None and said.fingerprint == offer.fingerprint and price.lookup_key == wanted.lookup_key(offer)
        )

    def _new_price(self, wanted: Wanted, offer: Offer) -> dict[str, Any]:
        return offer.parameters() | {
            "product": wanted.product,
            "lookup_key": wanted.lookup_key(offer),
            "metadata": wanted.metadata | {FINGERPRINT: offer.fingerprint},
        }

    def _withdraw(self, product: Product, prices: Iterable[StripePrice]) -> Iterable[Step]:
        """Archive a product that is no longer declared, and its prices."""
        metadata = metadata_of(product)
        name = f"{metadata.get(PLAN)}.{metadata.get(PRICE)}"
        for price in prices:
            if price.active:
                yield self._archive(f"{name} {price.id}", price, str(offer_of(price, name) or ""))
        if product.active:
            yield self._step(
                "archive",
                "product",
                name,
                lambda client: client.v1.products.update(product.id, {"active": False}),
                said=product.name,
            )

    def _archive(self, name: str, price: StripePrice, said: str) -> Step:
        def fetch(client: StripeClient) -> tuple[list[str], bool]:
            found = client.v1.subscriptions.list({"price": price.id, "limit": 100})
            return [subscription.id for subscription in found.data], found.has_more

        staying, more = self.stripe.call(fetch)
        note = ""
        if staying:
            many = f"{len(staying)}{' or more' * more} subscription{' stays' if len(staying) == 1 else 's stay'}"
            some = ", ".join(staying[:_SHOWN]) + ", ..." * (len(staying) > _SHOWN)
            note = f"{many} on it and what it asks: {some}; move one at Stripe when its period ends"
        return self._step("archive", "price", name, self._set_active(price.id, active=False), said=said, note=note)

    def _set_active(self, price: str, *, active: bool) -> Callable[[StripeClient], object]:
        return lambda client: client.v1.prices.update(price, {"active": active})

    def _step(  # noqa: PLR0913 - what a step says, each by name
        self,
        action: str,
        kind: str,
        name: str,
        do: Callable[[StripeClient], object],
        *,
        says: str = "",
        said: str = "",
        note: str = "",
    ) -> Step:
        return Step(action, kind, name, lambda: self.stripe.call(do), says, said, note)

"""The products and prices of the local Stripe. Time is an argument; no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from infra.local.stripe.meter import Meter
from infra.local.stripe.params import (
    PAGING,
    Params,
    StripeError,
    amount,
    expanded,
    flag,
    integer,
    metadata,
    moments,
    nested,
    one_of,
    only,
    page,
    rows,
    text,
    texts,
)
from infra.local.stripe.price import Package, Price, Recurring, Tier

PRODUCT_TEXTS = ("description", "statement_descriptor", "unit_label")
LONGEST_INTERVAL = {
    "day": 1_095,
    "week": 156,
    "month": 36,
    "year": 3,
}  # docs: "Maximum of three years interval allowed"
PRICE_PARAMS = (
    *("active", "billing_scheme", "currency", "expand", "lookup_key", "metadata", "nickname", "product", "recurring"),
    *("tax_behavior", "tiers", "tiers_mode", "transfer_lookup_key", "transform_quantity"),
    *("unit_amount", "unit_amount_decimal"),
)


@dataclass(slots=True)
class Catalog:
    """What an account sells. `meters` are the account's own, by id."""

    meters: Mapping[str, Meter]
    products: dict[str, dict[str, Any]]
    prices: dict[str, Price]

    def create_product(self, params: Params, now: float) -> dict[str, Any]:
        """Create a product, under an id of the caller's choice if given (docs.stripe.com/api/products/create)."""
        only(params, "active", "id", "metadata", "name", *PRODUCT_TEXTS)
        product = text(params, "id", default="") or f"prod_{len(self.products) + 1:014d}"
        if product in self.products:
            raise StripeError(f"Product already exists: {product}", code="resource_already_exists", param="id")
        made = {
            "id": product,
            "object": "product",
            "active": flag(params, "active", default=True),
            "created": int(now),
            "default_price": None,
            "description": None,
            "images": [],
            "livemode": False,
            "marketing_features": [],
            "metadata": metadata({}, params),
            "name": text(params, "name"),
            "package_dimensions": None,
            "shippable": None,
            "statement_descriptor": None,
            "tax_code": None,
            "unit_label": None,
            "updated": int(now),
            "url": None,
        }
        made |= {name: text(params, name, default="") or None for name in PRODUCT_TEXTS}
        self.products[product] = made
        return dict(made)

    def list_products(self, params: Params, _now: float) -> dict[str, Any]:
        """List products, newest first (docs.stripe.com/api/products/list)."""
        only(params, "active", "created", "ids", *PAGING)
        created, ids = moments(params, "created"), texts(params, "ids")
        active = flag(params, "active", default=True) if "active" in params else None
        products = [
            dict(product)
            for product in reversed(self.products.values())
            if active in (None, product["active"])
            and created(product["created"])
            and (ids is None or product["id"] in ids)
        ]
        return page(products, params, "/v1/products")

    def retrieve_product(self, product: str, params: Params, _now: float) -> dict[str, Any]:
        """Give one product."""
        only(params)
        return dict(self._product(product))

    def update_product(self, product: str, params: Params, now: float) -> dict[str, Any]:
        """Change a product; inactive, it takes no new price's purchase (docs.stripe.com/api/products/update)."""
        only(params, "active", "metadata", "name", *PRODUCT_TEXTS)
        changed = self._product(product)
        changes: dict[str, Any] = {
            name: text(params, name, default="") or None for name in PRODUCT_TEXTS if name in params
        }
        if "name" in params:
            changes["name"] = text(params, "name")
        changes["active"] = flag(params, "active", default=changed["active"])
        changed |= changes | {"metadata": metadata(changed["metadata"], params), "updated": int(now)}
        return dict(changed)

    def create_price(self, params: Params, now: float) -> dict[str, Any]:
        """Create a price (docs.stripe.com/api/prices/create). Here a recurring one, with its product made before."""
        only(params, *PRICE_PARAMS)
        tiers = expanded(params, "tiers")
        product = text(params, "product")
        if product not in self.products:
            raise StripeError(f"No such product: '{product}'", code="resource_missing", param="product")
        currency = text(params, "currency").lower()
        if not re.fullmatch("[a-z]{3}", currency):
            raise StripeError(f"Invalid currency: {currency}.", param="currency")
        scheme = one_of(params, "billing_scheme", ("per_unit", "tiered"), default="per_unit")
        price = Price(
            id=f"price_{len(self.prices) + 1:014d}",
            created=int(now),
            currency=currency,
            product=product,
            name=self.products[product]["name"],
            recurring=self._recurring(params),
            billing_scheme=scheme,
            unit_amount=_unit_amount(params, scheme),
            tiers=_tiers(params, scheme),
            tiers_mode=one_of(params, "tiers_mode", ("graduated", "volume")) if scheme == "tiered" else None,
            package=_package(params, scheme),
            tax_behavior=one_of(
                params, "tax_behavior", ("exclusive", "inclusive", "unspecified"), default="unspecified"
            ),
            active=flag(params, "active", default=True),
            nickname=text(params, "nickname", default="") or None,
            metadata=metadata({}, params),
        )
        self._take_lookup_key(price, params)
        self.prices[price.id] = price
        return price.as_json(tiers="tiers" in tiers)

    def list_prices(self, params: Params, _now: float) -> dict[str, Any]:
        """List prices, newest first (docs.stripe.com/api/prices/list)."""
        only(params, "active", "created", "currency", "expand", "lookup_keys", "product", "recurring", "type", *PAGING)
        tiers = expanded(params, "data.tiers")
        active = flag(params, "active", default=True) if "active" in params else None
        created, keys = moments(params, "created"), texts(params, "lookup_keys")
        product, currency = text(params, "product", default=""), text(params, "currency", default="")
        type_ = one_of(params, "type", ("one_time", "recurring"), default="")
        recurring = nested(params, "recurring")
        only(recurring, "interval", "meter", "usage_type")
        prices = []
        for price in reversed(self.prices.values()):
            shown = price.as_json(tiers="data.tiers" in tiers)
            wanted = active in (None, price.active) and created(price.created)
            wanted = wanted and product in ("", price.product) and currency in ("", price.currency)
            wanted = wanted and type_ in ("", shown["type"]) and (keys is None or price.lookup_key in keys)
            if wanted and all(shown["recurring"].get(name) == value for name, value in recurring.items()):
                prices.append(shown)
        return page(prices, params, "/v1/prices")

    def retrieve_price(self, price: str, params: Params, _now: float) -> dict[str, Any]:
        """Give one price."""
        only(params, "expand")
        return self.price(price).as_json(tiers="tiers" in expanded(params, "tiers"))

    def update_price(self, price: str, params: Params, _now: float) -> dict[str, Any]:
        """Change what is not an amount of a price (docs.stripe.com/api/prices/update)."""
        only(params, "active", "expand", "lookup_key", "metadata", "nickname", "transfer_lookup_key")
        tiers = expanded(params, "tiers")
        changed = self.price(price)
        active = flag(params, "active", default=changed.active)
        nickname = text(params, "nickname", default="") or None if "nickname" in params else changed.nickname
        merged = metadata(changed.metadata, params)
        self._take_lookup_key(changed, params)
        changed.active, changed.nickname, changed.metadata = active, nickname, merged
        return changed.as_json(tiers="tiers" in tiers)

    def price(self, price: str, *, param: str = "price", status: int = 404) -> Price:
        """Find a price by its id, or answer `status`."""
        if price not in self.prices:
            raise StripeError(f"No such price: '{price}'", status=status, code="resource_missing", param=param)
        return self.prices[price]

    def _product(self, product: str) -> dict[str, Any]:
        """Find a product by its id, or answer 404."""
        if product not in self.products:
            raise StripeError(f"No such product: '{product}'", status=404, code="resource_missing", param="id")
        return self.products[product]

    def _take_lookup_key(self, price: Price, params: Params) -> None:
        """Give a price its lookup key, which no other active price of the account may have unless it is transferred."""
        if "lookup_key" not in params:
            return
        key = text(params, "lookup_key", default="", most=200) or None
        holder = next((each for each in self.prices.values() if key and each.lookup_key == key), None)
        if holder is not None and holder is not price:
            if not flag(params, "transfer_lookup_key", default=False):
                raise StripeError(
                    f"A price (`{holder.id}`) already uses that lookup key.",
                    code="resource_already_exists",
                    param="lookup_key",
                )
            holder.lookup_key = None
        price.lookup_key = key

    def _recurring(self, params: Params) -> Recurring:
        """Read how often, and by which meter; metered prices need one (docs: removal of legacy usage-based billing)."""
        given = nested(params, "recurring", required=True)
        only(given, "interval", "interval_count", "meter", "usage_type")
        interval = one_of(given, "interval", tuple(LONGEST_INTERVAL), within="recurring")
        count = integer(given, "interval_count", default=1)
        if not 1 <= count <= LONGEST_INTERVAL[interval]:
            raise StripeError(
                f"Invalid interval_count: must be 1 to {LONGEST_INTERVAL[interval]} {interval}s, got {count}.",
                param="recurring[interval_count]",
            )
        usage = one_of(given, "usage_type", ("licensed", "metered"), default="licensed", within="recurring")
        meter = text(given, "meter", default="") or None
        if usage == "metered" and meter is None:
            raise StripeError("Metered prices must be backed by a meter.", param="recurring[meter]")
        if usage == "licensed" and meter is not None:
            raise StripeError("A meter can only be set where usage_type is metered.", param="recurring[meter]")
        if meter is not None and (meter not in self.meters or self.meters[meter].deactivated_at is not None):
            raise StripeError(f"No such active meter: '{meter}'", code="resource_missing", param="recurring[meter]")
        return Recurring(interval, count, meter, usage)


def _unit_amount(params: Params, scheme: str) -> Decimal | None:
    """Read the amount of a unit, which a price per unit needs and a tiered one cannot have."""
    read = amount(params, "unit_amount")
    if scheme == "per_unit" and read is None:
        raise StripeError("Missing required param: unit_amount.", code="parameter_missing", param="unit_amount")
    if scheme == "tiered" and read is not None:
        raise StripeError("unit_amount cannot be set where billing_scheme is tiered.", param="unit_amount")
    return read


def _tiers(params: Params, scheme: str) -> list[Tier]:
    """Read the tiers: in ascending order, the last one up to `inf`, each with an amount."""
    given = rows(params, "tiers")
    if (scheme == "tiered") != bool(given) or (scheme == "per_unit" and "tiers_mode" in params):
        raise StripeError("tiers and tiers_mode go with billing_scheme=tiered, and with it alone.", param="tiers")
    tiers: list[Tier] = []
    for number, each in enumerate(given):
        within = f"tiers[{number}]"
        only(each, "up_to", *(f"{kind}_amount{suffix}" for kind in ("flat", "unit") for suffix in ("", "_decimal")))
        last = number == len(given) - 1
        if (text(each, "up_to") == "inf") != last:
            raise StripeError("The last tier, and no other, must have up_to=inf.", param=f"{within}[up_to]")
        up_to = None if last else integer(each, "up_to")
        below = (tiers[-1].up_to or 0) if tiers else 0
        if up_to is not None and up_to <= below:
            raise StripeError(f"up_to must be greater than {below}, got {up_to}.", param=f"{within}[up_to]")
        tier = Tier(up_to, amount(each, "unit_amount", within=within), amount(each, "flat_amount", within=within))
        if tier.unit_amount is None and tier.flat_amount is None:
            raise StripeError("A tier needs at least one of unit_amount and flat_amount.", param=within)
        tiers.append(tier)
    return tiers


def _package(params: Params, scheme: str) -> Package | None:
    """Read `transform_quantity`, which "cannot be combined with tiers"."""
    if "transform_quantity" not in params:
        return None
    if scheme == "tiered":
        raise StripeError("transform_quantity cannot be combined with tiers.", param="transform_quantity")
    given = nested(params, "transform_quantity")
    only(given, "divide_by", "round")
    divide_by = integer(given, "divide_by")
    if divide_by < 1:
        raise StripeError("divide_by must be at least 1.", param="transform_quantity[divide_by]")
    return Package(divide_by, one_of(given, "round", ("down", "up"), within="transform_quantity"))

"""What the metering stack does with plans: it checks them, and keeps them where the command line reads them."""

import json
from collections.abc import Callable

import pytest
from aws_cdk.assertions import Template as Synthesised

from app import PLANS
from infra.outputs import METADATA
from infra.stack.metering import MeteringStack
from metering.model.metrics import Count
from metering.model.price_checks import PriceError
from metering.model.prices import PerUnit, Plan, decode
from tests.doubles.template import Template

MakeStack = Callable[..., MeteringStack]


def test_a_plan_that_cannot_be_billed_is_refused(stack: MakeStack) -> None:
    """At synthesis, with the sentence that says what to write instead."""
    price = PerUnit(metric="request", amount=1)
    plan = Plan(name="standard", title="Standard", currency="usd", prices=(price,))
    with pytest.raises(PriceError, match="a price for 'request', which is no metric: write 'requests'"):
        stack(metrics=[Count(name="requests")], plans=[plan])


def test_the_plans_stand_in_the_template(template: Template) -> None:
    """In its metadata, since an output would be too small; the functions know nothing of prices."""
    assert decode(json.dumps(template["Metadata"][METADATA]["plans"])) == PLANS
    assert "Graduated" not in json.dumps(template["Resources"])


def test_a_stack_needs_no_plans(stack: MakeStack) -> None:
    """Then what is sold is kept at Stripe by hand."""
    made = Synthesised.from_stack(stack(metrics=[Count(name="requests")])).to_json()
    assert made["Metadata"][METADATA]["plans"] == []

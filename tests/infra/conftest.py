"""Stacks with other settings than the app's, and what is asked of a template."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import aws_cdk as cdk
import pytest
from aws_cdk.cx_api import CloudAssembly

from infra.stack import MeteringStack
from metering.metrics import Count


@pytest.fixture
def sample(assembly: CloudAssembly) -> dict[str, Any]:
    """The CloudFormation template of the sample API."""
    return cast("dict[str, Any]", assembly.get_stack_by_name("SampleApi").template)


@pytest.fixture
def app(context: Mapping[str, Any], tmp_path: Any) -> cdk.App:
    """An empty app."""
    return cdk.App(context=context, outdir=str(tmp_path))


@pytest.fixture
def stack(app: cdk.App) -> Callable[..., MeteringStack]:
    """Make a metering stack in the empty app, with one metric unless told otherwise."""

    def make(name: str = "Metering", **settings: Any) -> MeteringStack:
        return MeteringStack(app, name, **({"metrics": [Count(name="requests")]} | settings))

    return make

"""Stacks with other settings than the app's, and what is asked of a template."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import aws_cdk as cdk
import pytest
from aws_cdk.cx_api import CloudAssembly

from app import build
from infra.stack.ingest import Road
from infra.stack.metering import MeteringStack
from metering.model.metrics import Count


@pytest.fixture(scope="session")
def firehose(context: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> CloudAssembly:
    """The app on the road over Firehose, checked by cdk-nag as the other is."""
    settings = {**context, "road": Road.FIREHOSE.value}
    return build(cdk.App(context=settings, outdir=str(tmp_path_factory.mktemp("cdk.out")))).synth()


@pytest.fixture(scope="session")
def firehose_template(firehose: CloudAssembly) -> dict[str, Any]:
    """The CloudFormation template of the metering stack on the road over Firehose."""
    return cast("dict[str, Any]", firehose.get_stack_by_name("Metering").template)


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

"""Stacks with other settings than the app's, and what is asked of a template."""

from collections.abc import Callable, Mapping
from typing import Any

import aws_cdk as cdk
import pytest

from infra.stack.ingest import Road
from infra.stack.metering import MeteringStack
from metering.model.log_format import Api
from metering.model.metrics import Count
from tests.doubles.synthesis import Synthesis, Template


@pytest.fixture(scope="session")
def firehose(synthesis: Synthesis, context: Mapping[str, Any]) -> dict[str, Template]:
    """The templates of the app on the road over Firehose, checked by cdk-nag as the others are."""
    return synthesis.templates("firehose", {**context, "road": Road.FIREHOSE.value})


@pytest.fixture(scope="session")
def firehose_template(firehose: dict[str, Template]) -> Template:
    """The CloudFormation template of the metering stack on the road over Firehose."""
    return firehose["Metering"]


@pytest.fixture(scope="session")
def http(synthesis: Synthesis, context: Mapping[str, Any]) -> dict[str, Template]:
    """The templates of the app with the sample of an HTTP API, checked by cdk-nag as the others are."""
    return synthesis.templates("http", {**context, "api": Api.HTTP.value})


@pytest.fixture
def sample(templates: dict[str, Template]) -> Template:
    """The CloudFormation template of the sample API."""
    return templates["SampleApi"]


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

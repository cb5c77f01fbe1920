"""Where a customer's link leads: to AWS, unless the operator asked for the embedded one."""

import boto3
import pytest

from infra.operate.deployment import Deployment
from infra.operate.portal_access import portal_url
from tests.doubles.outputs import outputs

ON_AWS = "https://a1b2c3d4.execute-api.eu-central-1.amazonaws.com/"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_ENDPOINT_URL_LAMBDA", "https://vpce-0123-lambda.eu-central-1.vpce.amazonaws.com"),
        ("AWS_ENDPOINT_URL", "http://localhost:4566"),
    ],
)
def test_however_aws_is_reached_a_link_leads_to_the_deployed_page(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dual stack, FIPS, an endpoint in a VPC: that is between the operator and AWS."""
    monkeypatch.setenv(variable, value)
    deployment = Deployment(boto3.Session(region_name="eu-central-1").client, outputs(portal_url=ON_AWS))
    assert portal_url(deployment) == ON_AWS


def test_in_the_embedded_aws_an_api_is_below_its_address() -> None:
    """Its own host name would lead nowhere on this machine."""
    told = outputs(portal_url="https://a1b2c3d4.execute-api.us-east-1.localhost:4566/")
    deployment = Deployment(boto3.client, told, embedded_at="http://127.0.0.1:4566")
    assert portal_url(deployment) == "http://127.0.0.1:4566/_aws/execute-api/a1b2c3d4/$default/"

"""app.py as the CDK CLI runs it: checked by cdk-nag, bundled, the same each time."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import aws_cdk as cdk
import pytest
from aws_cdk import aws_sqs as sqs

from app import build
from tests.doubles.template import of_type

ROOT = Path(__file__).parent.parent.parent


SYNTHESIS = """
import runpy
from infra.stack import bundle

with_dependencies = bundle._uv

def one_with_dependencies(*arguments, stdin=None):
    return with_dependencies(*arguments, stdin=stdin) if stdin or "record-usage" in arguments else ""

bundle._uv = one_with_dependencies
runpy.run_path("app.py", run_name="__main__")
"""
"""Runs app.py as the CDK CLI does, but installs the dependencies of one function alone, which has the fewest."""


def test_two_synths_give_the_same_asset(context: Mapping[str, Any], tmp_path: Path) -> None:
    """Each function's asset is named by its content, so that an unchanged commit deploys nothing.

    That dependencies are the same each time is for the tests of the bundle to see.
    """
    first, second = (_synthesise(context, tmp_path / run) for run in ("first", "second"))
    assert _function_assets(first) == _function_assets(second)
    assert len(_function_assets(first)) == 7
    assert len(list(first.glob("asset.*/msgspec"))) == 1
    assert (first / "Metering.template.json").read_bytes() == (second / "Metering.template.json").read_bytes()


def test_an_open_finding_fails_the_synthesis(app: cdk.App) -> None:
    """That the fixtures can synthesise at all means that cdk-nag has found nothing else."""
    sqs.Queue(cast("cdk.Stack", build(app).node.find_child("Metering")), "Careless")
    with pytest.raises(RuntimeError, match="AwsSolutions-SQS4"):
        app.synth()


def test_the_context_turns_to_the_emulator(context: Mapping[str, Any], tmp_path: Path) -> None:
    """`local`, `stripe_api_base`, `road`, `api` and its `issuer` are all that app.py reads from it."""
    settings = {**context, "local": "true", "stripe_api_base": "http://127.0.0.1:1"}
    assembly = build(cdk.App(context=settings, outdir=str(tmp_path))).synth()
    functions = of_type(assembly.get_stack_by_name("Metering").template, "AWS::Lambda::Function").items()
    bases = {
        name[:-8]: function["Properties"]["Environment"]["Variables"]["STRIPE_API_BASE"]
        for name, function in functions
        if "STRIPE_API_BASE" in function["Properties"]["Environment"]["Variables"]
    }
    assert bases == dict.fromkeys(
        ("BillingPostUsage", "BillingReconcileUsage", "BillingReceiveEvents", "PortalShowUsage"), "http://127.0.0.1:1"
    )


def test_the_context_names_the_issuer_of_an_http_apis_tokens(context: Mapping[str, Any], tmp_path: Path) -> None:
    """One on this machine, for example."""
    settings = {**context, "api": "http", "issuer": "http://127.0.0.1:1"}
    assembly = build(cdk.App(context=settings, outdir=str(tmp_path))).synth()
    template = assembly.get_stack_by_name("SampleHttpApi").template
    (authorizer,) = of_type(template, "AWS::ApiGatewayV2::Authorizer").values()
    assert authorizer["Properties"]["JwtConfiguration"]["Issuer"] == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"road": "kinesis"}, r"road must be one of \['subscription', 'firehose'\], got 'kinesis'"),
        ({"api": "soap"}, r"api must be one of \['rest', 'http'\], got 'soap'"),
        ({"api": "http", "road": "firehose"}, "an HTTP API cannot write its access log to Firehose"),
    ],
)
def test_what_there_is_not_is_refused(
    context: Mapping[str, Any], tmp_path: Path, chosen: Mapping[str, str], sentence: str
) -> None:
    """Instead of taking another."""
    with pytest.raises(ValueError, match=sentence):
        build(cdk.App(context={**context, **chosen}, outdir=str(tmp_path)))


def _synthesise(context: Mapping[str, Any], outdir: Path) -> Path:
    bundling = {name: value for name, value in context.items() if name != "aws:cdk:bundling-stacks"}
    environment = os.environ | {"CDK_CONTEXT_JSON": json.dumps(bundling), "CDK_OUTDIR": str(outdir)}
    subprocess.run([sys.executable, "-c", SYNTHESIS], cwd=ROOT, env=environment, check=True)  # noqa: S603 - ours
    return outdir


def _function_assets(outdir: Path) -> set[str]:
    files = json.loads((outdir / "Metering.assets.json").read_text())["files"]
    return {name for name, asset in files.items() if asset["source"]["packaging"] == "zip"}

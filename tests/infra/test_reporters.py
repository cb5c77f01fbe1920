"""What the examples of code elsewhere log is what metering counts: each is run in its own language."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import aws_cdk as cdk
import boto3
import botocore.session
import pytest
from aws_cdk.cx_api import CloudAssembly
from botocore.stub import Stubber
from botocore.validate import validate_parameters

from infra.stack.examples import reporting
from metering.model.usage_lines import Report, UsageLineReader, measure_reports
from tests.doubles.log_frames import FRAMES
from tests.doubles.template import Template, flat, of_type
from tests.infra.referees import policy_findings, schema_findings

LAMBDA_NODE = ("Lambda, Node, text", "Lambda, JSON, text")
LAMBDA_PYTHON = ("Lambda, JSON, text",)
CONTAINER = ("FireLens", "Docker", "CRI", "Kubernetes")


def node(program: str, folder: Path = reporting.REPORTERS, **environment: str) -> str:
    """Run a module's code in Node, in a folder whose modules it loads; return what it prints."""
    done = subprocess.run(  # noqa: S603 - our own program
        [str(Path(sys.executable).with_name("node")), "--input-type=module", "--eval", program],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def module(name: str) -> ModuleType:
    """Load one of the Python files, which are no package."""
    spec = importlib.util.spec_from_file_location(name, reporting.REPORTERS / f"{name}.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def counted(text: str, *frames: str) -> Report:
    """Return what the only line of a log says, also in each of the frames that its runtime may put round it."""
    (line,) = text.splitlines()
    now = datetime.now(UTC) + timedelta(minutes=1)  # the reader's clock is behind nobody's
    read = {str(UsageLineReader(now, reporting.METRICS).read(FRAMES[frame](line))) for frame in ("print", *frames)}
    report = UsageLineReader(now, reporting.METRICS).read(line)
    assert isinstance(report, Report)
    assert read == {str(report)}
    return report


def test_a_function_url_bills_the_account_that_signed_the_call() -> None:
    """I7: neither the session's name, which the caller chooses, nor the text is in the line."""
    event = {
        "body": "b25lIHR3byAgdGhyZWU=",
        "isBase64Encoded": True,
        "requestContext": {
            "requestId": "7f0a6bd0-0000-4000-8000-000000000000",
            "timeEpoch": int(datetime.now(UTC).timestamp() * 1000),
            "authorizer": {
                "iam": {"accountId": "111122223333", "userArn": "arn:aws:sts::111122223333:assumed-role/r/acme"}
            },
        },
    }
    called = f"(await handler({json.dumps(event)})).words"
    text = node(f'import {{ handler }} from "./function_url.mjs"; if ({called} !== 3) throw 1;')
    assert "acme" not in text
    assert "two" not in text
    report = counted(text, *LAMBDA_NODE)
    assert (report.id, report.source, report.amounts) == (
        "7f0a6bd0-0000-4000-8000-000000000000",
        "@111122223333",
        {"words": 3},
    )


def appsync(tmp_path: Path, context: Mapping[str, Any], function: str) -> Any:
    """Run a function of the AppSync example, with AppSync's module as its reference describes it; return its answer.

    (AppSync Developer Guide, "Built-in utilities": util.autoId, util.error; "Time helpers in util.time".)
    """
    stub = tmp_path / "node_modules" / "@aws-appsync" / "utils"
    stub.mkdir(parents=True, exist_ok=True)
    (stub / "package.json").write_text('{"type": "module", "exports": "./index.js"}')
    (stub / "index.js").write_text(
        """export const util = {
            autoId: () => "6d1b7a3e-0000-4000-8000-000000000000",
            time: { nowEpochMilliSeconds: () => Date.now() },
            error: (message, type) => { console.log(JSON.stringify({ error: type })); process.exit(0); },
        };"""
    )
    shutil.copy(reporting.REPORTERS / "appsync.js", tmp_path / "appsync.mjs")
    return json.loads(
        node(
            f"""import * as code from "./appsync.mjs";
            console.log(JSON.stringify(code.{function}({json.dumps(context)})));""",
            tmp_path,
        )
    )


def test_appsync_writes_its_line_by_a_call_that_cloudwatch_logs_takes(tmp_path: Path) -> None:
    """By the service's own model; the line stands there bare, and bills the verified token's subject."""
    context = {
        "identity": {"sub": "auth0|5f7c"},
        "args": {"name": "nobody else's business"},
        "env": {"USAGE_LOG": "usage", "USAGE_STREAM": "appsync"},
    }
    request = appsync(tmp_path, context, "request")
    model = botocore.session.get_session().get_service_model("logs")
    operation, called = model.operation_model("PutLogEvents"), json.loads(request["params"]["body"])
    shape = operation.input_shape
    assert shape is not None
    validate_parameters(called, shape)
    assert request["params"]["headers"] == {
        "Content-Type": f"application/x-amz-json-{model.metadata['jsonVersion']}",
        "X-Amz-Target": f"{model.metadata['targetPrefix']}.PutLogEvents",
    }
    assert (request["method"], request["resourcePath"]) == (operation.http["method"], operation.http["requestUri"])
    assert (called["logGroupName"], called["logStreamName"]) == ("usage", "appsync")
    (event,) = called["logEvents"]
    report = counted(event["message"])
    assert (report.id, report.source, report.amounts, report.moment) == (
        "6d1b7a3e-0000-4000-8000-000000000000",
        "@auth0|5f7c",
        {"queries": 1},
        event["timestamp"],
    )
    assert "business" not in event["message"]


@pytest.mark.parametrize("failed", [{"error": {"message": "Timeout"}}, {"result": {"statusCode": 400}}], ids=str)
def test_a_call_of_appsync_that_could_not_be_metered_fails(tmp_path: Path, failed: Mapping[str, Any]) -> None:
    """I9: an answer that is given for nothing is never silent."""
    before: dict[str, Any] = {"prev": {"result": "hello"}, "error": None, "result": {"statusCode": 200}}
    assert appsync(tmp_path, before, "response") == "hello"
    assert appsync(tmp_path, {**before, **failed}, "response") == {"error": "NotMetered"}


def test_what_appsync_puts_round_a_resolvers_own_line_can_be_read() -> None:
    """As EvaluateCode answers it (AppSync Developer Guide, "Testing and debugging resolvers (JavaScript)").

    The example does not write there: the same log holds the queries of callers.
    """
    line = '{"usage": {"id": "q-1", "time": 1795324620000, "customer": "acme", "queries": 1}}'
    reader = UsageLineReader(datetime(2026, 11, 22, 6, tzinfo=UTC), reporting.METRICS)
    for framed in (f"INFO - code.js:13:5: {json.dumps(line)}", f"6d1b7a3e INFO - code.js:13:5: {line}"):
        report = reader.read(framed)
        assert isinstance(report, Report)
        assert (report.source, report.amounts) == ("@acme", {"queries": 1})


TOKEN = """
    import { generateKeyPairSync, sign } from "node:crypto";
    import { customerOf, report } from "./load_balancer.mjs";
    const ours = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:loadbalancer/app/ours/1";
    const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const padded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url").padEnd(200, "=");
    const token = (head, claims, key = pair.privateKey) => {
        const signed = `${padded({ alg: "ES256", kid: "k1", signer: ours, exp: Date.now() / 1000 + 60, ...head })}.` +
            padded({ sub: "acme", ...claims });
        const signature = sign("sha256", Buffer.from(signed), { key, dsaEncoding: "ieee-p1363" });
        return `${signed}.${signature.toString("base64")}`;
    };
    const whose = (text) => customerOf({ "x-amzn-oidc-data": text }, ours, async () => pair.publicKey);
"""


def test_behind_a_load_balancer_the_subject_that_it_signed_is_billed() -> None:
    """Its tokens have padding (Elastic Load Balancing, "Authenticate users using an Application Load Balancer")."""
    report = counted(node(TOKEN + "report(await whose(token({}, {})), 4);"), *CONTAINER)
    assert (report.source, report.amounts) == ("@acme", {"words": 4})


@pytest.mark.parametrize(
    "forged",
    [
        'token({ signer: ours + "0" }, {})',
        "token({ exp: Date.now() / 1000 - 1 }, {})",
        'token({ alg: "none" }, {})',
        'token({}, {}, generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey)',
        'token({}, {}).replace(padded({ sub: "acme" }), padded({ sub: "globex" }))',
        "undefined",
    ],
)
def test_a_token_that_our_load_balancer_has_not_signed_bills_nobody(forged: str) -> None:
    """I7: of another load balancer, of yesterday, without a signature, by another key, with other claims, none."""
    assert (
        node(TOKEN + f"await whose({forged}).then((sub) => console.log(sub), () => console.log('none'));") == "none\n"
    )


def test_a_minute_of_a_session_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    """I2: two servers tell it, or one twice a minute."""
    container = module("container")
    began = int(datetime.now(UTC).timestamp() * 1000) - 90_000
    for late in (0, 5_000):
        container.tell([container.Session("s1", "acme", began)], began + 65_000 + late)
    reports = [counted(line, *CONTAINER) for line in capsys.readouterr().out.splitlines()]
    assert [(report.id, report.source) for report in reports] == [("s1-1", "@acme")] * 2
    assert [quantity for _, quantity in measure_reports(reports, reporting.METRICS).once.values()] == [1]


def test_an_attempt_of_a_job_that_runs_again_counts_once(tmp_path: Path) -> None:
    """I2: the job's id is that of each attempt (AWS Batch User Guide, "Environment variables")."""
    (tmp_path / "rows.csv").write_text("a,1\nb,2\n\nc,3\n")
    reports = []
    for attempt in ("1", "2"):
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, str(reporting.REPORTERS / "job.py"), str(tmp_path / "rows.csv")],
            env={"AWS_BATCH_JOB_ID": "4c7599ae", "AWS_BATCH_JOB_ATTEMPT": attempt, "CUSTOMER": "acme"},
            capture_output=True,
            text=True,
            check=True,
        )
        reports.append(counted(done.stdout, *CONTAINER))
    assert [(report.id, report.source, report.amounts) for report in reports] == [
        ("4c7599ae", "@acme", {"rows": 3})
    ] * 2
    assert [quantity for _, quantity in measure_reports(reports, reporting.METRICS).once.values()] == [3]


def test_a_question_that_is_asked_twice_counts_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """I2: SQS delivers it again under its own id; the model's answer is of Bedrock's own shape."""
    tokens = module("tokens")
    client = boto3.client(
        "bedrock-runtime", region_name="eu-central-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "Forty-two."}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 12, "outputTokens": 5, "totalTokens": 17},
        "metrics": {"latencyMs": 740},
    }
    sent = int(datetime.now(UTC).timestamp() * 1000)
    record = {
        "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "attributes": {"SentTimestamp": str(sent)},
        "body": json.dumps({"customer": "acme", "text": "what is the answer?"}),
    }
    monkeypatch.setenv("MODEL", reporting.MODEL)
    monkeypatch.setattr(tokens, "_model", lambda: client)
    with Stubber(client) as stubber:
        for _ in range(2):
            stubber.add_response("converse", answer)
            tokens.handler({"Records": [record]}, None)
    printed = capsys.readouterr().out
    assert "answer" not in printed
    assert "Forty" not in printed
    reports = [counted(line, *LAMBDA_PYTHON) for line in printed.splitlines()]
    assert reports[0] == reports[1]
    assert (reports[0].id, reports[0].source, reports[0].moment) == (record["messageId"], "@acme", sent)
    once = measure_reports(reports, reporting.METRICS).once
    assert {metric: quantity for (metric, _, _), (_, quantity) in once.items()} == {
        "input_tokens": 12,
        "output_tokens": 5,
    }


@pytest.fixture(scope="module")
def assembly(context: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> CloudAssembly:
    """The app that attaches them."""
    return reporting.build(cdk.App(context=context, outdir=str(tmp_path_factory.mktemp("cdk.out")))).synth()


@pytest.fixture(scope="module")
def template(assembly: CloudAssembly) -> Template:
    """The stack with one of each kind."""
    return dict(assembly.get_stack_by_name("Reporters").template)


def test_each_log_of_the_reporters_is_metered_and_written_by_one_role(template: Template) -> None:
    """I7: whoever else could write there could bill anyone."""
    subscribed = {
        flat(one["Properties"]["LogGroupName"]) for one in of_type(template, "AWS::Logs::SubscriptionFilter").values()
    }
    assert subscribed == {"FunctionUrlLog", "AppSyncLog", "ServerLog", "JobLog", "TokensLog"}
    writing = [
        flat(statement["Resource"])
        for policy in of_type(template, "AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "logs:PutLogEvents" in statement["Action"]
    ]
    assert sorted(writing) == sorted(subscribed)
    assert of_type(template, "AWS::Logs::ResourcePolicy") == {}
    assert policy_findings(template) == []


def test_cloudformation_takes_the_reporters(template: Template) -> None:
    """In each Region that has function URLs and AppSync."""
    findings = schema_findings(template)
    assert [sentence for _, sentence in findings if "does not exist in" not in sentence] == []


def test_what_names_the_customer_of_a_reporter_is_verified_by_aws(template: Template) -> None:
    """I7: a function URL takes signed calls alone, AppSync tokens of the issuer."""
    (url,) = of_type(template, "AWS::Lambda::Url").values()
    assert url["Properties"]["AuthType"] == "AWS_IAM"
    (api,) = of_type(template, "AWS::AppSync::GraphQLApi").values()
    assert api["Properties"]["AuthenticationType"] == "OPENID_CONNECT"
    assert api["Properties"]["OpenIDConnectConfig"] == {"Issuer": reporting.ISSUER}


def test_appsync_reports_last_and_signs_what_it_writes(template: Template) -> None:
    """So that an answer that failed is not billed."""
    (resolver,) = of_type(template, "AWS::AppSync::Resolver").values()
    functions = [name["Fn::GetAtt"][0] for name in resolver["Properties"]["PipelineConfig"]["Functions"]]
    names = [template["Resources"][name]["Properties"]["Name"] for name in functions]
    assert names == ["hello", "report"]
    sources = of_type(template, "AWS::AppSync::DataSource").values()
    (signed,) = [one["Properties"]["HttpConfig"] for one in sources if "HttpConfig" in one["Properties"]]
    assert signed["AuthorizationConfig"]["AwsIamConfig"]["SigningServiceName"] == "logs"

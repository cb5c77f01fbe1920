"""The functions' zip, built without Docker, and how every function is configured.

boto3 is not in the zip: Lambda's runtime brings it with bytecode, a reproducible zip holds none. Measured on two
x86-64 cores, import and first DynamoDB client, median of 9 fresh interpreters in the quietest of three rounds: 0.37 s
with bytecode, 0.81 s without. 512 MB get 0.29 of a core, which makes the difference 1.5 s of each cold start. So the
functions keep to what the runtime's older boto3 knows, too.
"""

import hashlib
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aws_cdk as cdk
import jsii
import uv
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.stack.sizes import Size
from metering.signals import NAMESPACE

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = 0o755
"""The mode of a folder, and of a file that is executable (Lambda Developer Guide, "Deployment package file
permissions")."""

FILE: Final = 0o644

RUNTIME: Final = lambda_.Runtime.PYTHON_3_13


def function_code(name: str, *, local: bool, more: Mapping[str, bytes]) -> lambda_.Code:
    """Return a function's zip, for Lambda's arm64, or for this machine when ``local``; with ``more`` files, by path.

    Each function has a zip of its own, since Stripe's SDK is three quarters of what they need together, and
    ``record_usage`` never imports it.
    """
    fingerprint = hashlib.sha256(repr(sorted(more.items())).encode()).hexdigest()
    return lambda_.Code.from_asset(
        str(ROOT / "functions"),
        exclude=["**/__pycache__"],
        asset_hash_type=cdk.AssetHashType.OUTPUT,
        bundling=cdk.BundlingOptions(
            image=cdk.DockerImage.from_registry("never-pulled"),
            # No command is run; it keeps CDK from taking one function's zip, or one stack's, for the other's.
            command=[name, fingerprint],
            local=_Bundler(name, local, more),  # type: ignore[arg-type]  # the protocol's signature is not what jsii calls
        ),
    )


@jsii.implements(cdk.ILocalBundling)
class _Bundler:
    def __init__(self, name: str, local: bool, more: Mapping[str, bytes]) -> None:  # noqa: FBT001 - its one caller is above
        self._name = name
        self._local = local
        self._more = more

    def try_bundle(self, output_dir: str, _options: cdk.BundlingOptions) -> bool:
        """Bundle here, without Docker."""
        build(Path(output_dir), name=self._name, local=self._local, more=self._more)
        return True


def build(target: Path, *, name: str, local: bool, more: Mapping[str, bytes] | None = None) -> None:
    """Fill ``target`` with a function, its locked dependencies and ``more`` files.

    One commit gives the same bytes, and modes by which everyone may read them.
    """
    for path, content in (more or {}).items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(content)
    for source in (ROOT / "functions" / f"{name}.py", *(ROOT / "functions" / "metering").rglob("*.py")):
        copy = target / source.relative_to(ROOT / "functions")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    locked = _uv(
        "export", "--frozen", "--only-group", name.replace("_", "-"), "--no-emit-project", "--project", str(ROOT)
    )
    platform = (
        ("--python-version", f"{sys.version_info.major}.{sys.version_info.minor}")
        if local
        else ("--python-version", RUNTIME.name.removeprefix("python"), "--python-platform", "aarch64-manylinux_2_28")
    )
    install = (
        "pip",
        "install",
        "--quiet",
        "--requirements",
        "-",
        "--require-hashes",
        "--only-binary",
        ":all:",
        *platform,
    )
    reproducible = ("--no-installer-metadata", "--no-compile-bytecode", "--link-mode", "copy")
    _uv(*install, *reproducible, "--python", sys.executable, "--target", str(target), stdin=locked)
    shutil.rmtree(target / "bin", ignore_errors=True)
    for leftover in (target / ".lock", *target.glob("*.dist-info/RECORD")):
        leftover.unlink(missing_ok=True)
    _set_modes(target)


def _set_modes(target: Path) -> None:
    """Let everyone read what is zipped, whatever this machine's umask: Lambda runs it as another user.

    The asset's hash knows no modes, so that a zip with wrong ones would stay deployed.
    """
    target.chmod(FOLDER)
    for path in target.rglob("*"):
        is_executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(FOLDER if is_executable else FILE)


def _uv(*arguments: str, stdin: str | None = None) -> str:
    """Run the locked uv, not whichever is on the PATH; what it complains of goes to the terminal."""
    # Without colours: the CDK CLI forces them upon its children, and an export must be plain text.
    command = [uv.find_uv_bin(), "--color", "never", *arguments]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603 - our own arguments


LARGEST_ENVIRONMENT: Final = 4096
"""Lambda's limit on a function's environment, in bytes; its error message shows it measured as JSON."""

LONGEST_NAME: Final = 255
"""How long a name that CloudFormation has yet to choose may become; no table, bucket or secret ARN here is longer."""


def function(  # noqa: PLR0913 - what differs between the functions, each by name
    scope: Construct,
    name: str,
    *,
    module: str,
    local: bool,
    settings: Mapping[str, str],
    deployment: str,
    size: Size,
    description: str,
    concurrency: int | None = None,
    more: Mapping[str, bytes] | None = None,
) -> lambda_.Function:
    """Return a function that may write its own log and nothing else; ``more`` files are in its zip, by their path.

    As many of it as ``concurrency`` says run at once, which the account keeps for it; None takes what the account has.
    Raises ValueError if its environment would not fit into Lambda's.
    """
    environment = {
        **settings,
        "POWERTOOLS_SERVICE_NAME": deployment,
        "POWERTOOLS_METRICS_NAMESPACE": NAMESPACE,
    }
    _check_environment(module, environment)
    log = logs.LogGroup(
        scope, f"{name}Log", retention=logs.RetentionDays.ONE_MONTH, removal_policy=cdk.RemovalPolicy.DESTROY
    )
    role = iam.Role(scope, f"{name}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    log.grant_write(role)
    made = lambda_.Function(
        scope,
        name,
        code=function_code(module, local=local, more=more or {}),
        handler=f"{module}.handler",
        description=description,
        runtime=RUNTIME,
        architecture=lambda_.Architecture.ARM_64,
        memory_size=size.memory,
        timeout=cdk.Duration.seconds(size.timeout),
        reserved_concurrent_executions=concurrency,
        role=role,
        log_group=log,
        logging_format=lambda_.LoggingFormat.JSON,
        application_log_level_v2=lambda_.ApplicationLogLevel.INFO,
        system_log_level_v2=lambda_.SystemLogLevel.WARN,
        environment=environment,
    )
    cdk.Validations.of(made).acknowledge(
        cdk.Acknowledgment(
            id="AwsSolutions-L1",
            reason="The dependencies are locked for Python 3.13, which is supported until 2029; "
            "the runtime is raised with them, not with the CDK.",
        )
    )
    return made


def _check_environment(module: str, environment: Mapping[str, str]) -> None:
    resolved = {
        name: "x" * LONGEST_NAME if cdk.Token.is_unresolved(value) else value for name, value in environment.items()
    }
    size = len(json.dumps(resolved, separators=(",", ":")).encode())
    if size > LARGEST_ENVIRONMENT:
        raise ValueError(
            f"the environment of {module} must fit into {LARGEST_ENVIRONMENT} bytes, got {size}: "
            "declare fewer metrics, or give them shorter names and filters"
        )

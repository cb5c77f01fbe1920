"""An embedded AWS: ministack on a free port of 127.0.0.1, and the real CDK CLI to deploy to it.

    with Emulator() as emulator:
        outputs = emulator.deploy({}, stacks=["SampleApi"], context={})
        emulator.client("dynamodb").list_tables()

Nothing of it outlives its `with`: neither a process nor, unless the block raised, a file.
"""

import contextlib
import functools
import http
import http.client
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import boto3
from botocore.config import Config

from infra.local import npm
from infra.operate.deployment import OperatorError

REPOSITORY: Final = Path(__file__).resolve().parents[3]
SERVING: Final = Path(__file__).with_name("serving.py")

START_LIMIT_S: Final = 300.0
STOP_LIMIT_S: Final = 60.0
TAIL_LINES: Final = 40


class EmulatorFailed(OperatorError):  # noqa: N818  it says what happened, as the others here do
    """The emulator did not start, or its CDK CLI failed; the message ends with the last lines of its output."""


class Emulator:
    """AWS on 127.0.0.1 for as long as its `with` lasts, in one account and Region, with nothing kept afterwards.

    - `endpoint_url`: where it listens; functions that it runs get it as `AWS_ENDPOINT_URL`.
    - `region`, `account_id`, `access_key_id`, `secret_access_key`: what clients use. The keys are made for this run,
      and are root's: no web page, and no other program that was not told them, can ask anything of it but the APIs
      that are deployed there (`serving.py` has the rules).
    - `log_path`: its log. It is deleted on exit; if the `with` block raised, it is kept and the error has a note of it.
    - `pid`: the leader of its process group, of which every process that it starts is a member.

    Entering raises `EmulatorFailed` when it dies or does not answer within 300 s. The first start on a machine
    downloads it; later ones work offline and take about a second and a half.
    """

    region: Final = "us-east-1"
    account_id: Final = "000000000000"  # ministack's own, unless an access key of 12 digits names another

    access_key_id: str
    secret_access_key: str
    endpoint_url: str
    log_path: Path
    pid: int

    def __enter__(self) -> Self:
        python = ministack_python()
        self._folder = Path(tempfile.mkdtemp(prefix="metering-emulator-"))
        self.log_path = self._folder / "emulator.log"
        self.access_key_id = "AKIA" + _random(string.ascii_uppercase + "234567", 16)
        self.secret_access_key = _random(string.ascii_letters + string.digits, 40)
        # Bound here and inherited, so that no other process can take the port in between.
        with socket.create_server(("127.0.0.1", 0)) as listener, self.log_path.open("wb") as log:
            port = int(listener.getsockname()[1])
            descriptor = listener.fileno()
            # It leads a process group of its own, with the functions that it runs as members. Its standard input is a
            # pipe that only this process holds: however this one ends, the pipe then ends, and the group with it.
            self._process = subprocess.Popen(  # noqa: S603  the arguments are ours
                [python, "-B", "-P", str(SERVING), str(self._folder), str(descriptor)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[descriptor],
                env=self._own_environment(port),
                cwd=self._folder,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.endpoint_url = f"http://127.0.0.1:{port}"
        try:
            self._wait_until_healthy(port)
        except BaseException:
            self._stop()
            self._delete()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if isinstance(error, Exception):
            error.add_note(f"the emulator's log: {self.log_path}")
        else:
            self._delete()

    def environment(self) -> dict[str, str]:
        """Return this process's environment, changed so that AWS clients and the CDK CLI reach this emulator only.

        Every `AWS_*` variable of ours (profiles, roles, endpoints of single services) is gone, and the files of
        `~/.aws` are not read; a proxy is not asked for this machine. The venv's programs, Node among them, come first
        on `PATH`.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CDK_"))}
        no_proxy = ",".join(filter(None, [kept.get("NO_PROXY", kept.get("no_proxy")), "127.0.0.1", "localhost"]))
        return kept | {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "PATH": npm.path(),
        }

    def emails(self) -> list[dict[str, Any]]:
        """Return the e-mail that its SES has sent, each with ``Source``, ``To``, ``Subject`` and ``BodyText``."""
        # Ministack's own door asks for no signature, but for whose it would be.
        signed = {"Authorization": f"AWS4-HMAC-SHA256 Credential={self.access_key_id}/-, SignedHeaders=host"}
        request = urllib.request.Request(f"{self.endpoint_url}/_ministack/ses/messages", headers=signed)  # noqa: S310 - itself
        with urllib.request.urlopen(request, timeout=STOP_LIMIT_S) as answer:  # noqa: S310
            messages: dict[str, list[dict[str, Any]]] = json.loads(answer.read())["messages"]
        return messages.get(self.account_id, [])

    def client(self, service: str) -> Any:
        """Return a new boto3 client of `service` for this emulator; close it, or its connections stay open."""
        client: Callable[..., Any] = boto3.Session().client  # a session of its own: they are not for many threads
        return client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(proxies={}, max_pool_connections=50),
        )

    def deploy(
        self,
        env: Mapping[str, str],
        *,
        stacks: Sequence[str] = (),
        context: Mapping[str, str],
        app: Path = REPOSITORY,
    ) -> dict[str, dict[str, str]]:
        """Deploy the CDK app in the folder `app` as `cdk deploy` does, and return each stack's outputs by its name.

        - `env`: variables for the app, besides `environment()`.
        - `stacks`: which to deploy, with those that they need; none means all.
        - `context`: the app's context values.

        May be called again to deploy a change. Raises `EmulatorFailed` with the end of what the failing command said.

        Bootstrapping runs beside the synthesis, which is the longer of the two. CDK's check of the templates against
        CloudFormation's rules (`CDK_VALIDATION`) takes longer than everything else together and belongs to the tests of
        the stacks; without Python's compiled files each synthesis would compile aws-cdk-lib's 100 MB anew.
        """
        environment = self.environment() | {"CDK_VALIDATION": "false", "CDK_DISABLE_VERSION_CHECK": "1"} | dict(env)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        cdk = [_cdk_cli(), "--no-notices", "--no-version-reporting"]
        values = [argument for name, value in context.items() for argument in ("--context", f"{name}={value}")]
        with tempfile.TemporaryDirectory(prefix="metering-cdk-") as name, ThreadPoolExecutor(1) as beside:
            folder = Path(name)
            assembly, outputs = folder / "cdk.out", folder / "outputs.json"
            bootstrap = [*cdk, "bootstrap", f"aws://{self.account_id}/{self.region}"]
            # In the empty folder: with explicit environments bootstrap needs no app.
            bootstrapped = beside.submit(_run, bootstrap, cwd=folder, environment=environment)
            _run([*cdk, "synth", "--quiet", *values, "--output", str(assembly)], cwd=app, environment=environment)
            bootstrapped.result()
            deploy = [*cdk, "deploy", "--app", str(assembly), "--require-approval", "never", "--method", "direct"]
            selection = list(stacks) or ["--all"]
            _run([*deploy, "--outputs-file", str(outputs), *selection], cwd=folder, environment=environment)
            if not outputs.exists():  # no stack has an output
                return {}
            found: dict[str, dict[str, str]] = json.loads(outputs.read_text())
            return found

    def _own_environment(self, port: int) -> dict[str, str]:
        """Return the variables that ministack, and each function that it runs, starts with: none of ours but two.

        What this process holds (Stripe's key, an AWS profile, a proxy, a home with its files) must not reach the
        functions by inheritance.
        """
        inherited = {"LANG": os.environ["LANG"]} if "LANG" in os.environ else {}
        return inherited | {
            "PATH": npm.path(),
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder),
            "STATE_DIR": str(self._folder / "state"),
            "S3_DATA_DIR": str(self._folder / "s3"),
            "GATEWAY_PORT": str(port),
            "AUTH": "true",  # functions may do what their roles allow, and nothing else
            # Root's. Functions get those of their roles in place of these.
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            # At its start ministack removes containers of any other ministack, and it would listen on fixed ports.
            "DOCKER_HOST": f"unix://{self._folder}/no-docker.sock",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
        }

    def _wait_until_healthy(self, port: int) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not _is_healthy(port):
            if (code := self._process.poll()) is not None:
                raise EmulatorFailed(f"ministack ended with code {code} while starting:", *_tail(self._log()))
            if time.monotonic() > deadline:
                raise EmulatorFailed(f"ministack did not answer within {START_LIMIT_S:.0f} s:", *_tail(self._log()))
            time.sleep(0.03)

    def _log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def _stop(self) -> None:
        """End the whole group. Nothing is saved, so nothing needs time to end in order."""
        # If it ended by itself there is nobody to signal; macOS calls a group of zombies forbidden.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # The leader has not been waited for, so its id cannot belong to anyone else yet.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_LIMIT_S)
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # a function that is just dying may still write


@functools.cache
def ministack_python() -> str:
    """Return the Python of ministack's own environment, which uv makes as `serving.py.lock` says, hash by hash.

    It is made by the Python that runs this: ministack runs functions with its own interpreter, and their zips hold
    compiled packages.
    """
    uv = [sys.executable, "-m", "uv"]
    sync = [*uv, "sync", "--quiet", "--frozen", "--python", sys.executable, "--script", str(SERVING)]
    _run(sync, cwd=REPOSITORY, environment=os.environ)
    return _run([*uv, "python", "find", "--script", str(SERVING)], cwd=REPOSITORY, environment=os.environ).strip()


def _run(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> str:
    """Return what `command` wrote to its standard output; raise `EmulatorFailed` when it fails or cannot be run."""
    try:
        done = subprocess.run(  # noqa: S603  the arguments are ours
            command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
    except FileNotFoundError as missing:
        raise EmulatorFailed(f"cannot run {command[0]}: {missing}") from missing
    if done.returncode != 0:
        raise EmulatorFailed(
            f"code {done.returncode} from: {shlex.join(command)}", *_tail(done.stdout), *_tail(done.stderr)
        )
    return done.stdout


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _cdk_cli() -> str:
    try:
        return str(npm.installed(npm.CDK) / ".bin" / "cdk")
    except npm.NpmError as error:
        raise EmulatorFailed(str(error)) from error


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(text: str) -> list[str]:
    return text.splitlines()[-TAIL_LINES:]

"""AWS's own DynamoDB Local: the engine of DynamoDB for one machine, started on a free port of 127.0.0.1.

    with DynamoDBLocal() as dynamodb:
        dynamodb.client().list_tables()

It needs Java 17 and, the first time, Maven. Nothing of it outlives its `with`, or its starter.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.local.cache import kept

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

VERSION: Final = "2.6.1"
JARS_SHA256: Final = "d8ba819ff4c84c49d074ba0e137a374b0fccd3c9c7d3dffe429336af731cb73e"
"""Of the names of all jars with the SHA-256 of each."""

START_LIMIT_S: Final = 300
TAIL_LINES: Final = 20

# Its own main class listens on every interface and has no option for one. So Jetty's is used, with a description of
# the same server; jetty-xml has the version of the Jetty that this DynamoDB Local brings.
POM: Final = f"""
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>dynamodb-local</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>com.amazonaws</groupId><artifactId>DynamoDBLocal</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.eclipse.jetty</groupId><artifactId>jetty-xml</artifactId><version>12.0.14</version></dependency>
  </dependencies>
</project>
"""

# The connector takes the listening socket that the starter bound to 127.0.0.1, from its standard input: no other
# process can take the port in between, and who connects early waits in its queue. An idle connection is kept, as
# clients expect of DynamoDB. The handler's arguments: no port of its own, in memory, no folder, a database per access
# key and Region, no delays.
SERVER: Final = """<?xml version="1.0"?>
<!DOCTYPE Configure PUBLIC "-//Jetty//Configure//EN" "https://jetty.org/configure_10_0.dtd">
<Configure id="server" class="org.eclipse.jetty.server.Server">
  <Call name="addConnector"><Arg>
    <New class="org.eclipse.jetty.server.ServerConnector">
      <Arg><Ref refid="server"/></Arg>
      <Set name="host">127.0.0.1</Set>
      <Set name="inheritChannel">true</Set>
      <Set name="idleTimeout">3600000</Set>
    </New>
  </Arg></Call>
  <Set name="handler">
    <New class="com.amazonaws.services.dynamodbv2.local.server.LocalDynamoDBServerHandler">
      <Arg>
        <New class="com.amazonaws.services.dynamodbv2.local.server.LocalDynamoDBRequestHandler">
          <Arg type="int">0</Arg><Arg type="boolean">true</Arg><Arg/>
          <Arg type="boolean">false</Arg><Arg type="boolean">false</Arg>
        </New>
      </Arg>
      <Arg>*</Arg>
    </New>
  </Set>
</Configure>
"""

# It leads a process group of its own, with Java as a member. Its standard input is a pipe that only its starter holds:
# however the starter ends, SIGKILL included, the pipe then ends, and the group with it.
SERVE: Final = """
import os, shutil, signal, subprocess, sys, threading

def end_with_the_starter(folder):
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)

folder, listener, *command = sys.argv[1:]
threading.Thread(target=end_with_the_starter, args=(folder,), daemon=True).start()
sys.exit(subprocess.call(command, stdin=int(listener)))
"""


class CannotRunError(RuntimeError):
    """DynamoDB Local cannot run on this machine; the message says what is missing."""


class DynamoDBLocal:
    """An empty DynamoDB for as long as its `with` lasts; `endpoint_url` and `port` say where it listens.

    Entering raises CannotRunError if Java or Maven is missing, the jars cannot be fetched, or it does not start.
    """

    endpoint_url: str
    port: int

    def __enter__(self) -> Self:
        java, jars = _program("java"), _jars()
        self._folder = Path(tempfile.mkdtemp(prefix="dynamodb-local-"))
        (self._folder / "server.xml").write_text(SERVER)
        command = [java, f"-Djava.library.path={jars}", "-cp", f"{jars}/*", "org.eclipse.jetty.xml.XmlConfiguration"]
        with socket.create_server(("127.0.0.1", 0)) as listener, (self._folder / "log").open("wb") as log:
            self.port = int(listener.getsockname()[1])
            self._process = subprocess.Popen(  # noqa: S603  the arguments are ours
                [sys.executable, "-c", SERVE, str(self._folder), str(listener.fileno()), *command, "server.xml"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
                cwd=self._folder,
                start_new_session=True,
            )
        self.endpoint_url = f"http://127.0.0.1:{self.port}"
        try:
            self.client(Config(read_timeout=START_LIMIT_S, retries={"total_max_attempts": 1})).list_tables()
        except (BotoCoreError, ClientError) as error:
            said = _tail((self._folder / "log").read_text(errors="replace"))
            self._stop()
            raise CannotRunError(f"DynamoDB Local does not answer: {error}\n{said}") from error
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def client(self, config: Config | None = None, *, port: int | None = None) -> "DynamoDBClient":
        """Return a new client; `port` is that of a proxy in between."""
        return client_at(port or self.port, config)

    @property
    def group(self) -> int:
        """The id of the group of its processes."""
        return self._process.pid

    def _stop(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # The leader has not been waited for, so its id cannot belong to anyone else yet.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def client_at(port: int, config: Config | None = None) -> "DynamoDBClient":
    """Return a new client of what listens on a port."""
    # A session of its own, since a session is not for many threads.
    return boto3.Session().client(
        "dynamodb",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(proxies={}).merge(config or Config()),
    )


def table_definition(template: Mapping[str, Any], logical_id: str) -> dict[str, Any]:
    """Return what `create_table` needs for a table as the synthesised template says, so that the two cannot drift."""
    (properties,) = [
        resource["Properties"]
        for key, resource in template["Resources"].items()
        if resource["Type"] == "AWS::DynamoDB::GlobalTable" and key.startswith(logical_id)
    ]
    indexes = properties.get("GlobalSecondaryIndexes")
    wanted = ("KeySchema", "AttributeDefinitions", "BillingMode")
    return {name: properties[name] for name in wanted} | ({"GlobalSecondaryIndexes": indexes} if indexes else {})


def _jars() -> Path:
    """Return the folder of DynamoDB Local and all it needs, fetched with Maven the first time (50 MB)."""
    return kept(f"dynamodb-local-{JARS_SHA256[:16]}", _fetch)


def _fetch(folder: Path) -> None:
    mvn = _program("mvn")
    with tempfile.TemporaryDirectory() as project:
        (Path(project) / "pom.xml").write_text(POM)
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        done = subprocess.run(  # noqa: S603  Maven, as found on PATH
            [mvn, "--batch-mode", "--quiet", *goal], cwd=project, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise CannotRunError(f"Maven could not fetch DynamoDB Local:\n{_tail(done.stdout + done.stderr)}")
    content = "".join(f"{jar.name} {sha256(jar.read_bytes()).hexdigest()}\n" for jar in sorted(folder.iterdir()))
    if (got := sha256(content.encode()).hexdigest()) != JARS_SHA256:
        raise CannotRunError(f"the jars of DynamoDB Local must have the SHA-256 {JARS_SHA256}, got {got}:\n{content}")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CannotRunError(f"DynamoDB Local needs {name}, which is not on PATH")
    return found


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL_LINES:])

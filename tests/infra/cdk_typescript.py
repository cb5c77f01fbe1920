"""Apps of the CDK in TypeScript: checked by its compiler, and synthesised.

The CDK is the one that its Python edition brings along and runs itself; the compiler alone comes from npm.
"""

import importlib.resources
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from infra.local import npm
from tests.doubles.template import Template
from tests.infra import typescript

LONGEST: Final = 600
"""Seconds after which a program hangs."""

STRICT: Final = {"module": "node16", "target": "es2022", "strict": True, "skipLibCheck": True}

_PACKAGES: Final = {
    "aws_cdk": "aws-cdk-lib",
    "aws_cdk.cloud_assembly_schema": "@aws-cdk/cloud-assembly-schema",
    "constructs": "constructs",
}
"""What an app needs, by the package of Python that brings it."""


class TypeScriptError(Exception):
    """What the compiler, or the app, complains of."""


def synthesised(folder: Path, files: Mapping[str, str]) -> dict[str, Template]:
    """Return the templates, by stack, of an app whose ``main.ts`` is run; TypeScriptError for one that is not sound.

    Raises NpmError where the compiler cannot be had.
    """
    compiler = typescript.compiler()
    for name, package in _PACKAGES.items():
        with importlib.resources.as_file(importlib.resources.files(f"{name}._jsii")) as brought:
            (archive,) = brought.glob("*.jsii.tgz")
            with tarfile.open(archive) as content:
                content.extractall(folder / "node_modules" / package, filter=_without_its_folder)  # noqa: S202
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": STRICT, "files": ["main.ts"]}))
    _run(folder, str(compiler), "--project", ".", "--pretty", "false")
    _run(folder, "node", "main.js")
    return {path.name.partition(".")[0]: json.loads(path.read_text()) for path in folder.glob("out/*.template.json")}


def _without_its_folder(member: tarfile.TarInfo, where: str) -> tarfile.TarInfo | None:
    """Leave out the folder in which npm packs everything."""
    return tarfile.data_filter(member.replace(name=member.name.partition("/")[2]), where)


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own arguments
        command,
        cwd=folder,
        env={**os.environ, "PATH": npm.path(), "CDK_OUTDIR": "out"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    if done.returncode != 0:
        raise TypeScriptError(done.stdout + done.stderr)

"""The app's templates, synthesised once a run, however many processes run its tests."""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Template = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The app as it is deployed, checked by cdk-nag; ``folder`` is one that all processes of a run share."""

    folder: Path

    def templates(self, name: str, context: Mapping[str, Any]) -> dict[str, Template]:
        """Return the templates of the app's stacks by their names, in order of deployment.

        The first process that asks by a name synthesises with the context, and keeps the others waiting.
        """
        assembly = self.folder / name
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            if not assembly.exists():
                unfinished = self.folder / f"{name}.unfinished"
                _synthesise(unfinished, context)
                unfinished.rename(assembly)
        artifacts = json.loads((assembly / "manifest.json").read_text())["artifacts"]
        return {
            stack: json.loads((assembly / artifact["properties"]["templateFile"]).read_text())
            for stack, artifact in artifacts.items()
            if artifact["type"] == "aws:cloudformation:stack"
        }


def _synthesise(folder: Path, context: Mapping[str, Any]) -> None:
    import aws_cdk as cdk  # noqa: PLC0415 - starts Node, which tests without a stack need not wait for

    from app import build  # noqa: PLC0415 - imports aws_cdk

    build(cdk.App(context=context, outdir=str(folder))).synth()

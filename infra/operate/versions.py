"""Versions of the commands and of what they work on: which of the two is to be brought up first."""

import re

from infra.outputs import VERSION, Outputs


def first_up(outputs: Outputs) -> str:
    """Say what is to be brought up first, the commands or the stack; nothing if they are of one version."""
    there = outputs.deployed_version
    if are_behind(outputs):
        return f"bring these commands to {there} first, by git and 'uv sync', and deploy nothing before"
    return "deploy the Metering stack first" if there != VERSION else ""


def are_behind(outputs: Outputs) -> bool:
    """Say whether the commands are older than what deployed the stack, and may not know all that it writes."""
    return outputs.deployed_version != VERSION and not _order(outputs.deployed_version) < _order(VERSION)


def _order(version: str) -> tuple[list[int], bool]:
    """Return what versions are put in order by: ``1.1.0.dev0`` comes before ``1.1.0``."""
    released, dev, _ = version.partition(".dev")
    return [int(number) for number in re.findall(r"\d+", released)], not dev

"""What the tests ask of a template."""

import re
from typing import Any

Template = dict[str, Any]

DEPLOYMENT = {"Fn::Join": ["", ["Metering-", {"Ref": "AWS::Region"}]]}
"""What a deployment is called by default: its stack and its Region."""


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """Return the resources of a type by their logical ids."""
    return {name: found for name, found in template["Resources"].items() if found["Type"] == kind}


def properties(template: Template, logical_id: str) -> dict[str, Any]:
    """Return the properties of the one resource whose logical id is this, but for the hash at its end."""
    (found,) = [value for name, value in template["Resources"].items() if name[:-8] == logical_id]
    return dict(found["Properties"])


def grants(template: Template, role: str) -> set[tuple[str, str, tuple[str, ...]]]:
    """Return each action that a role may do, on which resource, below which partition keys."""
    return {
        (action, flat(resource), tuple(statement.get("Condition", {}).get(LEADING, {}).get(KEYS, ())))
        for policy in policies(template, role)
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }


def denials(template: Template, role: str) -> list[dict[str, Any]]:
    """Return the statements that deny a role something."""
    return [one for policy in policies(template, role) for one in policy["Statement"] if one["Effect"] == "Deny"]


LEADING = "ForAllValues:StringLike"
KEYS = "dynamodb:LeadingKeys"
ATTRIBUTES = "dynamodb:Attributes"


def policies(template: Template, role: str) -> list[dict[str, Any]]:
    """Return the policy documents of a role, inline or attached; a managed policy would be an error."""
    (logical_id,) = [name for name in of_type(template, "AWS::IAM::Role") if name[:-8] == role]
    declared = template["Resources"][logical_id]["Properties"]
    assert "ManagedPolicyArns" not in declared
    attached = [
        found["Properties"]["PolicyDocument"]
        for found in of_type(template, "AWS::IAM::Policy").values()
        if {"Ref": logical_id} in found["Properties"]["Roles"]
    ]
    return [inline["PolicyDocument"] for inline in declared.get("Policies", [])] + attached


def flat(resource: Any) -> str:
    """Write a resource's ARN as the logical id it comes from, less the hash, and what is joined to it."""
    match resource:
        case {"Fn::GetAtt": [name, "Arn" | "QueueName" | "Id"]} | {"Ref": name}:  # a secret's Id is its ARN
            return re.sub(r"[0-9A-F]{8}$", "", name)
        case {"Fn::GetAtt": [name, "StreamArn"]}:
            return f"{flat({'Ref': name})}/stream"
        case {"Fn::Join": ["", parts]}:
            return "".join(map(flat, parts))
        case _:
            return str(resource)


def listed(value: Any) -> list[Any]:
    """Return a statement's value, which is not a list where there is only one, as a list."""
    return value if isinstance(value, list) else [value]


def joined(value: Any, known: str) -> str:
    """Return a text of a template, with what is known after the deployment alone as ``known``."""
    parts = value["Fn::Join"][1] if isinstance(value, dict) else [value]
    return "".join(part if isinstance(part, str) else known for part in parts)


def exports(template: Template) -> list[dict[str, Any]]:
    """Return what other stacks import, but for the stack's own id, whose GUID is in each line of the access log."""
    exported = [output for output in template["Outputs"].values() if "Export" in output]
    return [output for output in exported if output["Value"] != {"Ref": "AWS::StackId"}]

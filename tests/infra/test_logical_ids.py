"""The logical id of every resource, as deployments have it."""

import json
import re
from pathlib import Path

import pytest

from tests.doubles.template import Template

PINNED = json.loads((Path(__file__).parent / "logical_ids.json").read_text())
"""By stack and type; what only the road over Firehose has stands apart, and what only limits have."""

REPLACED = """\
To CloudFormation a resource with another logical id is another resource: where this is deployed, what is under - is
replaced by what is under +. A table or bucket would be a new, empty one; a function, key or address another one.
An id follows from the path of construct ids: put the construct where it was. If it is meant, or new, or gone on
purpose, change tests/infra/logical_ids.json, and say in the commit what a deployment loses."""

Ids = set[tuple[str, str]]


def test_no_logical_id_has_changed(template: Template) -> None:
    """Moving code about replaces no table, no function and no alarm."""
    assert_pinned(template, _pinned("Metering"))


def test_no_logical_id_has_changed_on_the_road_over_firehose(firehose_template: Template) -> None:
    """It has all that the other has, under the same ids, so that a deployment can change over."""
    pinned = _pinned("Metering") | _pinned("Metering, firehose alone")
    assert_pinned(firehose_template, pinned)


def test_no_logical_id_has_changed_where_there_are_limits(
    template: Template, limits_template: Template, limits_templates: dict[str, Template]
) -> None:
    """They add to what there is, and replace nothing of it but the sample's deployment, whose stage stays."""
    assert template["Resources"].keys() <= limits_template["Resources"].keys()
    assert_pinned(limits_template, _pinned("Metering") | _pinned("Metering, limits alone"))
    assert_pinned(limits_templates["SampleApi"], _pinned("SampleApi") | _pinned("SampleApi, limits alone"))


def test_no_logical_id_of_the_sample_has_changed(templates: dict[str, Template], firehose: dict[str, Template]) -> None:
    """On either road: a usage plan that was replaced would have lost its keys."""
    for synthesised in (templates, firehose):
        assert_pinned(synthesised["SampleApi"], _pinned("SampleApi"))


def test_no_logical_id_of_the_http_sample_has_changed(http: dict[str, Template]) -> None:
    """An API that was replaced would have another address."""
    assert_pinned(http["SampleHttpApi"], _pinned("SampleHttpApi"))


def test_a_changed_id_is_explained() -> None:
    """Whoever moves a construct reads what that does to a deployment."""
    template = {"Resources": {"StorageCountersABCD1234": {"Type": "AWS::DynamoDB::GlobalTable"}}}
    with pytest.raises(
        AssertionError, match=r"(?s)replaced.*- AWS::\S+ Counters\n.*\+ AWS::\S+ StorageCountersABCD1234"
    ):
        assert_pinned(template, {("AWS::DynamoDB::GlobalTable", "Counters")})


def assert_pinned(template: Template, pinned: Ids) -> None:
    """See that a template has the resources that are pinned, under their ids, and no other."""
    there = {(found["Type"], _lasting(found["Type"], name)) for name, found in template["Resources"].items()}
    differing = [f"  - {kind} {name}" for kind, name in sorted(pinned - there)]
    differing += [f"  + {kind} {name}" for kind, name in sorted(there - pinned)]
    assert not differing, "\n".join([REPLACED, *differing])


def _pinned(stack: str) -> Ids:
    return {(kind, name) for kind, names in PINNED[stack].items() for name in names}


def _lasting(kind: str, name: str) -> str:
    """Return an id without the hash of what is deployed, which a REST API's deployment has in its own."""
    return re.sub(r"[0-9a-f]{32}$", "", name) if kind == "AWS::ApiGateway::Deployment" else name

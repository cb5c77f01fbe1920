"""What the pages say that a program knows better: each function here writes a part of a page, and cog puts it there.

``uv run poe docs`` brings the pages up to date; a test fails while one of them is not.
"""

import ast
import functools
import inspect
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import typer
from typer.core import TyperGroup

from infra.cli.main import command_line
from infra.operate import rights
from metering.model.read_allotment import A_TRANSACTION, LEAST, ReadAllotment
from tests.conftest import ROOT
from tests.doubles.template import Template, grants, of_type

SETTINGS: Final = {
    "metrics": "what is billed for ([functions](../../functions/README.md#metrics))",
    "plans": "at which prices ([functions](../../functions/README.md#prices))",
    "access_log": "the kind of API, and who is billed ([below](#attach-your-own-api))",
    "road": "how lines reach the counters ([below](#choose-a-road))",
    "access_log_retention": "how long the log group keeps lines: it is what a bill can be recounted from",
    "archive_days": "how long Firehose's objects are kept; at least 62",
    "record_usage_concurrency": "how many of `record_usage` run at once, at least 5, which the account then keeps for "
    "it alone; a new account, which may run ten functions at once, has none to keep",
    "deployment": "begins the names of Stripe's meters; by default the stack's name and Region. Give one of your own "
    "if two accounts with stacks of the same name post to one Stripe account",
    "ledger_epoch": "raise it by one if you [restore the ledger](../operate/RUNBOOK.md#after-restoring-the-ledger)",
    "stripe_api_base": "where Stripe is; the local one in tests",
    "stripe_rate": "postings a second that your Stripe account takes; the workers keep it together",
    "stripe_reads_a_month": "reads that Stripe allots in 30 days, of which the hourly looks make no more: 500 for each "
    "transaction, and 10,000 at least ([how far they reach](../operate/README.md#does-stripe-hold-what-was-counted))",
    "stripe_calls": "of 1.0.0; has no effect any more, and is warned of",
    "streamed_from": 'an hour, `"2026-12-01T00"` (UTC), from which on totals go by Stripe\'s event stream, a hundred '
    "in a call, ten times as many a second as `stripe_rate`. Once set, leave it: an hour's totals should not take two "
    "ways. With a sandbox's key they go by calls all the same, and `metering doctor` says so",
    "portal_origins": "pages of these origins may call the [customers' API](../../functions/page/README.md) from "
    'browsers: `["https://app.example.com"]`',
    "stripe_portal_login": "the link to the login page of Stripe's customer portal (Dashboard → Settings → Billing → "
    "Customer portal → Activate link): `https://billing.stripe.com/p/login/…`. The page leads there, where customers "
    "log in by e-mail to see and change how they pay; the functions' key gets no right to open it for them",
    "limits": "functions watch customers' limits and act on them; implied where a plan declares some. `True` for a "
    "deployment whose customers alone have limits, of your own making or their budgets",
    "alerts_from": "the address that e-mail about thresholds comes from, which SES may send from; without one nobody "
    "gets any",
    "unpaid_days": "after how many days without paying a customer's keys are closed, by what Stripe says of its "
    "subscription; without it nobody's are",
    "portal_concurrency": "how many executions the customers' API may have at once, so that a flood of it leaves the "
    "account's others to counting: 50. A new account has too few to reserve any; `metering doctor` says when it may",
    "sizes": "memory, in MB, and time limit, in seconds, of functions by name, where the defaults do not serve: "
    '`{"close_periods": Size(3008, 600)}` ([how fast it is](#how-fast-it-is) says what they need)',
    "nonce": "begins and ends each line of the access log, where no caller sees it; by default the GUID of the stack's "
    "own id. Give another if it became known",
    "former_nonce": "lines with this nonce count, too: the one of before, until every stage writes the new one",
    "local": "bundle the functions for this machine, for the emulator",
}
"""What a setting of the stack is for."""

_METRICS: Final = 3
"""Of a customer, in the table of looks."""

_DAYS_FROM: Final = 100
"""So many hours are said in days."""

RESOURCES: Final = {
    "billing_meter_event": "Billing meter events",
    "billing_meter": "Billing meters",
    "product": "Products",
    "plan": "Prices",
    "customer": "Customers",
    "subscription": "Subscriptions",
    "payment_method": "Payment methods",
    "checkout_session": "Checkout Sessions",
    "customer_portal": "Customer portal",
    "invoice": "Invoices",
    "event": "Events",
    "webhook": "Webhook endpoints",
}
"""What Stripe's dashboard calls a resource."""

FUNCTIONS_USES: Final = {
    "billing_meter_event": "posting usage",
    "billing_meter": "what Stripe holds, `stripe connect`",
    "plan": "what invoices bill, what customers pay",
    "subscription": "who has which plan",
    "invoice": (
        "what invoices bill, what a customer is shown of its own, and previews: where Stripe refuses those, give it to "
        "write"
    ),
    "event": "finding finalised invoices, what notifications tell of",
}
OPERATORS_USES: Final = {
    "billing_meter": "`stripe connect`, `stripe apply`",
    "product": "`stripe plan`, `stripe apply`",
    "plan": "`stripe plan`, `stripe apply`, `customers subscribe`",
    "customer": "`customers subscribe`, `customers add`",
    "subscription": "`customers subscribe`",
    "payment_method": "`customers subscribe`",
    "checkout_session": "`customers subscribe`: the link where a payment method is given",
    "customer_portal": "`customers portal`",
    "webhook": "`stripe webhook`, `doctor`",
}
"""What the right is for."""

_COUNTERS: Final = ("accounted#", "hour#", "late#", "lines#", "object#", "unique#", "once#")
"""How partition keys of the Counters table begin; all others are the Ledger's."""

_ACCESS: Final = "gate_list.py"
"""Who knows the items of the Access table."""

_NOTES: Final = (ROOT / "infra" / "operate" / "access_notes.py",)
"""What only operators' commands keep in the Ledger."""

_COLUMNS: Final = 5

_OF_EVERY_COMMAND: Final = {"stack", "region", "profile", "local", "as_json"}


def table(*rows: Iterable[str]) -> str:
    """Return a table: its head, then its rows."""
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n" + "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *body)) + "\n"


def commands() -> str:
    """Return each command with its own arguments and options, and the first paragraph of its help."""
    return table(
        ("command", "what"),
        *(
            (f"`{' '.join((name, *_parameters(command)))}`", _first_paragraph(command.help))
            for name, command in walk(command_line())
        ),
    )


def walk(app: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Yield every command with its whole name."""

    def below(group: TyperGroup, name: str) -> Iterator[tuple[str, Any]]:
        for word, command in group.commands.items():
            if isinstance(command, TyperGroup):
                yield from below(command, f"{name} {word}")
            else:
                yield f"{name} {word}", command

    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    yield from below(group, "metering")


def _parameters(command: Any) -> Iterator[str]:
    for param in command.params:
        if param.name in _OF_EVERY_COMMAND:
            continue
        value = param.metavar or _value(param.type_descriptor.annotation)
        if param.param_type_name == "argument":
            written = f"{value} …" if param.nargs == -1 else value
            yield written if param.required else f"[{written}]"
            continue
        words = [
            param.opts[0],
            *([] if param.is_flag else [value]),
            *(["…"] if param.multiple and value != "…" else []),
        ]
        written = " ".join(words)
        yield written if param.required else f"[{written}]"


def _value(annotation: Any) -> str:
    """Return what stands for the value of an option that gives it no name."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(member.value for member in annotation)
    return "N" if annotation is int else "…"


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split())


def signals() -> str:
    """Return each signal with its meaning, as ``signals.py`` tells it."""
    meanings = _docstrings_of_members(ROOT / "functions" / "metering" / "signals.py", "Signal")
    return table(("metric", "meaning"), *((f"`{name}`", meaning) for name, meaning in meanings.items()))


def _docstrings_of_members(file: Path, name: str) -> dict[str, str]:
    """Return the sentence under each member of an enumeration, by the member's value; every one must have some."""
    (members,) = [
        node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef) and node.name == name
    ]
    found = {}
    for member, sentence in zip(members.body[1:-1:2], members.body[2::2], strict=True):
        match member, sentence:
            case ast.Assign(value=ast.Constant(value=str(value))), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[value] = " ".join(meaning.replace("``", "`").split())
            case _:
                raise ValueError(f"{file.name}: a member of {name} has no sentence: {ast.unparse(member)}")
    return found


def settings() -> str:
    """Return each setting of the stack with its default."""
    from infra.stack.metering import MeteringStack  # noqa: PLC0415 - starts Node, which the other parts do not need

    parameters = {
        name: parameter
        for name, parameter in inspect.signature(MeteringStack.__init__).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    if parameters.keys() != SETTINGS.keys():
        raise ValueError(f"the stack's settings differ from SETTINGS: {sorted(parameters.keys() ^ SETTINGS.keys())}")
    return table(
        ("setting", "default", "meaning"),
        *((f"`{name}`", _default(parameter.default), SETTINGS[name]) for name, parameter in parameters.items()),
    )


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if value in (None, (), ""):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Enum):
        return f"`{type(value).__name__}.{value.name}`"
    if is_dataclass(value):
        return f"`{type(value).__name__}()`"
    return f"{value:,}" if isinstance(value, int) else f"`{value}`"


def alarms() -> str:
    """Return each alarm with what it watches, and from where on it rings."""
    made = templates()
    rows: dict[str, tuple[str, str, str]] = {}
    for where, template in zip(("", " (Firehose road)", " (limits)"), made, strict=True):
        for name, alarm in named_alarms(template).items():
            rows.setdefault(name, (f"[{name}](#{name.lower()}){where}", _watched(template, alarm), _rings(alarm)))
    return table(("alarm", "watches", "rings"), *rows.values())


def named_alarms(template: Template) -> dict[str, Any]:
    """Return the properties of the alarms by their names."""
    return {
        name.removeprefix("Alarms")[:-8]: alarm["Properties"]
        for name, alarm in of_type(template, "AWS::CloudWatch::Alarm").items()
    }


def _watched(template: Template, alarm: Mapping[str, Any]) -> str:
    if alarm["Namespace"] == "Metering":
        return f"`{alarm['MetricName']}`"
    of = [
        function
        for dimension in alarm["Dimensions"]
        for logical_id, function in _handlers(template).items()
        if dimension["Value"] == {"Ref": logical_id}
    ]
    return f"{alarm['Namespace']} `{alarm['MetricName']}`" + "".join(f" of `{function}`" for function in of)


def _rings(alarm: Mapping[str, Any]) -> str:
    sign = {"GreaterThanThreshold": "over", "LessThanThreshold": "under"}[alarm["ComparisonOperator"]]
    minutes, times = alarm["Period"] // 60, alarm["EvaluationPeriods"]
    often = f", {times} times on end" if times > 1 else ""
    silent = "; when there is none, too" if alarm["TreatMissingData"] == "breaching" else ""
    return f"{sign} {alarm['Threshold']:,} in {minutes} min{often}{silent}"


def functions_rights() -> str:
    """Return what the key in the secret must be allowed."""
    return _rights(rights.FUNCTIONS, FUNCTIONS_USES)


def operators_rights() -> str:
    """Return what the key of an operator must be allowed."""
    return _rights(rights.OPERATORS, OPERATORS_USES)


def _rights(levels: Mapping[str, str], uses: Mapping[str, str]) -> str:
    if levels.keys() != uses.keys():
        raise ValueError(f"the rights differ from their uses: {sorted(levels.keys() ^ uses.keys())}")
    return table(
        ("resource in the dashboard", "in Stripe's messages", "right", "for"),
        *((RESOURCES[name], f"`{name}`", level, uses[name]) for name, level in levels.items()),
    )


def granted() -> str:
    """Return what each role may do on what, below which partition keys; each function writes its own log besides."""
    usual, firehose, limits = templates()
    rows = []
    for role in dict.fromkeys(name[:-8] for made in (firehose, limits) for name in of_type(made, "AWS::IAM::Role")):
        usually = _granted_to(usual, role)
        resources: dict[tuple[str, str], dict[tuple[str, ...], list[str]]] = {}
        for template, where in ((firehose, " (Firehose road)"), (limits, " (limits)")):
            for action, resource, keys in sorted(_granted_to(template, role)):
                is_usual = (action, resource, keys) in usually
                if resource != f"{role.removesuffix('Role')}Log" and not (is_usual and template is limits):
                    by_keys = resources.setdefault((resource, "" if is_usual else where), {})
                    by_keys.setdefault(keys, []).append(action)
        for (resource, where), by_keys in resources.items():
            may = "; ".join(
                ", ".join(f"`{action}`" for action in actions) + (f" of {_listed(keys)}" if keys else "")
                for keys, actions in by_keys.items()
            )
            name = re.sub("^arn:.*:", "", resource)
            rows.append((_whose(limits, role) or _whose(firehose, role) or role, f"`{name}`{where}", may))
    return table(("who", "on", "may"), *rows)


def _granted_to(template: Template, role: str) -> set[tuple[str, str, tuple[str, ...]]]:
    return grants(template, role) if any(name[:-8] == role for name in of_type(template, "AWS::IAM::Role")) else set()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _whose(template: Template, role: str) -> str | None:
    for logical_id, function in _handlers(template).items():
        used = template["Resources"][logical_id]["Properties"]["Role"]["Fn::GetAtt"][0]
        if used[:-8] == role:
            return f"`{function}`"
    return None


def _handlers(template: Template) -> dict[str, str]:
    """Return each function's module by its logical id."""
    return {
        logical_id: function["Properties"]["Handler"].partition(".")[0]
        for logical_id, function in of_type(template, "AWS::Lambda::Function").items()
    }


def files(folder: str) -> str:
    """Return each module of a folder and the folders below it, with the first sentence of its docstring."""
    root = ROOT / folder
    modules = sorted(root.rglob("*.py"), key=lambda file: (file.parent, file.name))
    names = [file.relative_to(root) for file in modules if file.name != "__init__.py"]
    return table(("file", "what"), *((f"[`{name}`]({name})", _sentence(root / name)) for name in names))


def kept() -> str:
    """Return the items of the tables and the objects set aside, as the files that know them write them down."""
    counters: list[list[str]] = []
    ledger: list[list[str]] = []
    access: list[list[str]] = []
    bucket: list[list[str]] = []
    for file in (*sorted((ROOT / "functions" / "metering" / "stores").glob("*.py")), *_NOTES):
        for line in filter(_is_row, (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()):
            cells = [*(_plain(cell.strip()) for cell in line[1:-1].split("|")), f"`{file.name}`"]
            if len(cells) != _COLUMNS:
                bucket.append(cells)
            elif file.name == _ACCESS:
                access.append(cells)
            elif not cells[1].startswith("see "):
                (counters if cells[1].removeprefix("`").startswith(_COUNTERS) else ledger).append(cells)
    head = ("item", "pk", "sk", "attributes", "known to")
    return (
        f"\n**Counters**\n{table(head, *counters)}**Ledger**\n{table(head, *ledger)}"
        f"**Access**, where there are limits\n{table(head, *access)}"
        f"**Bucket**\n{table(('object below `set-aside/`', 'what', 'known to'), *bucket)}"
    )


def _is_row(line: str) -> bool:
    return line.startswith("| ") and not line.startswith(("| item ", "| object ", "| --- "))


def _plain(text: str) -> str:
    """Return what Sphinx would make of its roles, as code on a page."""
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(?=\w+`)", "`", text.replace("``", "`"))


def _sentence(module: Path) -> str:
    """Return what a module says of itself first; Sphinx's roles are plain code on a page."""
    docstring = ast.get_docstring(ast.parse(module.read_text())) or ""
    return _plain(_first_paragraph(docstring))


def modules() -> str:
    """Return the modules of the customers' page, with what each says of itself."""
    scripts = sorted((ROOT / "functions" / "page").glob("*.js"))
    comments = {file.name: re.findall(r"^/\*\*\n((?: \* .+\n)+)", file.read_text())[0] for file in scripts}
    return table(
        ("module", "what"),
        *((f"[`{name}`]({name})", " ".join(text.replace(" * ", " ").split())) for name, text in comments.items()),
    )


def declared() -> str:
    """Return the metrics and plans that ``app.py`` declares, as they stand there; its limits are the demo's."""
    source = (ROOT / "app.py").read_text()
    wanted = [
        ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id != "LIMITS"
    ]
    return "```python\n" + "\n\n".join(segment for segment in wanted if segment) + "\n```\n"


def looks() -> str:
    """Return how many customers are looked at with what Stripe allots, if each pays once a month."""
    rows = []
    for customers in (100, 10_000, 100_000):
        for a_month in sorted({LEAST, A_TRANSACTION * customers}):
            allotment = ReadAllotment(a_month)
            hour, day = (allotment.looks_in(timedelta(**{span: 1}), _METRICS) for span in ("hours", "days"))
            every = allotment.hours_for(customers, _METRICS) or 0
            when = f"{every} hours" if every < _DAYS_FROM else f"{every // 24} days"
            rows.append((f"{customers:,}", f"{a_month:,}", f"{hour:,}", f"{day:,}", when))
    return table(("customers", "reads in 30 days", "looked at in an hour", "in a day", "each of them every"), *rows)


def handlers() -> str:
    """Return each function with what it turns into what."""
    modules = sorted((ROOT / "functions").glob("*.py"))
    return table(
        ("function", "what"),
        *((f"[`{file.name}`]({file.name})", _sentence(file).removeprefix("Lambda: ")) for file in modules),
    )


@functools.cache
def templates() -> tuple[Template, Template, Template]:
    """Return the metering stack's templates, made afresh; tests put those that they have in its place.

    On both roads, and with limits.
    """
    import aws_cdk as cdk  # noqa: PLC0415 - starts Node, which the other parts do not need

    from app import build  # noqa: PLC0415 - imports aws_cdk

    flags = json.loads((ROOT / "cdk.json").read_text())["context"] | {"aws:cdk:bundling-stacks": []}
    made = []
    for chosen in ({}, {"road": "firehose"}, {"limits": "sample", "alerts_from": "alerts@example.com"}):
        with tempfile.TemporaryDirectory() as outdir:
            assembly = build(cdk.App(context=flags | chosen, outdir=outdir)).synth()
            made.append(assembly.get_stack_by_name("Metering").template)
    usual, firehose, limits = made
    return usual, firehose, limits

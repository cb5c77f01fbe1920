"""The pages for contributors against the program: the files that they name, and what they say of tasks and code.

Links, and the tests that a page names, are those of all pages: `tests/infra/test_pages.py`.
"""

import ast
import os
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / ".github"
EVERY_PAGE = sorted(PAGES.rglob("*.md"))
CONTRIBUTING = (PAGES / "CONTRIBUTING.md").read_text()
CODING = (PAGES / "CODING.md").read_text()
DECISIONS = [page for page in (PAGES / "decisions").glob("*.md") if page.name != "README.md"]
TASKS: Final[dict[str, object]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["poe"]["tasks"]

FOLDERS = ("functions", "infra", "tests", ".ci", ".githooks")
KINDS = frozenset({"Count", "Sum", "Unique", "Max"})


def _name(page: Path) -> str:
    return str(page.relative_to(PAGES))


# --- every page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", EVERY_PAGE, ids=_name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """A file is written as a path from the root, so that it can be opened."""
    named = re.findall(r"(?<![\w/.])((?:%s)/[\w./-]*[\w/])" % "|".join(map(re.escape, FOLDERS)), page.read_text())  # noqa: UP031 - braces abound
    assert [path for path in named if not (ROOT / path).exists()] == []


# --- contributing ----------------------------------------------------------------------------------------------------


def test_the_tasks_are_those_that_the_page_names() -> None:
    """A hook's own task needs no name; every other is in the table of the daily round."""
    assert set(re.findall(r"^\| `uv run poe ([a-z]+)` \|", CONTRIBUTING, re.MULTILINE)) == TASKS.keys() - {"quick"}
    assert set(re.findall(r"uv run poe ([a-z]+)", CONTRIBUTING)) <= TASKS.keys()


def test_ci_runs_what_everybody_runs() -> None:
    """A rule that CI alone knows is met too late; its tasks are those of the daily round."""
    script = (ROOT / ".ci" / "run").read_text()
    asked = re.findall(r"^uv run poe ([a-z]+)", script, re.MULTILINE)
    assert asked == ["lint", "types", "walls", "test", "coverage"]


def test_the_hook_can_be_run_and_asks_for_what_is_quick() -> None:
    """Git passes over a hook that is not executable without a word."""
    hook = ROOT / ".githooks" / "pre-commit"
    assert os.access(hook, os.X_OK)
    assert "poe --quiet quick" in hook.read_text()
    assert TASKS["hooks"] == {"cmd": "git config core.hooksPath .githooks", "help": "Let git run .githooks/pre-commit"}


def test_a_new_kind_of_metric_has_every_file_in_its_checklist() -> None:
    """Each file of the program that tells one kind from another; the examples and a sample only declare some."""
    program = [path for folder in ("functions", "infra") for path in (ROOT / folder).rglob("*.py")]
    telling = {str(path.relative_to(ROOT)) for path in program if _imports_a_kind(path)}
    telling = {path for path in telling if not path.startswith(("infra/stack/examples/", "infra/stack/sample_"))}
    assert len(telling) > 5
    assert telling - _checklist("metric") == set()


def _imports_a_kind(path: Path) -> bool:
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return any(
        node.module == "metering.model.metrics" and KINDS & {alias.name for alias in node.names} for node in imports
    )


@pytest.mark.parametrize(
    ("checklist", "example", "folders"),
    [
        ("alarm", r"\b(HOURS_UNPOSTED|HoursUnposted)\b", ("functions", "infra", "tests/infra")),
        ("command", r"infra\.operate\.restore|infra\.cli\.restore|\(\"restore\",", ("infra", "tests")),
        ("setting", r"\bstripe_reads_a_month\b", ("functions", "infra", "tests")),
    ],
)
def test_a_checklist_names_every_file_that_its_example_is_in(
    checklist: str, example: str, folders: tuple[str, ...]
) -> None:
    """What holds for the one that is there holds for the next."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
    holding = {str(path.relative_to(ROOT)) for path in paths if re.search(example, path.read_text())}
    assert len(holding) > 2
    assert holding - _checklist(checklist) == set()


def _checklist(subject: str) -> set[str]:
    """Return the files that the checklist of a subject names."""
    (section,) = re.findall(rf"\n### A new (?:kind of )?{subject},.*?(?=\n### |\Z)", CONTRIBUTING, re.DOTALL)
    return set(re.findall(r"`([\w./-]+\.py)`", section))


# --- coding ----------------------------------------------------------------------------------------------------------

RULES = re.findall(r"^\*\*.*?\(`([^`]+)`\)\n\n```diff\n(.*?)```$", CODING, re.MULTILINE | re.DOTALL)


def test_every_rule_has_a_line_as_it_might_be_and_as_it_is() -> None:
    """A rule without an example is an opinion."""
    assert len(RULES) == len(re.findall(r"^\*\*", CODING, re.MULTILINE)) > 30
    for _, example in RULES:
        assert {line[0] for line in example.splitlines()} == {"-", "+"}


@pytest.mark.parametrize(("file", "example"), RULES, ids=[f"{n} {file}" for n, (file, _) in enumerate(RULES)])
def test_a_good_line_stands_in_its_file_and_the_bad_one_does_not(file: str, example: str) -> None:
    """In the order in which the page shows them, so that nothing on it is made up."""
    lines = iter((ROOT / file).read_text().splitlines())
    good = [line[1:] for line in example.splitlines() if line.startswith("+")]
    assert [line for line in good if line not in lines] == []  # each search goes on behind the one before
    bad = {line[1:] for line in example.splitlines() if line.startswith("-")}
    assert bad.isdisjoint((ROOT / file).read_text().splitlines())


# --- decisions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", DECISIONS, ids=_name)
def test_a_decision_says_what_is_asked_of_one(page: Path) -> None:
    """Why, what, what else, until when, and what holds it; on a page that is read in a minute."""
    parts = ["Context", "Decision", "Instead of", "Would change it", "Held by"]
    text = page.read_text()
    assert re.findall(r"^\*\*([^*]+)\.\*\* ", text, re.MULTILINE) == parts
    assert len(re.findall(r"`test_\w+`", text.partition("**Held by.**")[2])) >= 3
    assert len(text.splitlines()) <= 25


def test_every_decision_is_in_the_list() -> None:
    """By its title."""
    pairs = re.findall(r"^- \[(.+)\]\((.+)\)$", (PAGES / "decisions" / "README.md").read_text(), re.MULTILINE)
    listed = {link: title for title, link in pairs}
    titles = {page.name: page.read_text().splitlines()[0].removeprefix("# ") for page in DECISIONS}
    assert listed == titles

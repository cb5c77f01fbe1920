"""The pages: what they name exists, what exists is named, each link leads somewhere, and nothing is out of date."""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from cogapp import Cog  # type: ignore[import-untyped]  # it has no types

from infra.cli.main import command_line
from metering.model import metrics
from metering.model.log_format import MEASURED_FIELDS, AccessLog
from metering.model.metric_checks import check
from metering.model.usage_lines import Report, UsageLineReader
from metering.model.usage_row import State
from tests.conftest import ROOT
from tests.doubles.template import Template
from tests.infra import pages

NOT_OURS = {"cdk.out", "node_modules"}
OF_OTHER_PROGRAMS = {"--all", "--schedules", "--seed"}
"""Options of the CDK CLI and of pytest, where they stand without their program."""

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"<!-- \[\[\[cog .*? -->")


def _pages() -> Iterator[Path]:
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if (name[0] != "." and name not in NOT_OURS) or name == ".github"]
        yield from (Path(folder, name) for name in files if name.endswith(".md"))


PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(_pages())}
OPERATORS = {name: text for name, text in PAGES.items() if not name.startswith((".github", "tests"))}
"""Those that tell of the commands, and of no tool of those who change the project."""


def spans(text: str) -> list[str]:
    """Return what stands in a page as code within a line, each with single blanks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", text))]


def shell(text: str) -> list[str]:
    """Return the lines of a page's blocks of plain code."""
    return [line.strip() for _, language, block in FENCED.findall(text) if not language for line in block.splitlines()]


CODE = {span for text in PAGES.values() for span in spans(text)}
WORDS = {
    word for text in PAGES.values() for code in (*spans(text), *shell(text)) for word in re.split(r"[\s\[\]|\\]+", code)
}
COMMANDS = {
    name: {"--help", *(option for param in command.params for option in param.opts if option.startswith("--"))}
    for name, command in (*pages.walk(command_line()), ("metering", typer.main.get_command(command_line())))
}
"""By its whole name; that of no command has the options of the program."""


def called(text: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each call of our command that a page shows, up to its first word that is none of it, and its options."""
    for code in (*spans(text), *shell(text)):
        words = re.sub(r" +#.*", "", code).removeprefix("uv run ").split()
        if words[:1] == ["metering"] and len(words) > 1:
            if words[1].startswith("--"):
                words = words[:1]
            name = next((name for end in (3, 2) if (name := " ".join(words[:end])) in COMMANDS), " ".join(words[:3]))
            yield name, set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code))


def anchors(text: str) -> set[str]:
    """Return where a link into a page can lead: its headings as GitHub spells them, and anchors of its own."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    numbered = {f"{slug}-{number}" for slug, times in found.items() for number in range(1, times + 1)}
    return {*found, *numbered, *re.findall(r'<a id="([^"]+)">', text)}


def broken_links(page: str, text: str) -> list[str]:
    """Return the links of a page to a file or a heading that is not there."""
    prose = re.sub(r"`[^`]*`(?!\])", "", FENCED.sub("", text))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = os.path.normpath(Path(page).parent / name) if name else page
        if not (ROOT / path).exists() or (anchor and anchor not in anchors(PAGES.get(path, ""))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """To a file that is there, and to a heading in it."""
    assert broken_links(page, PAGES[page]) == []


@pytest.mark.parametrize(
    ("link", "is_broken"),
    [
        ("[a](README.md#deploy)", False),
        ("[a](README.md#deployed)", True),
        ("[a](READ.md)", True),
        ("[`a`](app.py)", False),
        ("[`a`](apple.py)", True),
        ("`[a](nothing)`", False),
        ("![a](.github/nothing.png)", True),
    ],
)
def test_a_link_that_leads_nowhere_is_found(link: str, is_broken: bool) -> None:  # noqa: FBT001 - one case's answer
    """Whatever it is written as."""
    assert bool(broken_links("README.md", link)) == is_broken


def _cog(page: Path) -> int:
    code: int = Cog().main(["cog", "--check", "--diff", str(page)])
    return code


@pytest.fixture
def synthesised(
    template: Template, firehose_template: Template, limits_template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The templates that these tests have anyway."""
    monkeypatch.setattr(pages, "templates", lambda: (template, firehose_template, limits_template))


@pytest.mark.usefixtures("synthesised")
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if GENERATED.search(text)])
def test_no_page_is_out_of_date(page: str) -> None:
    """What a program knows better stands there as it knows it now: `uv run cog -r $(git ls-files '*.md')`."""
    assert _cog(ROOT / page) == 0


@pytest.mark.usefixtures("synthesised")
def test_a_page_that_is_out_of_date_is_found(tmp_path: Path) -> None:
    """The check can fail."""
    page = "infra/operate/README.md"
    assert "| `metering posting off` | Post" in PAGES[page]
    (tmp_path / "README.md").write_text(PAGES[page].replace("| `metering posting off` | Post", "| `metering x` | Post"))
    assert _cog(tmp_path / "README.md") != 0


def test_every_part_that_can_be_written_is_on_a_page() -> None:
    """A table that no page shows helps nobody."""
    written = {"commands", "signals", "settings", "alarms", "granted", "declared", "handlers"}
    written |= {"functions_rights", "operators_rights"}
    shown = {
        name
        for text in PAGES.values()
        for mark in GENERATED.findall(text)
        for name in re.findall(r"pages\.(\w+)\(", mark)
    }
    assert shown == {*written, "files", "kept", "looks", "modules"}


def test_the_first_page_is_short() -> None:
    """It is for one who evaluates."""
    assert len(PAGES["README.md"].splitlines()) <= 200


def test_every_command_and_option_is_named() -> None:
    """By whole words: `top` is not named by `stop`."""
    named = {name for text in PAGES.values() for name, _ in called(text)}
    assert COMMANDS.keys() - named == set()
    assert {option for options in COMMANDS.values() for option in options} - WORDS == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_called_exists_and_has_these_options(page: str) -> None:
    """What is shown can be typed."""
    groups = {" ".join(name.split()[:end]) for name in COMMANDS for end in (1, 2)}
    calls = [(name, options) for name, options in called(PAGES[page]) if name not in groups - COMMANDS.keys()]
    assert [(name, options) for name, options in calls if options - COMMANDS.get(name, set())] == []
    assert [name for name, _ in calls if name not in COMMANDS] == []


@pytest.mark.parametrize("page", OPERATORS)
def test_every_option_that_is_named_alone_exists(page: str) -> None:
    """In the middle of a sentence, where its command is not told."""
    known = {option for options in COMMANDS.values() for option in options} | OF_OTHER_PROGRAMS
    alone = {option for span in spans(PAGES[page]) for option in re.findall(r"^--[a-z][a-z-]*", span)}
    assert alone - known == set()


def test_every_state_and_measured_field_is_named() -> None:
    """What an operator sees, and what a metric may sum."""
    assert {*State, *MEASURED_FIELDS} - CODE == set()


def test_every_test_that_a_page_names_exists() -> None:
    """A guarantee is worth what its test is."""
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    named = {span for span in CODE if re.fullmatch(r"test_\w+", span)}
    assert len(named) > 30
    assert named - tests == set()


def test_every_invariant_names_its_tests() -> None:
    """I1 to I10, each with one at least."""
    rows = re.findall(r"^\| \*\*(I\d+) .*$", PAGES["functions/metering/README.md"], re.MULTILINE)
    assert rows == [f"I{number}" for number in range(1, 11)]
    for row in re.findall(r"^\| \*\*I\d+ .*$", PAGES["functions/metering/README.md"], re.MULTILINE):
        assert "`test_" in row


def test_the_metrics_that_a_page_shows_are_valid_and_their_names_are_ours() -> None:
    """The example can be pasted into app.py."""
    (example,) = re.findall(r"```python\nMETRICS = (\(.*?\n\))\n```", PAGES["functions/README.md"], re.DOTALL)
    names = {name: getattr(metrics, name) for name in ("Count", "Sum", "Unique", "Max", "USAGE_LINES")}
    check(eval(example, names), AccessLog())  # noqa: S307 - our own page


def test_the_usage_line_that_a_page_shows_is_one() -> None:
    """The example can be pasted into a program."""
    (example,) = re.findall(r"```json\n(\{.*\})\n```", PAGES["functions/README.md"])
    reader = UsageLineReader(
        datetime(2026, 11, 22, 5, 30, tzinfo=UTC), (metrics.Sum(name="job_minutes", of=metrics.USAGE_LINES, scale=2),)
    )
    found = reader.read(example)
    assert isinstance(found, Report)
    assert (found.source, found.amounts) == ("@acme", {"job_minutes": 1250})


def test_figures_say_where_they_were_made() -> None:
    """By which commit and on what machine: written by `poe bench`, not by hand."""
    page = (ROOT / "infra" / "stack" / "README.md").read_text()
    _, _, figures = page.partition("<!-- bench:begin -->\n")
    figures, end, _ = figures.partition("<!-- bench:end -->")
    assert end
    assert re.match(r"Made with commit `[0-9a-f]{12}`, .+, \d+ cores, Python 3\.\d+\.\d+, ", figures)
    scripts = {file.stem for file in (ROOT / "tests" / "benchmarks").glob("*.py") if "__main__" in file.read_text()}
    assert set(re.findall(r"^\| `(\w+)\.py` \|", figures, re.MULTILINE)) == scripts - {"bench", "test_benchmarks"}

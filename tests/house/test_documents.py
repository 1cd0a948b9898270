"""Rules about what people read: the documents name only commands, targets, settings and files that exist."""

import re
from pathlib import Path

import pytest
import typer
import yaml

from configs.settings import known_variables
from serve_app.cli.app import app as cli

DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
CHANGE_KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.fixture(params=DOCUMENTS)
def document(request: pytest.FixtureRequest, written_files: dict[str, str]) -> str:
    return written_files[request.param]


@pytest.fixture
def targets(written_files: dict[str, str]) -> set[str]:
    """What `make help` lists."""
    return set(re.findall(r"^([a-z0-9-]+):.*## \S", written_files["Makefile"], re.MULTILINE))


def test_make_help_is_one_short_page(written_files: dict[str, str], targets: set[str]) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", written_files["Makefile"], re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == targets
    assert 12 <= len(targets) <= 20


def test_the_readme_is_short_and_starts_with_the_two_commands(written_files: dict[str, str]) -> None:
    readme = written_files["README.md"]
    assert readme.count("\n") < 150
    assert re.findall(r"^make (\w+)", readme, re.MULTILINE)[:2] == ["demo", "test"]


def test_make_targets_exist(document: str, targets: set[str]) -> None:
    assert not set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", document, re.MULTILINE)) - targets


def test_aether_commands_exist(document: str) -> None:
    commands = set(typer.main.get_group(cli).commands)
    assert not set(re.findall(r"(?:^|`)aether ([a-z][\w-]*)", document, re.MULTILINE)) - commands


def test_settings_exist(document: str) -> None:
    named = set(re.findall(r"\bAETHER_[A-Z0-9_]*[A-Z0-9]\b(?![_*])", document))
    assert not named - set(known_variables())


def test_links_and_paths_exist(document: str, root: Path) -> None:
    linked = {target.split("#")[0] for target in re.findall(r"\]\((?!https?:)([^)]+)\)", document)}
    quoted = set(re.findall(r"`((?:configs|serve_app|actors|tests|\.ci|\.github)/[\w./-]*)`", document))
    assert not [path for path in linked | quoted if path and not (root / path).exists()]


def test_the_changelog_keeps_its_form(written_files: dict[str, str]) -> None:
    lines = written_files["CHANGELOG.md"].splitlines()
    assert lines[0] == "# Changelog"
    releases = [line for line in lines if line.startswith("## ")]
    assert releases[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line) for line in releases[1:])
    kinds = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    assert kinds
    assert set(kinds) <= CHANGE_KINDS


def test_ci_runs_only_make_targets(written_files: dict[str, str], targets: set[str]) -> None:
    workflow = yaml.safe_load(written_files[".github/workflows/ci.yml"])
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands
    assert {command.removeprefix("make ") for command in commands} <= targets
    # A tag can be moved to other code; a commit cannot.
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]) for step in steps if "uses" in step)
    assert workflow["permissions"] == {"contents": "read"}
    assert written_files[".ci/run"].splitlines()[-1] == "exec make test"


def test_configured_exemptions_have_a_reason(written_files: dict[str, str]) -> None:
    """In pyproject.toml each ignored rule, each relaxed file and each import let through says why, on its line."""
    lines = written_files["pyproject.toml"].splitlines()
    exemptions = entries(lines, "ignore") + entries(lines, "ignore_imports")
    exemptions += [line for line in lines if re.match(r'"[^"]+" = \[', line)]
    assert len(exemptions) > 20
    assert not [line for line in exemptions if not re.search(r"# \S", line)]


def entries(lines: list[str], key: str) -> list[str]:
    """The lines of every list that is opened by `key = [`."""
    found: list[str] = []
    is_inside = False
    for line in lines:
        if line == f"{key} = [":
            is_inside = True
        elif line == "]":
            is_inside = False
        elif is_inside:
            found.append(line)
    return found

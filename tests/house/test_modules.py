"""Rules about Python modules, read from their syntax trees: docstrings, the environment, mocks, lint exemptions."""

import ast
import io
import re
import tokenize

import pytest

from configs.settings import PREFIX, known_variables

PACKAGES = ("configs", "serve_app", "actors")
# Who else may touch the environment, and why. An entry nobody needs fails.
ENVIRONMENT_READERS = {
    "configs/settings.py": "the one reader of AETHER_* variables",
    "serve_app/embedded/supervisor.py": "what it starts inherits its environment",
    "serve_app/cli/up.py": "the supervisor it starts inherits its environment",
    "actors/sandbox/inside/supervisor.py": "programs inherit what the image or the backend set",
}
_EXEMPTION = re.compile(r"#\s*(noqa|type:\s*ignore|pragma|ruff:)")
_GOOD_EXEMPTION = re.compile(
    r"#\s*(noqa: [A-Z]+\d+(, ?[A-Z]+\d+)*|type: ignore\[[a-z-]+(, ?[a-z-]+)*\])\s+(- |# )\S+ \S"
)


def first_line_problem(source: str) -> str | None:
    doc = ast.get_docstring(ast.parse(source), clean=False)
    if doc is None:
        return "no docstring"
    first = doc.splitlines()[0] if doc else ""
    return None if first and first == first.strip() and first.endswith(".") else "the first line is not a sentence"


def environment_uses(source: str) -> list[int]:
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv" | "putenv"):
                lines.append(node.lineno)
            case ast.ImportFrom(module="os", names=names) if {"environ", "getenv", "putenv"} & {n.name for n in names}:
                lines.append(node.lineno)
    return lines


def mocks_of_our_code(source: str) -> list[int]:
    """Lines that patch: anything through `mock`, or a module of ours through `monkeypatch`."""
    tree = ast.parse(source)
    ours: set[str] = set()
    lines = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                ours |= {n.asname or n.name.split(".")[0] for n in names if n.name.split(".")[0] in PACKAGES}
                lines += [node.lineno for n in names if n.name in {"mock", "unittest.mock"}]
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] in PACKAGES:
                    ours |= {n.asname or n.name for n in names}
                if module in {"mock", "unittest.mock"} or (
                    module == "unittest" and any(n.name == "mock" for n in names)
                ):
                    lines.append(node.lineno)
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="monkeypatch"), attr="setattr" | "delattr" | "setitem"),
                args=[target, *_],
            ) if _root_name(target) in ours | set(PACKAGES):
                lines.append(node.lineno)
    return lines


def _root_name(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.split(".")[0]
    return node.id if isinstance(node, ast.Name) else None


def exemptions_without_reason(source: str) -> list[int]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT and _EXEMPTION.search(token.string)]
    return [token.start[0] for token in comments if not _GOOD_EXEMPTION.search(token.string)]


def test_every_module_says_what_lives_in_it(modules: dict[str, str]) -> None:
    problems = {name: first_line_problem(source) for name, source in modules.items()}
    assert not {name: problem for name, problem in problems.items() if problem}


def test_only_the_settings_read_the_environment(shipped_modules: dict[str, str]) -> None:
    users = {name: lines for name, source in shipped_modules.items() if (lines := environment_uses(source))}
    assert not {name: lines for name, lines in users.items() if name not in ENVIRONMENT_READERS}
    assert not set(ENVIRONMENT_READERS) - set(users), "this file needs no exemption"


def test_no_setting_is_named_outside_the_settings(shipped_modules: dict[str, str]) -> None:
    """A variable quoted in a message must exist: users are told to set it."""
    known = known_variables()
    quoted = {
        f"{name}: {variable}"
        for name, source in shipped_modules.items()
        for variable in re.findall(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b(?![_*])", source)
        if variable not in known
    }
    assert not quoted


def test_tests_pass_the_other_implementation_instead_of_mocking(modules: dict[str, str]) -> None:
    tests = {name: source for name, source in modules.items() if name.startswith("tests/")}
    assert not {name: lines for name, source in tests.items() if (lines := mocks_of_our_code(source))}


def test_every_exemption_has_a_code_and_a_reason(modules: dict[str, str]) -> None:
    assert not {name: lines for name, source in modules.items() if (lines := exemptions_without_reason(source))}


@pytest.mark.parametrize("source", ["import os\n", '"""No full stop"""', '"""\nLate.\n"""'])
def test_the_docstring_rule_can_fail(source: str) -> None:
    assert first_line_problem(source)


@pytest.mark.parametrize(
    "source", ["import os\nos.environ['X']", "import os\nos.getenv('X')", "\nfrom os import environ"]
)
def test_the_environment_rule_can_fail(source: str) -> None:
    assert environment_uses(source) == [2]


@pytest.mark.parametrize(
    "source",
    [
        "\nfrom unittest.mock import patch",
        "\nfrom unittest import mock",
        "from serve_app.core import clock\nmonkeypatch.setattr(clock, 'now', None)",
        "from serve_app.core.clock import SystemClock\nmonkeypatch.setattr(SystemClock.now, 'x', None)",
        "\nmonkeypatch.setattr('serve_app.core.clock.SystemClock', None)",
    ],
)
def test_the_mock_rule_can_fail(source: str) -> None:
    assert mocks_of_our_code(source) == [2]


@pytest.mark.parametrize("comment", ["noqa", "noqa: S104", "type: ignore", "type: ignore[misc]", "pragma: no cover"])
def test_the_exemption_rule_can_fail(comment: str) -> None:
    assert exemptions_without_reason(f"x = 1  # {comment}\n") == [1]


@pytest.mark.parametrize("comment", ["noqa: S104 - compared, not bound", "type: ignore[misc]  # Ray is untyped"])
def test_a_reasoned_exemption_passes(comment: str) -> None:
    assert not exemptions_without_reason(f"x = 1  # {comment}\n")

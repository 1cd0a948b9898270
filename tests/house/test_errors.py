"""Rules about the error tree: codes that never change, and classes that survive Ray's pickling."""

import ast
import pickle
import re

import pytest

from serve_app.core import errors
from serve_app.core.errors import AetherError

# Clients act on these. A code may be added; one that was published keeps its name and its status.
PUBLISHED = {
    "internal": 500,
    "invalid_request": 422,
    "malformed_body": 400,
    "body_too_large": 413,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "unavailable": 503,
    "overloaded": 503,
    "timed_out": 504,
    "fenced": 409,
    "corrupted": 500,
    "engine_failed": 500,
}
_TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AetherError)]


def error_classes(modules: dict[str, str]) -> list[ast.ClassDef]:
    """Every class in `modules` that descends from AetherError, found by name, without importing anything."""
    classes = [
        node for source in modules.values() for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)
    ]
    known = {"AetherError"}
    while grown := {c.name for c in classes if known & {ast.unparse(base).split(".")[-1] for base in c.bases}} - known:
        known |= grown
    return [node for node in classes if node.name in known]


def declared_code(node: ast.ClassDef) -> str | None:
    """The code a class gives itself; None when it only inherits one."""
    for item in node.body:
        match item:
            case ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant(value=str(code))):
                return code
            case ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code))):
                return code
            case ast.Assign(
                targets=[ast.Tuple(elts=[ast.Name(id="code"), *_])],
                value=ast.Tuple(elts=[ast.Constant(value=str(code)), *_]),
            ):
                return code
    return None


def overrides(node: ast.ClassDef) -> set[str]:
    return {item.name for item in node.body if isinstance(item, ast.FunctionDef)} & {
        "__init__",
        "__new__",
        "__reduce__",
    }


def test_no_error_overrides_how_it_is_made(shipped_modules: dict[str, str]) -> None:
    found = {node.name: names for node in error_classes(shipped_modules) if (names := overrides(node))}
    assert found == {"AetherError": {"__init__", "__reduce__"}}


def test_every_error_has_its_own_code(shipped_modules: dict[str, str]) -> None:
    codes = {node.name: declared_code(node) for node in error_classes(shipped_modules)}
    assert not [name for name, code in codes.items() if code is None or not re.fullmatch(r"[a-z][a-z0-9_]*", code)]
    assert len(codes) == len(set(codes.values())), codes


def test_the_class_rules_can_fail() -> None:
    source = "class Gone(errors.NotFoundError): ...\nclass Bad(Gone):\n    def __init__(self, *, why): ..."
    tree = {"errors.py": "class NotFoundError(AetherError):\n    code, status = 'not_found', 404", "other.py": source}
    missing, gone, bad = error_classes(tree)
    assert (declared_code(missing), declared_code(gone), overrides(bad)) == ("not_found", None, {"__init__"})


@pytest.mark.parametrize("kind", _TREE, ids=lambda kind: kind.__name__)
def test_errors_survive_pickling(kind: type[AetherError]) -> None:
    assert 400 <= kind.status < 600
    again = pickle.loads(pickle.dumps(kind("Said once.", limit=3)))  # noqa: S301 - our own bytes, as Ray does it
    assert (type(again), again.message, again.details) == (kind, "Said once.", {"limit": 3})


def test_published_codes_keep_their_meaning() -> None:
    assert {kind.code: kind.status for kind in _TREE if kind.code in PUBLISHED} == PUBLISHED

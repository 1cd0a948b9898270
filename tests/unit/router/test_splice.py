"""One member of a body is changed, and not one byte of the rest."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.router.splice import with_member, with_new_member

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.just("model") | st.just('"model":"x"'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("model"), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), JSON, st.booleans())
def test_only_the_value_changes(others: dict[str, Any], value: Any, is_pretty: bool) -> None:
    raw = {**others, "model": value}
    body = orjson.dumps(raw, option=orjson.OPT_INDENT_2 if is_pretty else 0)
    changed = with_member(body, "model", "new")
    assert orjson.loads(changed) == {**raw, "model": "new"}
    old, new = orjson.dumps(value), b'"new"'
    if not is_pretty:
        before = body.rindex(b'"model":' + old)
        assert changed == body[: before + 8] + new + body[before + 8 + len(old) :]


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{ "model" :\n"a", "x":1e5}', b'{ "model" :\n"new", "x":1e5}'),
        (b'{"messages":[{"model":"a"}],"model":"b"}', b'{"messages":[{"model":"a"}],"model":"new"}'),
        (b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"new"}'),
        (b'{"x":"\\u00e9","model":"a"}', b'{"x":"\\u00e9","model":"new"}'),
        (b'{"model":"a","model":"b"}', b'{"model":"new","model":"new"}'),
        (b'{"x":"\\"model\\":\\"a\\"","model":"b"}', b'{"x":"\\"model\\":\\"a\\"","model":"new"}'),
    ],
)
def test_bodies_as_clients_write_them(body: bytes, changed: bytes) -> None:
    assert with_member(body, "model", "new") == changed


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b"{ }", b'{ "model":"new"}'),
        (b'{"a":{"b":"}"}} ', b'{"a":{"b":"}"},"model":"new"} '),
        (b'{"metadata":{"model":"x"}}', b'{"metadata":{"model":"x"},"model":"new"}'),
    ],
)
def test_a_member_that_was_not_there(body: bytes, changed: bytes) -> None:
    assert with_new_member(body, "model", "new") == changed


def test_a_long_string_costs_no_memory_of_its_own() -> None:
    body = b'{"x":"\\u00e9' + b"A" * 8_000_000 + b'","model":"a"}'
    assert with_member(body, "model", "new").endswith(b'"model":"new"}')


def test_a_member_that_is_an_object() -> None:
    body = b'{"stream_options": {"a": [1, {"b": "}"}]} , "z": 0}'
    assert with_member(body, "stream_options", {"c": True}) == b'{"stream_options": {"c":true} , "z": 0}'

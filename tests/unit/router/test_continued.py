"""The id an answer goes on from, put into the provider's own bytes and nowhere else."""

import orjson
import pytest

from serve_app.router.continued import continued, continued_events

SCHEMA = b'{"properties":{"previous_response_id":{"type":"string"}},"default":{"previous_response_id":null}}'


@pytest.mark.parametrize("said", [b"null", b'"resp_of the \\"provider\\""'])
def test_only_the_one_value_changes(said: bytes) -> None:
    head, tail = (
        b'{ "big": 12345678901234567890123,\n "previous_response_id" : ',
        b', "a":1.0,"text":"\\"previous_response_id\\":null"}',
    )
    assert continued(head + said + tail, "resp_1") == head + b'"resp_1"' + tail


def test_what_a_provider_leaves_out_is_added() -> None:
    assert continued(b'{"a": 1.0}', "resp_1") == b'{"a": 1.0,"previous_response_id":"resp_1"}'
    event = b'data:{"type":"response.created","response":{"id":"r"}}\n\n'
    assert continued_events(event, "resp_1") == event.replace(b'"r"', b'"r","previous_response_id":"resp_1"')


def test_a_tools_schema_is_left_as_it_is() -> None:
    for place in (b'{"tools":[%b],"previous_response_id":null}', b'{"previous_response_id":null,"tools":[%b]}'):
        told = orjson.loads(continued(place % SCHEMA, "resp_1"))
        assert (told["previous_response_id"], told["tools"]) == ("resp_1", [orjson.loads(SCHEMA)])


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b""])
def test_events_that_carry_the_response_tell_it(end: bytes) -> None:
    created = b'event: response.created%bdata: {"type":"response.created","response":{"previous_response_id":%b}}'
    delta = b'data: {"type":"response.output_text.delta","delta":"\\"previous_response_id\\":null"}'
    line_end = end[: len(end) // 2] or b"\n"
    before, after = (created % (line_end, value) for value in (b"null", b'"resp_1"'))
    for whole, told in ((before + end, after + end), (before + (end or b"\n\n") + delta + end,) * 2):
        expected = told.replace(b":null}}", b':"resp_1"}}')
        assert continued_events(whole, "resp_1") == expected


def test_an_event_with_a_tools_schema_tells_it_in_the_response() -> None:
    event = b'data: {"response":{"tools":[%b],"previous_response_id":null}}\n\n' % SCHEMA
    told = continued_events(event, "resp_1")
    assert told.startswith(b"data: {")
    assert told.endswith(b"}\n\n")
    response = orjson.loads(told[6:])["response"]
    assert (response["previous_response_id"], response["tools"]) == ("resp_1", [orjson.loads(SCHEMA)])


def test_what_is_no_json_passes() -> None:
    odd = b'data: "response","previous_response_id":null,"previous_response_id":null\n\ndata: ["response"]\n\n'
    assert continued_events(odd, "resp_1") == odd

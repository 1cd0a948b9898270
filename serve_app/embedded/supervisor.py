"""The background process of `aether up`: starts the servers, has the applications deployed, keeps all of it alive.

It imports no Ray and stays small. As a subreaper it inherits every process that is started below it, so that a stop
ends exactly those, whatever they have daemonised.
"""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

from configs.settings import Settings, SettingsError, load_settings
from serve_app.embedded import keys, logfiles, processes
from serve_app.embedded.board import Board, Snapshot, State
from serve_app.embedded.children import Child, Children
from serve_app.embedded.control import ControlServer
from serve_app.embedded.deployer import Deployer
from serve_app.embedded.failures import StartError, as_start_error
from serve_app.embedded.servers import Servers
from serve_app.embedded.state import (
    RUN_VARIABLE,
    Folders,
    Lock,
    marks_of,
    new_instance,
    write_private,
)

_log = logging.getLogger(__name__)

DEPLOYER = (sys.executable, "-P", "-m", "serve_app.main")
_PR_SET_CHILD_SUBREAPER = 36
_APPLICATION_GRACE_S = 3.0


class Supervisor:
    """One run of the platform on this machine, from start to stop."""

    def __init__(self, settings: Settings, *, deployer_command: Sequence[str] = DEPLOYER) -> None:
        self._settings = settings
        self._deployer_command = tuple(deployer_command)
        self._folders = Folders(settings.data_dir)
        self._children = Children()
        self._board = Board()
        self._stop_wanted = asyncio.Event()
        self._instance = new_instance(
            secrets.token_hex(8), host=settings.http.host, port=settings.http.port, base_url=settings.base_url
        )
        self._servers = Servers()
        self._deployer: Deployer | None = None
        self._has_gone = False  # the deployer may have put something on the cluster
        self._control = ControlServer(
            self._folders.control_socket, self._board, self.snapshot, stop=self._stop_wanted.set
        )

    def snapshot(self) -> Snapshot:
        """The state now, as watchers get it."""
        head = self._servers.head
        return Snapshot(
            phase=self._board.phase,
            steps=self._board.steps(),
            seconds=self._board.seconds,
            run_id=self._instance.run_id,
            pid=os.getpid(),
            base_url=self._instance.base_url,
            data_dir=str(self._folders.data_dir),
            logs_dir=str(self._folders.logs_dir),
            ray_address=head.address if head else self._settings.ray.address,
            metrics_url=head.metrics_url if head else None,
            reason=self._board.reason,
            mend=self._board.mend,
        )

    async def run(self, on_listening: "asyncio.Future[None] | None" = None) -> int:
        """Start, stay until asked to stop, stop. The exit code is 1 when the start failed."""
        _become_subreaper()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_wanted.set)
        self._children.reap_orphans()
        self._folders.write_instance(self._instance)
        await self._control.open()
        if on_listening is not None:
            on_listening.set_result(None)
        stop_wanted = asyncio.create_task(self._stop_wanted.wait())
        housekeeping = asyncio.create_task(self._keep_house())
        work = asyncio.create_task(self._start_and_keep())
        await asyncio.wait({stop_wanted, work}, return_when=asyncio.FIRST_COMPLETED)
        error: StartError | None = None
        if work.done() and (raised := work.exception()) is not None:
            error = _first_cause(raised)
            _log.error("the start failed: %s", error.message)
            self._board.fail_running()
        else:
            self._board.enter("stopping")
        for task in (work, housekeeping, stop_wanted):
            task.cancel()
            # What it raised while being cancelled has been reported above or no longer matters.
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        await self._stop()
        if error is not None:
            self._board.enter("failed", reason=error.message, mend=error.mend)
        else:
            self._board.enter("stopped")
        await self._control.close()
        self._children.close()
        self._folders.clear_run()
        return 1 if error else 0

    # --- starting -------------------------------------------------------------------------------------------

    async def _start_and_keep(self) -> None:
        # The servers inherit this process's environment, so the mark of the run goes there too.
        os.environ[RUN_VARIABLE] = self._instance.run_id
        self._servers.choose(
            self._settings, self._folders, self._children, environment=os.environ, on_change=self._remember
        )
        began = time.monotonic()
        deployer = self._new_deployer()
        roots = await self._start_all(deployer)
        self._ready(began)
        pause_s = 0.5
        while roots:
            watched = [asyncio.create_task(root.wait()) for root in roots]
            try:
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in watched:
                    task.cancel()
            _log.warning("Ray's head died; starting it and the applications again")
            self._board.enter("starting")
            while True:
                await self._end_applications()
                began = time.monotonic()
                try:
                    roots = await self._start_all(self._new_deployer())
                    break
                except* (StartError, OSError) as group:
                    _log.error("Ray did not come back: %s", _first_cause(group).message)
                    self._board.fail_running()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 30.0)
            self._ready(began)
        await asyncio.Event().wait()  # somebody else's Ray: nothing of it to watch

    async def _start_all(self, deployer: Deployer) -> tuple[Child, ...]:
        async with asyncio.TaskGroup() as group:
            group.create_task(deployer.finish())
            servers = group.create_task(self._start_servers(deployer))
        return servers.result()

    async def _start_servers(self, deployer: Deployer) -> tuple[Child, ...]:
        roots = await self._servers.start(self._board)
        self._remember()
        self._has_gone = True
        deployer.go()
        return roots

    # --- the deployer ---------------------------------------------------------------------------------------

    def _new_deployer(self) -> Deployer:
        key = keys.read(self._folders.cli_key_file)
        # aek_<prefix>_<secret>: the prefix is no secret, and tells whether the database knows the key.
        known = ["--cli-key-prefix", key.split("_")[1]] if key and key.count("_") >= 2 else []
        command = [*self._deployer_command, "deploy", *known]
        self._deployer = Deployer(
            command,
            environment=self._servers.environment,
            log_file=self._folders.logs_dir / "deployer.log",
            children=self._children,
            on_line=self._on_deployer_line,
        )
        self._remember()
        return self._deployer

    def _on_deployer_line(self, said: dict[str, Any]) -> None:
        stage, state = str(said["stage"]), str(said["state"])
        key = said.get("api_key")
        match stage:
            case "owner":
                self._board.owner_api_key = str(key) if key else None
            case "cli-key" if key:
                write_private(self._folders.cli_key_file, str(key).encode())
            case "owner" | "cli-key" | "ready":
                pass
            case "ray" if state != "failed" and self._servers.head is not None:
                pass  # it connects to the head whose start has its own line
            case _ if state == "started":
                self._board.begin(stage)
            case _ if state in {"done", "failed"}:
                seconds, message = said.get("seconds"), said.get("message")
                self._board.end(stage, state=cast("State", state), seconds=seconds, message=message)
            case _:
                _log.info("deployer: %s %s", stage, state)

    def _ready(self, began: float) -> None:
        self._instance = self._instance.model_copy(update={"ready_at": time.time()})
        self._remember()
        _log.info("ready after %.1f s at %s", time.monotonic() - began, self._instance.base_url)
        self._board.enter("ready")

    # --- staying up -----------------------------------------------------------------------------------------

    def _remember(self) -> None:
        """Write down who is ours, for the day this process is killed and cannot say."""
        marks = marks_of(processes.descendants([os.getpid()]))
        self._instance = self._instance.model_copy(update={"processes": marks})
        self._folders.write_instance(self._instance)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(5.0)
            known = {mark.pid for mark in self._instance.processes}
            try:
                if processes.descendants([os.getpid()]) != known:
                    self._remember()
                logfiles.bound(self._folders.logs_dir)
            except OSError as exc:
                _log.warning("housekeeping: %s", as_start_error(exc).message)

    # --- stopping -------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        began = time.monotonic()
        if self._deployer is not None:
            await self._deployer.stop()
        if self._settings.ray.address and self._has_gone:
            await self._take_off("undeploy")
        elif any(self._folders.sandbox_dir.glob("*/*/leased")):
            # Without this the workspaces of sandboxes in use would go with the pool.
            await self._take_off("drain")
        await self._end_applications()
        await asyncio.gather(*(keeper.stop() for keeper in self._servers.keepers), return_exceptions=True)
        # Nothing should be left; whatever is, must not stay.
        await asyncio.to_thread(processes.end_all, lambda: processes.descendants([os.getpid()]), grace_s=0.5)
        if self._servers.head is not None:
            try:
                logfiles.keep_ray_session(self._servers.head.session_logs, self._folders.logs_dir / "ray")
            except OSError as exc:
                _log.warning("Ray's logs could not be kept: %s", as_start_error(exc).message)
        _log.info("stopped after %.1f s", time.monotonic() - began)

    async def _end_applications(self) -> None:
        """End everything below us but the two servers, which the applications still need while they end."""

        def others() -> set[int]:
            servers = [keeper.child.pid for keeper in self._servers.keepers if keeper.child and keeper.child.is_alive]
            return processes.descendants([os.getpid()]) - set(servers) - processes.descendants(servers)

        left = await asyncio.to_thread(processes.end_all, others, grace_s=_APPLICATION_GRACE_S)
        if left:
            _log.error("could not end %s", left)

    async def _take_off(self, action: str) -> None:
        try:
            with logfiles.open_log(self._folders.logs_dir / "deployer.log") as log:
                code = await self._children.run(
                    [*self._deployer_command, action],
                    timeout_s=60,
                    env=self._servers.environment,
                    stdout=log,
                    stderr=log,
                )
            if code != 0:
                _log.error("%s failed; see deployer.log", action)
        except TimeoutError:
            _log.error("%s took too long", action)


def _first_cause(exc: BaseException) -> StartError:
    while isinstance(exc, BaseExceptionGroup):
        # A failure we can explain before one that is only its consequence.
        exc = next((inner for inner in exc.exceptions if isinstance(inner, StartError)), exc.exceptions[0])
    if not isinstance(exc, StartError | OSError):
        _log.error("unexpected", exc_info=exc)
    return as_start_error(exc)


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _say(message: dict[str, str | bool | None]) -> None:
    """The one line whoever started us waits for; afterwards there is nobody to write to."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


async def _supervise(settings: Settings, deployer_command: Sequence[str]) -> int:
    supervisor = Supervisor(settings, deployer_command=deployer_command)
    listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    listening.add_done_callback(lambda _: _say({"ok": True}))
    return await supervisor.run(listening)


def main(arguments: Sequence[str]) -> int:
    """Run until stopped. An optional argument is the deployer's command as a JSON list."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    lock: Lock | None = None
    try:
        settings = load_settings()
        folders = Folders(settings.data_dir)
        folders.prepare()
        lock = Lock(folders.data_dir / "lock")
        if not lock.take():
            _say({"ok": False, "is_taken": True, "error": "Another start is under way.", "mend": "aether status"})
            return 75
        command = json.loads(arguments[0]) if arguments else DEPLOYER
        return asyncio.run(_supervise(settings, command))
    except (SettingsError, OSError, StartError) as exc:
        error = StartError(str(exc)) if isinstance(exc, SettingsError) else as_start_error(exc)
        _log.error("%s", error.message)
        _say({"ok": False, "error": error.message, "mend": error.mend})
        return 1
    finally:
        if lock is not None:
            lock.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The program that deploys the applications, seen from the supervisor: started early, told when to go, listened to."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.embedded.children import Child, Children
from serve_app.embedded.failures import StartError
from serve_app.embedded.logfiles import open_log, tail

_log = logging.getLogger(__name__)


class Deployer:
    """One run of it. It prints a JSON object a line; `on_line` gets each."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_file: Path,
        children: Children,
        on_line: Callable[[dict[str, Any]], None],
    ) -> None:
        self._log_file = log_file
        self._on_line = on_line
        self._failure: str | None = None
        self._is_ready = False
        with open_log(log_file) as log:
            self.child: Child = children.spawn(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )

    def go(self) -> None:
        """Say that the servers are there."""
        popen = self.child.popen
        assert popen is not None and popen.stdin is not None  # noqa: S101, PT018 - spawned with a pipe
        # A deployer that is gone already tells why by its exit code and its log.
        with contextlib.suppress(BrokenPipeError):
            popen.stdin.write(b"go\n")
            popen.stdin.flush()

    async def finish(self) -> None:
        """Listen until it is done.

        Raises:
            StartError: with what it said, or the end of its log.
        """
        popen = self.child.popen
        assert popen is not None and popen.stdout is not None  # noqa: S101, PT018 - spawned with a pipe
        reader = asyncio.StreamReader(limit=1 << 20)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(popen.stdout.fileno()), "rb")
        )
        try:
            async for line in reader:
                self._hear(line)
                if self._is_ready:
                    break
        finally:
            transport.close()
        code = await self.child.wait(timeout_s=30.0)
        self.close()
        if self._failure is not None or code != 0 or not self._is_ready:
            last = "" if self._failure else "\n  ".join(["", *tail(self._log_file, 6)])
            what = self._failure or f"The deployer ended with {code} before the platform was ready."
            raise StartError(what + last, mend="aether logs deployer")

    async def stop(self) -> None:
        if self.child.is_alive:
            await self.child.end(signal.SIGTERM, grace_s=1.0)
        self.close()

    def close(self) -> None:
        popen = self.child.popen
        if popen is not None:
            for stream in (popen.stdin, popen.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def _hear(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            stage, state = said["stage"], said["state"]
        except (ValueError, KeyError, TypeError):
            _log.info("deployer: %s", line.decode(errors="replace").rstrip())
            return
        if stage == "ready":
            self._is_ready = state == "done"
        elif state == "failed":
            self._failure = f"{stage}: {said.get('message') or 'failed'}"
        self._on_line(said)

"""One operation on one connection, from its request to its result, refusal or cancellation."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from actors.sandbox.door.connection import Connection
from actors.sandbox.door.fields import Fields, truth
from actors.sandbox.door.lines import Lines
from actors.sandbox.door.refusals import ENDS_CONNECTION, refusal
from actors.sandbox.door.wire import CONTROL, DATA, END, ERROR, EVENT, MAX_PAYLOAD_BYTES, RESULT, decode, encode
from serve_app.core.errors import AetherError, NoSuchFileError, SandboxLostError, SandboxProtocolError

_PIECE_BYTES = 256 * 1024
assert _PIECE_BYTES <= MAX_PAYLOAD_BYTES  # noqa: S101 - a fact about two constants


class Exchange:
    """An async context manager: leaving it before the result is there cancels the operation inside.

    `missing` is what the code `not_found` means for this operation.
    """

    def __init__(
        self, lines: Lines, request: Mapping[str, object], *, missing: type[AetherError] = NoSuchFileError
    ) -> None:
        self.fields: Fields | None = None
        """The result's, once it is there."""
        self.timeout_s: float | None = lines.answer_timeout_s
        """How long the sandbox may be silent."""
        self.patience_s: float | None = None
        """How long it may keep us waiting in all, where that is known: who says a little now and then is not silent."""
        self._lines = lines
        self._request = encode({name: value for name, value in request.items() if value is not None})
        self._missing = missing
        self._bytes_left: int | None = None
        """How many more bytes of data may come. None: nobody keeps them."""
        self._connection: Connection | None = None
        self._is_clean = True

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def open(self, *, turns_raw: bool = False) -> None:
        self._connection = await self._lines.take()
        self._connection.request(self._request, turns_raw=turns_raw)

    def close(self) -> None:
        """Give the connection back; where the operation is still under way this cancels it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # A result that nobody read would be taken for the next operation's.
            ended_well = self._is_clean and connection.is_over and not connection.has_unread
            self._lines.give_back(connection, ended_well=ended_well)

    def detach(self) -> Connection:
        """The connection, for whoever turned it raw; it is theirs to close, which takes it off the lines."""
        connection, self._connection = self._open_connection, None
        return connection

    async def next(self) -> tuple[int, bytes]:
        """The next frame; with `RESULT`, `fields` is there and nothing follows.

        Raises:
            AetherError: the sandbox refused; its code decides which one.
            SandboxLostError, SandboxProtocolError, TimedOutError: it died, broke the protocol, or fell silent.
        """
        try:
            kind, payload = await self._received()
            if kind == RESULT:
                self.fields = decode(payload)
            elif kind == ERROR:
                code, error = refusal(payload, self._missing)
                self._is_clean = self._is_clean and code not in ENDS_CONNECTION
                self._lines.is_lost = self._lines.is_lost or code == "bad_hello"
                raise error
        except SandboxProtocolError:
            self.violated()
            raise
        return kind, payload

    async def _received(self) -> tuple[int, bytes]:
        if self.patience_s is None:
            return await self._open_connection.receive(self.timeout_s)
        # What a slow reader on our side takes is not counted.
        clock = asyncio.get_running_loop().time
        began = clock()
        longest_s = self.patience_s if self.timeout_s is None else min(self.patience_s, self.timeout_s)
        frame = await self._open_connection.receive(longest_s)
        self.patience_s = max(0.0, self.patience_s - (clock() - began))
        return frame

    async def event(self, name: str) -> Fields:
        """The next frame, which has to be this event."""
        kind, payload = await self.next()
        return self.expect_event(kind, payload, name)

    def expect_event(self, kind: int, payload: bytes, *names: str) -> Fields:
        if kind != EVENT:
            raise self.disorder()
        fields = self.checked(payload)
        if fields.get("event") not in names:
            raise self.disorder()
        return fields

    def checked(self, payload: bytes) -> Fields:
        try:
            return decode(payload)
        except SandboxProtocolError:
            self.violated()
            raise

    def count(self, data: bytes) -> None:
        """Raises when more came than was asked for. Data of no bytes counts too: a flood of it would have no end."""
        if self._bytes_left is not None:
            self._bytes_left -= max(1, len(data))
            if self._bytes_left < 0:
                raise self.disorder()

    def disorder(self) -> SandboxProtocolError:
        self.violated()
        return SandboxProtocolError("The sandbox sent a frame that has no place there.")

    def violated(self) -> None:
        """What it says can no longer be told apart: nothing more is asked of it."""
        self._is_clean = False
        self._lines.is_lost = True
        if self._connection:
            self._connection.abort()

    async def conclude(self) -> Fields:
        """The next frame, which has to be the result."""
        kind, _ = await self.next()
        if kind != RESULT or self.fields is None:
            raise self.disorder()
        return self.fields

    # --- the host's side ---

    def control(self, request: Mapping[str, object]) -> None:
        """It may cross the result on its way: what comes too late is dropped inside."""
        if self._connection is not None and not self._connection.is_over:
            self._connection.send(CONTROL, encode(request))

    async def upload(self, data: bytes, timeout_s: float | None) -> None:
        """Some more `DATA`. Returns when there is room for more, or when the operation is over anyway."""
        connection = self._open_connection
        if len(data) <= _PIECE_BYTES:
            if data and not connection.is_over:
                connection.send(DATA, data)
                await connection.drain(timeout_s)
            return
        view = memoryview(data)
        for at in range(0, len(view), _PIECE_BYTES):
            if connection.is_over:
                return
            connection.send(DATA, bytes(view[at : at + _PIECE_BYTES]))
            await connection.drain(timeout_s)

    def end_upload(self) -> None:
        connection = self._open_connection
        if not connection.is_over:
            connection.send(END)

    @property
    def is_over(self) -> bool:
        """The sandbox has answered; the answer may still wait to be read."""
        return self._connection is None or self._connection.is_over

    @property
    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise SandboxLostError("This operation has not begun, or is closed.")
        return self._connection


async def ask(lines: Lines, request: Mapping[str, object], *, missing: type[AetherError] = NoSuchFileError) -> Fields:
    """An operation whose whole answer is its result."""
    exchange = Exchange(lines, request, missing=missing)
    await exchange.open()
    try:
        return await exchange.conclude()
    finally:
        exchange.close()


async def turn_raw(
    lines: Lines, request: Mapping[str, object], *, missing: type[AetherError], waits: bool = False
) -> Connection:
    """An operation that leaves raw bytes behind; the caller gives the connection back to `lines`."""
    exchange = Exchange(lines, request, missing=missing)
    if waits:
        exchange.timeout_s = None
    try:
        await exchange.open(turns_raw=True)
        fields = await exchange.conclude()
        if not truth(fields, "raw", default=False):
            raise exchange.disorder()
        return exchange.detach()
    finally:
        exchange.close()

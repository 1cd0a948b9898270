"""Programs and cells run to their end in one answer, or told as they run."""

import base64
from collections.abc import AsyncIterator

from actors.sandbox.door.cells import CellRequest, CellResult, Display, Picture, RunningCell
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.running import ExecRequest, Output, Started, fed
from serve_app.api.resources.sandboxes.events import Frames, Pieces, frame
from serve_app.api.resources.sandboxes.programs.schemas import (
    MOST_OUTPUT_BYTES,
    CellEndOut,
    CellErrorOut,
    CellOut,
    EndOut,
    ExecIn,
    ExecOut,
    OutputOut,
    ProcessOutputOut,
    sound,
)
from serve_app.core.stores.live.base import LiveFrame

TIMEOUT_S = 600.0
_VALUE_BYTES = 64
_Streams = dict[str, Pieces]


def output_bound(asked: int | None, default: int) -> int:
    return min(default if asked is None else asked, MOST_OUTPUT_BYTES)


# --- programs ---


async def run(client: SandboxClient, wanted: ExecIn, output_bytes: int) -> ExecOut:
    """To its end."""
    done = await client.run(
        wanted.argv or wanted.shell or "",
        cwd=wanted.cwd,
        env=wanted.env,
        timeout_s=wanted.timeout_s or TIMEOUT_S,
        stdin=wanted.input,
        output_bytes=output_bytes,
        merge=wanted.merge,
    )
    return ExecOut.of(done)


async def follow(client: SandboxClient, request: ExecRequest, stdin: bytes | None) -> Frames:
    """`started`, then `stdout` and `stderr`, at last `exit`. Closing it kills the whole tree."""
    streams = _streams()
    async with client.exec(request) as running, fed(running, stdin):
        async for piece in running:
            match piece:
                case Started(pid):
                    yield frame("started", {"pid": pid})
                case Output(stream, data):
                    if (told := streams[stream].take(data)) is not None:
                        yield frame(stream, told)
        for last in _ends(streams):
            yield last
        yield frame("exit", EndOut.model_validate(running.result))


async def attach(client: SandboxClient, process: str) -> ProcessOutputOut:
    """What a program that goes on by itself has written until now."""
    written = _Written()
    async with client.attach(process) as attached:
        async for piece in attached:
            written.add(piece)
        ended = attached.result
    return ProcessOutputOut(**written.fields(), ended=EndOut.model_validate(ended) if ended else None)


async def attach_and_follow(client: SandboxClient, process: str) -> Frames:
    """The same, and what it writes from now on, until it ends. Closing it leaves the program running."""
    streams = _streams()
    async with client.attach(process, follow=True) as attached:
        async for piece in attached:
            if (told := streams[piece.stream].take(piece.data)) is not None:
                yield frame(piece.stream, told)
        for last in _ends(streams):
            yield last
        if attached.result:
            yield frame("exit", EndOut.model_validate(attached.result))


# --- cells ---


async def run_cell(client: SandboxClient, request: CellRequest) -> CellOut:
    """To its end; what it displays is kept up to the bound of one answer."""
    written = _Written()
    displays: list[dict[str, object]] = []
    left, is_cut = MOST_OUTPUT_BYTES, False
    async with client.cell(request) as cell:
        async for piece in cell:
            if isinstance(piece, Output):
                written.add(piece)
                continue
            shown = _shown(piece)
            left -= _size(shown)
            is_cut = is_cut or left < 0
            if not is_cut:
                displays.append(shown)
        end = _cell_end(cell.result)
    return CellOut(
        **written.fields(),
        **end.model_dump(),
        displays=displays,
        displays_cut=is_cut,
    )


async def follow_cell(client: SandboxClient, request: CellRequest) -> Frames:
    """`stdout`, `stderr` and `display` as they come, at last `result`. Closing it interrupts the code."""
    streams = _streams()
    async with client.cell(request) as cell:
        async for one in _cell_frames(cell, streams):
            yield one
        for last in _ends(streams):
            yield last
        yield frame("result", _cell_end(cell.result))


async def _cell_frames(cell: RunningCell, streams: _Streams) -> AsyncIterator[LiveFrame]:
    async for piece in cell:
        match piece:
            case Output(stream, data):
                if (told := streams[stream].take(data)) is not None:
                    yield frame(stream, told)
            case _:
                yield frame("display", _shown(piece))


def _shown(piece: Display | Picture) -> dict[str, object]:
    match piece:
        case Display(data):
            return {name: _sound(value) for name, value in data.items()}
        case Picture(mime, data):
            return {mime: base64.b64encode(data).decode()}


def _sound(value: object) -> object:
    """Shallow enough to walk: whoever read it from the sandbox made sure."""
    match value:
        case str():
            return sound(value)
        case dict():
            return {sound(str(name)): _sound(inner) for name, inner in value.items()}
        case list():
            return [_sound(inner) for inner in value]
        case int() if not -(2**63) <= value < 2**64:
            return float(value) if abs(value) < 10**300 else None
        case _:
            return value


def _size(value: object) -> int:
    """About what it takes of memory: many small values take far more than their text."""
    match value:
        case str():
            return _VALUE_BYTES + len(value)
        case dict():
            return _VALUE_BYTES + sum(_size(name) + _size(inner) for name, inner in value.items())
        case list():
            return _VALUE_BYTES + sum(map(_size, value))
        case _:
            return _VALUE_BYTES


def _cell_end(result: CellResult) -> CellEndOut:
    return CellEndOut(
        status=result.status,
        error=CellErrorOut.of(result.error) if result.error else None,
        duration_s=result.duration_s,
        restarted=result.restarted,
        exit_code=result.exit_code,
    )


class _Written:
    """Both streams, one array each: of output that comes byte by byte a list would hold many times its size."""

    def __init__(self) -> None:
        self._stdout, self._stderr = bytearray(), bytearray()

    def add(self, piece: Output) -> None:
        (self._stdout if piece.stream == "stdout" else self._stderr).extend(piece.data)

    def fields(self) -> dict[str, str]:
        return OutputOut.fields_of(bytes(self._stdout), bytes(self._stderr))


def _streams() -> _Streams:
    return {"stdout": Pieces(), "stderr": Pieces()}


def _ends(streams: _Streams) -> list[LiveFrame]:
    return [frame(name, told) for name, pieces in streams.items() if (told := pieces.end()) is not None]

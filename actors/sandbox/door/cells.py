"""Cells of code in an interpreter that keeps its state, and what they display."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from actors.sandbox.door.exchange import Exchange
from actors.sandbox.door.fields import Fields, integer, maybe_integer, number, text, truth
from actors.sandbox.door.lines import Lines
from actors.sandbox.door.running import Output
from actors.sandbox.door.wire import DATA, DATA2, MAX_JSON_BYTES, RESULT
from serve_app.core.errors import SandboxLostError

Interpreter = Literal["python", "shell", "node"]
_GRACE_S = 15.0
_MOST_PICTURE_BYTES = 16 * 1024 * 1024
_MOST_DEPTH = 64
_TEXT_TYPES = frozenset({"text/plain", "text/html", "text/markdown", "text/latex", "image/svg+xml"})
_BASE64_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"})
_JSON_TYPE = "application/json"


@dataclass(frozen=True, kw_only=True)
class CellRequest:
    """Code for the interpreter `interpreter` of the name `name`, which is started when it is not there yet."""

    code: str
    interpreter: Interpreter = "python"
    name: str = "main"
    timeout_s: float | None = None
    output_bytes: int | None = None

    def fields(self) -> dict[str, object]:
        return {
            "op": "run",
            "interpreter": self.interpreter,
            "name": self.name,
            "code": self.code,
            "timeout_s": self.timeout_s,
            "output_bytes": self.output_bytes,
        }


@dataclass(frozen=True)
class Display:
    """One value in as many forms as it has, by media type: text, base64 for pictures, anything for JSON.

    HTML and SVG are the sandbox's: whoever shows them does so in an origin of their own.
    """

    data: dict[str, object]


@dataclass(frozen=True)
class Picture:
    """A display too large for one frame."""

    mime: str
    data: bytes


@dataclass(frozen=True)
class CellError:
    """What the code raised, in the sandbox's words."""

    name: str
    message: str
    trace: str


@dataclass(frozen=True)
class CellResult:
    """How a cell ended. `restarted`: the interpreter's state is lost. `exit_code`: a shell's."""

    status: Literal["ok", "error", "interrupted"]
    error: CellError | None
    duration_s: float
    restarted: bool
    exit_code: int | None


class RunningCell(Exchange):
    """A cell that runs. Iterate it to its end, then take `result`; leaving it earlier interrupts it."""

    def __init__(self, lines: Lines, request: CellRequest) -> None:
        super().__init__(lines, request.fields())
        self.timeout_s = None
        self.patience_s = None if request.timeout_s is None else request.timeout_s + _GRACE_S
        self._bytes_left = request.output_bytes
        self._result: CellResult | None = None

    def __aiter__(self) -> AsyncIterator[Output | Display | Picture]:
        return self

    async def __anext__(self) -> Output | Display | Picture:
        if self._result is not None:
            raise StopAsyncIteration
        kind, payload = await self.next()
        if kind in {DATA, DATA2}:
            self.count(payload)
            return Output("stdout" if kind == DATA else "stderr", payload)
        if kind == RESULT and self.fields is not None:
            self._result = _cell_result(self.fields)
            raise StopAsyncIteration
        fields = self.expect_event(kind, payload, "display")
        if "size" in fields:
            return await self._picture(fields)
        return Display(self._forms(fields.get("data")))

    def interrupt(self) -> None:
        """Ctrl-C. The result still comes."""
        self.control({"do": "interrupt"})

    @property
    def result(self) -> CellResult:
        """There once the iteration has ended."""
        if self._result is None:
            raise SandboxLostError("The cell has not ended yet.")
        return self._result

    async def _picture(self, fields: Fields) -> Picture:
        size, mime = integer(fields, "size", 1, _MOST_PICTURE_BYTES), text(fields, "mime", 64)
        if mime not in _BASE64_TYPES:
            raise self.disorder()
        picture = bytearray()
        missing = size
        while missing:
            kind, payload = await self.next()
            missing -= len(payload)
            if kind != DATA or missing < 0:
                raise self.disorder()
            picture += payload
        return Picture(mime, bytes(picture))

    def _forms(self, data: object) -> dict[str, object]:
        if not isinstance(data, dict):
            raise self.disorder()
        forms: dict[str, object] = {}
        for mime, value in data.items():
            if mime in _TEXT_TYPES or mime in _BASE64_TYPES:
                if not isinstance(value, str):
                    raise self.disorder()
                forms[mime] = value
            elif mime == _JSON_TYPE and is_shallow(value):
                forms[mime] = value
        return forms


def is_shallow(value: object) -> bool:
    """Whether whoever walks this JSON by recursion is safe."""
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return True
    return False


def _cell_result(fields: Fields) -> CellResult:
    status = text(fields, "status", 16)
    error = fields.get("error")
    return CellResult(
        status="ok" if status == "ok" else "interrupted" if status == "interrupted" else "error",
        error=_cell_error(error) if isinstance(error, dict) else None,
        duration_s=number(fields, "duration_s"),
        restarted=truth(fields, "restarted", default=False),
        exit_code=maybe_integer(fields, "exit_code", -255, 2**32 - 1),
    )


def _cell_error(fields: Fields) -> CellError:
    return CellError(
        name=text(fields, "name", 1000),
        message=text(fields, "message", MAX_JSON_BYTES),
        trace=text(fields, "trace", MAX_JSON_BYTES) if "trace" in fields else "",
    )

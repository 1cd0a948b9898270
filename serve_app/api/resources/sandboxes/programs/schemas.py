"""Programs, cells and processes, as the API takes and shows them."""

import base64
from typing import Annotated, Literal, Self

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, model_validator

from actors.sandbox.door.cells import CellError, CellRequest, Interpreter
from actors.sandbox.door.processes import Process
from actors.sandbox.door.running import Completed, ExecRequest
from serve_app.api.deps import Text

MOST_OUTPUT_BYTES = 16 * 1024**2
"""Of what is answered in one piece; streams go on as long as they are read."""
_DAY_S = 86_400
Argument = Annotated[Text, Field(max_length=128 * 1024)]
InterpreterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
Seconds = Annotated[float, Field(gt=0, le=_DAY_S)]


class CommandIn(BaseModel):
    """A program by `argv`, or a line for the sandbox's shell."""

    model_config = ConfigDict(extra="forbid")
    argv: list[Argument] | None = Field(None, min_length=1, max_length=4096)
    shell: Argument | None = Field(None, min_length=1)
    cwd: Text | None = Field(None, max_length=4096, description="default: the workspace")
    env: dict[Text, Argument] = Field(default_factory=dict, max_length=256)

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.argv is None) == (self.shell is None):
            raise ValueError("name what to run as argv or as shell, and not as both")
        return self


class ExecIn(CommandIn):
    """`stdin` is text; what is none comes as `stdin_base64`. What a program leaves running is killed when it ends."""

    timeout_s: Seconds | None = Field(None, description="then it is killed with all it started; default: 600")
    stdin: str | None = None
    stdin_base64: Base64Bytes | None = None
    output_bytes: int | None = Field(None, ge=0, description="of both streams together; what is more is dropped")
    merge: bool = Field(False, description="what it writes to stderr comes as stdout")

    @model_validator(mode="after")
    def _has_one_input(self) -> Self:
        if self.stdin is not None and self.stdin_base64 is not None:
            raise ValueError("give stdin or stdin_base64, and not both")
        return self

    @property
    def input(self) -> bytes | None:
        return self.stdin.encode() if self.stdin is not None else self.stdin_base64

    def as_request(self, timeout_s: float, output_bytes: int | None) -> ExecRequest:
        return ExecRequest(
            argv=self.argv or (),
            shell=self.shell,
            cwd=self.cwd,
            env=self.env,
            timeout_s=self.timeout_s or timeout_s,
            stdin=self.input is not None,
            output_bytes=output_bytes,
            merge=self.merge,
        )


class EndOut(BaseModel):
    """How a program ended: `exit_code`, or the number of the `signal` that killed it. `cut`: it wrote more than told."""

    model_config = ConfigDict(from_attributes=True)
    exit_code: int | None
    signal: int | None
    timed_out: bool
    cut: bool
    duration_s: float


class OutputOut(BaseModel):
    """Where what was written is no UTF-8, the text has replacements and the `_base64` is exact."""

    stdout: str
    stderr: str
    stdout_base64: str | None = None
    stderr_base64: str | None = None

    @staticmethod
    def fields_of(stdout: bytes, stderr: bytes) -> dict[str, str]:
        fields = {}
        for name, data in (("stdout", stdout), ("stderr", stderr)):
            fields[name] = data.decode(errors="replace")
            if "�" in fields[name] and fields[name].encode() != data:
                fields[f"{name}_base64"] = base64.b64encode(data).decode()
        return fields


class ExecOut(OutputOut, EndOut):
    @classmethod
    def of(cls, done: Completed) -> Self:
        end = EndOut.model_validate(done).model_dump()
        return cls(**OutputOut.fields_of(done.stdout, done.stderr), **end)


class CellIn(BaseModel):
    """Code for the interpreter of this name, whose state lives on from cell to cell."""

    model_config = ConfigDict(extra="forbid")
    code: Text = Field(max_length=200_000)
    interpreter: Interpreter = "python"
    name: InterpreterName = "main"
    timeout_s: Seconds | None = Field(None, description="then it is interrupted; default: 600")
    output_bytes: int | None = Field(None, ge=0, description="what is more is dropped")

    def as_request(self, timeout_s: float, output_bytes: int | None) -> CellRequest:
        return CellRequest(
            code=self.code,
            interpreter=self.interpreter,
            name=self.name,
            timeout_s=self.timeout_s or timeout_s,
            output_bytes=output_bytes,
        )


class CellErrorOut(BaseModel):
    """What the code raised, in the sandbox's own words."""

    name: str
    message: str
    trace: str

    @classmethod
    def of(cls, error: CellError) -> Self:
        # Text from inside may have halves of pairs in it, which no JSON can carry.
        return cls(name=sound(error.name), message=sound(error.message), trace=sound(error.trace))


class CellEndOut(BaseModel):
    """`restarted`: the interpreter's state is lost. `exit_code` is a shell's."""

    status: Literal["ok", "error", "interrupted"]
    error: CellErrorOut | None
    duration_s: float
    restarted: bool
    exit_code: int | None


class CellOut(OutputOut, CellEndOut):
    """`displays`: each value in as many forms as it has, by media type; pictures in base64. HTML is the sandbox's: show
    it in an origin of its own. `displays_cut`: there were more than fit."""

    displays: list[dict[str, object]]
    displays_cut: bool


class ProcessOut(BaseModel):
    """`process` is the name of one that was started by itself."""

    pid: int
    ppid: int
    argv: list[str]
    rss_bytes: int
    cpu_s: float
    state: str
    process: str | None

    @classmethod
    def of(cls, process: Process) -> Self:
        fields = vars(process)
        return cls(**{**fields, "process": sound(process.process) if process.process else None})


class ProcessesOut(BaseModel):
    items: list[ProcessOut]


class StartedOut(BaseModel):
    process: str
    pid: int


class ProcessOutputOut(OutputOut):
    """The last 256 KiB. `ended` is there once it has ended."""

    ended: EndOut | None


class PortOut(BaseModel):
    port: int
    address: str
    pid: int | None


class PortsOut(BaseModel):
    items: list[PortOut]


def sound(text: str) -> str:
    """Text that can be sent: what is no character becomes a replacement."""
    return text.encode("utf-8", "replace").decode("utf-8", "replace") if not text.isascii() else text

"""`/api/v1/sandboxes/{sandbox_id}`: `exec`, `cells`, `interpreters`, `processes` and `ports`."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, status
from fastapi.responses import Response

from actors.sandbox.door.cells import Interpreter
from serve_app.api.deps import ServicesDep
from serve_app.api.resources.sandboxes.events import begun, streamed, wants_events
from serve_app.api.resources.sandboxes.opened import ClientDep
from serve_app.api.resources.sandboxes.programs import service
from serve_app.api.resources.sandboxes.programs.schemas import (
    CellIn,
    CellOut,
    CommandIn,
    ExecIn,
    ExecOut,
    InterpreterName,
    PortOut,
    PortsOut,
    ProcessesOut,
    ProcessOut,
    ProcessOutputOut,
    StartedOut,
    sound,
)
from serve_app.core.services.presence import while_present

router = APIRouter()
_DEFAULT_OUTPUT_BYTES = 1024**2
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "as JSON, or where asked for as server-sent events"}
}
# Wider than the names there are, so that a service's name is answered with 404 and not with this pattern.
ProcessName = Annotated[
    str, Path(pattern=r"^([0-9]{1,10}|[a-z][a-z0-9-]{0,39})$", description="`p1`, or a process's number")
]


@router.post("/exec", responses=_EVENTS, response_model=ExecOut)
async def run_program(request: Request, body: ExecIn, client: ClientDep, services: ServicesDep) -> ExecOut | Response:
    """Run a program to its end.

    With `Accept: text/event-stream` its output comes as it is written: `started`, `stdout`, `stderr` (each `text`, or
    `base64` where it is none), then `exit`; or `error`. A client that leaves kills it, with all it started.
    """
    if wants_events(request):
        wanted = body.as_request(service.TIMEOUT_S, body.output_bytes)
        return streamed(request, services, await begun(service.follow(client, wanted, body.input)))
    bound = service.output_bound(body.output_bytes, _DEFAULT_OUTPUT_BYTES)
    return await while_present(service.run(client, body, bound), request.receive)


@router.post("/cells", responses=_EVENTS, response_model=CellOut)
async def run_cell(request: Request, body: CellIn, client: ClientDep, services: ServicesDep) -> CellOut | Response:
    """Run code in an interpreter that keeps its state.

    With `Accept: text/event-stream`: `stdout`, `stderr` and `display` as they come, then `result`; or `error`. A client
    that leaves interrupts it.
    """
    if wants_events(request):
        wanted = body.as_request(service.TIMEOUT_S, body.output_bytes)
        return streamed(request, services, service.follow_cell(client, wanted))
    bound = service.output_bound(body.output_bytes, _DEFAULT_OUTPUT_BYTES)
    return await while_present(service.run_cell(client, body.as_request(service.TIMEOUT_S, bound)), request.receive)


@router.delete("/interpreters/{interpreter}/{name}", status_code=status.HTTP_204_NO_CONTENT)
async def forget_interpreter(interpreter: Interpreter, name: InterpreterName, client: ClientDep) -> None:
    """Forget an interpreter's state."""
    await client.restart(interpreter, name)


@router.post("/processes", status_code=status.HTTP_201_CREATED)
async def start_process(body: CommandIn, client: ClientDep) -> StartedOut:
    """Start a program that goes on by itself, as long as the sandbox does."""
    started = await client.start(body.argv or body.shell or "", cwd=body.cwd, env=body.env)
    return StartedOut(process=sound(started.process), pid=started.pid)


@router.get("/processes")
async def list_processes(client: ClientDep) -> ProcessesOut:
    return ProcessesOut(items=[ProcessOut.of(one) for one in await client.processes()])


@router.get("/processes/{process}/output", responses=_EVENTS, response_model=ProcessOutputOut)
async def read_process_output(
    request: Request, process: ProcessName, client: ClientDep, services: ServicesDep
) -> ProcessOutputOut | Response:
    """What a program that goes on by itself has written; with `Accept: text/event-stream` also what it writes next."""
    if wants_events(request):
        return streamed(request, services, service.attach_and_follow(client, process))
    return await while_present(service.attach(client, process), request.receive)


@router.delete("/processes/{process}", status_code=status.HTTP_204_NO_CONTENT)
async def kill_process(process: ProcessName, client: ClientDep, signal: Annotated[int, Query(ge=1, le=64)] = 9) -> None:
    """Send a signal to one process; one that was started by itself gets it with its whole tree."""
    await client.kill(int(process) if process.isdigit() else process, signal)


@router.get("/ports")
async def list_ports(client: ClientDep) -> PortsOut:
    """What listens in the sandbox. A port is reached through the WebSocket `ports/{port}`."""
    return PortsOut(items=[PortOut(**vars(one)) for one in await client.ports()])

"""A Python interpreter that runs cells: a process of its own, started by the supervisor, in which user code lives."""

import _ast
import _thread
import builtins
import gc
import linecache
import os
import signal
import sys
import types

from .python_display import Figures, forms_of
from .python_link import BEGUN, RUN, Link, Order, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    import traceback
    from collections.abc import Callable, Coroutine
    from typing import NoReturn

_FOLDER = os.path.dirname(os.path.abspath(__file__)) + "/"  # noqa: PTH100, PTH120 - pathlib is expensive to import
_LAYER = "/opt/aether/python"
_OK, _ERROR, _INTERRUPTED = range(3)
_COROUTINE = 0x80
_FUTURES = 0x1FE0000
"""Flags of `from __future__ import …`, which hold for later cells too."""
_KEPT_SOURCES = 500
_MOST_MESSAGE = 4000
_MOST_TRACE = 24_000
_AST_ONLY = _ast.PyCF_ONLY_AST | _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def main(arguments: "list[str]") -> "NoReturn":
    """One argument: the descriptor of the line to the supervisor."""
    _forget_ourselves()
    _complete_path()
    gate = _Gate()
    signal.signal(signal.SIGINT, gate.on_interrupt)
    try:
        _Interpreter(Link(int(arguments[0]), gate.hold, gate.let_go), gate).serve()
    except EOFError:
        os._exit(1)


def _forget_ourselves() -> None:
    """User code finds its own modules, whatever ours are called."""
    package = __name__.rpartition(".")[0]
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


def _complete_path() -> None:
    if _LAYER not in sys.path and os.path.isdir(_LAYER):  # noqa: PTH112 - the same
        sys.path.append(_LAYER)
    sys.path.insert(0, "")


class _Gate:
    """Lets Ctrl-C in while a cell runs, and not while a frame is being written."""

    def __init__(self) -> None:
        self.is_open = False
        self._holds = 0
        self._is_waiting = False
        self._main = _thread.get_ident()

    def on_interrupt(self, *_: object) -> None:
        if not self.is_open:
            return
        if self._holds:
            self._is_waiting = True
            return
        raise KeyboardInterrupt

    def hold(self) -> None:
        if _thread.get_ident() == self._main:  # no other thread is interrupted
            self._holds += 1

    def let_go(self) -> None:
        if _thread.get_ident() != self._main:
            return
        self._holds -= 1
        if not self._holds and self._is_waiting:
            self._is_waiting = False
            if self.is_open:
                raise KeyboardInterrupt

    def shut(self) -> None:
        self.is_open = False
        self._is_waiting = False


class _Interpreter:
    """State that lives on from cell to cell."""

    def __init__(self, link: Link, gate: _Gate) -> None:
        self._link = link
        self._gate = gate
        self._order = Order(link)
        # Copies that user code does not find by accident, to mend 1 and 2 with.
        self._spare = [os.dup(1), os.dup(2)]
        self._out = Stream(1, self._order, "<stdout>")
        self._err = Stream(2, self._order, "<stderr>")
        self._figures = Figures(self._show)
        self._module = types.ModuleType("__main__")
        self._namespace = self._module.__dict__
        self._namespace["__builtins__"] = builtins
        self._flags = 0
        self._count = 0
        self._runner: object | None = None
        sys.modules["__main__"] = self._module
        sys.argv = [""]
        builtins.__dict__["display"] = self._display
        builtins.input = _refuse_input
        self._figures.watch_for_pyplot()

    def serve(self) -> "NoReturn":
        while True:
            kind, payload = self._link.receive()
            if kind == RUN:
                self._cell(payload.decode("utf-8", "replace"))

    def _cell(self, source: str) -> None:
        pid = os.getpid()
        self._mend()
        self._count += 1
        self._link.waits_for_answers = True
        ended: tuple[int, str, str, str] = (_OK, "", "", "")
        try:
            try:
                self._gate.is_open = True
                self._link.send(BEGUN)
                self._run(source, f"<cell {self._count}>")
                self._figures.show_open()
            finally:
                self._gate.shut()
        except SystemExit as exc:
            if exc.code not in {None, 0}:
                ended = (_ERROR, "SystemExit", str(exc.code)[:_MOST_MESSAGE], "")
        except KeyboardInterrupt as exc:
            ended = (_INTERRUPTED, *_told(exc))
        except BaseException as exc:  # noqa: BLE001 - user code raises what it likes
            ended = (_ERROR, *_told(exc))
        if os.getpid() != pid:
            self._leave_fork(ended[0])
        if ended[0] != _OK:
            _quietly(self._figures.forget_open)
        for stream in (self._out, self._err):
            _quietly(stream.flush)
        self._link.waits_for_answers = False
        _quietly(lambda: self._order.turn_to(None))
        self._link.end(*ended)

    def _leave_fork(self, status: int) -> "NoReturn":
        """User code forked, and both came here: one of them is not the interpreter."""
        for stream in (self._out, self._err):
            _quietly(stream.flush)
        os._exit(1 if status else 0)

    def _run(self, source: str, name: str) -> None:
        _remember(source, name, self._count)
        tree = compile(source, name, "exec", _AST_ONLY | self._flags, dont_inherit=True)
        assert isinstance(tree, _ast.Module)  # noqa: S101 - for the type checker
        last = tree.body[-1] if tree.body else None
        is_shown = isinstance(last, _ast.Expr) and not source.rstrip().endswith(";")
        if isinstance(last, _ast.Expr) and is_shown:
            tree.body.pop()
            self._execute(tree, name, "exec")
            value = self._execute(_ast.Expression(last.value), name, "eval")
            if value is not None:
                self._namespace["_"] = value
                self._display(value)
        else:
            self._execute(tree, name, "exec")

    def _execute(self, tree: "_ast.Module | _ast.Expression", name: str, mode: str) -> object:
        flags = _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | self._flags
        code = compile(tree, name, mode, flags, dont_inherit=True)
        self._flags |= code.co_flags & _FUTURES
        value = eval(code, self._namespace)  # noqa: S307 - what this process is for
        return self._await(value) if code.co_flags & _COROUTINE else value

    def _await(self, coroutine: "Coroutine[object, object, object]") -> object:
        """In one event loop for all cells: what a cell made in it can be used in the next."""
        import asyncio

        if not isinstance(self._runner, asyncio.Runner):
            self._runner = asyncio.Runner()
        # With Python's own handler it makes Ctrl-C a cancellation.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return self._runner.run(coroutine)
        finally:
            signal.signal(signal.SIGINT, self._gate.on_interrupt)

    def _display(self, *values: object) -> None:
        for value in values:
            self._show(forms_of(value))

    def _show(self, forms: "dict[str, str | bytes]") -> None:
        self._order.turn_to(None)
        self._link.display(forms)

    def _mend(self) -> None:
        """Whatever the last cell did to the streams, this one has them."""
        for fd, spare in zip((1, 2), self._spare, strict=True):
            if not _is_same(fd, spare):
                os.dup2(spare, fd)
        if self._out.closed or self._err.closed:
            self._out, self._err = Stream(1, self._order, "<stdout>"), Stream(2, self._order, "<stderr>")
        sys.stdout, sys.stderr = self._out, self._err
        sys.__stdout__, sys.__stderr__ = self._out, self._err  # type: ignore[misc]  # Python's own are ours here
        if sys.stdin is None or sys.stdin.closed:
            sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")
        signal.signal(signal.SIGINT, self._gate.on_interrupt)
        gc.enable()


def _is_same(fd: int, other: int) -> bool:
    try:
        one, two = os.fstat(fd), os.fstat(other)
    except OSError:
        return False
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)


def _remember(source: str, name: str, count: int) -> None:
    """For tracebacks and `inspect`. Without a time it is never looked for on the disk."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    linecache.cache.pop(f"<cell {count - _KEPT_SOURCES}>", None)


def _told(error: BaseException) -> "tuple[str, str, str]":
    """Name, message and trace; of the trace what is user code's."""
    name = type(error).__name__
    try:
        message = str(error)[:_MOST_MESSAGE]
    except BaseException:  # noqa: BLE001 - it is user code's too
        message = "(its message could not be made)"
    try:
        import traceback

        told = traceback.TracebackException.from_exception(error, compact=True)
        _leave_out_ourselves(told)
        trace = "".join(told.format())
    except BaseException:  # noqa: BLE001 - the same, or memory is short
        trace = f"{name}: {message}\n"
    if len(trace) > _MOST_TRACE:
        trace = f"{trace[: _MOST_TRACE // 2]}\n…\n{trace[-_MOST_TRACE // 2 :]}"
    return name, message, trace


def _leave_out_ourselves(told: "traceback.TracebackException") -> None:
    pending: list[traceback.TracebackException | None] = [told]
    while pending:
        one = pending.pop()
        if one is not None:
            one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(_FOLDER)]
            pending += (one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ()))


def _quietly(action: "Callable[[], object]") -> None:
    try:
        action()
    except BaseException:  # noqa: BLE001 - the cell has ended; nobody is there to be told
        return


def _refuse_input(prompt: object = "") -> "NoReturn":  # noqa: ARG001 - Python's form
    raise RuntimeError("input() has nobody to ask in a cell: put the value into the code.")

"""What is to be started: which file, with which arguments, environment and folder, made from a request that is checked."""

import os

from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .inside import Inside

_MOST_WORDS = 4096
_MOST_VARIABLES = 1024
_SHELLS = ("/bin/bash", "/bin/sh")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Program:
    """`path` is the file that runs, and `terminal` the path of the terminal that shall be its own."""

    __slots__ = ("argv", "cwd", "env", "path", "terminal")

    def __init__(
        self, path: str, argv: "list[str]", env: "dict[str, str]", cwd: str, terminal: "str | None" = None
    ) -> None:
        self.path = path
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.terminal = terminal


def program_of(request: "dict[str, object]", inside: "Inside") -> Program:
    """From `argv` or `shell`, `cwd` and `env` of a request.

    Raises:
        Refused: it cannot be run; says why.
    """
    env = inside.environment | _variables(request.get("env"))
    cwd = folder_of(request.get("cwd"), inside)
    shell = request.get("shell")
    if shell is None:
        argv = _words(request.get("argv"))
    elif isinstance(shell, str) and "argv" not in request:
        argv = [shell_path(), "-c", _text(shell, "shell")]
    else:
        raise Refused("bad_request", "Give argv or shell, one of them.")
    return Program(find(argv[0], env, cwd), argv, env, cwd)


def shell_path() -> str:
    """The best shell there is."""
    return next((path for path in _SHELLS if os.access(path, os.X_OK)), _SHELLS[-1])


def base_environment(own: "dict[str, str]", home: str, proxy: "str | None") -> "dict[str, str]":
    """What every program gets: what the sandbox was started with, and what programs expect to find."""
    defaults = {"PATH": _PATH, "LANG": "C.UTF-8", "USER": "agent", "LOGNAME": "agent"}
    env = defaults | own | {"HOME": home}
    if proxy is not None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            env[name] = proxy
    return env


def folder_of(cwd: object, inside: "Inside") -> str:
    """Relative to the workspace. Whoever runs programs can reach any folder of the sandbox anyway."""
    if cwd is None:
        return inside.roots["work"]
    path = os.path.join(inside.roots["work"], _text(cwd, "cwd"))  # noqa: PTH118 - pathlib is expensive to import
    try:
        if os.stat(path).st_mode & 0o170000 == 0o040000:  # noqa: PTH116 - the same
            return path
    except OSError as exc:
        raise refusal_of(exc, f"cwd {cwd}") from exc
    raise Refused("not_a_directory", f"cwd {cwd} is no directory.")


def find(name: str, env: "dict[str, str]", cwd: str) -> str:
    """The file a shell would run for `name`."""
    if "/" in name:
        return name
    for folder in env.get("PATH", _PATH).split(":"):
        path = os.path.join(cwd, folder, name)  # noqa: PTH118 - the same
        if os.access(path, os.X_OK) and not os.path.isdir(path):  # noqa: PTH112 - the same
            return path
    raise Refused("not_found", f"There is no program {name}.")


def refusal_of(exc: OSError, what: str) -> Refused:
    """`what` went wrong, in the protocol's words."""
    match exc:
        case FileNotFoundError():
            return Refused("not_found", f"{what}: there is no such file.")
        case NotADirectoryError():
            return Refused("not_a_directory", f"{what}: a part of the path is no directory.")
        case PermissionError():
            return Refused("denied", f"{what}: permission denied.")
        case BlockingIOError():
            return Refused("too_many", f"{what}: the sandbox has as many processes as it may have.")
        case _:
            return Refused("failed", f"{what}: {os.strerror(exc.errno or 0)}.")


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Refused("bad_request", f"{name} must be text without NUL.")
    return value


def _words(value: object) -> "list[str]":
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_WORDS:
        raise Refused("bad_request", f"argv must be a list of 1 to {_MOST_WORDS} texts.")
    return [_text(word, "argv") for word in value]


def _variables(value: object) -> "dict[str, str]":
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MOST_VARIABLES:
        raise Refused("bad_request", f"env must be an object with at most {_MOST_VARIABLES} entries.")
    if bad := [name for name in value if not name or "=" in name]:
        raise Refused("bad_request", f"env: {bad[0]!r} is no name of a variable.")
    return {_text(name, "env"): _text(text, "env") for name, text in value.items()}

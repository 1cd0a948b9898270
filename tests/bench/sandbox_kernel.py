"""Measures `1+1` in a Jupyter kernel through `jupyter_client`; runs in an environment that has both, and nothing of ours."""

import json
import sys
import time

from jupyter_client.manager import start_new_kernel  # type: ignore[import-not-found]  # it is in another environment

_WARM_UP = 20


def main(count: int) -> None:
    began = time.perf_counter()
    manager, client = start_new_kernel()
    start_s = time.perf_counter() - began
    found = []
    try:
        for number in range(-_WARM_UP, count):
            shown: list[str] = []
            began = time.perf_counter()
            # Returns when the kernel has answered and said that it is idle again, with all output before that.
            reply = client.execute_interactive(
                "1+1", timeout=30, output_hook=lambda message, shown=shown: shown.append(message["msg_type"])
            )
            seconds = time.perf_counter() - began
            assert reply["content"]["status"] == "ok"
            assert "execute_result" in shown
            if number >= 0:
                found.append(seconds)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    print(json.dumps({"start_s": start_s, "cells_s": found}))


main(int(sys.argv[1]))

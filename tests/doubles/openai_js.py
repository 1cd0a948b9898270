"""OpenAI's official JavaScript client, run against any address."""

import asyncio
import json
import os
from typing import Any

from tests.doubles.node import PROJECT, node_modules


async def run_js(scenario: str, base_url: str, key: str, *, model: str, timeout_s: float = 60, **more: Any) -> Any:
    """What the client saw, or `{"error": …}` with what it raised.

    `scenario` is one of those in `js/openai_client.cjs`, which also says what `more` may hold: prompt, messages,
    options (added to the request), headers, retries. `base_url` ends in `/v1`. The server asked may run in this
    very loop.
    """
    told = {"scenario": scenario, "base_url": base_url, "key": key, "model": model, **more}
    modules = await asyncio.to_thread(node_modules)
    process = await asyncio.create_subprocess_exec(
        "node", PROJECT / "openai_client.cjs",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_PATH": str(modules), "NO_PROXY": "127.0.0.1,localhost"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate(json.dumps(told).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return json.loads(output)

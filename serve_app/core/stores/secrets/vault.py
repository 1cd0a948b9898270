"""HashiCorp Vault and OpenBao: key-value secrets, version 2, over their HTTP API.

https://openbao.org/api-docs/secret/kv/kv-v2/ and https://openbao.org/api-docs/auth/token/
"""

import asyncio
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from serve_app.core.errors import AetherError, MisconfiguredError, NotFoundError, UnavailableError
from serve_app.core.stores.secrets.base import Place
from serve_app.core.telemetry import get_logger

_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_SHORTEST_WAIT_S = 1.0
_RETRY_S = 30.0


class VaultSecrets:
    """Renews its own token at half of its life; without a token it speaks to an agent that adds one."""

    def __init__(
        self, address: str, token: str | None = None, *, namespace: str | None = None, ca_file: Path | None = None
    ) -> None:
        headers = {"X-Vault-Request": "true"}
        if token:
            headers["X-Vault-Token"] = token
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        self._http = httpx.AsyncClient(
            base_url=f"{address.rstrip('/')}/v1/",
            headers=headers,
            timeout=_TIMEOUT,
            verify=_trusted(ca_file),
            trust_env=False,
        )
        self._has_token = bool(token)
        self._renewing: asyncio.Task[None] | None = None

    async def read(self, place: str) -> str:
        found = Place.parse(place)
        if found is None:
            raise MisconfiguredError(f"'{place[:200]}' is no place in a vault; write mount/path#field.")
        body = await self._ask("GET", f"{quote(found.mount, safe='')}/data/{quote(found.path)}")
        value = _inside(body, "data", "data").get(found.field)
        if not isinstance(value, str) or not value:
            raise NotFoundError(f"The vault's secret '{found.mount}/{found.path}' has no text in '{found.field}'.")
        return value

    async def check(self) -> None:
        await self._look_up()

    async def start(self) -> None:
        """Keep the token alive from now on. Raises as `read` does when it is refused already."""
        if not self._has_token:
            return
        lives_s = await self._look_up()
        if lives_s:
            self._renewing = asyncio.create_task(self._keep_token(lives_s), name="vault token")

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await self._http.aclose()

    async def _look_up(self) -> float:
        """Seconds the token may live on if it is renewed; 0 when there is nothing to renew."""
        told = _inside(await self._ask("GET", "auth/token/lookup-self"), "data")
        return float(told.get("ttl") or 0) if told.get("renewable") else 0.0

    async def _keep_token(self, lives_s: float) -> None:
        wait_s = lives_s / 2
        while True:
            await asyncio.sleep(max(wait_s, _SHORTEST_WAIT_S))
            try:
                told = _inside(await self._ask("POST", "auth/token/renew-self"), "auth")
            except AetherError as exc:
                get_logger().error("the vault's token was not renewed", code=exc.code, reason=exc.message)
                wait_s = min(_RETRY_S, wait_s / 2)
                continue
            if not told.get("renewable"):
                get_logger().warning("the vault's token can be renewed no more", lives_s=told.get("lease_duration"))
                return
            wait_s = float(told.get("lease_duration") or 0) / 2

    async def _ask(self, method: str, path: str) -> dict[str, Any]:
        try:
            answer = await self._http.request(method, path)
            body = answer.json() if answer.content else {}
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise UnavailableError("The vault cannot be reached right now.") from exc
        except ValueError as exc:
            raise UnavailableError("What answers at the vault's address is no vault.") from exc
        if answer.status_code == 404:
            raise NotFoundError(f"The vault has nothing at '{path}'.")
        if answer.status_code in {400, 401, 403}:
            raise MisconfiguredError(f"The vault refuses us ({answer.status_code}) at '{path}'; see AETHER_VAULT_*.")
        if not answer.is_success or not isinstance(body, dict):
            raise UnavailableError(f"The vault cannot answer right now ({answer.status_code}).")
        return body


def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise MisconfiguredError(f"{ca_file} holds no certificates we can read; see AETHER_VAULT_CA_FILE.") from exc
    return context


def _inside(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """An object in an object, or an empty one."""
    for name in names:
        found = body.get(name)
        body = found if isinstance(found, dict) else {}
    return body

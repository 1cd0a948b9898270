"""Connections to the outside, made to exactly the address that was judged."""

import asyncio
import socket
import ssl
from dataclasses import dataclass

from actors.sandbox.egress.budget import Traffic
from actors.sandbox.egress.errors import HostFailedError
from actors.sandbox.egress.links import MeteredLink, StreamLink
from actors.sandbox.egress.names import Names
from actors.sandbox.egress.targets import Target
from serve_app.core.domain.addresses import Address, Reach
from serve_app.core.errors import EgressDeniedError, TimedOutError

_BUFFER_BYTES = 128 * 1024
_DISCARD_PORT = 9


@dataclass(frozen=True)
class Reached:
    """A connection, and the address it leads to."""

    link: MeteredLink
    address: Address


class Dialler:
    """Connects for all sandboxes of a pool. No proxies, no second look at a name."""

    def __init__(self, names: Names, reach: Reach, tls: ssl.SSLContext, *, timeout_s: float) -> None:
        self._names = names
        self._reach = reach
        self._tls = tls
        self._timeout_s = timeout_s

    async def dial(self, target: Target, traffic: Traffic, turns: asyncio.Semaphore, *, is_tls: bool) -> Reached:
        """With `is_tls` the host has proved its name before this returns.

        Raises:
            EgressDeniedError: the name leads where nobody may go.
            HostFailedError: it does not resolve, or refuses every connection.
            TimedOutError: no connection in time.
        """
        addresses = await self._names.addresses(target.host, turns)
        if not self._reach.allows_private and any(map(_is_this_machine, addresses)):
            # Its services trust what comes from itself, and a firewall before it sees nothing of that.
            raise EgressDeniedError(f"host {target.host} is the machine the sandbox runs on.", reason="address")
        failure: OSError | None = None
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                for left in range(len(addresses), 0, -1):
                    address = addresses[len(addresses) - left]
                    now = asyncio.get_running_loop().time()
                    # An address that swallows everything leaves time for the others.
                    share_s = max(((deadline.when() or now) - now) / left, 0.25)
                    try:
                        async with asyncio.timeout(share_s):
                            return Reached(await self._connect(address, target, traffic, is_tls), address)
                    except OSError as exc:  # a timeout is one too
                        failure = exc
        except TimeoutError as exc:
            failure = exc
        raise _translated(target, failure) from failure

    async def _connect(self, address: Address, target: Target, traffic: Traffic, is_tls: bool) -> MeteredLink:
        # An address as host is not resolved again.
        reader, writer = await asyncio.open_connection(
            str(address),
            target.port,
            limit=_BUFFER_BYTES,
            ssl=self._tls if is_tls else None,
            server_hostname=target.host if is_tls else None,
        )
        return MeteredLink(StreamLink(reader, writer), traffic)


def _translated(target: Target, failure: OSError | None) -> HostFailedError | TimedOutError:
    place = f"host {target.host}, port {target.port}"
    match failure:
        case TimeoutError():
            return TimedOutError(f"{place}: no connection in time. Try again.")
        case ssl.SSLCertVerificationError():
            return HostFailedError(f"{place}: its certificate is not to be trusted ({failure.verify_message}).")
        case ssl.SSLError():
            return HostFailedError(f"{place}: it does not speak TLS as it should.")
        case ConnectionRefusedError():
            return HostFailedError(f"{place}: nothing listens there (connection refused).")
        case _:
            return HostFailedError(f"{place}: it cannot be connected to.")


def _is_this_machine(address: Address) -> bool:
    """Whether packets to it would stay here. Asks the kernel for the route; nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect((str(address), _DISCARD_PORT))
            return str(probe.getsockname()[0]) == str(address)
    except OSError:
        return False  # no route: the connection will fail by itself

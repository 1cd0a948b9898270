"""Who is asking: API keys, and the tickets agent hosts carry when they act for a user."""

import base64
import hashlib
import hmac
import json
import secrets
from typing import Protocol

from serve_app.core.clock import Clock
from serve_app.core.domain.callers import Caller, Role
from serve_app.core.domain.ids import OrgId, UserId
from serve_app.core.domain.keys import NewKey, StoredKey
from serve_app.core.errors import UnauthenticatedError

_KEY_SCHEME = "aek"
_TICKET_SCHEME = "aet"
_CACHE_S = 1.0
_CACHE_ENTRIES = 10_000


class KeyRepository(Protocol):
    """Looks keys up across organisations: the organisation is what the key tells us."""

    async def find_key(self, prefix: str) -> StoredKey | None: ...


def make_key() -> NewKey:
    """256 bits of randomness, so a plain SHA-256 of the secret is safe to store."""
    prefix = secrets.token_hex(4)
    secret = secrets.token_urlsafe(32)
    return NewKey(f"{_KEY_SCHEME}_{prefix}_{secret}", prefix, _digest(secret))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class TicketSigner:
    """Short-lived, signed proof that the platform acts for a user; it never leaves the platform.

    Form: `aet_<base64url(JSON claims)>.<base64url(HMAC-SHA256)>`.
    """

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def issue(self, caller: Caller, purpose: str, ttl_s: float) -> str:
        claims = {
            "org": caller.org_id,
            "user": caller.user_id,
            "role": caller.role,
            "for": purpose,
            "exp": self._clock.now().timestamp() + ttl_s,
        }
        body = _b64(json.dumps(claims, separators=(",", ":")).encode())
        return f"{_TICKET_SCHEME}_{body}.{self._mac(body)}"

    def read(self, ticket: str, purpose: str) -> Caller:
        """Raises `UnauthenticatedError` for a ticket that is forged, expired or for another purpose."""
        body, _, mac = ticket.removeprefix(_TICKET_SCHEME + "_").partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(body).encode()):
            raise UnauthenticatedError("This ticket is not valid.")
        claims = json.loads(_unb64(body))
        if claims["for"] != purpose or claims["exp"] < self._clock.now().timestamp():
            raise UnauthenticatedError("This ticket has expired or was made for another purpose.")
        role: Role = claims["role"]
        return Caller(org_id=OrgId(claims["org"]), user_id=UserId(claims["user"]), role=role)

    def _mac(self, body: str) -> str:
        return _b64(hmac.digest(self._secret, body.encode(), "sha256"))


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Authenticator:
    """Turns a bearer token into a caller. A good key is remembered for a second, so a revoked one dies within it."""

    def __init__(self, keys: KeyRepository, tickets: TicketSigner, clock: Clock) -> None:
        self._keys = keys
        self._tickets = tickets
        self._clock = clock
        self._known: dict[bytes, tuple[float, Caller]] = {}

    async def authenticate(self, token: str, ticket_purpose: str | None = None) -> Caller:
        """`ticket_purpose` names the tickets this edge takes beside API keys.

        Raises:
            UnauthenticatedError: the key is unknown, wrong or revoked; which of these is not told.
        """
        if ticket_purpose and token.startswith(_TICKET_SCHEME + "_"):
            return self._tickets.read(token, ticket_purpose)
        scheme, _, rest = token.partition("_")
        prefix, _, secret = rest.partition("_")
        if scheme != _KEY_SCHEME or not prefix.isalnum() or not secret or len(token) > 200:
            raise _bad_key()
        cache_key = _digest(token)
        now = self._clock.monotonic()
        known = self._known.get(cache_key)
        if known and known[0] > now:
            return known[1]
        stored = await self._keys.find_key(prefix)
        if stored is None or stored.revoked_at or not hmac.compare_digest(stored.secret_digest, _digest(secret)):
            self._known.pop(cache_key, None)
            raise _bad_key()
        if len(self._known) >= _CACHE_ENTRIES:
            self._known.clear()
        self._known[cache_key] = (now + _CACHE_S, stored.caller)
        return stored.caller


def _bad_key() -> UnauthenticatedError:
    return UnauthenticatedError("This API key is not valid. Check it, or make a new one.")

"""Secrets at rest: each under a key of its own, which is wrapped by a key made from the platform's secret key.

A sealed secret is `version (1) · master key id (8) · nonce (12) · wrapped data key (32 + 16) · nonce (12) · secret and
tag`. Both ciphers are AES-256-GCM (NIST SP 800-38D) and both bind the context and all that stands before them; the
wrapping key comes from HKDF-SHA256 (RFC 5869).
"""

import hashlib
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import CorruptedError

_VERSION = b"\x01"
_ID, _NONCE, _KEY, _TAG = 8, 12, 32, 16
_WRAPPED_AT = 1 + _ID
_SECRET_AT = _WRAPPED_AT + _NONCE + _KEY + _TAG
_SHORTEST_MASTER = 32


class Sealer:
    """`master_keys`: the first seals, all of them open. To rotate, put a new one in front and seal anew in time."""

    def __init__(self, master_keys: list[bytes]) -> None:
        if not master_keys or any(len(key) < _SHORTEST_MASTER for key in master_keys):
            raise ValueError(f"a master key has at least {_SHORTEST_MASTER} bytes, and one is needed")
        self._wrappers = {_key_id(key): AESGCM(_derive(key)) for key in master_keys}
        self._current = _key_id(master_keys[0])

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """`context` says whose secret it is and what for; it opens with the same one only."""
        data_key = secrets.token_bytes(_KEY)
        head = _VERSION + self._current
        nonce = secrets.token_bytes(_NONCE)
        head += nonce + self._wrappers[self._current].encrypt(nonce, data_key, head + context)
        nonce = secrets.token_bytes(_NONCE)
        return head + nonce + AESGCM(data_key).encrypt(nonce, plain, head + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises `CorruptedError`: altered, cut off, of another context, or sealed under a key that is gone."""
        if len(sealed) < _SECRET_AT + _NONCE + _TAG or sealed[:1] != _VERSION:
            raise CorruptedError("A stored secret is not in a form this version can read.")
        wrapper = self._wrappers.get(sealed[1:_WRAPPED_AT])
        if wrapper is None:
            raise CorruptedError("A stored secret was sealed under a secret key this platform does not have.")
        wrapped = sealed[_WRAPPED_AT:_SECRET_AT]
        rest = sealed[_SECRET_AT:]
        try:
            data_key = wrapper.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], sealed[:_WRAPPED_AT] + context)
            return AESGCM(data_key).decrypt(rest[:_NONCE], rest[_NONCE:], sealed[:_SECRET_AT] + context)
        except InvalidTag as exc:
            raise CorruptedError("A stored secret was altered, or belongs to somebody else.") from exc

    def is_current(self, sealed: bytes) -> bool:
        """False: sealed under an older master key, so it is to be sealed anew."""
        return sealed[1:_WRAPPED_AT] == self._current


def seal_context(org_id: OrgId, provider: str) -> bytes:
    """What a provider key is bound to: copied to another organisation or provider, it does not open."""
    return f"provider key\n{org_id}\n{provider}".encode()


def _derive(master: bytes) -> bytes:
    return HKDF(SHA256(), _KEY, salt=None, info=b"aetheros sealing, key encryption, version 1").derive(master)


def _key_id(master: bytes) -> bytes:
    """Tells nothing about the key: it is derived beside it, not from what encrypts."""
    named = HKDF(SHA256(), _KEY, salt=None, info=b"aetheros sealing, key id, version 1").derive(master)
    return hashlib.sha256(named).digest()[:_ID]

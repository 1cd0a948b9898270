"""Ids: a visible prefix and a time-ordered tail of 26 characters that is also a valid DNS label part.

The tail is a UUIDv7 (RFC 9562) in lower-case Crockford base 32.
"""

import os
import re
import time
from typing import NewType

OrgId = NewType("OrgId", str)
UserId = NewType("UserId", str)
KeyId = NewType("KeyId", str)
SessionId = NewType("SessionId", str)
CreationId = NewType("CreationId", str)
VersionId = NewType("VersionId", str)
RequestId = NewType("RequestId", str)
LedgerId = NewType("LedgerId", str)
GroupId = NewType("GroupId", str)
BudgetId = NewType("BudgetId", str)
ProviderKeyId = NewType("ProviderKeyId", str)
SandboxId = NewType("SandboxId", str)
LeaseId = NewType("LeaseId", str)
SnapshotId = NewType("SnapshotId", str)
ConnectorId = NewType("ConnectorId", str)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_FIXED_BITS = 0xF << 76 | 0b11 << 62
_VERSION_AND_VARIANT = 0x7 << 76 | 0b10 << 62
_DRAWN = 256
_PATTERN = re.compile(r"[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}")


class _Entropy:
    """Random numbers of 80 bits, read from the system many at a time."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def take(self) -> int:
        try:
            return self._numbers.pop()
        except IndexError:
            drawn = os.urandom(10 * _DRAWN)
            fresh = [int.from_bytes(drawn[at : at + 10], "big") for at in range(0, len(drawn), 10)]
            last = fresh.pop()
            self._numbers.extend(fresh)
            return last

    def forget(self) -> None:
        self._numbers.clear()


_entropy = _Entropy()
# A child of this process would give out the same numbers.
os.register_at_fork(after_in_child=_entropy.forget)


def _new(prefix: str) -> str:
    # Every call to a model makes two: digits are looked up in pairs, and the random bits read in one piece.
    drawn = _entropy.take()
    value = time.time_ns() // 1_000_000 << 80 | drawn
    value = value & ~_FIXED_BITS | _VERSION_AND_VARIANT
    high, low = value >> 60, value & (1 << 60) - 1
    pairs = _PAIRS
    return (
        f"{prefix}_{pairs[high >> 60]}{pairs[high >> 50 & 1023]}{pairs[high >> 40 & 1023]}{pairs[high >> 30 & 1023]}"
        f"{pairs[high >> 20 & 1023]}{pairs[high >> 10 & 1023]}{pairs[high & 1023]}{pairs[low >> 50]}"
        f"{pairs[low >> 40 & 1023]}{pairs[low >> 30 & 1023]}{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}"
        f"{pairs[low & 1023]}"
    )


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the form of an id of this kind. It need not exist."""
    return text.startswith(prefix + "_") and _PATTERN.fullmatch(text) is not None


def new_org_id() -> OrgId:
    return OrgId(_new("org"))


def new_user_id() -> UserId:
    return UserId(_new("usr"))


def new_key_id() -> KeyId:
    return KeyId(_new("key"))


def new_session_id() -> SessionId:
    return SessionId(_new("ses"))


def new_creation_id() -> CreationId:
    return CreationId(_new("cre"))


def new_version_id() -> VersionId:
    return VersionId(_new("ver"))


def new_request_id() -> RequestId:
    return RequestId(_new("req"))


def new_ledger_id() -> LedgerId:
    return LedgerId(_new("led"))


def new_group_id() -> GroupId:
    return GroupId(_new("grp"))


def new_budget_id() -> BudgetId:
    return BudgetId(_new("bud"))


def new_provider_key_id() -> ProviderKeyId:
    return ProviderKeyId(_new("pky"))


def new_sandbox_id() -> SandboxId:
    return SandboxId(_new("sbx"))


def new_lease_id() -> LeaseId:
    return LeaseId(_new("lse"))


def new_snapshot_id() -> SnapshotId:
    return SnapshotId(_new("snp"))


def new_connector_id() -> ConnectorId:
    return ConnectorId(_new("con"))

"""What a trial's findings say of each limit, and that nothing is called held which was not."""

from dataclasses import replace
from pathlib import Path

import pytest

from actors.sandbox.base import Means
from actors.sandbox.containers.judging import Claims, judge
from actors.sandbox.containers.trial import LIMITS, Findings

_RUNC = Claims(
    is_gvisor=False, has_cpu_limit=True, has_memory_limit=True, has_swap_limit=True,
    is_host_user=False,
)  # fmt: skip
_GVISOR = replace(_RUNC, is_gvisor=True)
_GOOD: dict[str, object] = {
    "kernel": "6.1.0", "ls": 0, "network": ["lo"], "system_calls": "EPERM", "disk": LIMITS.disk // 2,
    "inodes": LIMITS.inodes // 4, "open_files": LIMITS.open_files - 3, "cpu": 0.5, "processes": LIMITS.processes - 1,
    "memory": "killed", "sockets": True,
}  # fmt: skip


def held(claims: Claims, **told: object) -> dict[str, Means]:
    return {one.limit: one.means for one in judge(claims, Findings(Path("/x"), _GOOD | told))}


def test_what_was_tried_and_refused_is_held() -> None:
    assert held(_RUNC) == {
        "cpu": Means.CGROUP, "memory": Means.CGROUP, "disk": Means.MOUNT, "inodes": Means.MOUNT,
        "processes": Means.CGROUP, "open_files": Means.RLIMIT, "network": Means.NAMESPACE,
        "system_calls": Means.SECCOMP,
    }  # fmt: skip


@pytest.mark.parametrize("answer", ["EPERM", "ENOSYS"])
def test_a_filter_refuses_as_the_engine_has_it_answer(answer: str) -> None:
    assert held(_RUNC, system_calls=answer)["system_calls"] is Means.SECCOMP


@pytest.mark.parametrize(
    ("limit", "answer"),
    [
        ("cpu", 2.0), ("cpu", None), ("memory", "allocated"), ("memory", None), ("disk", LIMITS.disk + 1),
        ("inodes", 2 * LIMITS.inodes), ("processes", 2 * LIMITS.processes), ("open_files", 2 * LIMITS.open_files),
        ("open_files", "ENOSYS"), ("network", ["lo", "eth0"]), ("network", None), ("system_calls", "ok"),
        ("system_calls", "EAFNOSUPPORT"),
    ],
)  # fmt: skip
def test_what_was_not_refused_is_not_held(limit: str, answer: object) -> None:
    found = held(_RUNC, **{limit: answer})
    assert [name for name, means in found.items() if means is Means.NOTHING] == [limit]


def test_what_the_engine_denies_is_not_held_whatever_the_trial_shows() -> None:
    denying = replace(_RUNC, has_cpu_limit=False, has_memory_limit=False, why_not="no groups")
    missing = [one for one in judge(denying, Findings(Path("/x"), _GOOD)) if one.means is Means.NOTHING]
    assert [(one.limit, one.note) for one in missing] == [("cpu", "no groups"), ("memory", "no groups")]


def test_gvisor_holds_them_by_other_means_and_says_how_well() -> None:
    found = {one.limit: one for one in judge(_GVISOR, Findings(Path("/x"), _GOOD | {"inodes": 8000, "ls": 2}))}
    assert found["system_calls"].means is found["processes"].means is Means.ENGINE
    assert "`ls` fails" in found["system_calls"].note
    assert found["inodes"].means is Means.CGROUP
    assert "not counted" in found["inodes"].note
    assert "whole sandbox" in found["memory"].note


def test_memory_is_not_held_where_sockets_hold_what_nobody_counts() -> None:
    assert held(_RUNC, sockets=False)["memory"] is Means.NOTHING
    assert held(_GVISOR, sockets=False)["memory"] is Means.CGROUP


def test_it_is_told_that_an_escape_would_be_a_user_of_the_host() -> None:
    [note] = [
        one.note
        for one in judge(replace(_RUNC, is_host_user=True), Findings(Path("/x"), _GOOD))
        if one.note and one.limit == "system_calls"
    ]
    assert "userns-remap" in note

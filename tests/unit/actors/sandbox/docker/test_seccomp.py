"""The filter of system calls as engines take it says the same as the one bubblewrap gets."""

import json
from typing import Any

import pytest

from actors.sandbox.bubblewrap.seccomp import ALLOWED, ALLOWED_WHEN, MISSING, REFUSED_WHEN
from actors.sandbox.bubblewrap.syscalls import X86_64
from actors.sandbox.docker.seccomp import all_but, docker_profile


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    text = docker_profile("x86_64")
    assert text
    found: dict[str, Any] = json.loads(text)
    return found


def rules(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [rule for rule in profile["syscalls"] if name in rule["names"]]


def allows(profile: dict[str, Any], name: str, *arguments: int) -> bool:
    """What the kernel would do; rules with and without conditions are never mixed for one call."""
    return any(
        rule["action"] == "SCMP_ACT_ALLOW"
        and all(arguments[each["index"]] & each["value"] == each["valueTwo"] for each in rule.get("args", ()))
        for rule in rules(profile, name)
    )


def test_every_call_has_one_kind_of_rule(profile: dict[str, Any]) -> None:
    for name in X86_64:
        found = rules(profile, name)
        assert found, name
        assert len({rule["action"] for rule in found}) == 1, name
        assert len(found) == 1 or all("args" in rule for rule in found), name


@pytest.mark.parametrize("name", ["ptrace", "mount", "unshare", "setns", "bpf", "keyctl", "userfaultfd", "init_module"])
def test_dangerous_calls_are_refused_by_name(profile: dict[str, Any], name: str) -> None:
    assert [(rule["action"], rule["errnoRet"]) for rule in rules(profile, name)] == [("SCMP_ACT_ERRNO", 1)]


def test_all_others_are_as_if_the_kernel_had_none(profile: dict[str, Any]) -> None:
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert all(rules(profile, name)[0]["errnoRet"] == 38 for name in MISSING)
    assert rules(profile, "io_setup")[0]["errnoRet"] == 38
    assert profile["architectures"] == ["SCMP_ARCH_X86_64"]


def test_plainly_allowed_calls_have_no_condition(profile: dict[str, Any]) -> None:
    assert all(allows(profile, name) for name in ALLOWED)


def test_conditions_are_the_same(profile: dict[str, Any]) -> None:
    for name, alternatives in ALLOWED_WHEN.items():
        assert len(rules(profile, name)) == len(alternatives)
    assert allows(profile, "socket", 1, 1, 0)
    assert allows(profile, "socket", 2, 1 | 0x80000, 6)
    assert not allows(profile, "socket", 17, 3, 0)
    assert not allows(profile, "socket", 38, 5, 0)
    assert not allows(profile, "socket", 2, 3, 1)
    # Datagrams: nothing counts what waits in them where control groups are old.
    assert not any(allows(profile, "socket", family, 2, protocol) for family in (2, 10) for protocol in (0, 17))
    assert allows(profile, "clone", 0x01200011)
    assert not allows(profile, "clone", 0x10000000)


def test_terminals_cannot_be_typed_into(profile: dict[str, Any]) -> None:
    refused = {conditions[0].value for conditions in REFUSED_WHEN["ioctl"]}
    for command in range(0x5300, 0x5500):
        assert allows(profile, "ioctl", 0, command) is (command not in refused), hex(command)
    # The upper half of the register is not the command's.
    assert not allows(profile, "ioctl", 0, 0x1_0000_5412)


@pytest.mark.parametrize("values", [[0], [0xFFFFFFFF], [1, 2, 3], []])
def test_all_but_leaves_out_exactly_those(values: list[int]) -> None:
    blocks = all_but(values)
    for value in {0, 1, 2, 3, 4, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, *values}:
        assert any(value & mask == prefix for prefix, mask in blocks) is (value not in values)


def test_an_architecture_without_a_table_has_no_profile() -> None:
    assert docker_profile("riscv64") is None

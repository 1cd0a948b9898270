"""The filter's verdicts, read from the compiled program by an interpreter of classic BPF."""

import errno
import os
import struct

import pytest

from actors.sandbox.bubblewrap.bpf import ALLOW, KILL, refuse
from actors.sandbox.bubblewrap.seccomp import (
    ALLOWED,
    ALLOWED_WHEN,
    MISSING,
    REFUSED_WHEN,
    UNACCOUNTED,
    compile_filter,
    is_known,
)
from actors.sandbox.bubblewrap.syscalls import AARCH64, X86_64

MACHINES = {"x86_64": (0xC000003E, X86_64), "aarch64": (0xC00000B7, AARCH64)}
DENIED, ABSENT = refuse(errno.EPERM), refuse(errno.ENOSYS)


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    call = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    accumulator, at = 0, 0
    while True:
        code, when_true, when_false, constant = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", call, constant)
            case 0x54:
                accumulator &= constant
            case 0x15:
                at += when_true if accumulator == constant else when_false
            case 0x35:
                at += when_true if accumulator >= constant else when_false
            case 0x05:
                at += constant
            case 0x06:
                return int(constant)
            case _:
                raise AssertionError(code)


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Filter:
    def __init__(self, machine: str, without: frozenset[str] = frozenset()) -> None:
        self._architecture, self._numbers = MACHINES[machine]
        self._program = compile_filter(machine, without=without)

    def __call__(self, name: str, *arguments: int) -> int:
        return verdict(self._program, self._architecture, self._numbers[name], *arguments)

    def number(self, number: int, architecture: int | None = None) -> int:
        return verdict(self._program, architecture or self._architecture, number)


@pytest.fixture
def judge(machine: str) -> Filter:
    return Filter(machine)


def test_every_call_has_the_verdict_its_list_says(machine: str, judge: Filter) -> None:
    for name in MACHINES[machine][1]:
        if name in ALLOWED_WHEN or name in REFUSED_WHEN:
            continue
        expected = ALLOW if name in ALLOWED else ABSENT if name in MISSING else DENIED
        assert judge(name) == expected, name


def test_every_name_on_a_list_is_a_call_of_some_machine() -> None:
    named = ALLOWED | MISSING | UNACCOUNTED | set(ALLOWED_WHEN) | set(REFUSED_WHEN)
    assert named <= set(X86_64) | set(AARCH64)
    assert not ALLOWED & (MISSING | set(ALLOWED_WHEN) | set(REFUSED_WHEN))


def test_other_architectures_and_x32_are_killed(judge: Filter) -> None:
    assert judge.number(1, architecture=0x40000003) == KILL
    assert judge.number(0x40000000) == KILL
    assert judge.number(0x40000000 + 59) == KILL
    assert judge.number(0xFFFFFFFF) == KILL


def test_calls_newer_than_the_tables_are_absent(judge: Filter) -> None:
    assert judge.number(470) == ABSENT
    assert judge.number(0x3FFFFFFF) == ABSENT


@pytest.mark.parametrize(
    "name",
    """
    ptrace process_vm_readv process_vm_writev bpf keyctl add_key request_key userfaultfd perf_event_open mount umount2
    pivot_root chroot setns unshare open_tree move_mount fsopen fsmount mount_setattr kexec_load init_module
    finit_module delete_module reboot swapon swapoff quotactl acct settimeofday clock_settime adjtimex clock_adjtime
    open_by_handle_at name_to_handle_at kcmp lookup_dcookie syslog fanotify_init pidfd_getfd memfd_secret
    """.split(),  # noqa: SIM905 - read as text, not as a list
)
def test_what_reaches_out_is_refused(judge: Filter, name: str) -> None:
    assert judge(name) == DENIED


@pytest.mark.parametrize("name", ["clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup"])
def test_what_programs_do_without_is_absent(judge: Filter, name: str) -> None:
    assert judge(name) == ABSENT


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_threads_and_no_namespaces(judge: Filter, flag: int) -> None:
    assert judge("clone", 0x3D0F00) == ALLOW
    assert judge("clone", flag | 17) == DENIED


@pytest.mark.parametrize(
    ("arguments", "is_allowed"),
    [
        ((1, 1, 0), True),  # AF_UNIX
        ((2, 1, 0), True),  # AF_INET, a stream
        ((2, 1 | 0x80800, 6), True),  # with flags, and TCP named
        ((2, 2, 0), False),  # a datagram
        ((10, 2 | 0x80800, 17), False),  # AF_INET6, UDP
        ((1, 2, 0), True),  # AF_UNIX, a datagram
        ((16, 3, 0), True),  # NETLINK_ROUTE
        ((16, 3, 4), False),  # NETLINK_SOCK_DIAG
        ((2, 3, 1), False),  # raw
        ((2, 2, 1), False),  # ping
        ((2, 1, 132), False),  # SCTP
        ((2, 1, 262), False),  # MPTCP
        ((2, 2, 136), False),  # UDP-Lite
        ((17, 3, 0), False),  # AF_PACKET
        ((38, 5, 0), False),  # AF_ALG
        ((40, 1, 0), False),  # AF_VSOCK
        ((0x100000001, 1, 0), True),  # the kernel reads an int
        ((0x100000028, 1, 0), False),
    ],
)
def test_sockets_are_local_or_tcp(judge: Filter, arguments: tuple[int, ...], is_allowed: bool) -> None:
    assert judge("socket", *arguments) == (ALLOW if is_allowed else DENIED)


@pytest.mark.parametrize("command", [0x5412, 0x541C, 0x5423, 0x541D, 0x100005412])
def test_nobody_types_into_a_terminal_for_somebody_else(judge: Filter, command: int) -> None:
    assert judge("ioctl", 0, command) == DENIED
    assert judge("ioctl", 0, 0x5413) == ALLOW


def test_the_first_process_cannot_outlive_the_spawner(judge: Filter) -> None:
    assert judge("prctl", 1, 9) == ALLOW
    assert judge("prctl", 1, 0) == DENIED
    assert judge("prctl", 1, 18) == DENIED
    assert judge("prctl", 36, 1) == ALLOW


def test_limits_are_read_and_set_for_oneself_only(judge: Filter) -> None:
    assert judge("prlimit64", 0) == ALLOW
    assert judge("prlimit64", 1) == DENIED


@pytest.mark.parametrize(
    ("persona", "is_allowed"), [(0, True), (0xFFFFFFFF, True), (0x40000, False), (0x400000, False)]
)
def test_only_ordinary_personalities(judge: Filter, persona: int, is_allowed: bool) -> None:
    assert judge("personality", persona) == (ALLOW if is_allowed else DENIED)


@pytest.mark.parametrize(
    ("name", "ordinary", "huge"),
    [
        ("mmap", (0, 4096, 3, 0x22), (0, 4096, 3, 0x40022)),
        ("mmap", (0, 4096, 3, 0x20022), (0, 4096, 3, 0x15040022)),
        ("memfd_create", (0, 0x3), (0, 0x54000004)),
        ("shmget", (0, 4096, 0o1600), (0, 4096, 0o5600)),
    ],
)
def test_huge_pages_are_left_to_the_host(
    judge: Filter, name: str, ordinary: tuple[int, ...], huge: tuple[int, ...]
) -> None:
    assert judge(name, *ordinary) == ALLOW
    assert judge(name, *huge) == DENIED


def test_more_can_be_taken_away(machine: str) -> None:
    judge = Filter(machine, UNACCOUNTED | {"sched_setaffinity"})
    assert judge("memfd_create") == judge("shmget") == judge("sched_setaffinity") == DENIED


def test_this_machine_is_known() -> None:
    assert is_known(os.uname().machine)
    assert not is_known("riscv64")

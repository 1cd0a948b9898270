"""Which system calls a sandbox may make, and the filter that holds it to them."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass

from actors.sandbox.bubblewrap.bpf import ALLOW, Condition, Rule, Verdict, assemble, refuse
from actors.sandbox.bubblewrap.syscalls import AARCH64, X86_64

ALLOWED = frozenset(
    """
    accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_getres clock_gettime
    clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
    epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat
    get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage
    getsid getsockname getsockopt gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lgetxattr link linkat listen listxattr listxattrat llistxattr lremovexattr lseek
    lsetxattr lstat madvise map_shadow_stack mbind membarrier mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
    mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv
    msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal
    pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll pread64 preadv preadv2 process_mrelease pselect6 pwrite64
    pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
    semtimedop sendfile sendmmsg sendmsg sendto set_mempolicy set_robust_list set_thread_area set_tid_address setfsgid
    setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid
    setsockopt setuid setxattr setxattrat shmat shmctl shmdt shutdown sigaltstack signalfd signalfd4 splice stat statfs
    statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate
    umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev
    """.split()  # noqa: SIM905 - three hundred names are read as text, not as a list
)
"""Refused though harmless in name: `ptrace` and its kin (they reach other processes), `unshare` and all of mounting,
keys, `bpf`, `perf_event_open`, `userfaultfd`, file handles, everything about time, modules, swap and quotas."""

MISSING = frozenset(
    """
    clone3 file_getattr file_setattr io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit io_uring_enter
    io_uring_register io_uring_setup listmount lsm_get_self_attr lsm_list_modules lsm_set_self_attr
    set_mempolicy_home_node statmount
    """.split()  # noqa: SIM905 - the same
)
"""Answered as an older kernel would (ENOSYS), so that programs take their other way. Of `clone3` a filter cannot see
the flags; of `io_setup` the whole machine has few, which one sandbox could take."""

UNACCOUNTED = frozenset({"memfd_create", "shmget"})
"""Memory that shows in no process. Refused where memory is held by looking at processes."""

_NEW_NAMESPACES = 0x7E020000
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM, _TYPE = 1, 0xF
_TCP = 6
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_MAP_HUGETLB, _MFD_HUGETLB, _SHM_HUGETLB = 0x40000, 0x4, 0o4000

ALLOWED_WHEN: Mapping[str, tuple[tuple[Condition, ...], ...]] = {
    "clone": ((Condition(0, 0, _NEW_NAMESPACES),),),
    # Datagrams have nowhere to go but loopback, and on older control groups nobody counts what waits in them.
    # NETLINK_ROUTE, because listing one's own interfaces has no other way.
    "socket": (
        (Condition(0, _UNIX),),
        *(
            (Condition(0, family), Condition(1, _STREAM, _TYPE), Condition(2, protocol))
            for family in (_INET, _INET6)
            for protocol in (0, _TCP)
        ),
        (Condition(0, _NETLINK), Condition(2, 0)),
    ),
    "socketpair": ((Condition(0, _UNIX),),),
    # Linux, 32-bit Linux, and asking.
    "personality": tuple((Condition(0, value),) for value in (0x0, 0x8, 0xFFFFFFFF)),
    "prlimit64": ((Condition(0, 0),),),
    # Huge pages are set aside for servers of the host, and no limit of memory counts them.
    "mmap": ((Condition(3, 0, _MAP_HUGETLB),),),
    "memfd_create": ((Condition(1, 0, _MFD_HUGETLB),),),
    "shmget": ((Condition(2, 0, _SHM_HUGETLB),),),
}
"""Allowed when all conditions of one of the alternatives are true."""

REFUSED_WHEN: Mapping[str, tuple[tuple[Condition, ...], ...]] = {
    # TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS: writing into terminals, and line disciplines.
    "ioctl": tuple((Condition(1, command),) for command in (0x5412, 0x541C, 0x5423, 0x541D)),
    # The first process dies with the host's spawner because bubblewrap said so; it may not unsay it.
    "prctl": ((Condition(0, _PR_SET_PDEATHSIG), Condition(1, _SIGKILL, is_equal=False)),),
}
"""Allowed unless all conditions of one of the alternatives are true."""


@dataclass(frozen=True)
class _Machine:
    architecture: int
    numbers: Mapping[str, int]


# x32 calls have bit 30 set; no number of aarch64 is near it.
_FIRST_FOREIGN = 0x40000000
_MACHINES = {"x86_64": _Machine(0xC000003E, X86_64), "aarch64": _Machine(0xC00000B7, AARCH64)}


def is_known(machine: str) -> bool:
    return machine in _MACHINES


def compile_filter(machine: str, *, without: frozenset[str] = frozenset()) -> bytes:
    """The filter for `machine` (as `os.uname()` names it), refusing also the calls named in `without`."""
    known = _MACHINES[machine]
    verdicts = {number: _judge(name, without) for name, number in known.numbers.items()}
    return assemble(known.architecture, verdicts, refuse(errno.ENOSYS), first_foreign=_FIRST_FOREIGN)


def _judge(name: str, without: frozenset[str]) -> Verdict:
    denied = refuse(errno.EPERM)
    if name in without:
        return denied
    if name in MISSING:
        return refuse(errno.ENOSYS)
    if name in ALLOWED:
        return ALLOW
    if alternatives := ALLOWED_WHEN.get(name):
        return Rule(alternatives, hit=ALLOW, miss=denied)
    if alternatives := REFUSED_WHEN.get(name):
        return Rule(alternatives, hit=denied, miss=ALLOW)
    return denied

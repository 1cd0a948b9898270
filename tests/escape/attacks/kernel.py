"""Attacks on the kernel: system calls that reach other processes, other namespaces, or the machine itself."""

from tests.escape.attack import Attack, Category, Plain, Proof, Refusal, Unshown, Weak, contained, held

_OWN_KERNEL = "gVisor's own kernel answers, and has no more than the sandbox"
_ROOT = Plain("root")
_CLOCK = Unshown("it would set this machine's clock")
_RARE = Unshown("few kernels still have it")
_LIMITED_ROOT = Unshown("root of a container may not either")
_MACHINE = Unshown("as root it would hit this machine")


def _call(name: str, wants: str, line: str, *, gvisor: str | Refusal | None = None, proof: Proof = _ROOT,
          refusal: str = "EPERM", docker: str | None = None) -> Attack:  # fmt: skip
    return Attack(name, wants, held(refusal, docker=docker, gvisor=gvisor), line, proof=proof)


TRACING = Category(
    "Looking into other processes",
    (
        _call("ptrace-child", "Trace a process of one's own, to get past the filter in its name.",
              """
              pid = child()
              try:
                  call("ptrace", 16, pid, 0, 0)
              finally:
                  end(pid)
              """, gvisor=contained(_OWN_KERNEL)),
        _call("ptrace-supervisor", "Take over the supervisor.", 'call("ptrace", 16, w["victim"], 0, 0)'),
        _call("ptrace-seize-supervisor", "The same, unnoticed.", 'call("ptrace", 0x4206, w["victim"], 0, 0)'),
        _call("vm-read-supervisor", "Read the supervisor's memory, for its token.",
              """
              ours = theirs = packed("PN", 4096, 16)
              name = refusal(call, "process_vm_readv", w["victim"], ours, 1, theirs, 1, 0)
              return "done" if name == "EFAULT" else name
              """),
        _call("vm-write-supervisor", "Write into the supervisor's memory.",
              """
              ours = theirs = packed("PN", 4096, 16)
              name = refusal(call, "process_vm_writev", w["victim"], ours, 1, theirs, 1, 0)
              return "done" if name == "EFAULT" else name
              """),
        _call("memory-of-supervisor", "Open the supervisor's memory as a file.",
              'os.open(f"/proc/{w[\'victim\']}/mem", os.O_RDWR)', refusal="EACCES"),
        _call("descriptor-of-supervisor", "Take a descriptor out of the supervisor.",
              'call("pidfd_getfd", call("pidfd_open", w["victim"], 0), 0, 0)', gvisor="ENOSYS"),
        _call("descriptors-of-supervisor-listed", "See what the supervisor has open.",
              'os.listdir(f"/proc/{w[\'victim\']}/fd")', refusal="EACCES", gvisor=contained("they are of this sandbox")),
        _call("environment-of-supervisor", "Read the supervisor's environment.",
              'read(f"/proc/{w[\'victim\']}/environ")', refusal="EACCES", gvisor=contained("there is no secret in it")),
        _call("limits-of-supervisor", "Leave the supervisor without descriptors.",
              'call("prlimit64", w["victim"], 7, packed("QQ", 4096, 4096), 0)'),
        _call("pages-of-supervisor", "Move the supervisor's memory about.",
              'call("migrate_pages", w["victim"], 8, packed("Q", 1), packed("Q", 1))'),
        _call("advice-on-supervisor", "Have the supervisor's memory thrown out.",
              """
              range_of_theirs = packed("PN", 4096, 4096)
              name = refusal(call, "process_madvise", call("pidfd_open", w["victim"], 0), range_of_theirs, 1, 20, 0)
              return "done" if name in ("", "ENOMEM") else name
              """, gvisor="ENOSYS"),
        _call("kcmp", "Learn the kernel's addresses by comparing.", 'call("kcmp", os.getpid(), os.getpid(), 0, 0, 0)'),
    ),
)  # fmt: skip

NAMESPACES = Category(
    "Namespaces and mounts",
    (
        *(
            _call(f"unshare-{name}", f"A new {words} namespace, where one would be root.", f'call("unshare", {flag:#x})',
                  gvisor=contained(_OWN_KERNEL) if name in {"user", "cgroup", "time"} else None)
            for name, words, flag in (
                ("user", "user", 0x10000000), ("mounts", "mount", 0x20000), ("network", "network", 0x40000000),
                ("pids", "pid", 0x20000000), ("cgroup", "cgroup", 0x2000000), ("time", "time", 0x80),
            )
        ),
        _call("clone-user", "A child in a new user namespace.",
              'pid = call("clone", 0x10000000 | 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)', gvisor=contained(_OWN_KERNEL)),
        _call("clone3-user", "The same by the call a filter cannot look into.",
              """
              size = 88
              pid = call("clone3", packed("QQQQQ", 0x10000000, 0, 0, 0, 17, size=size), size)
              if pid == 0: os._exit(0)
              os.waitpid(pid, 0)
              """, refusal="ENOSYS", gvisor=contained(_OWN_KERNEL)),
        _call("setns", "Enter another namespace through /proc.",
              'call("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0x40000000)', proof=Weak()),
        _call("mount-tmpfs", "Mount something.", 'call("mount", b"x", b"/tmp", b"tmpfs", 0, 0)', proof=Weak()),
        _call("mount-proc", "Mount a /proc without the masks.", 'call("mount", b"x", b"/tmp", b"proc", 0, 0)',
              proof=Weak()),
        _call("mount-cgroup", "Mount control groups, for their release agent.",
              'call("mount", b"x", b"/tmp", b"cgroup2", 0, 0)', proof=Unshown("not every host has them to mount")),
        _call("bind-mount", "Bind a folder elsewhere.", 'call("mount", b"/usr", b"/tmp", 0, 0x1000, 0)', proof=Weak()),
        _call("remount-writable", "Make the system writable.",
              'call("mount", b"", b"/usr", 0, 0x1000 | 0x20, 0)', proof=Weak(works="EINVAL")),
        _call("unmask", "Unmount what hides a part of /proc.", 'call("umount2", b"/proc", 2)', proof=Weak()),
        _call("new-mount-calls", "Mount by the newer calls.", 'call("fsopen", b"tmpfs", 0)', proof=Weak(), gvisor="ENOSYS"),
        _call("open-tree", "Clone a mount, detached.", 'call("open_tree", -100, b"/usr", 1)', proof=Weak(), gvisor="ENOSYS"),
        _call("mount-attributes", "Take off read-only.",
              'call("mount_setattr", -100, b"/tmp", 0, packed("QQQQ", 0, 1, 0, 0), 32)', proof=Weak(works="EINVAL"), gvisor="ENOSYS"),
        _call("pivot-root", "Change the root of all.", 'call("pivot_root", b"/tmp", b"/tmp")',
              proof=Weak(works="EINVAL")),
        _call("chroot", "Change one's own root, to climb out of it.", 'call("chroot", b"/tmp")', proof=Weak()),
        _call("file-handle", "Open a file of the disk by its number, around every mount.",
              """
              handle = packed("Ii", 128, 0, size=136)
              call("name_to_handle_at", -100, b"/usr", handle, packed("i", 0), 0)
              call("open_by_handle_at", os.open("/usr", os.O_RDONLY), handle, 0)
              """, gvisor="ENOTSUP"),
        _call("guessed-file-handle", "The same with a guessed handle: the root of the disk.",
              """
              handle = packed("IiII", 8, 1, 2, 0)
              name = refusal(call, "open_by_handle_at", os.open("/usr", os.O_RDONLY), handle, 0)
              return "done" if name in ("", "ESTALE") else name
              """, gvisor="ENOTSUP"),
        _call("hostname", "Rename the machine.", 'call("sethostname", b"gotcha", 6)', proof=Weak()),
        _call("domain", "Rename its domain.", 'call("setdomainname", b"gotcha", 6)', proof=Weak()),
    ),
)  # fmt: skip

MACHINE = Category(
    "The kernel's other doors",
    (
        _call("bpf-map", "Have a bpf map.", 'call("bpf", 0, packed("IIII", 2, 4, 4, 1, size=128), 128)'),
        _call("bpf-program", "Run code in the kernel.",
              """
              code = packed("QQ", 0xB7, 0x95)
              licence = ctypes.create_string_buffer(b"GPL")
              call("bpf", 5, packed("IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(licence), size=128), 128)
              """),
        _call("keyctl", "Reach a keyring of the host's.", 'call("keyctl", 0, -3, 1)', gvisor=contained(_OWN_KERNEL)),
        _call("add-key", "Leave a key behind.", 'call("add_key", b"user", b"x", b"y", 1, -2)', gvisor="EACCES"),
        _call("request-key", "Have the host's helper run for a key.", 'call("request_key", b"user", b"x", 0, -2)',
              proof=Plain(works="ENOKEY"), gvisor="EACCES"),
        _call("userfaultfd", "Hold the kernel up in the middle of a copy.", 'call("userfaultfd", 1)', gvisor="ENOSYS"),
        _call("io-uring", "Do calls around the filter.", 'call("io_uring_setup", 1, packed("I", 0, size=120))',
              refusal="ENOSYS"),
        _call("huge-pages", "Take the huge pages that are set aside for the host's servers.",
              'call("mmap", 0, 2 << 20, 3, 0x40022, -1, 0)', proof=Plain(works="done|ENOMEM"), gvisor=contained(_OWN_KERNEL)),
        _call("async-io", "Take the machine's few slots of asynchronous input.",
              'call("io_setup", 1, packed("Q", 0))', proof=Plain(), refusal="ENOSYS", gvisor=contained(_OWN_KERNEL)),
        _call("perf-event", "Watch the machine.",
              'call("perf_event_open", packed("IIQ", 1, 112, 0, size=112), 0, -1, -1, 0)', gvisor="ENODEV"),
        _call("fanotify", "Be asked for every file of a mount.", 'call("fanotify_init", 0, 0)', gvisor="ENOSYS"),
        _call("modify-ldt", "Have segments of one's own.", 'call("modify_ldt", 0, packed("Q", 0, size=64), 64)'),
        _call("personality", "Switch address randomisation off.", 'call("personality", 0x40000)', gvisor="EINVAL"),
        _call("io-ports", "Speak with devices.", 'call("ioperm", 0x80, 1, 1)', proof=_RARE),
        _call("io-privilege", "Speak with all of them.", 'call("iopl", 3)', proof=_RARE),
        _call("kernel-log", "Read the kernel's log.",
              'place = ctypes.create_string_buffer(4096)\ncall("syslog", 3, place, 4096)', gvisor=contained("a log of gVisor's own making")),
        _call("accounting", "Write accounts of processes into a file.", 'call("acct", 0)', proof=_MACHINE),
        _call("load-module", "Load code into the kernel.", 'call("init_module", b"x", 1, b"")', proof=_MACHINE),
        _call("load-module-file", "The same from a file.", 'call("finit_module", 0, b"", 0)', proof=_MACHINE),
        _call("unload-module", "Take code out of it.", 'call("delete_module", b"ext4", 0x800)', proof=_MACHINE),
        _call("kexec", "Start another kernel.", 'call("kexec_load", 0, 0, 0, 0)', proof=_MACHINE),
        _call("reboot", "Switch the machine off.", 'call("reboot", 0xFEE1DEAD, 672274793, 0, 0)', proof=_MACHINE),
        _call("swap-on", "Swap into a file of one's own.", 'call("swapon", b"/tmp/x", 0)', proof=_MACHINE),
        _call("swap-off", "Take the machine's swap.", 'call("swapoff", b"/tmp/x")', proof=_MACHINE),
        _call("quota", "Change quotas.", 'call("quotactl", 0x800002, b"/dev/vda", 0, 0)', proof=_MACHINE),
        _call("hang-up", "Hang up the terminal.", 'call("vhangup")', proof=_MACHINE),
        _call("set-clock", "Set the clock.", 'call("clock_settime", 0, packed("qq", 1, 0))', proof=_CLOCK),
        _call("set-time-of-day", "The same by the old call.", 'call("settimeofday", packed("qq", 1, 0), 0)',
              proof=_CLOCK),
        _call("slow-clock", "Make the clock slower.", 'call("adjtimex", packed("Iq", 2, -1000, size=208))',
              proof=_CLOCK),
        _call("slow-clock-by-name", "The same by the newer call.",
              'call("clock_adjtime", 0, packed("Iq", 2, -1000, size=208))', proof=_CLOCK),
        _call("foreign-calls", "Enter by 32-bit calls, which the filter numbers otherwise.",
              """
              if w["machine"] != "x86_64":
                  return "SIGSYS"
              import mmap
              code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
              code.write(b"\\x53\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\x5b\\xc3")
              place = ctypes.addressof(ctypes.c_char.from_buffer(code))
              pid = ctypes.CFUNCTYPE(ctypes.c_int)(place)()
              return "done" if pid == os.getpid() else errno.errorcode[-pid]
              """, refusal="SIGSYS", gvisor="ENOSYS"),
        _call("x32-calls", "Enter by x32 calls.", "call_number(0x40000000 | 39)", refusal="SIGSYS",
              proof=Unshown("few kernels have x32 calls"), gvisor="ENOSYS"),
        _call("terminal-input", "Type into the terminal that started it.",
              """
              import pty
              terminal, end_of_it = pty.openpty()
              fcntl.ioctl(end_of_it, 0x5412, b"x")
              """, proof=Plain("root", works="done|EIO"), gvisor="ENOTTY"),
        _call("console", "Take the machine's console.",
              'fcntl.ioctl(os.open("/dev/null", os.O_RDWR), 0x541D)', proof=Plain(works="ENOTTY"), gvisor="ENOTTY"),
    ),
)  # fmt: skip

RIGHTS = Category(
    "More rights",
    (
        _call("become-root", "Become root.", 'call("setresuid", 0, 0, 0)', refusal="EINVAL", docker="EPERM", gvisor="EPERM"),
        _call("become-root-group", "Become root's group.", 'call("setresgid", 0, 0, 0)', refusal="EINVAL", docker="EPERM", gvisor="EPERM"),
        _call("groups", "Join other groups.", 'call("setgroups", 1, packed("I", 42))'),
        _call("capabilities", "Take all capabilities.",
              'call("capset", packed("Ii", 0x20080522, 0), packed("IIIIII", *[2**32 - 1, 2**32 - 1, 0] * 2))',
              proof=Plain("root", works="done|EPERM")),
        _call("new-privileges", "Let set-uid programs count again.",
              'call("prctl", 38, 0, 0, 0, 0)', refusal="EINVAL",
              proof=Unshown("the kernel never takes it back, for nobody")),
        _call("real-time", "Run before everybody else.", 'call("sched_setscheduler", 0, 1, packed("i", 50))', gvisor="EINVAL"),
        _call("priority", "Get a better priority.", 'call("setpriority", 0, 0, -20)', refusal="EACCES", gvisor=contained("a number that moves nothing on the host")),
        _call("io-priority", "Get before everybody on the disk.", 'call("ioprio_set", 1, 0, 1 << 13)'),
        _call("out-of-memory-score", "Never be killed when memory runs out.",
              'write("/proc/self/oom_score_adj", b"-1000")', refusal="EACCES", proof=_LIMITED_ROOT, gvisor=contained("a number that moves nothing on the host")),
        _call("uid-map", "Map oneself to the host's root.", 'write("/proc/self/uid_map", b"0 0 1")',
              proof=Unshown("a map is written once, and the host's own namespace has its one")),
        _call("more-files", "Raise the limit of descriptors.",
              'call("prlimit64", 0, 7, packed("QQ", 65536, 1048576), 0)', proof=_LIMITED_ROOT),
        _call("locked-memory", "Lock memory nobody can take back.",
              """
              import mmap
              memory = mmap.mmap(-1, 32 << 20)
              place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
              call("mlock", place, 32 << 20)
              """, refusal="ENOMEM"),
        Attack("set-uid-program", "Become root by a program of root's.", held("refused"),
               """
               import subprocess
               # `su` waits for a password, as root where its set-uid bit counts.
               one = subprocess.Popen(["su"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
               try:
                   for _ in range(100):
                       status = read(f"/proc/{one.pid}/status").decode()
                       if "Name:\\tsu\\n" in status:
                           break
                       time.sleep(0.01)
                   uids = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid")][0]
               finally:
                   one.kill(); one.wait(); one.stdin.close()
               return "refused" if "0" not in uids else "done"
               """, proof=Plain("nobody")),
        Attack("set-uid-file", "Make a set-uid program of root's oneself.", held("EINVAL", docker="EPERM", gvisor="EPERM"),
               """
               open("/tmp/set-uid", "w").close()
               os.chown("/tmp/set-uid", 0, 0)
               os.chmod("/tmp/set-uid", 0o4755)
               os.unlink("/tmp/set-uid")
               """, proof=_ROOT),
        Attack("file-capabilities", "Give a program capabilities.", held("EPERM", gvisor="ENOTSUP"),
               """
               open("/tmp/capable", "w").close()
               try:
                   os.setxattr("/tmp/capable", "security.capability", struct.pack("<IIIII", 0x2000001, 2**21, 0, 0, 0))
               finally:
                   os.unlink("/tmp/capable")
               """, proof=_ROOT),
        Attack("device-file", "Make a device a file of one's own.", held("EPERM", gvisor=contained("one of gVisor's own")),
               """
               os.mknod("/tmp/device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
               try:
                   read("/tmp/device", 1)
               finally:
                   os.unlink("/tmp/device")
               """, proof=_ROOT),
    ),
)  # fmt: skip

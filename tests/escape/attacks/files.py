"""Attacks on files: the host's, the system's, and what /proc, /sys and links lead to."""

from tests.escape.attack import Attack, Category, Plain, Unshown, contained, held

_ROOT = Plain("root")
_PATHS_ONLY = contained("names of folders of the pool, which nobody else may enter", "done|nothing")
_CLOSED = Unshown("the same program reads and writes such files as root, and this one would harm the machine")

HOST = Category(
    "Files of the host",
    (
        Attack("read-host-file", "Read a file of the host that everybody may read.", held("ENOENT"),
               'show(read(w["secret_file"]))'),
        Attack("write-host-file", "Change a file of the host that everybody may change.", held("ENOENT"),
               'write(w["ledger"], b"gotcha")', proof=Plain()),
        Attack("list-host-folder", "Look around in a folder of the host.", held("ENOENT"),
               'show(" ".join(os.listdir(w["folder"])).encode())'),
        Attack("climb-out", "Climb up beyond the root.", held("ENOENT"),
               'show(read("/work" + "/.." * 20 + w["secret_file"]) if os.path.isdir("/work")'
               ' else read("/tmp" + "/.." * 20 + w["secret_file"]))'),
        Attack("root-of-supervisor", "Through the supervisor's root.", held("EACCES"),
               'show(read(f"/proc/{w[\'victim\']}/root" + w["secret_file"]))', proof=_ROOT),
        Attack("folder-of-supervisor", "Through the supervisor's own folder.", held("EACCES"),
               'show(read(f"/proc/{w[\'victim\']}/cwd/secret"))', proof=_ROOT),
        Attack("root-of-oneself", "Through one's own root.", held("ENOENT"),
               'show(read("/proc/self/root" + w["secret_file"]))'),
        Attack("host-environment", "Read the environment of a process of the host.", held("ENOENT"),
               'show(read(f"/proc/{w[\'pid\']}/environ"))', proof=_ROOT),
        Attack("any-environment", "Find the host's secret in any environment or command line.", held("nothing"),
               """
               found = b""
               for name in os.listdir("/proc"):
                   for what in ("environ", "cmdline") if name.isdigit() else ():
                       try: found += read(f"/proc/{name}/{what}")
                       except OSError: pass
               show(found)
               return "done" if b"AETHER_" b"SECRET" in found else "nothing"
               """, proof=_ROOT),
        Attack("left-open", "Find a descriptor the host left open.", held("nothing"),
               """
               mine = os.open("/proc/self/fd", os.O_RDONLY)
               left = [name for name in os.listdir(mine) if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}")]
               left = [name for name in left if os.readlink(f"/proc/self/fd/{name}") != f"/proc/{os.getpid()}/fd"]
               return "done " + " ".join(left) if left else "nothing"
               """, proof=Unshown("Python hands nothing down either")),
        Attack("left-working-folder", "Climb from a working folder that is outside.", held("ENOENT"),
               """
               os.chdir("/proc/self/cwd")
               show(read("../../../../../.." + w["secret_file"]))
               """),
        Attack("home-folders", "Read the homes of the host's users.", held("nothing"),
               """
               homes = [f"/home/{name}" for name in os.listdir("/home") if name != "agent"] + ["/root"]
               found = [home for home in homes if not refusal(os.listdir, home) and set(os.listdir(home)) - {".pyenv"}]
               return "done " + " ".join(found) if found else "nothing"
               """, proof=Unshown("a fresh machine has nothing there")),
        Attack("shadow", "Read the passwords of the machine.", held("ENOENT", docker="EACCES", gvisor="EACCES"),
               'read("/etc/shadow")', proof=_ROOT),
    ),
)  # fmt: skip

SYSTEM = Category(
    "The system's files",
    (
        *(
            Attack(f"write-{name}", f"Change {words}.", held("EROFS", docker=docker, gvisor=gvisor),
                   f'os.close(os.open("{path}", os.O_WRONLY | os.O_CREAT))',
                   proof=Unshown("it would change this machine"))
            for name, words, path, docker, gvisor in (
                ("programs", "the programs everybody runs", "/usr/bin/aether-gotcha", None, "EACCES"),
                ("settings", "the settings of the system", "/etc/aether-gotcha", None, "EACCES"),
                ("root", "the root folder", "/aether-gotcha", None, "EACCES"),
                ("supervisor", "the supervisor's own program", "/opt/aether/supervisor/gotcha.py", None, "EACCES"),
                ("devices", "the folder of devices", "/dev/aether-gotcha", "EACCES", "EACCES"),
            )
        ),
        Attack("hard-link-program", "A second name for a set-uid program, in a folder of one's own.",
               held("EXDEV"), 'os.link("/usr/bin/su", "/tmp/su")',
               proof=Unshown("it needs both on one file system")),
        Attack("hard-link-passwords", "A second name for a file of the system, to wait until it can be written.",
               held("EXDEV"), 'os.link("/etc/passwd", "/work/passwd")',
               proof=Unshown("it needs both on one file system")),
        Attack("own-program", "Overwrite the program that runs it, as in CVE-2019-5736.", held("ETXTBSY|EROFS|EACCES"),
               'os.open("/proc/self/exe", os.O_WRONLY)', proof=Unshown("the host refuses it while it runs as well")),
        Attack("supervisor-program", "Overwrite the program of the first process.",
               held("EACCES", gvisor="EACCES|EROFS"),
               'os.open(f"/proc/{w[\'victim\']}/exe", os.O_WRONLY)', proof=Plain(works="ETXTBSY")),
        *(
            Attack(f"device-{name}", f"Open {words}.",
                   held("ENOENT", gvisor=contained("one of gVisor's own") if name in {"fuse", "net/tun"} else None),
                   f'os.open("/dev/{name}", os.O_RDONLY)',
                   proof=Unshown("not every machine has it"))
            for name, words in (
                ("mem", "the machine's memory"), ("kmsg", "the kernel's log"), ("sda", "a disk"), ("vda", "a disk"),
                ("kvm", "virtual machines"), ("fuse", "file systems of one's own"), ("net/tun", "a network card"),
                ("loop-control", "loop devices"), ("uinput", "the keyboard"),
            )
        ),
    ),
)  # fmt: skip

PROC = Category(
    "/proc and /sys",
    (
        Attack("core-pattern", "Have the host run a program when one of ours crashes.",
               held("EACCES", gvisor="ENOENT"),
               'write("/proc/sys/kernel/core_pattern", b"|/tmp/gotcha")', proof=_CLOSED),
        Attack("modprobe-path", "Have the host run a program when it looks for a module.",
               held("EACCES|ENOENT", gvisor="ENOENT"),
               'write("/proc/sys/kernel/modprobe", b"/tmp/gotcha")', proof=_CLOSED),
        Attack("binfmt", "Have programs of ours run for other programs' files.",
               held("ENOENT", docker="ENOENT|EROFS"), 'write("/proc/sys/fs/binfmt_misc/register", b":x:E::x::/tmp/x:")',
               proof=_CLOSED),
        Attack("sysrq", "Crash the machine by a letter.", held("ENOENT|EACCES", docker="ENOENT|EACCES|EROFS"),
               'write("/proc/sysrq-trigger", b"h")', proof=_CLOSED),
        Attack("drop-caches", "Throw out the caches of everybody.",
               held("EACCES", gvisor="ENOENT"), 'write("/proc/sys/vm/drop_caches", b"1")',
               proof=_CLOSED),
        Attack("kernel-memory", "Read the kernel's memory.", held("ENOENT|EACCES"),
               'return "nothing" if not read("/proc/kcore", 64) else "done"', proof=Unshown("few kernels have it")),
        Attack("kernel-log-file", "Read the kernel's log as a file.", held("EPERM|EACCES", gvisor="ENOENT"),
               'os.read(os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK), 64)', proof=_ROOT),
        Attack("kernel-addresses", "Learn where the kernel's functions are.",
               held("EACCES|ENOENT", docker="nothing|ENOENT", gvisor="ENOENT"),
               """
               lines = read("/proc/kallsyms").splitlines()
               return "done" if any(int(line.split()[0], 16) for line in lines) else "nothing"
               """, proof=Plain("root", works="done|nothing|ENOENT")),
        Attack("keys", "List the keys of the host.", held("EACCES|ENOENT", docker="nothing|ENOENT", gvisor="ENOENT"),
               'return "done" if read("/proc/keys") else "nothing"', proof=Unshown("it may hold no key")),
        Attack("boot-line", "Read what the machine was started with.", held("EACCES", docker=contained("Docker shows it: no secret belongs there"),
                                                                  gvisor=contained("a line of gVisor's own making")),
               'return "done" if read("/proc/cmdline") else "nothing"'),
        Attack("timers", "Read who has timers on this machine.", held("EACCES|EPERM|ENOENT", docker="nothing"),
               'return "done" if read("/proc/timer_list") else "nothing"', proof=_ROOT),
        Attack("memory-map-of-machine", "Learn the machine's memory layout.",
               held("nothing", gvisor="ENOENT"),
               """
               lines = read("/proc/iomem").splitlines()
               return "done" if any(not line.strip().startswith(b"00000000-00000000") for line in lines) else "nothing"
               """, proof=_ROOT),
        Attack("host-processes", "See the processes of the host.", held("ENOENT"),
               'show(read(f"/proc/{w[\'pid\']}/status"))'),
        Attack("host-mounts", "Learn the host's folders from the table of mounts.", held(_PATHS_ONLY, docker=_PATHS_ONLY, gvisor="nothing"),
               """
               names = os.path.dirname(w["folder"]) + "/aet-"
               table = read("/proc/self/mountinfo", 1 << 20) + read("/proc/self/mounts", 1 << 20)
               return "done" if names.encode() in table else "nothing"
               """, proof=Unshown("it depends on where things are")),
        Attack("release-agent", "Have the host run a program when a control group is empty.",
               held("ENOENT", docker="ENOENT|EROFS", gvisor="ENOENT|EROFS|EACCES"),
               """
               for path in ("/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent"):
                   name = refusal(write, path, b"/tmp/gotcha")
                   if name not in ("ENOENT",): return name or "done"
               return "ENOENT"
               """, proof=_CLOSED),
        Attack("raise-own-limit", "Raise one's own limit of memory.",
               held("refused"),
               """
               paths = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                        "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"]
               names = {refusal(write, path, b"1000000000000") for path in paths}
               return "refused" if names <= {"ENOENT", "EROFS", "EACCES"} else "done " + " ".join(names)
               """, proof=_CLOSED),
        Attack("leave-group", "Leave one's control group.",
               held("refused"),
               """
               paths = ["/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/pids/tasks"]
               names = {refusal(write, path, b"0") for path in paths}
               return "refused" if names <= {"ENOENT", "EROFS", "EACCES"} else "done " + " ".join(names)
               """, proof=_CLOSED),
        Attack("uevent-helper", "Have the kernel run a program for a device.",
               held("ENOENT", docker="EROFS|ENOENT"), 'write("/sys/kernel/uevent_helper", b"/tmp/gotcha")',
               proof=_CLOSED),
        Attack("host-name-file", "Rename the machine by its file.",
               held("EACCES", gvisor="EACCES|EROFS|EPERM"),
               'write("/proc/sys/kernel/hostname", b"gotcha")', proof=_CLOSED),
    ),
)  # fmt: skip

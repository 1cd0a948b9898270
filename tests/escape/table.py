"""docs/escape.md: which attacks are tried on which backend, and how each is held.

To write it anew: python -m tests.escape.table
"""

from collections.abc import Iterator
from pathlib import Path

from tests.escape.attack import BACKENDS, DONE, Attack, Naive, NotApplicable, Plain, Refusal, Unshown, Weak
from tests.escape.attacks.client import LIES
from tests.escape.catalogue import ATTACKS, CATEGORIES

COMMITTED = Path(__file__).parents[2] / "docs" / "escape.md"
_HEAD = f"""# Attacks on sandboxes

What `make test-escape` tries, on real backends: {len(ATTACKS)} attacks from inside a sandbox or on its door, and {len(LIES)}
by a supervisor that has been taken over. After each of them the host is looked at: its secret was not read, its files,
processes, clock and name are as they were, nobody knocked at its sockets, the sandbox next door answers within a second
and another one can be started.

- **held**: refused, with exactly this answer. `E…` are errors of the kernel, `SIG…` the signal the attacker dies of;
  `sandbox ends`: the attacker has lost his own sandbox; the rest are answers of our own.
- **contained**: it may be done, because it reaches nothing but the sandbox itself, and why.
- **not applicable**: there is nothing of the kind to attack.

*Shown* tells how it is made sure that the attack would work where nothing stops it: the same program run *plainly* on the
host, in a *weak* sandbox (no filter, all rights of its own namespaces), or what falls to it in place of our own code
(*naive*). Where it cannot be shown, the reason stands below its table.

Written by `tests/escape/table.py` from the attacks themselves; the runs hold them to it.
"""


def render() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    for category in CATEGORIES:
        yield f"## {category.title}\n"
        yield _row("attack", "what it is for", *BACKENDS, "shown")
        yield _row(*["---"] * (len(BACKENDS) + 3))
        for attack in category.attacks:
            cells = [_cell(attack.refusals[backend]) for backend in BACKENDS]
            yield _row(attack.name, attack.wants, *cells, _shown(attack))
        reasons = dict.fromkeys(attack.proof.why for attack in category.attacks if isinstance(attack.proof, Unshown))
        for reason in reasons:
            named = [
                attack.name
                for attack in category.attacks
                if isinstance(attack.proof, Unshown) and attack.proof.why == reason
            ]
            who = "All others" if len(named) > 6 and len(reasons) == 1 else ", ".join(named)
            yield f"\nNot shown: {who}: {reason}."
        yield ""
    yield "## A supervisor that has been taken over\n"
    yield "What it may send to the host, and the code of the error with which the host ends the call. A client that meets one of"
    yield "these uses the connection no more.\n"
    yield _row("attack", "what it is for", "the host answers with")
    yield _row("---", "---", "---")
    for lie in LIES:
        yield _row(lie.name, lie.wants, f"held: {lie.ends}")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', ' or ') for cell in cells)} |"


def _cell(refusal: Refusal) -> str:
    match refusal:
        case NotApplicable(why):
            return f"not applicable: {why}"
        case _ if refusal.why:
            how = [one for one in refusal.outcomes if one != DONE]
            return f"contained: {refusal.why}" + (f" ({'|'.join(how)})" if how else "")
        case _:
            return f"held: {'|'.join(refusal.outcomes)}"


def _shown(attack: Attack) -> str:
    match attack.proof:
        case Plain(user=user):
            return "plainly" if user == "self" else f"plainly, as {user}"
        case Weak():
            return "weak"
        case Naive():
            return "naive"
        case Unshown():
            return "no"


if __name__ == "__main__":
    COMMITTED.write_text(render(), encoding="utf-8")

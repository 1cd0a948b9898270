"""Operations that take bytes from the host, and answers read as entries."""

from typing import Any

from tests.unit.actors.sandbox.inside.peer import DATA, END, Answer, Peer


def upload(peer: Peer, op: str, data: bytes, **fields: object) -> Answer:
    peer.request(op, **fields)
    for start in range(0, len(data), 1 << 20):
        peer.send(DATA, data[start : start + (1 << 20)])
    peer.send(END)
    return Answer(peer.until_end())


def items(answer: Answer, field: str) -> list[dict[str, Any]]:
    """Of all events of one answer, in their order."""
    return [item for event in answer.events for item in event[field]]

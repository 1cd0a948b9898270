"""What of a connector's answer comes in."""

from actors.sandbox.egress.forwarding import Unchanged, WithoutSecret
from actors.sandbox.egress.http1 import AnswerHead
from actors.sandbox.egress.redaction import Redaction

SECRET = b"a-secret-of-ours"


def test_the_secret_is_not_in_the_reason() -> None:
    head = AnswerHead(401, b"Bad token " + SECRET, ())
    assert WithoutSecret(Redaction(SECRET), b"https://a.example", b"http://a.connector").reason(head) == (
        b"Bad token " + b"*" * len(SECRET)
    )
    assert Unchanged().reason(head) == head.reason

"""One request passed to a host, and its answer passed back, both streamed."""

import asyncio
from contextlib import aclosing

from actors.sandbox.egress.errors import HostFailedError
from actors.sandbox.egress.http1 import AnswerHead, Asked, Asking, Headers, RequestHead, passed_on
from actors.sandbox.egress.redaction import Redaction

_COOKIES = frozenset({b"set-cookie", b"set-cookie2"})


class Unchanged:
    """Answers of hosts that were given no secret pass as they are."""

    def reason(self, head: AnswerHead) -> bytes:
        return head.reason

    def headers(self, head: AnswerHead) -> Headers:
        return passed_on(head.headers)

    def body(self, data: bytes) -> bytes:
        return data

    def rest(self) -> bytes:
        return b""


class WithoutSecret:
    """Answers of connectors: the secret is taken out, and what it could be traded for (cookies) does not come in."""

    def __init__(self, redaction: Redaction, base_url: bytes, address: bytes) -> None:
        self._redaction = redaction
        self._base_url = base_url
        self._address = address

    def reason(self, head: AnswerHead) -> bytes:
        return self._redaction.once(head.reason)

    def headers(self, head: AnswerHead) -> Headers:
        if any(key == b"content-encoding" and value.lower() != b"identity" for key, value in head.headers):
            raise HostFailedError("The connector's service compressed its answer, though it was asked not to.")
        return tuple(
            (self._redaction.once(key), self._redaction.once(self._relocated(key, value)))
            for key, value in passed_on(head.headers, without=_COOKIES)
        )

    def _relocated(self, key: bytes, value: bytes) -> bytes:
        """A redirect within the connector leads to the connector; elsewhere it leads without the secret."""
        if key == b"location" and value.startswith(self._base_url + b"/"):
            return self._address + value.removeprefix(self._base_url)
        return value

    def body(self, data: bytes) -> bytes:
        return self._redaction.feed(data)

    def rest(self) -> bytes:
        return self._redaction.finish()


Answer = Unchanged | WithoutSecret


async def forward(asked: Asked, request: RequestHead, asking: Asking, question: RequestHead, answer: Answer) -> int:
    """The status that was answered. `request` is what came, `question` what is asked instead.

    The answer may come before all of the body has gone (a refusal of a large upload), so both go on at one time.

    Raises `AetherError` and `OSError`: when nothing was answered yet, the caller can say so.
    """
    await asking.ask(question)
    upload = asyncio.create_task(_upload(asked, asking)) if request.has_body else None
    try:
        head = await _answered(asking, upload)
        await asked.answer(AnswerHead(head.status, answer.reason(head), answer.headers(head)))
        async with aclosing(asking.body()) as pieces:
            async for data in pieces:
                if ready := answer.body(data):
                    await asked.write(ready)
        if rest := answer.rest():
            await asked.write(rest)
        await asked.end()
    finally:
        if upload is not None:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
    return head.status


async def _answered(asking: Asking, upload: asyncio.Task[None] | None) -> AnswerHead:
    """Waits for the head, unless the program inside breaks its request off."""
    answered = asyncio.create_task(asking.answer())
    try:
        if upload is not None:
            await asyncio.wait({answered, upload}, return_when=asyncio.FIRST_COMPLETED)
            if upload.done() and not answered.done():
                upload.result()
        return await answered
    finally:
        answered.cancel()
        await asyncio.gather(answered, return_exceptions=True)


async def _upload(asked: Asked, asking: Asking) -> None:
    async with aclosing(asked.body()) as pieces:
        async for data in pieces:
            try:
                await asking.write(data)
            except OSError:
                # The host reads no more. What it has to say about that comes as its answer, or not at all.
                return
    try:
        await asking.end()
    except OSError:
        return

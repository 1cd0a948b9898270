"""S3 and everything that speaks its protocol, through boto3 in threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from serve_app.core.errors import MisconfiguredError, NotFoundError, UnavailableError
from serve_app.core.stores.objects.base import PIECE_BYTES, checked_key

T = TypeVar("T")
_CONNECTIONS = 16
_REFUSALS = {"NoSuchBucket", "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


class S3ObjectStore:
    """One bucket, optionally below a prefix. boto3's clients are thread-safe; sessions are not shared."""

    def __init__(
        self,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        region: str = "us-east-1",
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        prefix: str = "",
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._client: Any = boto3.session.Session(
            aws_access_key_id=access_key_id, aws_secret_access_key=secret_access_key, region_name=region
        ).client(
            "s3",
            endpoint_url=endpoint_url,
            config=Config(
                connect_timeout=5,
                read_timeout=30,
                max_pool_connections=_CONNECTIONS,
                retries={"mode": "standard", "max_attempts": 3},
                # Stores that only imitate S3 stumble over the newer default checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"} if endpoint_url else {},
            ),
        )
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="s3")

    async def put(self, key: str, data: bytes) -> None:
        await self._call(self._client.put_object, Key=self._key(key), Body=data)

    async def get(self, key: str) -> bytes:
        answer = await self._call(self._client.get_object, Key=self._key(key))
        body: bytes = await self._run(answer["Body"].read)
        return body

    async def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if end is not None and end <= start:
            if await self.size(key) is None:
                raise NotFoundError("There is no such object.")
            return
        asked = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        answer = await self._call(self._client.get_object, Key=self._key(key), **asked)
        body = answer["Body"]
        try:
            while piece := await self._run(partial(body.read, PIECE_BYTES)):
                yield piece
        finally:
            body.close()

    async def size(self, key: str) -> int | None:
        try:
            answer = await self._call(self._client.head_object, Key=self._key(key))
        except NotFoundError:
            return None
        return int(answer["ContentLength"])

    async def delete(self, key: str) -> None:
        await self._call(self._client.delete_object, Key=self._key(key))

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        more: dict[str, str] = {}
        while True:
            page = await self._call(self._client.list_objects_v2, Prefix=self._prefix + prefix, **more)
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(self._prefix)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def check(self) -> None:
        try:
            await self._call(self._client.head_bucket)
        except NotFoundError as exc:
            raise MisconfiguredError(f"There is no bucket {self._bucket!r}; see AETHER_S3_BUCKET.") from exc

    async def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._client.close()

    def _key(self, key: str) -> str:
        return self._prefix + checked_key(key)

    async def _call(self, method: Callable[..., dict[str, Any]], **params: Any) -> dict[str, Any]:
        return await self._run(partial(method, Bucket=self._bucket, **params))

    async def _run(self, work: Callable[[], T]) -> T:
        with _translate():
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)


@contextmanager
def _translate() -> Iterator[None]:
    try:
        yield
    except ClientError as exc:
        code = exc.response.get("Error", {}).get("Code")
        if code in {"NoSuchKey", "404", "NotFound"}:
            raise NotFoundError("There is no such object.") from exc
        if code in _REFUSALS:
            raise MisconfiguredError(f"The object store refuses us ({code}); see AETHER_S3_*.") from exc
        raise UnavailableError("The object store refused or could not answer.") from exc
    except BotoCoreError as exc:
        raise UnavailableError("The object store cannot be reached right now.") from exc

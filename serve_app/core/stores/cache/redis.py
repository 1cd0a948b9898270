"""A cache on Redis or Valkey: what is put there goes by itself after its time."""

from serve_app.core.stores.redis import answered, connect


class RedisCache:
    """`url` is `redis://`, `rediss://` or `unix://`. Both methods raise `UnavailableError` and `MisconfiguredError`."""

    def __init__(self, url: str, *, namespace: str = "aether") -> None:
        self._redis = connect(url)
        self._prefix = f"{namespace}:cache:"

    async def get(self, key: str) -> bytes | None:
        async with answered(1.0):
            value: bytes | None = await self._redis.get(self._prefix + key)
            return value

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        async with answered():
            await self._redis.set(self._prefix + key, value, ex=ttl_s)

    async def close(self) -> None:
        await self._redis.aclose()

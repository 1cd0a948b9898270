"""Which servers this machine starts itself, which somebody else runs, and how what we start is told where they are."""

import asyncio
from collections.abc import Callable, Mapping

from configs.settings import Settings
from serve_app.embedded import keys, reachable
from serve_app.embedded.board import Board
from serve_app.embedded.children import Child, Children
from serve_app.embedded.keeper import Keeper
from serve_app.embedded.postgres import PostgresServer
from serve_app.embedded.ray import RayHead, RayPorts, ray_environment
from serve_app.embedded.state import Folders
from serve_app.embedded.valkey import ValkeyServer


class Servers:
    """PostgreSQL, Valkey and the Ray head of one run. Empty until `choose`."""

    def __init__(self) -> None:
        self.keepers: list[Keeper] = []
        self.head: RayHead | None = None
        self.environment: dict[str, str] = {}
        self._external: list[tuple[str, str, str, int]] = []

    def choose(
        self,
        settings: Settings,
        folders: Folders,
        children: Children,
        *,
        environment: Mapping[str, str],
        on_change: Callable[[], None],
    ) -> None:
        """Decide by the settings; nothing is started yet. `on_change` is called when a server's process is another.

        Raises:
            StartError: a package is missing.
        """
        secret = settings.security.secret_key
        self.environment = {
            **environment,
            # Below the run folder, which is removed at the stop.
            "AETHER_SANDBOX_RUN_DIR": str(settings.sandbox.run_dir or folders.sandbox_dir),
            "AETHER_DATA_DIR": str(folders.data_dir),
            "AETHER_HTTP_HOST": settings.http.host,
            "AETHER_HTTP_PORT": str(settings.http.port),
            "AETHER_SECURITY_SECRET_KEY": (
                secret.get_secret_value() if secret else keys.keep(folders.data_dir / "secret.key")
            ),
        }
        if settings.database.url:
            self._external.append(("postgres", "AETHER_DATABASE_URL", settings.database.url.get_secret_value(), 5432))
        else:
            postgres = PostgresServer(
                data_dir=folders.data_dir / "postgres",
                run_dir=folders.run_dir,
                log_file=folders.logs_dir / "postgres.log",
                children=children,
            )
            self.environment["AETHER_DATABASE_URL"] = postgres.url
            self.keepers.append(Keeper(postgres, on_change))
        if settings.redis.url:
            self._external.append(("valkey", "AETHER_REDIS_URL", settings.redis.url.get_secret_value(), 6379))
        else:
            valkey = ValkeyServer(
                data_dir=folders.data_dir / "valkey",
                run_dir=folders.run_dir,
                log_file=folders.logs_dir / "valkey.log",
                children=children,
            )
            self.environment["AETHER_REDIS_URL"] = valkey.url
            self.keepers.append(Keeper(valkey, on_change))
        if settings.ray.address:
            self._external.append(("ray", "AETHER_RAY_ADDRESS", settings.ray.address, 6379))
        else:
            ports = RayPorts.choose()
            self.environment |= ray_environment(
                folders.run_dir,
                keys.keep(folders.data_dir / "ray.token"),
                ports,
                fast_serve=settings.ray.fast_serve,
            )
            self.head = RayHead(
                run_dir=folders.run_dir,
                log_file=folders.logs_dir / "ray.log",
                children=children,
                environment=self.environment,
                ports=ports,
                num_cpus=settings.ray.num_cpus,
                object_store_bytes=settings.ray.object_store_bytes,
            )
            self.environment["AETHER_RAY_ADDRESS"] = self.head.address

    async def start(self, board: Board) -> tuple[Child, ...]:
        """Start what is ours and does not run, all at once; check that the others can be reached.

        Returns the processes of the Ray head, whose death is the caller's to handle; none when it is not ours.
        """
        async with asyncio.TaskGroup() as group:
            for keeper in self.keepers:
                if keeper.child is None:
                    group.create_task(_start_kept(keeper, board))
            for key, variable, url, default_port in self._external:
                group.create_task(_check(board, key, variable, url, default_port))
            head = group.create_task(_start_head(self.head, board))
        return head.result()


async def _start_kept(keeper: Keeper, board: Board) -> None:
    board.begin(keeper.server.name)
    await keeper.start()
    board.end(keeper.server.name)


async def _start_head(head: RayHead | None, board: Board) -> tuple[Child, ...]:
    if head is None:
        return ()
    board.begin("ray")
    roots = await head.start()
    board.end("ray")
    return roots


async def _check(board: Board, key: str, variable: str, url: str, default_port: int) -> None:
    board.begin(key)
    await reachable.check(variable, url, default_port)
    board.end(key, state="external")

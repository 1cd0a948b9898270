"""Connectors, as the API takes and shows them."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from serve_app.api.deps import Text
from serve_app.core.db.repositories.connectors import StoredConnector
from serve_app.core.domain.connectors import Connector, OpenedConnector
from serve_app.core.domain.ids import ConnectorId


def _without_line_end(secret: SecretStr) -> SecretStr:
    """A line end comes along when a secret is pasted."""
    return SecretStr(secret.get_secret_value().strip())


class ConnectorIn(BaseModel):
    """Inside a sandbox whose profile may use connectors, the service is `http://<name>.connector/`."""

    model_config = ConfigDict(extra="forbid")
    name: Text = Field(max_length=40)
    base_url: Text = Field(max_length=2000, description="https, with a name as host; what is asked for comes after it")
    secret: Annotated[SecretStr, Field(min_length=1, max_length=8192), AfterValidator(_without_line_end)]
    header: Text = Field("Authorization", max_length=64)
    value_prefix: Text = Field("Bearer ", max_length=64, description="stands before the secret")
    methods: list[Text] = Field(default=["GET", "HEAD"], min_length=1, max_length=7)
    path_prefixes: list[Text] = Field(default=["/"], min_length=1, max_length=100)

    def as_opened(self) -> OpenedConnector:
        """Raises `InvalidRequestError`."""
        connector = Connector(
            name=self.name,
            base_url=self.base_url,
            header=self.header,
            value_prefix=self.value_prefix,
            methods=tuple(self.methods),
            path_prefixes=tuple(self.path_prefixes),
        )
        return OpenedConnector(connector, self.secret.get_secret_value().encode())


class ConnectorOut(BaseModel):
    """`fingerprint` is the beginning of the secret's SHA-256: it tells secrets apart, and nothing else of them."""

    id: ConnectorId
    name: str
    base_url: str
    header: str
    value_prefix: str
    methods: list[str]
    path_prefixes: list[str]
    fingerprint: str
    created_at: datetime

    @classmethod
    def of(cls, stored: StoredConnector) -> Self:
        fields = vars(stored.connector)
        return cls(**fields, id=stored.id, fingerprint=stored.fingerprint, created_at=stored.created_at)


class ConnectorsOut(BaseModel):
    items: list[ConnectorOut]
    next_cursor: str | None

"""Which object store an operator's settings mean."""

from pathlib import Path
from typing import Protocol

from serve_app.core.stores.objects.base import ObjectStore
from serve_app.core.stores.objects.disk import DiskObjectStore


class Secret(Protocol):
    def get_secret_value(self) -> str: ...


class S3Location(Protocol):
    """The shape of the S3 settings."""

    @property
    def bucket(self) -> str | None: ...
    @property
    def endpoint_url(self) -> str | None: ...
    @property
    def region(self) -> str: ...
    @property
    def access_key_id(self) -> Secret | None: ...
    @property
    def secret_access_key(self) -> Secret | None: ...
    @property
    def prefix(self) -> str: ...


def choose_object_store(s3: S3Location, data_dir: Path) -> ObjectStore:
    """S3 when a bucket is named, else files below `data_dir`."""
    if s3.bucket is None:
        return DiskObjectStore(data_dir / "objects")
    # Only here: loading boto3 costs every worker half a second and 40 MB that one machine does not need.
    from serve_app.core.stores.objects.s3 import S3ObjectStore

    return S3ObjectStore(
        s3.bucket,
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        access_key_id=s3.access_key_id.get_secret_value() if s3.access_key_id else None,
        secret_access_key=s3.secret_access_key.get_secret_value() if s3.secret_access_key else None,
        prefix=s3.prefix,
    )

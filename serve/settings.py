"""Settings of the API: from the environment (`DAIL_HOST`, `DAIL_MODELS`, …) and the flags of `dail serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from dail.synth.core.config import AbsolutePath
from dail.synth.core.errors import UsageError, describe
from dail.synth.core.http import is_token
from dail.synth.core.logs import LogFormat

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


def _sendable(token: SecretStr) -> SecretStr:
    if not is_token(token.get_secret_value()):
        raise ValueError("it holds a space, a line break or a letter that is not ASCII, which no client can send")
    return token


Token = Annotated[SecretStr, Field(min_length=16), AfterValidator(_sendable)]


class Settings(BaseSettings):
    """Where the API listens, what it keeps, and which models it takes batches for."""

    model_config = SettingsConfigDict(env_prefix="DAIL_", frozen=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="address to listen on; other than loopback needs a token")
    hosts: tuple[str, ...] = Field(
        (), description="further names that clients call this server by; without a token it answers to no others"
    )
    port: int = Field(8765, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    data_dir: AbsolutePath = Field(
        Path("runs/api"), description="holds the store `dail.sqlite` and, under `objects`, the shards"
    )
    objects: str | None = Field(
        None,
        description="where shards and manifests go instead: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; "
        "credentials come from the environment",
    )
    store: SecretStr | None = Field(
        None,
        description="URL of a PostgreSQL database for the store, postgresql://USER@HOST/DATABASE, which several "
        "servers may share; without one it is a file in the data folder",
    )
    models: dict[ModelName, AbsolutePath] = Field(default_factory=dict, description="name in a batch → model folder")
    students: dict[ModelName, AbsolutePath] = Field(
        default_factory=dict, description="name of a model → the student's own LoRA adapter or weights"
    )
    privileged: dict[ModelName, AbsolutePath] = Field(
        default_factory=dict, description="name of a model → the LoRA adapter of its privileged student"
    )
    lease_s: float = Field(60, gt=0, le=3600, description="a unit whose worker is silent this long goes to another")
    open_batches: int = Field(20, ge=1, description="batches that have not ended; a further one is answered with 429")
    requests_per_s: float = Field(
        50,
        ge=1,
        allow_inf_nan=False,
        description="requests of people that a token may send each second, twice as many at once",
    )
    log_format: LogFormat = Field(
        "text", description="the log on standard error: warnings for people, or (json) every event as a JSON line"
    )
    token: Token | None = Field(
        None, description="bearer token that may do everything; `dail token new` makes narrower ones"
    )
    worker_token: Token | None = Field(None, description="bearer token of workers; without it `token` is theirs too")

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        for role, folders in (("student", self.students), ("privileged student", self.privileged)):
            if unknown := sorted(folders.keys() - self.models.keys()):
                known = ", ".join(sorted(self.models)) or "none"
                raise UsageError(f"{role} {unknown[0]!r} belongs to no model; the models are {known}")
        return self

    @property
    def store_place(self) -> Path | str:
        return self.data_dir / "dail.sqlite" if self.store is None else self.store.get_secret_value()

    @property
    def output_root(self) -> Path | str:
        return self.objects or self.data_dir / "objects"


def load_settings(**flags: Any) -> Settings:
    """Flags win over the environment; a flag that is None was not given. Raises UsageError."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise UsageError(f"settings of the API (DAIL_… or flags): {describe(error)}") from None
    except SettingsError as error:
        raise UsageError(f'{error}; DAIL_MODELS is JSON like {{"name": "folder"}}') from None

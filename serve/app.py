"""`create_app(settings)`: the API's parts put together, nothing else.

`dail serve` calls it, and so may a server of your own:

    dail serve --data-dir runs/api --model demo=deploy/demo/model

    from pathlib import Path
    from dail.serve.app import create_app
    from dail.serve.server import Server
    from dail.serve.settings import Settings
    settings = Settings(data_dir=Path("runs/api"), models={"demo": Path("deploy/demo/model")})
    Server(create_app(settings), host=settings.host, port=settings.port).run()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic import SecretStr
from pydantic.json_schema import models_json_schema

from dail.serve import batches, health, leases, objects, page, workers
from dail.serve.batch_in import BatchIn
from dail.serve.bodies import Result, RetryIn
from dail.serve.errors import Problem, answer_with_problems
from dail.serve.events import Watching
from dail.serve.guard import Guard
from dail.serve.methods import Head
from dail.serve.metrics import Metrics
from dail.serve.request_body import Receiving
from dail.serve.request_log import RequestLog
from dail.serve.rules.health import Readiness, free_bytes, room_of
from dail.serve.rules.service import Service
from dail.serve.rules.tokens import Tokens
from dail.serve.settings import Settings
from dail.serve.store.transaction import Store
from dail.serve.tracing import tracing_here
from dail.synth.core.config import TOOL_VERSION
from dail.synth.core.errors import DailError, UsageError
from dail.synth.core.http import is_loopback
from dail.synth.core.objects import mark, open_objects
from dail.synth.schema.models import identify
from dail.synth.schema.units import Commit, Fail, Heartbeat, Hello, LeaseRequest

SWEEP_S = 1.0

# Bodies that are read or written by our own code, so that FastAPI does not know their schema.
_DOCUMENTED = (BatchIn, Hello, LeaseRequest, Heartbeat, Commit, Fail, Problem, Result, RetryIn)

log = logging.getLogger("dail.serve")


def create_app(settings: Settings) -> FastAPI:
    """Opens the store and reads the model folders. Raises UsageError or StorageError if it cannot."""
    tracing = tracing_here()
    if isinstance(settings.store_place, Path) and not settings.store_place.exists():  # what is refused leaves no store
        _guard_the_network(settings.host, settings.token is not None)
    store = Store(settings.store_place)
    tokens = Tokens(store, _revealed(settings.token), _revealed(settings.worker_token))
    _guard_the_network(settings.host, tokens.let_people_in)
    models = {
        name: identify(folder, name, settings.students.get(name), settings.privileged.get(name))
        for name, folder in settings.models.items()
    }
    place = open_objects(settings.output_root)
    mark(place)  # a place that is closed to us is found here, not at the first trace
    service = Service(store, place, models, settings.lease_s, settings.open_batches)
    app = FastAPIOffline(  # the page at /docs brings its scripts along: clusters rarely reach the CDN
        redoc_url=None,
        title="dail",
        version=TOOL_VERSION,
        summary="Takes batches of expert solutions, hands them to workers, keeps what came of them",
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.service = service
    app.state.tokens = tokens
    app.state.metrics = metrics = Metrics(store.figures, lambda: _room(service))
    store.on_commit.append(metrics.committed)
    store.on_transaction = metrics.transaction
    app.state.tracing = tracing
    if tracing:
        store.on_commit.append(tracing.committed)
        store.is_traced = True
    app.state.readiness = Readiness(store, service.objects)
    app.state.receiving = Receiving()
    app.state.watching = Watching(service.store)
    app.include_router(batches.router)
    app.include_router(leases.router)
    app.include_router(objects.router)
    app.include_router(health.router)
    app.include_router(workers.router)
    app.include_router(page.router)
    answer_with_problems(app)
    app.add_middleware(Head)
    app.add_middleware(Guard, settings=settings, tokens=tokens)
    app.add_middleware(RequestLog, metrics=app.state.metrics)  # the last added is the outermost
    _document(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await asyncio.to_thread(service.start)
    tasks = [
        asyncio.create_task(_sweep_forever(service, app.state.tokens)),
        asyncio.create_task(_read_tokens_forever(app.state.tokens)),
        asyncio.create_task(app.state.watching.run()),
    ]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    app.state.readiness.close()
    service.store.close()
    if app.state.tracing:
        await asyncio.to_thread(app.state.tracing.close)


def _room(service: Service) -> int | None:
    folder = room_of(service.store, service.objects)
    return None if folder is None else free_bytes(folder)


def _revealed(token: SecretStr | None) -> str | None:
    return None if token is None else token.get_secret_value()


def _guard_the_network(host: str, has_token: bool) -> None:
    if not is_loopback(host) and not has_token:
        raise UsageError(
            f"host {host} is open to the network and there is no token; make one with `dail token new`, set DAIL_TOKEN "
            "to at least 16 characters, or listen on 127.0.0.1"
        )


async def _sweep_forever(service: Service, tokens: Tokens) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await asyncio.to_thread(tokens.note_used)
            await asyncio.to_thread(service.ending.sweep)
        except DailError as error:
            log.warning("the sweep is put off: %s", error)
        except Exception:
            # the next turn tries again; without one, cancelled batches would never end
            log.exception("the sweep failed")


async def _read_tokens_forever(tokens: Tokens) -> None:
    """Beside the sweep, whose writes may wait for long: a token that was revoked does not."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await asyncio.to_thread(tokens.read)
        except DailError as error:
            log.warning("tokens are not read anew: %s", error)
        except Exception:
            log.exception("tokens are not read anew")


def _document(app: FastAPI) -> None:
    """Adds the schemas that routes name by reference to the OpenAPI page."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()  # FastAPI keeps it and gives the same object again
        _, extra = models_json_schema(
            [(model, "validation") for model in _DOCUMENTED], ref_template="#/components/schemas/{model}"
        )
        schema["components"]["schemas"] |= extra["$defs"]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]

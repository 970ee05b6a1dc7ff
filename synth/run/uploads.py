"""How a worker's shards get to where the API reads them: straight there, or through the API where no disk is shared."""

from __future__ import annotations

import asyncio
import logging

from dail.synth.core.errors import DailError, ObjectsAway
from dail.synth.core.files import Objects
from dail.synth.core.objects import check_mark, open_objects
from dail.synth.run.unit_source import UnitSource
from dail.synth.schema.units import HelloReply, LeaseReply, Unit

_log = logging.getLogger(__name__)


class Uploads:
    """Asks each place once: who reads the API's mark there sees the same place."""

    def __init__(self, source: UnitSource) -> None:
        self._source = source
        self._place: tuple[str, str] | None = None
        self._objects: Objects | None = None  # none: through the source

    async def look(self, reply: LeaseReply | HelloReply) -> None:
        """Decides which way shards go from now on."""
        place = (reply.output_root, reply.mark)
        if place == self._place:
            return
        self._objects = None
        try:
            objects = open_objects(reply.output_root)
            if reply.mark:  # a local source has none, and is on this machine
                await asyncio.to_thread(check_mark, objects, reply.mark)
                _log.info(f"shards go to {objects.url}")
        except ObjectsAway as error:  # not for good: asked again at the next lease
            _log.warning(f"shards go through the API for now: {error}")
            return
        except DailError as error:
            _log.warning(f"shards go through the API, since this worker does not share its place: {error}")
        else:
            self._objects = objects
        self._place = place

    async def put(self, unit: Unit, key: str, data: bytes) -> None:
        """Raises StorageError if it is refused for now, and Fenced if the unit is not ours any more."""
        if self._objects is None:
            await self._source.upload(unit, key, data)
        else:
            await asyncio.to_thread(self._objects.put, key, data)

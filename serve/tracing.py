"""Traces by OpenTelemetry: one of each batch, with a span for every attempt at one of its units.

    pip install 'dail[otel]'
    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 dail serve --data-dir runs/api --model demo=deploy/demo/model

Off unless that variable is set, or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. A batch's trace is that of its POST's
`traceparent` (W3C), which its row keeps; without one its ids are made of the batch's. So an attempt is told by
whichever server it ends at, as a child of the batch's span, which comes when the batch ends. Spans are made of what was
committed, with ids and counts and never a text; what becomes of them afterwards keeps no request waiting.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import threading
from collections.abc import Mapping

from dail.serve.store.noted import Attempt, Noted, Traced
from dail.synth.core.config import TOOL_VERSION
from dail.synth.core.errors import UsageError
from dail.synth.core.logs import name_or_other

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_FLUSH_S = 5.0
_ERRORS = ("failed", "expired")  # outcomes of attempts
_IDS = r"(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
_TRACEPARENT = re.compile(rf"(?:00-|(?P<later>(?!00|ff)[0-9a-f]{{2}}-)){_IDS}(?(later)(?:-.{{0,200}})?)")

_log = logging.getLogger(__name__)


def known_traceparent(header: str | None) -> str | None:
    """The header if it names a span as W3C has it; any other is as good as none."""
    return header if header and _TRACEPARENT.fullmatch(header) else None


def tracing_here() -> Tracing | None:
    """As the environment says. UsageError: it asks for spans, and this installation has none."""
    named = next((name for name in VARIABLES if os.environ.get(name)), None)
    if named is None:
        return None
    protocol = next((value for name in _PROTOCOLS if (value := os.environ.get(name))), _SPOKEN)
    if protocol != _SPOKEN:
        raise UsageError(f"spans are sent by {_SPOKEN}, and OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}; leave it out")
    try:
        return Tracing()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{named} is set, and the package {error.name} is missing; run: pip install 'dail[otel]', or unset {named}"
        ) from None


class Tracing:
    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._exporter = OTLPSpanExporter()
        self._processor = BatchSpanProcessor(self._exporter)
        name = os.environ.get("OTEL_SERVICE_NAME", "dail")
        self._resource = Resource.create({"service.name": name, "service.version": TOOL_VERSION})

    def committed(self, noted: Noted) -> None:
        """Tells what a transaction did, once it is on disk."""
        try:
            for one in noted.attempts:
                if batch := noted.traced.get(one.batch_id):
                    self._tell_attempt(one, batch)
            for batch in (noted.traced[batch_id] for batch_id in noted.ended_batches if batch_id in noted.traced):
                posted = _TRACEPARENT.fullmatch(batch.traceparent or "")
                about = {"dail.batch.id": batch.id, "dail.batch.status": batch.status}
                times = batch.created_at, batch.ended_at
                self._tell("dail.batch", batch, _own(batch), posted["span"] if posted else None, times, about)
        except Exception:  # it is committed, whatever becomes of a span
            _log.exception("spans were lost")

    def close(self) -> None:
        """Sends what waits, for a few seconds at most."""
        enough = threading.Timer(_FLUSH_S, self._exporter.shutdown)
        enough.daemon = True
        enough.start()
        self._processor.shutdown()
        enough.cancel()

    def _tell_attempt(self, one: Attempt, batch: Traced) -> None:
        about: dict[str, str | int] = {
            "dail.batch.id": one.batch_id,
            "dail.unit.id": one.unit_id,
            "dail.unit.epoch": one.epoch,
            "dail.worker": name_or_other(one.worker),
            "dail.outcome": one.outcome,
            **({"dail.code": name_or_other(one.code)} if one.code else {}),
            **({"gen_ai.usage.output_tokens": one.tokens} if one.tokens else {}),
        }
        times = one.begun_at, one.ended_at
        self._tell("dail.unit", batch, secrets.token_hex(8), _own(batch), times, about, one.outcome in _ERRORS)

    def _tell(
        self, name: str, batch: Traced, span: str, parent: str | None, times: tuple[float, float],
        about: Mapping[str, str | int], is_error: bool = False,
    ) -> None:  # fmt: skip
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

        posted = _TRACEPARENT.fullmatch(batch.traceparent or "")
        trace = int(posted["trace"] if posted else _id(batch.id, 32), 16)
        flags = TraceFlags(int(posted["flags"], 16) if posted else TraceFlags.SAMPLED)
        own, above = (
            SpanContext(trace, int(one or "0", 16), is_remote=False, trace_flags=flags) for one in (span, parent)
        )
        begun, ended = (int(seconds * 1e9) for seconds in times)
        self._processor.on_end(  # which leaves out what the client did not want sampled
            ReadableSpan(
                name, own, above if parent else None, self._resource, {**about, "gen_ai.request.model": batch.model},
                status=Status(StatusCode.ERROR if is_error else StatusCode.UNSET),
                start_time=begun, end_time=max(begun, ended),
            )
        )  # fmt: skip


def _own(batch: Traced) -> str:
    """The batch's own span, one for each generation, as any server would name it."""
    return _id(f"{batch.id} {batch.generation}", 16)


def _id(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]

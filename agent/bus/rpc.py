"""What a host can be asked, as a NATS micro-service: `nats micro` finds it, `dropletctl` asks it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nats import micro
from nats.aio.client import Client
from nats.errors import Error, MaxPayloadError
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig
from structlog.typing import FilteringBoundLogger

from agent import __version__
from protocol import subjects

SERVICE = "droplet"
"""The service's name, the same on every host; the host stands in its metadata."""

Ask = Callable[[str, bytes], Awaitable[bytes]]


class RpcError(Exception):
    """A question that cannot be answered: a code as in HTTP (400 wrong, 404 not found, 500 our fault) and one line."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


async def serve(client: Client, host: str, ask: Ask, log: FilteringBoundLogger) -> Service:
    """Answer on every verb's subject of a host, as long as the client lives."""
    config = ServiceConfig(
        name=SERVICE,
        version=__version__,
        description="A host's network agent",
        metadata={"host": host},
        queue_group=host,
    )
    service = await micro.add_service(client, config)
    for verb in subjects.RPC_VERBS:
        subject = subjects.rpc(host, verb)
        await service.add_endpoint(
            EndpointConfig(name=verb, subject=subject, handler=_handler(subject, verb, ask, log))
        )
    return service


def _handler(subject: str, verb: str, ask: Ask, log: FilteringBoundLogger) -> Callable[[Request], Awaitable[None]]:
    async def handle(request: Request) -> None:
        try:
            await _answer(request, subject, verb, ask, log)
        except (Error, ValueError) as error:
            log.warning("answer not sent", verb=verb, reason=str(error) or type(error).__name__)

    return handle


async def _answer(request: Request, subject: str, verb: str, ask: Ask, log: FilteringBoundLogger) -> None:
    if request.subject != subject or any(name.lower() == "nats-stream" for name in request.headers or {}):
        log.warning("question refused: it came from a stream or on another subject", subject=request.subject)
        await request.respond_error("403", "a question comes straight from whoever asks")
        return
    try:
        answer = await ask(verb, request.data)
        await request.respond(answer)
    except RpcError as error:
        await request.respond_error(str(error.code), error.text)
    except MaxPayloadError:
        await request.respond_error("413", "the answer is larger than a message can be: ask for a smaller page")
    except Exception:
        log.exception("question failed", verb=verb)
        await request.respond_error("500", "internal error; the host's log says more")

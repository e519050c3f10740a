"""Serves a host's rpc methods as a NATS micro-service: `nats micro` finds it, `dropletctl` queries it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

import structlog
from nats import micro
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, MaxPayloadError
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from agent import __version__
from protocol import micro as conventions
from protocol import subjects

log = structlog.get_logger()

MAX_ERROR = 1000
"""The most characters of an error's text, which travels in a header: a wrong value may be as long as a message."""
MAX_WORD = 80
"""Characters of a wrong value that an error repeats."""

Ask = Callable[[str, bytes], Awaitable[bytes]]


class RpcError(Exception):
    """A request that cannot be answered: a code as in HTTP (400 invalid, 404 not found, 500 internal) and one line."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def unknown_method(verb: str) -> RpcError:
    """Return the error for a verb that this version does not know; it lists the known ones."""
    return RpcError(404, f"unknown method {verb[:MAX_WORD]!r}; known methods are {', '.join(subjects.RPC_VERBS)}")


async def serve(client: Client, host: str, ask: Ask) -> Service:
    """Serve every verb's subject of a host for the lifetime of the client.

    Each connection has a queue group of its own, so that every connection of a host gets every request. The server
    keeps a connection that broke without its knowledge (a host lost power, an address was removed) for minutes; in a
    common group, requests that go there would find no answer.

    A plain subscription refuses every other verb. It is no endpoint of the service, whose queue group it would share:
    the server would hand it some of the requests for the known verbs.
    """
    config = ServiceConfig(
        name=conventions.SERVICE,
        version=__version__,
        description="A host's network agent",
        metadata=conventions.metadata(host),
        queue_group=f"{host}-{secrets.token_hex(4)}",
    )
    service = await micro.add_service(client, config)
    for verb in subjects.RPC_VERBS:
        subject = subjects.rpc(host, verb)
        await service.add_endpoint(EndpointConfig(name=verb, subject=subject, handler=_handler(subject, verb, ask)))
    await client.subscribe(subjects.rpc(host, "*"), cb=_refuser(host))
    return service


def _refuser(host: str) -> Callable[[Msg], Awaitable[None]]:
    """Return a handler that answers requests for unknown verbs and ignores the others."""
    known = {subjects.rpc(host, verb) for verb in subjects.RPC_VERBS}

    async def fail(verb: str, _: bytes) -> bytes:
        raise unknown_method(verb)

    async def handle(message: Msg) -> None:
        if message.subject not in known:
            verb = message.subject.rpartition(".")[2]
            await _handler(subjects.rpc(host, verb), verb, fail)(Request(message))

    return handle


def _handler(subject: str, verb: str, ask: Ask) -> Callable[[Request], Awaitable[None]]:
    async def handle(request: Request) -> None:
        try:
            await _answer(request, subject, verb, ask)
        except (Error, ValueError) as error:
            log.warning("reply_not_sent", verb=verb, reason=str(error) or type(error).__name__)

    return handle


async def _answer(request: Request, subject: str, verb: str, ask: Ask) -> None:
    if request.subject != subject:
        # A consumer's delivery to a reply subject that another host chose: its reply would go to that consumer.
        log.warning("request_refused", subject=request.subject, reason="a consumer delivered it")
        return
    if any(name.lower() == "nats-stream" for name in request.headers or {}):
        log.warning("request_refused", subject=request.subject, reason="a stream copied it")
        await request.respond_error("403", "a request must come directly from a client, not from a stream")
        return
    try:
        answer = await ask(verb, request.data)
        await request.respond(answer)
    except RpcError as error:
        await request.respond_error(str(error.code), _one_line(error.text))
    except MaxPayloadError:
        await request.respond_error("413", "the answer is larger than a message can be: ask for a smaller page")
    except Exception:
        log.exception("request_failed", verb=verb)
        await request.respond_error("500", "internal error; the host's log says more")


def _one_line(text: str) -> str:
    """Return a text that fits a header: without line breaks, which would end it, and not too long."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_ERROR else f"{line[:MAX_ERROR]}..."

"""Documents are bound to their subject and may be signed: attacks with real credentials against a real server.

The server checks no reply subjects, so a client that may send requests to JetStream can have the reply stored under
another host's configuration subject, in the place of the document that was there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest
from lab.bus import (
    Lines,
    NatsServer,
    Recorder,
    User,
    client_of,
    make_streams,
    running,
    settings_of,
    until,
)
from nats.aio.client import Client

from agent.bus.bus import Bus
from agent.bus.connection.settings import BusSettings
from agent.core.config.delivery import Delivery
from controller_sim.control.signing import Signer, read_signer
from protocol import binding, permissions, streams, subjects
from protocol.errors import ErrorCode
from protocol.signed_versions import SignedVersion

H2 = subjects.config("h2", "endpoints")


async def publish(
    client: Client, subject: str, body: bytes | None, signer: Signer | None = None, **more: str
) -> tuple[int, dict[str, str]]:
    """Publish a document or its removal; return its revision and headers."""
    removes = body is None
    own = signer.headers(subject, body or b"", removes=removes) if signer else binding.bound(subject)
    headers = {**(streams.DELETE_HEADERS if removes else {}), **own, **more}
    return (await client.jetstream().publish(subject, body or b"", headers=headers)).seq, headers


def bus_of(
    server: NatsServer,
    user: User,
    recorder: Recorder,
    trusted: tuple[str, ...] = (),
    versions: Mapping[str, SignedVersion] | None = None,
) -> Bus:
    settings = BusSettings((server.url,), nkey_seed_file=str(user.seed_file), trusted_publishers=trusted)
    return Bus("h2", settings, recorder, versions=versions)


class Attack:
    """Who has the server store something under h2's subject, and how."""

    def __init__(self, server: NatsServer, users: dict[str, User], headers: dict[str, str]) -> None:
        """Know the headers of h2's good document: any client can copy them into a message of its own."""
        self.server = server
        self.users = users
        self.headers = headers

    async def as_host(self, subject: str, body: object) -> None:
        async with client_of(self.server, self.users["h1"], permissions.inbox("h1")) as client:
            await client.publish(subject, json.dumps(body).encode(), reply=H2)
            await client.flush()
            assert not client.seen, "the server lets it pass"

    async def pull(self) -> None:
        await self.as_host(streams.next_subject("h1"), {"batch": 1, "no_wait": True})

    async def pull_without_messages(self) -> None:
        await self.as_host(streams.next_subject("h1"), {"batch": 2, "no_wait": True})

    async def reset(self) -> None:
        await self.as_host(streams.reset_subject("h1"), {"seq": 1})

    async def acknowledge(self) -> None:
        await self.as_host(subjects.ack("h1", "any"), {})

    async def direct_get(self) -> None:
        async with client_of(self.server, self.users["h1"], permissions.inbox("h1")) as host:
            await host.publish(subjects.ack("h1", "bait"), b"of the attacker", headers=self.headers)
            await host.flush()
        async with client_of(self.server, self.users["operator"], permissions.OPERATOR_INBOX) as operator:
            question = json.dumps({"last_by_subj": subjects.ack("h1", "bait")}).encode()
            await operator.publish(f"$JS.API.DIRECT.GET.{streams.ACK_STREAM}", question, reply=H2)
            await operator.flush()


async def stored_after(controller: Client, subject: str, revision: int) -> None:
    """Wait until the stream holds a newer message of a subject than that of a revision."""
    while (await controller.jetstream().get_last_msg(streams.CONFIG_STREAM, subject)).seq <= revision:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def refused(recorder: Recorder, after: int) -> Delivery:
    """Wait for a delivery that is newer than a revision, which must be refused."""
    await until(lambda: recorder.deliveries and recorder.deliveries[-1].revision > after)
    last = recorder.deliveries[-1]
    assert last.refusal is not None
    return last


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("way", ["pull", "pull_without_messages", "reset", "acknowledge", "direct_get"])
async def test_no_reply_subject_changes_another_hosts_documents(
    guarded: NatsServer, users: dict[str, User], way: str, signed: bool
) -> None:
    signer = read_signer(users["controller"].seed_file) if signed else None
    trusted = (users["controller"].public,) if signed else ()
    recorder, again = Recorder(), Recorder()
    async with client_of(guarded, users["controller"], permissions.CONTROLLER_INBOX) as controller:
        await make_streams(controller, ["h1", "h2"])
        good, headers = await publish(controller, H2, b"of h2", signer)
        before, _ = await publish(controller, subjects.config("h1", "endpoints"), b"of h1", signer)
        async with running(bus_of(guarded, users["h2"], recorder, trusted)):
            await until(lambda: recorder.documents == {"endpoints": b"of h2"})
            await getattr(Attack(guarded, users, headers), way)()
            if way == "pull":  # nats-server 2.15 stores what a consumer delivers under the subject that it had before
                await stored_after(controller, subjects.config("h1", "endpoints"), before)
                last = await publish(controller, H2, b"of h2, newer", signer)
                await until(lambda: recorder.deliveries[-1].revision == last[0])
                assert [one.refusal for one in recorder.deliveries] == [None, None]
                return
            forged = await refused(recorder, good)
            assert (forged.document, forged.refusal.code) == ("endpoints", ErrorCode.WRONG_SUBJECT)
            assert recorder.documents == {"endpoints": b"of h2"}
        await stored_after(controller, H2, good)
        async with running(bus_of(guarded, users["h2"], again, trusted)):
            await until(lambda: again.completed == 1)
            codes = [(one.document, one.refusal.code) for one in again.deliveries]
            assert codes == [("endpoints", ErrorCode.WRONG_SUBJECT)], "a restarted agent knows that it is not gone"
            await publish(controller, H2, b"of h2 again", signer)
            await until(lambda: again.documents == {"endpoints": b"of h2 again"})


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("body", [b"of h1", None], ids=["a document", "a removal"])
async def test_another_hosts_message_changes_nothing_whoever_copied_it(
    guarded: NatsServer, users: dict[str, User], signed: bool, body: bytes | None
) -> None:
    signer = read_signer(users["controller"].seed_file) if signed else None
    recorder = Recorder()
    async with client_of(guarded, users["controller"], permissions.CONTROLLER_INBOX) as controller:
        await make_streams(controller, ["h1", "h2"])
        good, _ = await publish(controller, H2, b"of h2", signer)
        _, headers = await publish(controller, subjects.config("h1", "endpoints"), body, signer)
        trusted = (users["controller"].public,) if signed else ()
        async with running(bus_of(guarded, users["h2"], recorder, trusted)):
            await until(lambda: recorder.documents == {"endpoints": b"of h2"})
            await controller.jetstream().publish(H2, body or b"", headers=headers)
            forged = await refused(recorder, good)
            assert forged.refusal.code is ErrorCode.WRONG_SUBJECT
            assert "published for droplet.v1.h1.config.endpoints" in forged.refusal.message
            assert recorder.documents == {"endpoints": b"of h2"}


async def test_an_untrusted_publisher_changes_nothing(guarded: NatsServer, users: dict[str, User]) -> None:
    """A rogue with a controller's permissions publishes unsigned, in its own name, and in a borrowed one."""
    signer, own = (read_signer(users[name].seed_file) for name in ("controller", "rogue"))
    recorder = Recorder()
    async with (
        client_of(guarded, users["controller"], permissions.CONTROLLER_INBOX) as controller,
        client_of(guarded, users["rogue"], permissions.CONTROLLER_INBOX) as rogue,
    ):
        await make_streams(controller, ["h1", "h2"])
        last, headers = await publish(controller, H2, b"of h2", signer)
        async with running(bus_of(guarded, users["h2"], recorder, (users["controller"].public,))):
            await until(lambda: recorder.documents == {"endpoints": b"of h2"})
            for body, mine, more in (
                (b"unsigned", None, {}),
                (None, None, {}),
                (b"signed by the rogue", own, {}),
                (None, own, {}),
                (b"with the signature of another body", None, headers),
                (b"in the controller's name", own, {binding.PUBLISHER: signer.publisher}),
            ):
                await publish(rogue, H2, body, mine, **more)
                forged = await refused(recorder, last)
                assert forged.refusal.code is ErrorCode.UNTRUSTED
                last = forged.revision
            assert recorder.documents == {"endpoints": b"of h2"}
            await publish(controller, H2, None, signer)
            await until(lambda: recorder.documents == {})


async def test_an_older_signed_document_that_is_published_again_is_refused(
    guarded: NatsServer, users: dict[str, User]
) -> None:
    signer, recorder = read_signer(users["controller"].seed_file), Recorder()
    async with (
        client_of(guarded, users["controller"], permissions.CONTROLLER_INBOX) as controller,
        client_of(guarded, users["rogue"], permissions.CONTROLLER_INBOX) as rogue,
    ):
        await make_streams(controller, ["h1", "h2"])
        _, old = await publish(controller, H2, b"old", signer)
        async with running(bus_of(guarded, users["h2"], recorder, (users["controller"].public,))):
            await until(lambda: recorder.documents == {"endpoints": b"old"})
            last, new = await publish(controller, H2, b"new", signer)
            await until(lambda: recorder.documents == {"endpoints": b"new"})
            await publish(rogue, H2, b"old", **old)
            forged = await refused(recorder, last)
            assert "replayed" in forged.refusal.message
            await publish(rogue, H2, b"new", **new)
            await until(lambda: recorder.deliveries[-1].revision > forged.revision)
            assert recorder.deliveries[-1].refusal is None, "the same document once more changes nothing"
            assert recorder.documents == {"endpoints": b"new"}


async def test_two_signed_messages_of_one_version_are_not_both_taken(
    guarded: NatsServer, users: dict[str, User]
) -> None:
    """Two controllers share a key and a clock: the first message counts, also for an agent that starts again."""
    seed = users["controller"].seed_file.read_bytes().strip()
    one, two, later = (Signer(seed, lambda at=at: at) for at in (5_000, 5_000, 6_000))
    recorder, again = Recorder(), Recorder()
    trusted = (users["controller"].public,)
    async with client_of(guarded, users["controller"], permissions.CONTROLLER_INBOX) as controller:
        await make_streams(controller, ["h1", "h2"])
        await publish(controller, H2, b"one", one)
        bus = bus_of(guarded, users["h2"], recorder, trusted)
        async with running(bus):
            await until(lambda: recorder.documents == {"endpoints": b"one"})
            last, _ = await publish(controller, H2, b"two", two)
            await until(lambda: recorder.deliveries[-1].revision == last)
        first, second = recorder.deliveries
        assert second.refusal is not None
        assert second.refusal.code is ErrorCode.UNTRUSTED
        assert "another message with its Droplet-Version 5, with other content" in second.refusal.message
        assert recorder.documents == {"endpoints": b"one"}
        async with running(bus_of(guarded, users["h2"], again, trusted, {"endpoints": first.version})):
            await until(lambda: again.completed == 1)
            assert [item.refusal for item in again.deliveries] == [second.refusal]
            await publish(controller, H2, b"three", later)
            await until(lambda: again.documents == {"endpoints": b"three"})


async def test_settings_with_an_invalid_nkey_are_refused(server: NatsServer) -> None:
    with pytest.raises(ValueError, match="public nkey"):
        BusSettings(settings_of(server).servers, trusted_publishers=("SUAM",))


async def test_a_host_that_has_its_documents_delivered_as_a_request_brings_no_fault_on_the_other(
    guarded: NatsServer, users: dict[str, User]
) -> None:
    """The reply subject of a delivery is one of the attacker's consumer, where the other host may not publish."""
    recorder, lines = Recorder(), Lines()
    async with (
        client_of(guarded, users["controller"], permissions.CONTROLLER_INBOX) as controller,
        client_of(guarded, users["h1"], permissions.inbox("h1")) as attacker,
    ):
        await make_streams(controller, ["h1", "h2"])
        await publish(controller, subjects.config("h1", "endpoints"), b"of h1")
        bus = Bus("h2", settings_of(guarded, users["h2"]), recorder, lines.report)
        async with running(bus):
            await until(lambda: recorder.completed == 1)
            sweep = subjects.rpc("h2", "sweep")
            while not any(line["event"] == "request_refused" for line in lines.lines):
                await attacker.publish(streams.next_subject("h1"), b'{"batch":1,"no_wait":true}', reply=sweep)
                await asyncio.sleep(0.1)
            await publish(controller, H2, b"of h2")
            await until(lambda: recorder.documents == {"endpoints": b"of h2"})
            assert not lines.faults.standing()
            assert all(body == b"" for _, body in recorder.asked), "only the server's own word that nothing is left"

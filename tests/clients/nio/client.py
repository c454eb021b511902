"""Two people with matrix-nio, as it is on PyPI: send, edit, react, thread, redact, search, upload, page back.

Usage: client.py URL. Ends with 1 and says why at the first thing that is not as it should be.
"""

import asyncio
import io
import json
import sys
import uuid

from nio import (
    AsyncClient,
    JoinResponse,
    MemoryDownloadResponse,
    MessageDirection,
    ReactionEvent,
    RedactedEvent,
    RegisterResponse,
    RoomCreateResponse,
    RoomMessagesResponse,
    RoomMessageText,
    RoomRedactResponse,
    RoomSendResponse,
    SyncResponse,
    UploadResponse,
)
from nio.api import RelationshipType

MESSAGES_BEFORE = 25
TIME_SECONDS_MAX = 120


def check(condition, what, *seen):
    if not condition:
        print("nio: not as it should be:", what, *seen, file=sys.stderr)
        raise SystemExit(1)
    print("nio: ok:", what)


async def register(url, name):
    client = AsyncClient(url)
    answer = await client.register(f"{name}-{uuid.uuid4().hex[:8]}", "correct horse battery staple")
    check(isinstance(answer, RegisterResponse), f"{name} registers", answer)
    return client


async def send(client, room, content, kind="m.room.message"):
    answer = await client.room_send(room, kind, content)
    check(isinstance(answer, RoomSendResponse), f"sends {content}", answer)
    return answer.event_id


def text(body):
    return {"msgtype": "m.text", "body": body}


async def sync(client):
    answer = await client.sync(timeout=0)
    check(isinstance(answer, SyncResponse), "syncs", answer)
    return answer


async def search(client, room, term):
    body = {"search_categories": {"room_events": {"search_term": term, "order_by": "recent", "filter": {"rooms": [room]}}}}
    path = f"/_matrix/client/v3/search?access_token={client.access_token}"
    answer = await client.send("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    found = (await answer.json())["search_categories"]["room_events"]
    return [result["result"]["event_id"] for result in found["results"]]


async def main(url):
    alice, bob = await register(url, "alice"), await register(url, "bob")
    try:
        await talk(alice, bob)
    finally:
        await alice.close()
        await bob.close()


async def talk(alice, bob):
    made = await alice.room_create(name="Réunion", invite=[bob.user_id])
    check(isinstance(made, RoomCreateResponse), "Alice makes a room", made)
    room = made.room_id
    await sync(bob)
    check(room in bob.invited_rooms, "Bob sees the invite")
    joined = await bob.join(room)
    check(isinstance(joined, JoinResponse), "Bob joins", joined)
    for number in range(MESSAGES_BEFORE):
        await send(alice, room, text(f"message {number}"))
    await sync(bob)

    first = await send(alice, room, text("Bonjour à tous, l'ordre du jour est prêt"))
    relation = {"rel_type": "m.replace", "event_id": first}
    edit = await send(alice, room, {**text("* corrigé"), "m.new_content": text("corrigé"), "m.relates_to": relation})
    relation = {"rel_type": "m.annotation", "event_id": first, "key": "👍"}
    reaction = await send(bob, room, {"m.relates_to": relation}, "m.reaction")
    relation = {"rel_type": "m.thread", "event_id": first, "m.in_reply_to": {"event_id": first}, "is_falling_back": True}
    reply = await send(bob, room, {**text("dans le fil"), "m.relates_to": relation})
    doomed = await send(alice, room, text("un secret indiscret"))
    check(doomed in await search(bob, room, "indiscret"), "Bob finds what Alice just said")
    redacted = await alice.room_redact(room, doomed, "trop indiscret")
    check(isinstance(redacted, RoomRedactResponse), "Alice redacts", redacted)

    seen = {event.event_id: event for event in (await sync(bob)).rooms.join[room].timeline.events}
    check(isinstance(seen.get(first), RoomMessageText), "Bob sees the message", seen)
    check(seen[edit].source["content"]["m.new_content"]["body"] == "corrigé", "Bob sees the edit")
    check(isinstance(seen.get(reaction), ReactionEvent) and seen[reaction].key == "👍", "Bob sees the reaction")
    check(seen[reply].source["content"]["m.relates_to"]["rel_type"] == "m.thread", "Bob sees the thread")
    check(isinstance(seen.get(doomed), RedactedEvent), "Bob sees that something was redacted", seen.get(doomed))

    check(await search(bob, room, "indiscret") == [], "what was redacted is not found")
    check(first in await search(bob, room, "PRET ordre"), "Bob finds the message without its accents")
    related = [event.event_id async for event in alice.room_get_event_relations(room, first, RelationshipType.thread)]
    check(related == [reply], "the thread lists its reply", related)

    data = bytes(range(256)) * 400
    uploaded, _ = await alice.upload(io.BytesIO(data), "application/octet-stream", "dossier.bin", filesize=len(data))
    check(isinstance(uploaded, UploadResponse), "Alice uploads", uploaded)
    file = {"msgtype": "m.file", "body": "dossier.bin", "url": uploaded.content_uri}
    await send(alice, room, file)
    downloaded = await bob.download(uploaded.content_uri)
    check(isinstance(downloaded, MemoryDownloadResponse) and downloaded.body == data, "Bob downloads the same bytes")

    bodies, token = [], (await sync(bob)).next_batch
    for _ in range(100):
        page = await bob.room_messages(room, token, direction=MessageDirection.back, limit=10)
        check(isinstance(page, RoomMessagesResponse), "Bob pages back", page)
        bodies += [event.body for event in page.chunk if isinstance(event, RoomMessageText)]
        token = page.end
        if not token:
            break
    expected = [f"message {number}" for number in reversed(range(MESSAGES_BEFORE))]
    check([body for body in bodies if body.startswith("message ")] == expected, "every message is there once, in order", bodies)


asyncio.run(asyncio.wait_for(main(sys.argv[1]), TIME_SECONDS_MAX))

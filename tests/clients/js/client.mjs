// Two people with matrix-js-sdk, as it is on npm: send, edit, react, thread, redact, search, upload, page back.
//
// Usage: client.mjs URL. Ends with 1 and says why at the first thing that is not as it should be.

import { randomBytes } from "node:crypto";
import * as sdk from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";

logger.setLevel("silent");

const MESSAGES_BEFORE = 25;
const TIME_MS_MAX = 120_000;
const baseUrl = process.argv[2];

setTimeout(() => check(false, `done within ${TIME_MS_MAX} ms`), TIME_MS_MAX);

function check(condition, what, ...seen) {
    if (!condition) {
        console.error("js-sdk: not as it should be:", what, ...seen);
        process.exit(1);
    }
    console.log("js-sdk: ok:", what);
}

async function register(name) {
    const username = `${name}-${randomBytes(4).toString("hex")}`;
    const session = await sdk.createClient({ baseUrl }).registerRequest({
        username,
        password: "correct horse battery staple",
        auth: { type: "m.login.dummy" },
    });
    check(session.access_token, `${name} registers`, session);
    return sdk.createClient({
        baseUrl,
        userId: session.user_id,
        deviceId: session.device_id,
        accessToken: session.access_token,
        timelineSupport: true,
    });
}

async function start(client) {
    const prepared = new Promise((resolve) => {
        client.on(sdk.ClientEvent.Sync, (state) => state === "PREPARED" && resolve());
    });
    await client.startClient({ initialSyncLimit: 5, threadSupport: true, pollTimeout: 2000 });
    await prepared;
}

// Waits until something is so, as the client learns of it by syncing.
async function until(what, probe) {
    const deadline = Date.now() + 15000;
    for (;;) {
        const found = await probe();
        if (found) {
            console.log("js-sdk: ok:", what);
            return found;
        }
        check(Date.now() < deadline, what);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
}

async function search(client, room, term) {
    const found = await client.searchRoomEvents({ term, filter: { rooms: [room] } });
    return found.results.map((result) => result.context.getEvent().getId());
}

const alice = await register("alice");
const bob = await register("bob");
const { room_id: room } = await alice.createRoom({ name: "Réunion", invite: [bob.getUserId()] });
check(room, "Alice makes a room");
await bob.joinRoom(room);
for (let number = 0; number < MESSAGES_BEFORE; number += 1) {
    await alice.sendTextMessage(room, `message ${number}`);
}
await start(alice);
await start(bob);
const bobs = await until("Bob has the room", () => bob.getRoom(room));
const seen = (id) => bobs.findEventById(id);

const { event_id: first } = await alice.sendTextMessage(room, "Bonjour à tous, l'ordre du jour est prêt");
await until("Bob sees the message", () => seen(first));
await alice.sendEvent(room, "m.room.message", {
    "msgtype": "m.text",
    "body": "* corrigé",
    "m.new_content": { msgtype: "m.text", body: "corrigé" },
    "m.relates_to": { rel_type: "m.replace", event_id: first },
});
await until("Bob sees the edit in the message's place", () => seen(first).getContent().body === "corrigé");
await bob.sendEvent(room, "m.reaction", {
    "m.relates_to": { rel_type: "m.annotation", event_id: first, key: "👍" },
});
const reactions = await alice.relations(room, first, "m.annotation", "m.reaction");
check(reactions.events.length === 1 && reactions.events[0].getRelation().key === "👍", "Alice lists the reaction");

// The thread is begun by a client that does not sync: this one stumbles over what begins a thread and is there by /sync before the
// answer to the sending is.
const elsewhere = sdk.createClient({ baseUrl, userId: alice.getUserId(), accessToken: alice.getAccessToken() });
const { event_id: begun } = await elsewhere.sendMessage(room, first, { msgtype: "m.text", body: "un fil" });
const thread = await until("Bob has the thread", () => bobs.getThread(first));
await until("the thread has its reply", () => thread.length === 1 && thread.replyToEvent?.getId() === begun);
const { event_id: reply } = await bob.sendMessage(room, first, { msgtype: "m.text", body: "dans le fil" });
await until("the thread has Bob's reply", () => thread.length === 2 && thread.replyToEvent?.getId() === reply);
const replies = await alice.relations(room, first, "m.thread", "m.room.message");
check(replies.events.length === 2, "Alice lists the thread", replies.events.length);

const { event_id: doomed } = await alice.sendTextMessage(room, "un secret indiscret");
check((await search(bob, room, "indiscret")).includes(doomed), "Bob finds what Alice just said");
await alice.redactEvent(room, doomed);
await until("Bob sees that it was redacted", () => seen(doomed)?.isRedacted());
check((await search(bob, room, "indiscret")).length === 0, "what was redacted is not found");
check((await search(bob, room, "PRET ordre")).includes(first), "Bob finds the message without its accents");

const data = randomBytes(100_000);
const { content_uri: uri } = await alice.uploadContent(data, { name: "dossier.bin", type: "application/octet-stream" });
const address = bob.mxcUrlToHttp(uri, undefined, undefined, undefined, false, true, true);
const answer = await fetch(address, { headers: { Authorization: `Bearer ${bob.getAccessToken()}` } });
check(Buffer.from(await answer.arrayBuffer()).equals(data), "Bob downloads the bytes that Alice uploaded");

const found = await bob.searchUserDirectory({ term: alice.getUserIdLocalpart() });
check(found.results.some((user) => user.user_id === alice.getUserId()), "Bob finds Alice in the user directory");

while (bobs.oldState.paginationToken !== null) {
    await bob.scrollback(bobs, 10);
}
const bodies = bobs.timeline.map((event) => event.getContent().body).filter((body) => body?.startsWith("message "));
const expected = Array.from({ length: MESSAGES_BEFORE }, (_, number) => `message ${number}`);
check(JSON.stringify(bodies) === JSON.stringify(expected), "paged back, every message is there once, in order", bodies);

alice.stopClient();
bob.stopClient();
process.exit(0);

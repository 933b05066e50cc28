// Two people talk through matrix-js-sdk, the library of Element Web, with lazily loaded members and
// threads, as that client uses it: from registering to going on after the server was restarted.
//
// Reads HEARTH_URL (the server; registration is open there) and HEARTH_RESTART_COMMAND (a shell command
// that returns when the server has been restarted). Ends with status 1 at the first thing that is wrong.
// Not for encryption.

import assert from "node:assert/strict";
import { execSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { deflateSync, crc32 as zlibCrc32 } from "node:zlib";

import * as sdk from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { RoomHierarchy } from "matrix-js-sdk/lib/room-hierarchy.js";

const URL_OF_SERVER = process.env.HEARTH_URL;
const RESTART_COMMAND = process.env.HEARTH_RESTART_COMMAND;
const PASSWORD = "correct horse battery staple";
const LIVE_MS_MAX = 10_000;
const RECONNECT_MS_MAX = 30_000;
const HISTORY_LENGTH = 45;

async function main() {
    [logger, logger.getChild("[MatrixRTCSessionManager]")].forEach((each) => each.setLevel("silent"));
    // Some of the library writes to the console all the same.
    for (const method of ["debug", "info", "warn", "trace"]) console[method] = () => {};
    const alice = await register("alice");
    const bob = await register("bob");
    const roomId = await openRoom(alice, bob);
    await sendAndReceiveLive(alice, bob, roomId);
    await showTypingAndReceipts(alice, bob, roomId);
    await reactAndRedact(alice, bob, roomId);
    await talkInThread(alice, bob, roomId);
    await readHistory(alice, bob, roomId);
    await search(alice, roomId);
    await gatherInSpace(alice, bob, roomId);
    await sharePicture(alice, bob, roomId);
    const restored = await restoreAfterRestart(alice, bob, roomId);
    await leaveAndLogOut(restored, bob, roomId);
    bob.stopClient();
    process.exit(0);
}

async function register(name) {
    const visitor = sdk.createClient({ baseUrl: URL_OF_SERVER });
    const username = `${name}-${randomBytes(4).toString("hex")}`;
    assert.equal(await visitor.isUsernameAvailable(username), true);
    const flows = await refusal(visitor.registerRequest({ username, password: PASSWORD }));
    assert.equal(flows.httpStatus, 401);
    assert.ok(flows.data.flows.some((flow) => flow.stages.join() === "m.login.dummy"));
    const auth = { type: "m.login.dummy", session: flows.data.session };
    const registered = await visitor.registerRequest({ username, password: PASSWORD, auth });
    assert.equal(registered.user_id.split(":")[0], `@${username}`);
    assert.equal(await visitor.isUsernameAvailable(username), false);
    const { flows: logins } = await visitor.loginFlows();
    assert.ok(logins.some((flow) => flow.type === "m.login.password"));
    const client = await start(await logIn(visitor, registered.user_id));
    await client.setDisplayName(name);
    done(`${name} registers and logs in`);
    return client;
}

async function logIn(visitor, userId) {
    const identifier = { type: "m.id.user", user: userId };
    const request = { type: "m.login.password", identifier, password: PASSWORD, initial_device_display_name: "js" };
    const session = await visitor.loginRequest(request);
    return { userId: session.user_id, deviceId: session.device_id, accessToken: session.access_token };
}

/** A client that has finished its first sync and goes on syncing. */
async function start(session) {
    const client = sdk.createClient({
        baseUrl: URL_OF_SERVER,
        store: new sdk.MemoryStore(),
        timelineSupport: true,
        ...session,
    });
    const ready = until(client, sdk.ClientEvent.Sync, (state) => state === "PREPARED", RECONNECT_MS_MAX);
    await client.startClient({ lazyLoadMembers: true, threadSupport: true, initialSyncLimit: 10 });
    await ready;
    return client;
}

async function openRoom(alice, bob) {
    const invited = until(bob, sdk.RoomEvent.MyMembership, (_room, membership) => membership === "invite");
    const { room_id: roomId } = await alice.createRoom({
        name: "The garden",
        topic: "Tomatoes",
        preset: "private_chat",
        invite: [bob.getUserId()],
        initial_state: [{ type: "m.room.history_visibility", state_key: "", content: { history_visibility: "shared" } }],
    });
    const [invite] = await invited;
    assert.equal(invite.roomId, roomId);
    const joined = until(bob, sdk.RoomEvent.MyMembership, (_room, membership) => membership === "join");
    await bob.joinRoom(roomId);
    await joined;
    await eventually(() => bob.getRoom(roomId).name === "The garden", "the room's name");
    await eventually(() => alice.getRoom(roomId)?.getJoinedMemberCount() === 2, "two members");
    await bob.getRoom(roomId).loadMembersIfNeeded();
    assert.equal(bob.getRoom(roomId).getMember(alice.getUserId()).name, "alice");
    const summary = await alice.getJoinedRoomMembers(roomId);
    assert.deepEqual(Object.keys(summary.joined).sort(), [alice.getUserId(), bob.getUserId()].sort());
    done("alice creates a room, bob is invited live and joins");
    return roomId;
}

async function sendAndReceiveLive(alice, bob, roomId) {
    const heard = nextMessage(bob, roomId, "The first tomato is red");
    const { event_id: eventId } = await alice.sendTextMessage(roomId, "The first tomato is red");
    const event = await heard;
    assert.equal(event.getId(), eventId);
    assert.equal(event.getSender(), alice.getUserId());
    // The sender's own copy must carry its transaction: else the SDK shows the message twice.
    await eventually(() => messages(alice, roomId).filter((id) => id === eventId).length === 1, "one local echo");
    assert.equal(alice.getRoom(roomId).getPendingEvents?.length ?? 0, 0);
    done("a message arrives live, and its sender sees it once");
}

async function showTypingAndReceipts(alice, bob, roomId) {
    const typing = until(alice, sdk.RoomMemberEvent.Typing, (_event, member) => member.typing && member.userId === bob.getUserId());
    await bob.sendTyping(roomId, true, 5_000);
    await typing;
    const heard = nextMessage(bob, roomId, "Read this");
    await alice.sendTextMessage(roomId, "Read this");
    const event = await heard;
    const bobsRoom = bob.getRoom(roomId);
    await eventually(() => bobsRoom.getUnreadNotificationCount("total") > 0, "an unread count");
    await bob.sendReadReceipt(event);
    await eventually(() => alice.getRoom(roomId).hasUserReadEvent(bob.getUserId(), event.getId()), "a receipt");
    await eventually(() => bobsRoom.getUnreadNotificationCount("total") === 0, "no unread count");
    await bob.setRoomReadMarkers(roomId, event.getId());
    await eventually(() => bobsRoom.getAccountData("m.fully_read")?.getContent().event_id === event.getId(), "a read marker");
    done("typing, unread counts, receipts and the read marker arrive");
}

async function reactAndRedact(alice, bob, roomId) {
    const heard = nextMessage(bob, roomId, "A snail!");
    await alice.sendTextMessage(roomId, "A snail!");
    const event = await heard;
    const relation = { rel_type: "m.annotation", event_id: event.getId(), key: "🐌" };
    const { event_id: reaction } = await bob.sendEvent(roomId, "m.reaction", { "m.relates_to": relation });
    const found = await alice.relations(roomId, event.getId(), "m.annotation", "m.reaction");
    assert.deepEqual(found.events.map((each) => each.getId()), [reaction]);
    const redacted = until(bob, sdk.RoomEvent.Redaction, (redaction) => redaction.getAssociatedId() === event.getId());
    await alice.redactEvent(roomId, event.getId());
    await redacted;
    assert.equal(event.isRedacted(), true);
    assert.deepEqual(event.getContent(), {});
    done("reactions are found, and a redaction takes a message away");
}

async function talkInThread(alice, bob, roomId) {
    const heard = nextMessage(bob, roomId, "Who waters?");
    const { event_id: root } = await alice.sendTextMessage(roomId, "Who waters?");
    await heard;
    // As Element Web does when it opens a thread: in one that does not exist yet the library cannot place a reply whose
    // echo comes before the answer to its sending.
    const room = bob.getRoom(roomId);
    room.createThread(root, room.findEventById(root), [], false);
    const texts = ["Me on Monday", "Me on Tuesday"];
    for (const text of texts) {
        const content = { msgtype: "m.text", body: text, "m.relates_to": { rel_type: "m.thread", event_id: root } };
        await bob.sendMessage(roomId, root, content);
    }
    await eventually(() => alice.getRoom(roomId).getThread(root)?.length === texts.length, "the thread's messages");
    const fetched = await alice.fetchRoomEvent(roomId, root);
    const summary = fetched.unsigned["m.relations"]["m.thread"];
    assert.equal(summary.count, texts.length);
    assert.equal(summary.latest_event.content.body, texts.at(-1));
    const listed = await alice.createThreadListMessagesRequest(roomId, null, 10);
    assert.deepEqual(listed.chunk.map((event) => event.event_id), [root]);
    done("a thread is summarised, listed and shown");
}

async function readHistory(alice, bob, roomId) {
    const sent = [];
    for (let number = 0; number < HISTORY_LENGTH; number++) {
        sent.push((await alice.sendTextMessage(roomId, `row ${number}`)).event_id);
    }
    // A new device starts with the newest ten events and pages backwards from there.
    const visitor = sdk.createClient({ baseUrl: URL_OF_SERVER });
    const reader = await start(await logIn(visitor, bob.getUserId()));
    const room = reader.getRoom(roomId);
    assert.ok(messages(reader, roomId).length <= 10);
    await pageBothWays(reader, room, sent);
    const devices = await reader.getDevices();
    assert.ok(devices.devices.some((device) => device.device_id === reader.getDeviceId() && device.display_name === "js"));
    reader.stopClient();
    await reader.logout(true);
    done("a new device reads the history back to its beginning");
}

/** As Element Web shows the surroundings of a message: from the middle of the history to both of its ends. The library
 *  keeps the middle and the newest events as timelines of their own until they meet; a window goes from one to the other.
 *  (`paginateEventTimeline` of a timeline that has met another one begins anew with the newest events, without end.) */
async function pageBothWays(reader, room, sent) {
    const shown = new sdk.TimelineWindow(reader, room.getUnfilteredTimelineSet(), { windowLimit: 1000 });
    const ids = () => shown.getEvents().map((event) => event.getId());
    await shown.load(sent[20], 10);
    assert.ok(ids().includes(sent[20]) && ids().length <= 11);
    for (let round = 0; round < 3; round++) {
        assert.ok(await shown.paginate("b", 4));
        assert.ok(await shown.paginate("f", 4));
        const first = sent.indexOf(ids()[0]);
        assert.deepEqual(ids(), sent.slice(first, first + ids().length), "the pages do not fit together");
    }
    await toTheEnd(shown, "f");
    assert.equal(ids().at(-1), sent.at(-1));
    await toTheEnd(shown, "b");
    assert.equal(shown.getEvents()[0].getType(), "m.room.create");
    assert.equal(new Set(ids()).size, ids().length, "an event came twice");
    assert.deepEqual(ids().slice(-HISTORY_LENGTH), sent);
    done("the history is paged both ways from its middle");
}

async function toTheEnd(shown, direction) {
    let pages = 0;
    while (await shown.paginate(direction, 20)) assert.ok(++pages < HISTORY_LENGTH, "the pages have no end");
}

async function search(alice, roomId) {
    const found = await alice.searchRoomEvents({ term: "row", filter: { rooms: [roomId], limit: 10 } });
    const bodies = () => found.results.map((result) => result.context.getEvent().getContent().body);
    assert.deepEqual([found.count, found.results.length], [HISTORY_LENGTH, 10]);
    await alice.backPaginateRoomEventsSearch(found);
    assert.equal(new Set(bodies()).size, 20);
    assert.ok(bodies().every((body) => body.startsWith("row ")));
    const one = await alice.searchMessageText({ query: "tomato" });
    const results = one.search_categories.room_events.results;
    assert.deepEqual(results.map(({ result }) => result.content.body), ["The first tomato is red"]);
    done("messages are searched, page by page");
}

async function gatherInSpace(alice, bob, roomId) {
    const { room_id: space } = await alice.createRoom({
        name: "The estate",
        preset: "public_chat",
        creation_content: { type: "m.space" },
    });
    const via = { via: [alice.getDomain()] };
    await alice.sendStateEvent(space, "m.space.child", via, roomId);
    await alice.sendStateEvent(roomId, "m.space.parent", { ...via, canonical: true }, space);
    await eventually(() => alice.getRoom(space)?.isSpaceRoom(), "the space");
    await bob.joinRoom(space);
    await eventually(() => bob.getRoom(space)?.isSpaceRoom(), "the space for bob");
    const hierarchy = new RoomHierarchy(bob.getRoom(space), 1);
    while (hierarchy.canLoadMore) await hierarchy.load();
    assert.deepEqual(hierarchy.rooms.map((room) => room.room_id), [space, roomId]);
    assert.equal(hierarchy.rooms[0].children_state[0].state_key, roomId);
    assert.equal(hierarchy.rooms[1].name, "The garden");
    await bob.leave(space);
    done("a space shows the room that is in it");
}

async function sharePicture(alice, bob, roomId) {
    const picture = drawPicture(320, 200);
    const { content_uri: address } = await alice.uploadContent(picture, { name: "tomato.png", type: "image/png" });
    assert.match(address, /^mxc:\/\//);
    const heard = until(bob, sdk.RoomEvent.Timeline, (event) => event.getContent().msgtype === "m.image");
    await alice.sendImageMessage(roomId, address, { w: 320, h: 200, mimetype: "image/png", size: picture.length }, "tomato.png");
    const [event] = await heard;
    const url = event.getContent().url;
    const full = await download(bob, bob.mxcUrlToHttp(url, undefined, undefined, undefined, false, true, true));
    assert.deepEqual(Buffer.from(await full.arrayBuffer()), picture);
    assert.equal(full.headers.get("content-type"), "image/png");
    const small = await download(bob, bob.mxcUrlToHttp(url, 32, 32, "scale", false, true, true));
    assert.match(small.headers.get("content-type"), /^image\//);
    assert.ok((await small.arrayBuffer()).byteLength > 0);
    const { "m.upload.size": sizeMax } = await alice.getMediaConfig(true);
    assert.ok(sizeMax > picture.length);
    done("a picture is uploaded, downloaded and made small");
}

async function download(client, url) {
    const unauthorised = await fetch(url);
    assert.equal(unauthorised.status, 401);
    assert.equal((await unauthorised.json()).errcode, "M_MISSING_TOKEN");
    const answer = await fetch(url, { headers: { authorization: `Bearer ${client.getAccessToken()}` } });
    assert.equal(answer.status, 200, url);
    return answer;
}

async function restoreAfterRestart(alice, bob, roomId) {
    const session = { userId: alice.getUserId(), deviceId: alice.getDeviceId(), accessToken: alice.getAccessToken() };
    alice.stopClient();
    const { event_id: before } = await bob.sendTextMessage(roomId, "Before the restart");
    // Bob's client goes on polling while the server is away, and must find back by itself.
    const backAgain = until(bob, sdk.ClientEvent.Sync, (state) => state === "SYNCING", RECONNECT_MS_MAX);
    execSync(RESTART_COMMAND, { stdio: ["ignore", "ignore", "inherit"] });
    const restored = await start(session);
    assert.equal((await restored.whoami()).device_id, session.deviceId);
    assert.ok(messages(restored, roomId).includes(before));
    await backAgain;
    const heard = nextMessage(bob, roomId, "After the restart", RECONNECT_MS_MAX);
    const { event_id: after } = await restored.sendTextMessage(roomId, "After the restart");
    assert.equal((await heard).getId(), after);
    const seen = messages(bob, roomId);
    assert.equal(new Set(seen).size, seen.length, "bob's client was given an event twice");
    await restored.getRoom(roomId).loadMembersIfNeeded();
    assert.equal(restored.getRoom(roomId).getJoinedMembers().length, 2);
    done("the session goes on after a restart, and a waiting client finds back");
    return restored;
}

async function leaveAndLogOut(alice, bob, roomId) {
    await alice.kick(roomId, bob.getUserId(), "Good night");
    await eventually(() => bob.getRoom(roomId)?.getMyMembership() === "leave", "bob's leaving");
    assert.equal((await refusal(bob.sendTextMessage(roomId, "Hello?"))).errcode, "M_FORBIDDEN");
    alice.stopClient();
    const token = alice.getAccessToken();
    await alice.logout(true);
    const answer = await fetch(`${URL_OF_SERVER}/_matrix/client/v3/account/whoami`, { headers: { authorization: `Bearer ${token}` } });
    assert.deepEqual([answer.status, (await answer.json()).errcode], [401, "M_UNKNOWN_TOKEN"]);
    done("bob is sent out, and alice logs out");
}

function messages(client, roomId) {
    return client.getRoom(roomId).getLiveTimeline().getEvents().map((event) => event.getId());
}

async function nextMessage(client, roomId, body, waitMs = LIVE_MS_MAX) {
    const matches = (event) => event.getRoomId() === roomId && event.getContent().body === body;
    const [event] = await until(client, sdk.RoomEvent.Timeline, matches, waitMs);
    return event;
}

/** The arguments of the first event `name` for which `matches` holds; an error when none comes in time. */
function until(emitter, name, matches, waitMs = LIVE_MS_MAX) {
    return new Promise((resolve, reject) => {
        const waited = setTimeout(() => finish(reject, new Error(`waited in vain for ${name}: ${matches}`)), waitMs);
        const listener = (...parts) => matches(...parts) && finish(resolve, parts);
        const finish = (settle, value) => {
            clearTimeout(waited);
            emitter.off(name, listener);
            settle(value);
        };
        emitter.on(name, listener);
    });
}

async function eventually(holds, what) {
    const deadline = Date.now() + LIVE_MS_MAX;
    while (Date.now() < deadline) {
        if (holds()) return;
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.fail(`waited in vain for ${what}`);
}

async function refusal(promise) {
    try {
        await promise;
    } catch (error) {
        return error;
    }
    return assert.fail("the server should have refused");
}

/** A PNG with a colour gradient. */
function drawPicture(width, height) {
    const rows = Array.from({ length: height }, (_, y) => [0, ...Array.from({ length: width }, (_, x) => [x & 255, y & 255, 128]).flat()]);
    const header = Buffer.alloc(13);
    header.writeUInt32BE(width, 0);
    header.writeUInt32BE(height, 4);
    header.set([8, 2, 0, 0, 0], 8);
    const chunks = [["IHDR", header], ["IDAT", deflateSync(Buffer.from(rows.flat()))], ["IEND", Buffer.alloc(0)]];
    const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
    return Buffer.concat([signature, ...chunks.map(([kind, body]) => pngChunk(kind, body))]);
}

function pngChunk(kind, body) {
    const content = Buffer.concat([Buffer.from(kind), body]);
    const frame = Buffer.alloc(8);
    frame.writeUInt32BE(body.length, 0);
    frame.writeUInt32BE(zlibCrc32(content), 4);
    return Buffer.concat([frame.subarray(0, 4), content, frame.subarray(4)]);
}

function done(claim) {
    console.log(`ok: ${claim}`);
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});

// People with several devices talk in encrypted rooms through matrix-js-sdk and its cryptography in WebAssembly,
// as Element Web does: cross-signing, secret storage, key backup, verification by emoji, a device that sleeps.
//
// Reads HEARTH_URL (the server; registration is open there) and HEARTH_RESTART_COMMAND (a shell command that
// returns when the server has been restarted). Bob lives on another server when HEARTH_PEER_URL names one.
// Ends with status 1 at the first thing that is wrong. Not for what talk.js shows.

import assert from "node:assert/strict";
import { execSync } from "node:child_process";
import { randomBytes } from "node:crypto";

import * as sdk from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { logger } from "matrix-js-sdk/lib/logger.js";

const URL_OF_SERVER = process.env.HEARTH_URL;
const URL_OF_PEER = process.env.HEARTH_PEER_URL ?? URL_OF_SERVER;
const RESTART_COMMAND = process.env.HEARTH_RESTART_COMMAND;
const PASSWORD = "correct horse battery staple";
const WAIT_MS_MAX = 30_000;
const SAS = "m.sas.v1";

async function main() {
    silence(logger);
    const alice = await register("alice", URL_OF_SERVER);
    const bob = await register("bob", URL_OF_PEER);
    const roomId = await openRoom(alice, bob);
    await talk(roomId, [alice.laptop, bob.laptop], "Hello");
    await verifyEachOther(alice, bob);
    await verifyTablet(alice, bob, roomId);
    await recoverPhone(alice, bob, roomId);
    await letStrangerIn(alice, bob, roomId);
    await logTabletOut(alice, bob, roomId);
    // A dehydrated device is an experiment that other servers may not carry.
    if (URL_OF_PEER === URL_OF_SERVER) await sleepAndWake(alice, bob, roomId);
    await replaceKeys(alice, bob, roomId);
    if (RESTART_COMMAND) {
        execSync(RESTART_COMMAND, { stdio: ["ignore", "ignore", "inherit"] });
        await talk(roomId, [alice.laptop, alice.phone, bob.laptop], "After the restart");
    }
    process.exit(0);
}

/** A person with a first device, whose keys are made, kept in secret storage and backed up. */
async function register(name, baseUrl) {
    const visitor = sdk.createClient({ baseUrl });
    const username = `${name}-${randomBytes(4).toString("hex")}`;
    const auth = { type: "m.login.dummy" };
    const { user_id: userId } = await visitor.registerRequest({ username, password: PASSWORD, auth, inhibit_login: true });
    const person = { userId, baseUrl, recoveryKey: null };
    person.laptop = await logIn(person);
    const crypto = person.laptop.getCrypto();
    let prompts = 0;
    const authUploadDeviceSigningKeys = async (makeRequest) => {
        prompts++;
        await makeRequest(null);
    };
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys });
    assert.equal(prompts, 1, "the first keys are uploaded without a password");
    person.recoveryKey = await crypto.createRecoveryKeyFromPassphrase();
    await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => person.recoveryKey, setupNewKeyBackup: true });
    await eventually(() => crypto.isCrossSigningReady(), "cross-signing");
    await eventually(() => crypto.isSecretStorageReady(), "secret storage");
    await eventually(() => crypto.getActiveSessionBackupVersion(), "a backup");
    done(`${name} has cross-signing keys, secret storage and a backup`);
    return person;
}

/** A new device that has finished its first sync. */
async function logIn(person) {
    const visitor = sdk.createClient({ baseUrl: person.baseUrl });
    const identifier = { type: "m.id.user", user: person.userId };
    const session = await visitor.loginRequest({ type: "m.login.password", identifier, password: PASSWORD });
    const client = sdk.createClient({
        baseUrl: person.baseUrl,
        userId: session.user_id,
        deviceId: session.device_id,
        accessToken: session.access_token,
        store: new sdk.MemoryStore(),
        verificationMethods: [SAS],
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], person.recoveryKey.privateKey],
        },
    });
    await client.initRustCrypto({ useIndexedDB: false });
    const ready = until(client, sdk.ClientEvent.Sync, (state) => state === "PREPARED");
    await client.startClient({ initialSyncLimit: 50 });
    await ready;
    return client;
}

async function openRoom(alice, bob) {
    const encryption = { algorithm: "m.megolm.v1.aes-sha2" };
    const { room_id: roomId } = await alice.laptop.createRoom({
        preset: "private_chat",
        invite: [bob.userId],
        initial_state: [
            { type: "m.room.encryption", state_key: "", content: encryption },
            { type: "m.room.history_visibility", state_key: "", content: { history_visibility: "shared" } },
        ],
    });
    await join(bob.laptop, roomId);
    await eventually(() => alice.laptop.getRoom(roomId)?.getJoinedMemberCount() === 2, "two members");
    await eventually(() => alice.laptop.getRoom(roomId).hasEncryptionStateEvent(), "encryption");
    return roomId;
}

async function join(client, roomId) {
    await eventually(() => client.getRoom(roomId)?.getMyMembership() === "invite", "an invitation");
    await client.joinRoom(roomId);
    await eventually(() => client.getRoom(roomId)?.getMyMembership() === "join", "the room");
}

/** Each device says something, and all of them read it. */
async function talk(roomId, clients, what) {
    for (const speaker of clients) await say(roomId, speaker, `${what} from ${speaker.getDeviceId()}`, clients);
    done(`${what}: ${clients.length} devices read each other`);
}

async function say(roomId, speaker, body, readers) {
    const { event_id: eventId } = await speaker.sendTextMessage(roomId, body);
    for (const reader of readers) await eventually(() => read(reader, roomId, eventId) === body, `«${body}» on ${reader.getDeviceId()}`);
    return eventId;
}

/** What a device could decrypt of an event: undefined until it has come or its key is there. */
function read(client, roomId, eventId) {
    const event = client.getRoom(roomId)?.findEventById(eventId);
    if (!event || event.isBeingDecrypted() || event.isDecryptionFailure()) return undefined;
    assert.equal(event.getWireType(), "m.room.encrypted");
    return event.getContent().body;
}

async function verifyEachOther(alice, bob) {
    const { room_id: roomId } = await alice.laptop.createRoom({ preset: "trusted_private_chat", invite: [bob.userId], is_direct: true });
    await join(bob.laptop, roomId);
    await eventually(() => alice.laptop.getRoom(roomId)?.getJoinedMemberCount() === 2, "two members");
    const asked = until(bob.laptop, CryptoEvent.VerificationRequestReceived, () => true);
    const request = await alice.laptop.getCrypto().requestVerificationDM(bob.userId, roomId);
    await compareEmoji(request, (await asked)[0]);
    for (const [client, other] of [[alice.laptop, bob], [bob.laptop, alice]]) {
        const trusts = async () => (await client.getCrypto().getUserVerificationStatus(other.userId)).isCrossSigningVerified();
        await eventually(trusts, "trust in each other");
    }
    done("two people verify each other in a room");
}

/** Both sides see the same emoji and say so. */
async function compareEmoji(request, received) {
    await received.accept();
    await eventually(() => request.phase === VerificationPhase.Ready, "an accepted request");
    const verifier = await request.startVerification(SAS);
    await eventually(() => received.verifier, "a verifier on the other side");
    const shown = [verifier, received.verifier].map((each) => until(each, VerifierEvent.ShowSas, () => true));
    const ended = [verifier, received.verifier].map((each) => each.verify());
    const [[mine], [theirs]] = await Promise.all(shown);
    assert.deepEqual(mine.sas.emoji, theirs.sas.emoji);
    await Promise.all([mine.confirm(), theirs.confirm()]);
    await Promise.all(ended);
}

/** A new device that an older one verifies gets all secrets from it, and with them everything that was said. */
async function verifyTablet(alice, bob, roomId) {
    const before = await say(roomId, bob.laptop, "Before the tablet", [alice.laptop, bob.laptop]);
    await waitForBackup(alice);
    alice.tablet = await logIn(alice);
    assert.equal(read(alice.tablet, roomId, before), undefined, "a new device has no old keys");
    await eventually(() => knowsDevice(alice.laptop, alice.tablet), "the new device");
    const asked = until(alice.laptop, CryptoEvent.VerificationRequestReceived, () => true);
    const request = await alice.tablet.getCrypto().requestOwnUserVerification();
    await compareEmoji(request, (await asked)[0]);
    const crypto = alice.tablet.getCrypto();
    await eventually(() => crypto.isCrossSigningReady(), "the cross-signing keys");
    await eventually(() => crypto.getSessionBackupPrivateKey(), "the key of the backup");
    await eventually(() => read(alice.tablet, roomId, before) === "Before the tablet", "the old message");
    await becomesSigned(bob.laptop, alice.tablet);
    await talk(roomId, [alice.laptop, alice.tablet, bob.laptop], "With the tablet");
    done("a second device is verified by the first, and reads what was said before it came");
}

async function knowsDevice(client, other) {
    const devices = await client.getCrypto().getUserDeviceInfo([other.getUserId()]);
    return devices.get(other.getUserId())?.has(other.getDeviceId());
}

async function becomesSigned(client, other) {
    const status = () => client.getCrypto().getDeviceVerificationStatus(other.getUserId(), other.getDeviceId());
    await eventually(async () => (await status())?.signedByOwner, "the signature of the new device");
}

/** Waits until the backup has every key that the person's first device has. */
async function waitForBackup(person) {
    const crypto = person.laptop.getCrypto();
    const known = (await crypto.exportRoomKeys()).length;
    // The library would say what it knew first.
    const ask = () => person.laptop.http.authedRequest("GET", "/room_keys/version");
    const isWhole = async () => (await ask()).count >= known;
    await eventually(isWhole, "the backup");
}

/** Has a new device take the person's keys out of secret storage: it must know their public parts to do so, and the
 *  end of its first sync does not say yet that it has asked for them. */
async function takeKeys(client) {
    const crypto = client.getCrypto();
    await eventually(() => crypto.userHasCrossSigningKeys(client.getUserId(), true), "the public keys");
    await crypto.bootstrapCrossSigning({});
}

/** A device that has nothing but the recovery key restores the backup. */
async function recoverPhone(alice, bob, roomId) {
    const before = await say(roomId, bob.laptop, "Before the phone", [alice.laptop, alice.tablet]);
    await waitForBackup(alice);
    alice.phone = await logIn(alice);
    const crypto = alice.phone.getCrypto();
    await takeKeys(alice.phone);
    await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    await crypto.checkKeyBackupAndEnable();
    const { imported, total } = await crypto.restoreKeyBackup();
    assert.ok(total > 0 && imported === total, `${imported} of ${total} keys`);
    await eventually(() => read(alice.phone, roomId, before) === "Before the phone", "the old message");
    assert.ok(await crypto.isCrossSigningReady());
    done("a device with the recovery key restores the backup");
}

/** Who comes later reads what follows, and nothing of what was before. */
async function letStrangerIn(alice, bob, roomId) {
    const carol = await register("carol", URL_OF_PEER);
    const everybody = [alice.laptop, alice.tablet, alice.phone, bob.laptop];
    const before = await say(roomId, alice.laptop, "Carol is not here", everybody);
    await alice.laptop.invite(roomId, carol.userId);
    await join(carol.laptop, roomId);
    await eventually(() => alice.laptop.getRoom(roomId).getJoinedMemberCount() === 3, "three members");
    await talk(roomId, [alice.laptop, carol.laptop, bob.laptop], "With carol");
    const room = carol.laptop.getRoom(roomId);
    while (!room.findEventById(before) && (await carol.laptop.paginateEventTimeline(room.getLiveTimeline(), { backwards: true, limit: 50 })));
    const event = room.findEventById(before);
    if (event) await eventually(() => event.isDecryptionFailure(), "a message that cannot be read");
    await carol.laptop.leave(roomId);
    await eventually(() => alice.laptop.getRoom(roomId).getJoinedMemberCount() === 2, "two members");
    const after = await say(roomId, alice.laptop, "Carol has left", everybody);
    assert.equal(read(carol.laptop, roomId, after), undefined);
    carol.laptop.stopClient();
    done("who comes later reads only what is said while they are there");
}

async function logTabletOut(alice, bob, roomId) {
    alice.tablet.stopClient();
    await alice.tablet.logout(true);
    await eventually(async () => !(await knowsDevice(bob.laptop, alice.tablet)), "a list without the tablet");
    await talk(roomId, [alice.laptop, alice.phone, bob.laptop], "Without the tablet");
}

/** Bob logs out everywhere; what is said meanwhile waits for the device that sleeps (MSC3814). */
async function sleepAndWake(alice, bob, roomId) {
    const crypto = bob.laptop.getCrypto();
    assert.ok(await crypto.isDehydrationSupported());
    await crypto.startDehydration();
    const sleeping = bob.laptop.getDeviceId();
    bob.laptop.stopClient();
    await bob.laptop.logout(true);
    const isGone = async () => {
        const devices = await alice.laptop.getCrypto().getUserDeviceInfo([bob.userId]);
        return !devices.get(bob.userId).has(sleeping) && devices.get(bob.userId).size === 1;
    };
    await eventually(isGone, "nothing but the sleeping device");
    const missed = await say(roomId, alice.laptop, "While bob sleeps", [alice.laptop, alice.phone]);
    bob.laptop = await logIn(bob);
    await takeKeys(bob.laptop);
    await bob.laptop.getCrypto().startDehydration();
    await eventually(() => read(bob.laptop, roomId, missed) === "While bob sleeps", "what was said meanwhile");
    done("a device that slept has the keys of what was said meanwhile");
}

/** New keys in the place of old ones ask for the password, and others see that the identity is another. */
async function replaceKeys(alice, bob, roomId) {
    const crypto = bob.laptop.getCrypto();
    const before = await crypto.getCrossSigningKeyId();
    let challenges = 0;
    const authUploadDeviceSigningKeys = async (makeRequest) => {
        const challenge = await refusal(makeRequest(null));
        assert.equal(challenge.httpStatus, 401);
        challenges++;
        const identifier = { type: "m.id.user", user: bob.userId };
        await makeRequest({ type: "m.login.password", identifier, password: PASSWORD, session: challenge.data.session });
    };
    await crypto.bootstrapCrossSigning({ setupNewCrossSigning: true, authUploadDeviceSigningKeys });
    assert.equal(challenges, 1);
    assert.notEqual(await crypto.getCrossSigningKeyId(), before);
    const status = () => alice.laptop.getCrypto().getUserVerificationStatus(bob.userId);
    await eventually(async () => !(await status()).isCrossSigningVerified() && (await status()).wasCrossSigningVerified(), "distrust");
    await alice.laptop.getCrypto().withdrawVerificationRequirement(bob.userId);
    await talk(roomId, [alice.laptop, bob.laptop], "With new keys");
}

/** The arguments of the first event `name` for which `matches` holds; an error when none comes in time. */
function until(emitter, name, matches) {
    return new Promise((resolve, reject) => {
        const waited = setTimeout(() => finish(reject, new Error(`waited in vain for ${name}`)), WAIT_MS_MAX);
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
    const deadline = Date.now() + WAIT_MS_MAX;
    while (Date.now() < deadline) {
        if (await holds()) return;
        await new Promise((resolve) => setTimeout(resolve, 50));
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

/** The library and its cryptography write to the console what is of no interest here. */
function silence(logger) {
    [logger, logger.getChild("[MatrixRTCSessionManager]")].forEach((each) => each.setLevel("silent"));
    for (const method of ["debug", "info", "warn", "trace"]) console[method] = () => {};
}

function done(claim) {
    console.log(`ok: ${claim}`);
}

process.on("unhandledRejection", () => {});
main().catch((error) => {
    console.error(error);
    process.exit(1);
});

// Two people talk in two browsers, each with the web client Hydrogen: logging in, making a room,
// inviting, joining, messages in both directions, a picture, older messages by scrolling, and going on
// after the server was restarted and the page loaded again. What is checked is what the page shows.
//
// Reads HEARTH_URL (the server; registration is open there), HEARTH_RESTART_COMMAND (a shell command that
// returns when the server has been restarted) and HEARTH_OUTPUT_DIR (where the screenshots go; default:
// the directory for temporary files). Needs Debian's chromium. Ends with status 1 at the first thing that
// is wrong.

import assert from "node:assert/strict";
import { execSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

import { servePage } from "./serve.js";

const SERVER = process.env.HEARTH_URL;
const OUTPUT = process.env.HEARTH_OUTPUT_DIR ?? tmpdir();
const CHROMIUM = process.env.HEARTH_CHROMIUM ?? "/usr/bin/chromium";
const PASSWORD = "correct horse battery staple";
const SHOWN_MS_MAX = 20_000;
const HISTORY_LENGTH = 60;

async function main() {
    const page = await servePage();
    const sandbox = process.getuid() === 0 ? ["--no-sandbox"] : [];
    const browser = await chromium.launch({ executablePath: CHROMIUM, args: [...sandbox, "--disable-gpu"] });
    const alice = await openBrowser(browser, page, await register("alice"));
    const bob = await openBrowser(browser, page, await register("bob"));
    try {
        await talk(alice, bob);
    } finally {
        await alice.tab.screenshot({ path: join(OUTPUT, "web-alice.png") });
        await bob.tab.screenshot({ path: join(OUTPUT, "web-bob.png") });
        console.log(`screenshots: ${join(OUTPUT, "web-alice.png")} and web-bob.png`);
        await browser.close();
    }
}

async function talk(alice, bob) {
    await logIn(alice);
    await logIn(bob);
    await makeRoom(alice, "The veranda");
    await say(alice, `/invite ${bob.userId}`);
    await acceptInvite(bob, "The veranda");
    await say(alice, "Is the tea ready?");
    await shows(bob, "Is the tea ready?");
    await say(bob, "It is, come over");
    await shows(alice, "It is, come over");
    done("two people talk");
    await sendPicture(alice, bob);
    await readHistory(alice, bob);
    await goOnAfterRestart(alice, bob);
}

/** Hydrogen has no form for this, so the request is made by hand. */
async function register(name) {
    const username = `${name}-${randomBytes(4).toString("hex")}`;
    const body = JSON.stringify({ username, password: PASSWORD, auth: { type: "m.login.dummy" }, inhibit_login: true });
    const answer = await fetch(`${SERVER}/_matrix/client/v3/register`, { method: "POST", body });
    assert.equal(answer.status, 200, await answer.clone().text());
    return { username, userId: (await answer.json()).user_id };
}

async function openBrowser(browser, page, person) {
    const context = await browser.newContext({ viewport: { width: 1000, height: 700 } });
    context.setDefaultTimeout(SHOWN_MS_MAX);
    const tab = await context.newPage();
    if (process.env.HEARTH_VERBOSE) tab.on("console", (message) => console.log(person.username, message.text()));
    await tab.goto(`${page}/?server=${encodeURIComponent(SERVER)}`);
    return { ...person, tab };
}

async function logIn({ tab, username }) {
    await tab.fill("#username", username);
    await tab.fill("#password", PASSWORD);
    await tab.click("button[type=submit]");
    await tab.waitForSelector(".RoomGridView, .room-placeholder, .SessionView");
    await tab.waitForSelector(".SessionStatusView", { state: "hidden" });
    done(`${username} logs in`);
}

async function makeRoom({ tab }, name) {
    await tab.click(".LeftPanel button.create");
    await tab.getByText("Create Room").click();
    await tab.fill("#name", name);
    await tab.uncheck("#isEncrypted");
    await tab.click(".CreateRoomView button[type=submit]");
    await openRoom({ tab }, name);
    done("a room is made");
}

async function openRoom({ tab }, name) {
    await tab.locator(".RoomList li:not(:has(.spinner))", { hasText: name }).click();
    await tab.waitForSelector(".MessageComposer textarea");
}

async function acceptInvite({ tab }, name) {
    await tab.locator(".RoomList li", { hasText: name }).click();
    await tab.getByRole("button", { name: "Accept" }).click();
    await tab.waitForSelector(".MessageComposer textarea");
    done("an invite is accepted");
}

async function say({ tab }, text) {
    await tab.fill(".MessageComposer textarea", text);
    await tab.press(".MessageComposer textarea", "Enter");
}

/** Waits until the timeline holds a message with exactly this text, once. */
async function shows({ tab }, text) {
    const found = tab.locator(".Timeline_messageBody", { hasText: text });
    await found.first().waitFor();
    assert.equal(await found.count(), 1, `«${text}» is shown more than once`);
}

async function sendPicture(alice, bob) {
    const picture = await alice.tab.screenshot({ clip: { x: 0, y: 0, width: 200, height: 120 } });
    await alice.tab.click("button.sendFile");
    const choosing = alice.tab.waitForEvent("filechooser");
    await alice.tab.getByText("Send picture").click();
    await (await choosing).setFiles({ name: "veranda.png", mimeType: "image/png", buffer: picture });
    const image = bob.tab.locator(".Timeline_messageBody .media img");
    await image.waitFor();
    await bob.tab.waitForFunction(() => {
        const shown = document.querySelector(".Timeline_messageBody .media img.picture, .Timeline_messageBody .media img");
        return shown.complete && shown.naturalWidth > 0;
    });
    done("a picture is sent and shown");
}

async function readHistory(alice, bob) {
    for (let number = 0; number < HISTORY_LENGTH; number++) await say(alice, `cup ${number}.`);
    await shows(bob, `cup ${HISTORY_LENGTH - 1}.`);
    // A page loaded anew starts with the newest messages; scrolling up brings the others.
    await bob.tab.reload();
    await shows(bob, `cup ${HISTORY_LENGTH - 1}.`);
    const first = bob.tab.locator(".Timeline_messageBody", { hasText: "Is the tea ready?" });
    const deadline = Date.now() + SHOWN_MS_MAX;
    while ((await first.count()) === 0) {
        assert.ok(Date.now() < deadline, "the first message does not come by scrolling up");
        await bob.tab.locator(".Timeline_scroller").evaluate((scroller) => scroller.scrollTo(0, 0));
        await bob.tab.waitForTimeout(100);
    }
    done("older messages come by scrolling up");
}

async function goOnAfterRestart(alice, bob) {
    execSync(process.env.HEARTH_RESTART_COMMAND, { stdio: ["ignore", "ignore", "inherit"] });
    await bob.tab.reload();
    await bob.tab.waitForSelector(".MessageComposer textarea");
    await say(bob, "The lamp went out");
    await shows(bob, "The lamp went out");
    // Alice's page was open all the time: it finds back by itself.
    await shows(alice, "The lamp went out");
    await say(alice, "It is on again");
    await shows(bob, "It is on again");
    done("both go on after the restart");
}

function done(claim) {
    console.log(`ok: ${claim}`);
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});

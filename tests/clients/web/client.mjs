// A web client in a browser: Hydrogen, as it is on npm, in headless Chromium. It logs in from another origin, opens a room, receives and
// sends.
//
// Usage: client.mjs URL BROWSER. Leaves `room.png`, a picture of the page, beside the installed modules. Ends with 1 and says why at the
// first thing that is not as it should be.

import { randomBytes } from "node:crypto";
import { copyFile, cp, mkdir, readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const [homeserver, executablePath] = process.argv.slice(2);
const TIME_MS_MAX = 120_000;
const STEP_MS_MAX = 30_000;
const TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
};

setTimeout(() => check(false, `done within ${TIME_MS_MAX} ms`), TIME_MS_MAX).unref();

function check(condition, what, ...seen) {
    if (!condition) {
        console.error("web: not as it should be:", what, ...seen);
        process.exit(1);
    }
    console.log("web: ok:", what);
}

async function request(method, path, token, body) {
    const answer = await fetch(`${homeserver}/_matrix/client/v3/${path}`, {
        method,
        headers: token ? { authorization: `Bearer ${token}` } : {},
        body: body && JSON.stringify(body),
    });
    const json = await answer.json();
    if (!answer.ok) check(false, `${method} ${path}`, answer.status, json);
    return json;
}

async function register(name) {
    const username = `${name}-${randomBytes(4).toString("hex")}`;
    const password = randomBytes(12).toString("hex");
    const auth = { type: "m.login.dummy" };
    const session = await request("POST", "register", null, { username, password, auth });
    return { username, password, token: session.access_token, user: session.user_id };
}

async function build() {
    const modules = join(here, "node_modules");
    const site = join(here, "site");
    await mkdir(join(site, "olm"), { recursive: true });
    await cp(join(modules, "hydrogen-view-sdk/asset-build/assets"), join(site, "assets"), { recursive: true });
    await copyFile(join(modules, "hydrogen-view-sdk/lib-build/sw.js"), join(site, "sw.js"));
    await copyFile(join(here, "index.html"), join(site, "index.html"));
    for (const file of ["olm.js", "olm.wasm", "olm_legacy.js"]) {
        await copyFile(join(modules, "@matrix-org/olm", file), join(site, "olm", file));
    }
    await esbuild.build({
        entryPoints: [join(here, "page.mjs")],
        outfile: join(site, "page.js"),
        bundle: true,
        define: { global: "globalThis" },
        // What the libraries need under Node.js only.
        external: ["crypto", "fs", "path"],
        format: "iife",
        logLevel: "error",
    });
    return site;
}

async function serve(site) {
    const server = createServer(async (asked, answer) => {
        const path = normalize(new URL(asked.url, "http://page").pathname);
        const file = join(site, path === "/" ? "index.html" : path);
        try {
            const bytes = await readFile(file);
            answer.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" }).end(bytes);
        } catch {
            answer.writeHead(404).end();
        }
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    return server;
}

const site = await build();
const server = await serve(site);
const [alice, bob] = [await register("alice"), await register("bob")];
const created = await request("POST", "createRoom", bob.token, { preset: "public_chat", name: "Ministry of Tests" });
const room = encodeURIComponent(created.room_id);
await request("POST", `join/${room}`, alice.token, {});
const say = (body) =>
    request("PUT", `rooms/${room}/send/m.room.message/${randomBytes(4).toString("hex")}`, bob.token, {
        msgtype: "m.text",
        body,
    });
await say("said before the page was opened");

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
    const page = await browser.newPage({ viewport: { width: 1024, height: 720 } });
    page.setDefaultTimeout(STEP_MS_MAX);
    const complaints = [];
    page.on("pageerror", (error) => complaints.push(`${error}`));
    page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
    const asked = new URLSearchParams({
        homeserver,
        user: alice.username,
        password: alice.password,
        room: created.room_id,
    });
    await page.goto(`http://127.0.0.1:${server.address().port}/?${asked}`);
    await page.waitForFunction(() => window.found).catch((error) => check(false, "the page opens", error, complaints));
    const found = await page.evaluate(() => window.found);
    check(found.shown?.user === alice.user, "Hydrogen logs in", found, complaints);
    check(found.shown.room === "Ministry of Tests", "it knows the room's name", found);
    await page.getByText("said before the page was opened").waitFor();
    check(true, "it shows what was said before");

    await say("said while the page was open");
    await page.getByText("said while the page was open").waitFor();
    check(true, "it receives");

    const composer = page.locator(".MessageComposer textarea");
    await composer.fill("typed into a browser");
    await composer.press("Enter");
    await page.getByText("typed into a browser").waitFor();
    const deadline = Date.now() + STEP_MS_MAX;
    for (;;) {
        const messages = await request("GET", `rooms/${room}/messages?dir=b&limit=5`, bob.token);
        if (messages.chunk.some((event) => event.sender === alice.user && event.content.body === "typed into a browser")) {
            break;
        }
        check(Date.now() < deadline, "the other hears what was typed", messages.chunk, complaints);
        await new Promise((resolve) => setTimeout(resolve, 200));
    }
    check(true, "it sends");
    const picture = join(here, "room.png");
    await page.screenshot({ path: picture });
    console.log("web: the page as it looked:", picture);
} finally {
    await browser.close();
    server.close();
}

// Builds the page with Hydrogen in it and serves it on loopback. Not for anything but this test.
import { createReadStream } from "node:fs";
import { createServer } from "node:http";
import { basename, extname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const HYDROGEN = join(HERE, "node_modules/hydrogen-view-sdk");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

/** The address of a server that ends with this process. */
export async function servePage() {
    const built = await build({
        entryPoints: [join(HERE, "page/app.js")],
        bundle: true,
        format: "esm",
        write: false,
        logLevel: "error",
        // Olm's Node half asks for these; a browser never gets there.
        external: ["fs", "path", "crypto"],
    });
    const app = built.outputFiles[0].contents;
    const server = createServer((request, response) => {
        const { pathname } = new URL(request.url, "http://page");
        response.setHeader("content-type", TYPES[extname(pathname)] ?? "text/html");
        if (pathname === "/app.js") {
            response.end(app);
            return;
        }
        const file = findFile(pathname);
        createReadStream(file)
            .on("error", () => response.writeHead(404).end())
            .pipe(response);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    server.unref();
    return `http://127.0.0.1:${server.address().port}`;
}

function findFile(pathname) {
    if (pathname === "/" || pathname === "/index.html") return join(HERE, "page/index.html");
    if (pathname === "/sw.js") return join(HYDROGEN, "lib-build/sw.js");
    return join(HYDROGEN, "asset-build/assets", basename(pathname));
}

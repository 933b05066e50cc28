// A small bridge built on matrix-appservice-bridge. Its remote network is whoever starts it: what people there say
// comes as lines of JSON, and what is said on Matrix goes out as lines of JSON.
//
//   bridge.js register     writes the registration
//   bridge.js run
//
// Not for what a real network is like. It reads BRIDGE_HOMESERVER, BRIDGE_DOMAIN, BRIDGE_PORT, BRIDGE_REGISTRATION and
// BRIDGE_URL (where the homeserver finds it).
require("./without_cryptography.js");
const readline = require("node:readline");
const { AppServiceRegistration, Bridge } = require("matrix-appservice-bridge");

const { BRIDGE_HOMESERVER, BRIDGE_DOMAIN, BRIDGE_PORT, BRIDGE_REGISTRATION, BRIDGE_URL } = process.env;

function register() {
  const registration = new AppServiceRegistration(BRIDGE_URL);
  registration.setId("remote");
  registration.setHomeserverToken(AppServiceRegistration.generateToken());
  registration.setAppServiceToken(AppServiceRegistration.generateToken());
  registration.setSenderLocalpart("remotebot");
  registration.addRegexPattern("users", "@remote_.*", true);
  registration.addRegexPattern("aliases", "#remote_.*", true);
  registration.setRateLimited(false);
  registration.outputAsYaml(BRIDGE_REGISTRATION);
}

async function run() {
  const bridge = new Bridge({
    homeserverUrl: BRIDGE_HOMESERVER,
    domain: BRIDGE_DOMAIN,
    registration: BRIDGE_REGISTRATION,
    disableStores: true,
    controller: {
      onUserQuery: (user) => ({ name: `${user.localpart.replace("remote_", "")} (remote)` }),
      onAliasQuery: (_alias, localpart) => ({
        creationOpts: { room_alias_name: localpart, name: localpart.replace("remote_", ""), preset: "public_chat" },
      }),
      onEvent: (request) => {
        const event = request.getData();
        if (event.type === "m.room.message") {
          report({ sender: event.sender, text: event.content.body, event_id: event.event_id });
        }
        request.resolve();
      },
      onLog: (text, isError) => isError && console.error(text),
    },
  });
  await bridge.initialise();
  await bridge.listen(Number(BRIDGE_PORT), "127.0.0.1");
  report({ ready: true });
  const named = new Set();
  // One after the other, as people spoke.
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { room, name, text } = JSON.parse(line);
    const intent = bridge.getIntent(`@remote_${name}:${BRIDGE_DOMAIN}`);
    if (!named.has(name)) {
      await intent.ensureRegistered();
      await intent.setDisplayName(name);
      named.add(name);
    }
    await intent.sendText(room, text);
  }
}

function report(words) {
  process.stdout.write(`${JSON.stringify(words)}\n`);
}

if (process.argv[2] === "register") {
  register();
} else {
  run().catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

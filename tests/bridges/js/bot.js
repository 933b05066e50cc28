// A bot on matrix-bot-sdk that answers «!ping WORD» with «pong WORD». It reads BOT_HOMESERVER, BOT_TOKEN, and BOT_STORE,
// the file in which it keeps how far it has read.
require("./without_cryptography.js");
const { AutojoinRoomsMixin, LogLevel, LogService, MatrixClient, SimpleFsStorageProvider } = require("matrix-bot-sdk");

LogService.setLevel(LogLevel.WARN);
const { BOT_HOMESERVER, BOT_TOKEN, BOT_STORE } = process.env;
const client = new MatrixClient(BOT_HOMESERVER, BOT_TOKEN, new SimpleFsStorageProvider(BOT_STORE));
AutojoinRoomsMixin.setupOnClient(client);
client.on("room.message", async (room, event) => {
  const question = event.content?.body?.match(/^!ping (.*)$/);
  if (question && event.sender !== (await client.getUserId())) {
    await client.replyText(room, event, `pong ${question[1]}`);
  }
});
// Its store writes into its file in place: an end in the middle of that would leave none of it.
process.on("SIGTERM", () => process.exit(0));
client.start().catch((error) => {
  console.error(error);
  process.exit(1);
});

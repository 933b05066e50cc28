"""A plugin of maubot that answers «!ping WORD» with «pong WORD»."""

from maubot import MessageEvent, Plugin
from maubot.handlers import command


class PingBot(Plugin):
    @command.new("ping")
    @command.argument("word", pass_raw=True)
    async def ping(self, event: MessageEvent, word: str) -> None:
        await event.reply(f"pong {word}")

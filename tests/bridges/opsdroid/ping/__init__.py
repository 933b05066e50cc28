"""A skill of opsdroid that answers «!ping WORD» with «pong WORD»."""

from opsdroid.events import Reply
from opsdroid.matchers import match_regex
from opsdroid.skill import Skill


class PingSkill(Skill):
    @match_regex(r"^!ping (?P<word>.*)$")
    async def ping(self, message):
        await message.respond(Reply(text=f"pong {message.regex.group('word')}", linked_event=message))

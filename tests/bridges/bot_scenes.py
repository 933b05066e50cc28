"""Bots on three frameworks that answer «!ping WORD» with «pong WORD», while Hearth is killed and they are restarted.

    bot_scenes.py DIRECTORY BINARY matrix-bot-sdk|maubot|opsdroid INTERPRETER
"""

import json

import house as houses
from house import HERE, Person, done, machine

LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"level": "INFO", "handlers": ["console"]},
}


def main(house, framework, interpreter):
    alice, account = Person(house.open_line().url, "alice"), Person(house.url, "bot")
    room = alice.create(preset="private_chat", invite=[account.id])
    line = house.open_line()
    add = {"matrix-bot-sdk": add_bot_sdk, "maubot": add_maubot, "opsdroid": add_opsdroid}[framework]
    bot = add(house, interpreter, line.url, account, room)
    start(bot, line)
    alice.wait_for("the bot to join", lambda: alice.sees_member(room, account.id))
    asked = []
    ask(alice, account, room, asked, ["one", "two"])
    done("the bot is invited, joins and answers")
    house.kill()
    house.start_again()
    ask(alice, account, room, asked, ["three", "four"])
    done("the bot answers after Hearth was killed")
    bot.stop()
    if framework == "opsdroid":
        # It passes over what is said while it is away, by intent: it looks at nothing of its first sync.
        start(bot, line)
    else:
        asked += [(alice.say(room, f"!ping {word}"), f"pong {word}") for word in ("five", "six")]
        start(bot, line)
        wait_for_answers(alice, account, room, asked)
    ask(alice, account, room, asked, ["seven", "eight"])
    done("the bot is restarted, and answers each question once")


def start(bot, line):
    """Starts it and waits until it listens, that is, syncs for news."""
    before = len(line.asked)
    bot.start()
    bot.wait_for("it listens", lambda: any("/sync?" in path and "since=" in path for path in line.asked[before:]))


def ask(alice, account, room, asked, words):
    for word in words:
        asked.append((alice.say(room, f"!ping {word}"), f"pong {word}"))
        wait_for_answers(alice, account, room, asked)


def wait_for_answers(alice, account, room, asked):
    alice.wait_for("all answers", lambda: len(answers(alice, account, room)) >= len(asked))
    # Two questions at once may be answered in any order.
    assert sorted(answers(alice, account, room)) == sorted(asked), (answers(alice, account, room), asked)


def answers(alice, account, room):
    """To which event the bot has answered what. Some frameworks quote the question before it."""
    mine = [event["content"] for event in alice.messages(room) if event["sender"] == account.id]
    return [(content["m.relates_to"]["m.in_reply_to"]["event_id"], content["body"].split("\n")[-1]) for content in mine]


def add_bot_sdk(house, node, url, account, _room):
    store = str(house.directory / "bot.json")
    environment = {"BOT_HOMESERVER": url, "BOT_TOKEN": account.token, "BOT_STORE": store}
    return house.add_program("bot", [node, HERE / "js" / "bot.js"], environment)


def add_maubot(house, python, url, account, _room):
    configuration = {
        "user": {
            "credentials": {"id": account.id, "homeserver": url, "access_token": account.token, "device_id": None},
            "sync": True,
            "appservice": False,
            "hs_token": None,
            "autojoin": True,
            # It would set them while it syncs already, and before its plugin hears of anything.
            "displayname": "disable",
            "avatar_url": "disable",
            # It is invited before it has started, and asked while it is away.
            "ignore_initial_sync": False,
            "ignore_first_sync": False,
        },
        "database": "sqlite:bot.db",
        "logging": LOGGING,
    }
    # JSON is YAML.
    place = house.directory / "maubot.yaml"
    place.write_text(json.dumps(configuration))
    command = [python, "-m", "maubot.standalone", "--config", place, "--meta", HERE / "maubot" / "maubot.yaml"]
    return house.add_program("bot", command)


def add_opsdroid(house, python, url, account, room):
    configuration = {
        "logging": {"level": "info", "console": True},
        "welcome-message": False,
        "module-path": str(house.directory / "modules"),
        "web": {"host": "127.0.0.1", "port": machine.free_port()},
        "connectors": {
            "matrix": {
                "mxid": account.id,
                "access_token": account.token,
                "homeserver": url,
                "rooms": {"main": room},
            }
        },
        "skills": {"ping": {"path": str(HERE / "opsdroid" / "ping")}},
    }
    place = house.directory / "configuration.yaml"
    place.write_text(json.dumps(configuration))
    home = str(house.directory / "home")
    folders = {name: home for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")}
    return house.add_program("bot", [python, "-m", "opsdroid", "start", "-f", place], folders)


if __name__ == "__main__":
    houses.play(main)

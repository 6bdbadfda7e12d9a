"""python-socketio's asyncio client, over WebSocket and over polling alone."""

import socketio

from lib import Inbox, config, run, say, within

EVENTS = ["message:new", "message:status", "typing:indicator", "error", "resync"]


class Client:
    def __init__(self):
        self.sio = socketio.AsyncClient(reconnection=False)
        self.inbox = Inbox()
        for name in EVENTS:
            self.sio.on(name, lambda data, name=name: self.inbox.put(name, data))
        self.sio.on("connect_error", lambda data: self.inbox.put("connect_error", data))

    async def open(self, url, transports, **auth):
        await within(self.sio.connect(url, auth={"token": config["token"], **auth}, transports=transports, wait_timeout=20))
        return self

    async def ask(self, name, data):
        return await within(self.sio.call(name, data, timeout=20))

    async def contents(self, last):
        """The contents of the messages up to `last`."""
        found = []
        while not found or found[-1] != last:
            found.append((await self.inbox.take("message:new"))["message"]["content"])
        return found


async def main(report):
    first, second = config["realtime"][:2]
    web = await Client().open(first, ["websocket"])
    poll = await Client().open(second, ["polling"])
    report["transports"] = [web.sio.transport(), poll.sio.transport()]
    seq = await say("one")
    await say("two")
    report["room"] = [await client.contents("two") for client in (web, poll)]
    report["joined"] = [await web.ask("conversation:join", {"conversationId": config["contact"]}),
                        await poll.ask("conversation:join", config["contact"])]
    await poll.sio.emit("typing:start", {"conversationId": config["contact"]})
    report["typing"] = await web.inbox.take("typing:indicator")
    report["read"] = await poll.ask("message:read", {"conversationId": config["contact"]})
    report["status"] = await web.inbox.take("message:status", lambda s: s["status"] == "read")
    report["unknown"] = await web.ask("no:such", {})

    # Disconnected while a message arrives; resumed on the other node with `last_seq`.
    await web.sio.disconnect()
    await say("three")
    again = await Client().open(second, ["websocket"], last_seq=seq)
    report["resumed"] = await again.contents("three")

    refused = Client()
    try:
        await within(refused.sio.connect(first, auth={"token": "bad"}, transports=["websocket"]))
        report["refused"] = "it got in"
    except socketio.exceptions.ConnectionError:
        report["refused"] = await refused.inbox.take("connect_error")
    await poll.sio.disconnect()
    await again.sio.disconnect()


run(main)

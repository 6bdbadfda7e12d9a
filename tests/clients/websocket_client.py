"""The Python library `websockets` on the transport /ws."""

import json

import websockets

from lib import Inbox, config, run, say, within


class Client:
    """One socket. A frame with an `id` is answered by `ack` or `error` with that id."""

    def __init__(self, socket):
        self.socket, self.inbox, self.number = socket, Inbox(), 0

    @classmethod
    async def open(cls, url, query=""):
        address = url.replace("http", "ws", 1) + "/ws?token=" + config["token"] + query
        return cls(await within(websockets.connect(address)))

    async def take(self, wanted):
        while True:
            frame = json.loads(await within(self.socket.recv()))
            if wanted(frame):
                return frame

    async def ask(self, event, data):
        self.number += 1
        await self.socket.send(json.dumps({"event": event, "data": data, "id": self.number}))
        return await self.take(lambda frame: frame.get("id") == self.number)

    async def contents(self, last):
        found = []
        while not found or found[-1] != last:
            frame = await self.take(lambda frame: frame["event"] == "message:new")
            found.append(frame["data"]["message"]["content"])
        return found


async def main(report):
    first, second = config["realtime"][:2]
    one, two = await Client.open(first), await Client.open(second)
    seq = await say("one")
    await say("two")
    report["room"] = [await client.contents("two") for client in (one, two)]
    report["joined"] = [await client.ask("conversation:join", {"conversationId": config["contact"]}) for client in (one, two)]
    await one.socket.send(json.dumps({"event": "typing:start", "data": {"conversationId": config["contact"]}}))
    report["typing"] = await two.take(lambda frame: frame["event"] == "typing:indicator")
    report["read"] = await one.ask("message:read", {"conversationId": config["contact"]})
    report["status"] = await two.take(lambda frame: frame["event"] == "message:status" and frame["data"]["status"] == "read")
    report["unknown"] = await two.ask("no:such", {})
    await one.socket.close()
    await say("three")
    again = await Client.open(second, f"&last_seq={seq}")
    report["resumed"] = await again.contents("three")
    try:
        await within(websockets.connect(first.replace("http", "ws", 1) + "/ws?token=bad"))
        report["refused"] = "it got in"
    except websockets.exceptions.InvalidStatus as refusal:
        report["refused"] = {"status": refusal.response.status_code, "code": json.loads(refusal.response.body)["code"]}
    await two.socket.close()
    await again.socket.close()


run(main)

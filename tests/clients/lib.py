"""Shared by the scripts: settings, bounded waits, REST calls, and the report on the last line."""

import asyncio
import json
import os
import sys

import aiohttp

LIMIT = 20  # seconds
config = json.loads(os.environ["CONFIG"])


async def say(content):
    """Creates a customer's message and returns its sequence."""
    body = {"contact_id": config["contact"], "role": "user", "platform": "facebook", "direction": "inbound", "content": content}
    headers = {"Authorization": "Bearer " + config["token"]}
    async with aiohttp.ClientSession() as session:
        async with session.post(config["gateway"] + "/api/v1/messages", json=body, headers=headers) as answer:
            text = await answer.text()
            assert answer.status == 201, text
            return json.loads(text)["seq"]


async def within(awaitable):
    return await asyncio.wait_for(awaitable, LIMIT)


class Inbox:
    """Received events, by name."""

    def __init__(self):
        self.queues = {}

    def queue(self, name):
        return self.queues.setdefault(name, asyncio.Queue())

    def put(self, name, data):
        self.queue(name).put_nowait(data)

    async def take(self, name, wanted=lambda data: True):
        """The next event of this name that `wanted` accepts."""
        async def look():
            while True:
                data = await self.queue(name).get()
                if wanted(data):
                    return data
        return await within(look())

    def drain(self, name):
        found = []
        while not self.queue(name).empty():
            found.append(self.queue(name).get_nowait())
        return found


def run(main):
    report = {}
    try:
        asyncio.run(main(report))
    except BaseException:
        print("so far:", json.dumps(report), file=sys.stderr)
        raise
    print(json.dumps(report))

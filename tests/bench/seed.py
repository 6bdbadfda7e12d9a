"""The data of the benchmark of reads, the same every time: 200,000 messages of one company.

Usage: seed.py write <folder>                       writes contacts.ndjson and messages.ndjson
       seed.py post <folder> <gateway> <token>      posts them, and prints the busy contact's id

20,000 messages of Instagram over 500 contacts; 1,000 of Facebook with one busy contact; 179,000 of
four platforms over 2,000 other contacts. Their times are a second apart.
"""

import datetime
import http.client
import json
import os
import sys
import urllib.parse

COMPANY = "a" * 24
INSTAGRAM, BUSY, OTHER = 20_000, 1_000, 179_000
INSTAGRAM_CONTACTS, OTHER_CONTACTS = 500, 2_000
CONTENT_LENGTH = 120
WORDS = (
    "hello thanks the dog cat vet appointment tomorrow please can we move price food order today"
).split()
FIRST = datetime.datetime(2026, 1, 1)
# Messages of one request.
BATCH = 500


class Random:
    """A small generator, so that the data do not depend on Python's version."""

    def __init__(self):
        self.state = 12345

    def below(self, limit):
        self.state = (self.state * 1103515245 + 12345) % 2**32
        return self.state * limit >> 32


def identifier(prefix, number):
    return prefix + f"{number:x}".rjust(24 - len(prefix), "0")


BUSY_CONTACT = identifier("c0ffee01", 0)


def instagram_contact(number):
    return identifier("c0ffee02", number)


def other_contact(number):
    return identifier("c0ffee03", number)


def contacts():
    ids = [BUSY_CONTACT]
    ids += map(instagram_contact, range(INSTAGRAM_CONTACTS))
    ids += map(other_contact, range(OTHER_CONTACTS))
    for number, contact in enumerate(ids):
        yield {
            "_id": contact,
            "company_id": COMPANY,
            "fullName": f"Contact {number}",
            "email": f"c{number}@example.test",
            "phone": f"+1000{number}",
            "contactStatus": "active",
            "botSuspended": False,
            "leadStage": "new",
            "social": {"facebookId": f"fb{number}", "instagramId": f"ig{number}"},
            "profile": {"name": f"Contact {number}"},
        }


def messages():
    random = Random()
    kinds = ["instagram"] * INSTAGRAM + ["busy"] * BUSY + ["other"] * OTHER
    for i in range(len(kinds) - 1, 0, -1):
        j = random.below(i + 1)
        kinds[i], kinds[j] = kinds[j], kinds[i]
    instagram = 0
    for number, kind in enumerate(kinds):
        inbound = random.below(2) == 0
        if kind == "instagram":
            contact, platform = instagram_contact(instagram % INSTAGRAM_CONTACTS), "instagram"
            instagram += 1
        elif kind == "busy":
            contact, platform = BUSY_CONTACT, "facebook"
        else:
            contact = other_contact(random.below(OTHER_CONTACTS))
            platform = ["facebook", "telegram", "whatsapp", "web"][random.below(4)]
        time = (FIRST + datetime.timedelta(seconds=number)).isoformat() + ".000Z"
        yield {
            "_id": identifier("5eed", number),
            "company_id": COMPANY,
            "contact_id": contact,
            "role": "user" if inbound else "operator",
            "platform": platform,
            "direction": "inbound" if inbound else "outbound",
            "content": content(random),
            "attachments": [],
            "external_message_id": f"seed-{number}",
            "read": random.below(2) == 0,
            "delivered": not inbound,
            "created_at": time,
            "updated_at": time,
        }


def content(random):
    text = ""
    while len(text) < CONTENT_LENGTH:
        text += WORDS[random.below(len(WORDS))] + " "
    return text[:CONTENT_LENGTH]


def write(folder):
    os.makedirs(folder, exist_ok=True)
    for name, documents in [("contacts", contacts()), ("messages", messages())]:
        with open(f"{folder}/{name}.ndjson", "w") as file:
            for document in documents:
                file.write(json.dumps(document) + "\n")


def read(folder, name):
    with open(f"{folder}/{name}.ndjson") as file:
        for line in file:
            yield json.loads(line)


def post_all(folder, gateway, token):
    connection = http.client.HTTPConnection(urllib.parse.urlparse(gateway).netloc)

    def post(path, body):
        headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
        connection.request("POST", "/api/v1" + path, json.dumps(body), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status not in (200, 201):
            sys.exit(f"{path}: {response.status} {answer}")
        return answer

    def post_batch(batch):
        answer = post("/messages/batch", {"messages": batch})
        if answer["failed"]:
            sys.exit(str([r for r in answer["results"] if r["status"] != 201][:1]))

    # The gateway gives contacts ids of its own.
    ids = {}
    for contact in read(folder, "contacts"):
        old = contact.pop("_id")
        contact.pop("company_id")
        ids[old] = post("/contacts", contact)["contact"]["_id"]
    batch = []
    for message in read(folder, "messages"):
        batch.append({
            "contact_id": ids[message["contact_id"]],
            # An operator's message would go to the bot.
            "role": "assistant" if message["role"] == "operator" else message["role"],
            "platform": message["platform"],
            "direction": message["direction"],
            "content": message["content"],
            "external_message_id": message["external_message_id"],
            "created_at": message["created_at"],
        })
        if len(batch) == BATCH:
            post_batch(batch)
            batch = []
    if batch:
        post_batch(batch)
    print(ids[BUSY_CONTACT])


match sys.argv[1:]:
    case ["write", folder]:
        write(folder)
    case ["post", folder, gateway, token]:
        post_all(folder, gateway, token)
    case _:
        sys.exit(__doc__)

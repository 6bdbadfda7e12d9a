"""Enters the baseline's read data through the REST API: contacts, then messages in batches. Prints the id of the contact
with the most messages of one platform. Usage: seed.py <gateway> <token> <folder of messages.ndjson and contacts.ndjson>"""

import http.client
import json
import sys
import urllib.parse

BATCH = 500
gateway, token, folder = sys.argv[1:]
connection = http.client.HTTPConnection(urllib.parse.urlparse(gateway).netloc)


def post(path, body):
    headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
    connection.request("POST", "/api/v1" + path, json.dumps(body), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status not in (200, 201):
        sys.exit(f"{path}: {response.status} {answer}")
    return answer


ids, hot = {}, None
for line in open(folder + "/contacts.ndjson"):
    contact = json.loads(line)
    old = contact.pop("_id")
    contact.pop("company_id")
    ids[old] = post("/contacts", contact)["contact"]["_id"]
    hot = hot or ids[old]
batch = []


def send():
    answer = post("/messages/batch", {"messages": batch})
    if answer["failed"]:
        sys.exit(str([r for r in answer["results"] if r["status"] != 201][:1]))
    batch.clear()


for line in open(folder + "/messages.ndjson"):
    message = json.loads(line)
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
        send()
if batch:
    send()
print(hot)

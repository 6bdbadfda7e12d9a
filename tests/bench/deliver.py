"""Operators' messages that a running system brings to its stub bot a second, which answers at once.

Usage: deliver.py <run.json> <label> <messages> <conversations>

Posts the messages in batches, waits until the last one is delivered, and prints one line of JSON. The
time counts from the first `delivered_at` to the last, so that nothing of the posting is in it.
"""

import datetime
import json
import sys
import time
import urllib.error
import urllib.request

LIMIT_SECONDS = 300
PAUSE_SECONDS = 0.5
# Messages of one request.
BATCH = 200

with open(sys.argv[1]) as file:
    api = json.load(file)["gateway"] + "/api/v1"
label, messages, conversations = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
token = None


def call(method, path, body=None):
    request = urllib.request.Request(api + path, method=method)
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", "Bearer " + token)
    try:
        with urllib.request.urlopen(request, json.dumps(body).encode() if body else None) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode()}")


def register():
    global token
    body = {
        "company_name": "Benchmark",
        "fullName": "Ada Brown",
        "email": f"bench{time.time_ns()}@example.com",
        "password": "a long enough password",
    }
    token = call("POST", "/auth/register", body)["accessToken"]
    call("PUT", "/integrations/facebook", {"access_token": "token-of-the-benchmark"})
    person = {"fullName": "Ada Brown", "social": {"facebookId": "1784"}}
    return [call("POST", "/contacts", person)["contact"]["_id"] for _ in range(conversations)]


def post(contacts):
    """Posts all messages, and returns the id of each conversation's last one."""
    last = {}
    for first in range(0, messages, BATCH):
        numbers = range(first, min(first + BATCH, messages))
        batch = [
            {
                "contact_id": contacts[n % conversations],
                "role": "operator",
                "direction": "outbound",
                "platform": "facebook",
                "content": f"message {n}",
            }
            for n in numbers
        ]
        answer = call("POST", "/messages/batch", {"messages": batch})
        for n, result in zip(numbers, answer["results"]):
            last[contacts[n % conversations]] = result["messageData"]["_id"]
    return last


def delivered_at(contact):
    """When the conversation's messages were delivered; None where one was not."""
    times, cursor = [], ""
    while True:
        page = call("GET", f"/messages?contact_id={contact}&limit=100{cursor}")
        for message in page["messages"]:
            at = (message.get("delivery") or {}).get("delivered_at")
            times.append(datetime.datetime.fromisoformat(at) if at else None)
        if not page.get("next_cursor"):
            return times
        cursor = "&cursor=" + page["next_cursor"]


contacts = register()
last = post(contacts)
begin = time.monotonic()
for contact, message in last.items():
    while call("GET", "/messages/" + message)["messageData"]["delivery"]["state"] != "delivered":
        if time.monotonic() - begin > LIMIT_SECONDS:
            sys.exit(f"message {message} is not delivered after {LIMIT_SECONDS} s")
        time.sleep(PAUSE_SECONDS)
times = [at for contact in contacts for at in delivered_at(contact)]
missing = messages - len(times) + times.count(None)
if missing:
    sys.exit(f"{missing} messages are not delivered although later ones are")
seconds = (max(times) - min(times)).total_seconds()
result = {
    "scenario": "deliver",
    "label": label,
    "messages": messages,
    "conversations": conversations,
    "per_s": (messages - 1) / seconds,
}
print(json.dumps(result))

"""Waits until the persister of a running system has written all events that were accepted.

Usage: caught_up.py <run.json>
"""

import json
import sys
import time
import urllib.request

LIMIT_SECONDS = 120
PAUSE_SECONDS = 0.2

with open(sys.argv[1]) as file:
    url = json.load(file)["services"]["persister"][0] + "/health"


def events_behind():
    with urllib.request.urlopen(url) as answer:
        detail = json.load(answer)["checks"]["lag"]["detail"]
    return detail["pending"] + detail["in_work"] if isinstance(detail, dict) else 0


start = time.monotonic()
at_first = behind = events_behind()
while behind and time.monotonic() - start < LIMIT_SECONDS:
    time.sleep(PAUSE_SECONDS)
    behind = events_behind()
seconds = time.monotonic() - start
if behind:
    sys.exit(f"the persister is still {behind} events behind after {seconds:.0f} s")
print(f"{'':26}persister: {at_first} events behind at the end, caught up after {seconds:.1f} s")

"""Shows results of the load generator.

Usage: summary.py --lines          one line for each result on stdin, as it comes
       summary.py <file> …         a table of the medians, and petbuddy's ratio to the others
"""

import collections
import json
import statistics
import sys

OURS = "petbuddy"
QUERIES = {"list": "pages of 50", "get": "messages by id", "conversations": "conversations"}


def figures(result):
    """The figures of one result: (what it is, transport or None, the number)."""
    scenario = result["scenario"]
    if scenario == "ingest":
        at = f"{result['connections']} connections"
        yield f"creates/s, {at}", None, result["req_per_s"]
        yield f"ms of a create, p99, {at}", None, result["latency"].get("p99_ms")
    elif scenario == "fanout":
        at = f"{result['rate']:g} messages/s to {result['sockets']} sockets"
        p99 = result["end_to_end"].get("p99_ms")
        yield f"deliveries/s, {at}", result["transport"], result["deliveries_per_s"]
        yield f"ms of a delivery, p99, {at}", result["transport"], p99
    elif scenario == "fanout-max":
        what = f"highest deliveries/s, {result['sockets']} sockets"
        yield what, result["transport"], result["max_deliveries_per_s"]
    elif scenario == "deliver":
        at = f"{result['conversations']} conversations"
        yield f"messages to the bot/s, {at}", None, result["per_s"]
    elif scenario == "idle":
        for step in result["steps"]:
            if step["kib_per_socket"] is not None:
                what = f"KiB of an idle socket of {step['sockets']}"
                yield what, result["transport"], step["kib_per_socket"]
    elif scenario == "reads":
        for query, what in QUERIES.items():
            if query in result:
                at = f"{result['connections']} connections"
                yield f"{what}/s, {at}", None, result[query]["req_per_s"]


def faults(result):
    """Counts that ought to be 0: (what it is, the number)."""
    scenario = result["scenario"]
    if scenario == "ingest":
        yield "failed requests", result["errors"]
    elif scenario == "fanout":
        # `out_of_order` is none: several requests are under way at once.
        yield "lost deliveries", result["lost"]
        yield "repeated deliveries", result["duplicates"]
        yield "failed requests", result["posts_failed"] + result["posts_unanswered"]
    elif scenario == "reads":
        yield "failed requests", sum(result[q]["errors"] for q in QUERIES if q in result)
    elif scenario == "idle":
        yield "sockets that did not open", result["failed"]
        yield "sockets that the server closed", max(step["closed"] for step in result["steps"])
    if scenario.startswith("fanout"):
        yield "sockets that did not open", result["sockets_failed"]
        yield "sockets that the server closed", result["sockets_closed"]


def name(result):
    return " ".join(filter(None, [result["label"], result.get("transport")]))


def line(result):
    texts = [f"{number:,.2f} {what}" for what, _, number in figures(result) if number is not None]
    texts += [f"{number} {what}" for what, number in faults(result) if number]
    if result.get("above_max_rate"):
        texts.append("more was not tried")
    # One line for the result, and one more for each further figure.
    return "\n".join(
        f"{name(result) if i == 0 else '':26}{text}" for i, text in enumerate(texts)
    )


def table(results):
    values = collections.defaultdict(list)
    for result in results:
        for what, transport, number in figures(result):
            if number is not None:
                values[what, transport, result["label"]].append(number)
    medians = {key: statistics.median(numbers) for key, numbers in values.items()}
    others = [label for label in labels(results) if label != OURS]
    rows = [["median of each", OURS, *others]]
    for (what, transport, label), median in medians.items():
        if label == OURS:
            row = [" ".join(filter(None, [what, transport])), number_of(median)]
            row += [cell(medians, what, transport, other) for other in others]
            rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(row[1:], widths[1:])]
        print("   ".join(cells).rstrip())
    if others:
        print(f"\n(N x): {OURS}'s figure is N times this one.")
    for result in results:
        for what, number in faults(result):
            if number:
                print(f"NOT CLEAN: {name(result)}, {result['scenario']}: {number} {what}")


def labels(results):
    return list(dict.fromkeys(result["label"] for result in results))


def cell(medians, what, transport, other):
    theirs = medians.get((what, transport, other))
    if theirs is None and other.startswith("express"):
        # The Express backend has one transport, with which both of ours are compared.
        theirs = medians.get((what, "/socket.io/", other))
    if theirs is None:
        return "-"
    ours = medians[what, transport, OURS]
    ratio = f"{ours / theirs:.2f} x" if theirs else "-"
    return f"{number_of(theirs)} ({ratio})"


def number_of(value):
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


if sys.argv[1:] == ["--lines"]:
    for text in sys.stdin:
        print(line(json.loads(text)), flush=True)
else:
    everything = []
    for path in sys.argv[1:]:
        with open(path) as file:
            everything += [json.loads(text) for text in file]
    table(everything)

"""The lab's answers (lab/src/serve/handler.rs) by Python, for gunicorn. Each worker writes a line to READY."""

import json
import os
import threading
import time
from urllib.parse import parse_qs

BODIES = memoryview(b"x" * (1 << 20))
# A worker has threads, and counts them all.
seen = 0
lock = threading.Lock()


def now_us():
    """By the clock that all processes share."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def span(began):
    who = {"pid": os.getpid(), "thread": threading.get_native_id(), "began_us": began, "ended_us": now_us()}
    return 200, "application/json", json.dumps(who).encode() + b"\n"


def burn(ms):
    until = time.thread_time_ns() + ms * 1_000_000
    word = 1
    while time.thread_time_ns() < until:
        for _ in range(100):
            word = (word * 1664525 + 1) & 0xFFFFFFFF


def text(status, what):
    return status, "text/plain", what.encode()


def number(query, name, otherwise, most):
    if name not in query:
        return otherwise
    given = query[name][0]
    if given.isdecimal() and int(given) <= most:
        return int(given)
    raise ValueError(f'{name} is "{given}", it must be a number up to {most}\n')


def reply(path, query, count):
    began = now_us()
    if path == "/":
        return text(200, "hello from the lab\n")
    if path == "/io":
        time.sleep(number(query, "ms", 10, 60_000) / 1000)
        return span(began)
    if path == "/cpu":
        burn(number(query, "ms", 2, 60_000))
        return span(began)
    if path == "/mix":
        if number(query, "n", count, 1 << 64) % 100:
            return text(200, "fast\n")
        time.sleep(0.1)
        return span(began)
    if path == "/body":
        return 200, "application/octet-stream", bytes(BODIES[: number(query, "bytes", 1024, len(BODIES))])
    if path == "/crash":
        if number(query, "n", 1, 1 << 64) % 10_000 == 0:
            os.abort()
        return text(200, "survived\n")
    if path == "/state":
        who = {"pid": os.getpid(), "thread": threading.get_native_id(), "requests": count}
        return 200, "application/json", json.dumps(who).encode() + b"\n"
    return text(404, "there are /, /io, /cpu, /mix, /body, /crash, /state\n")


REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found"}


def app(environ, start_response):
    global seen
    with lock:
        seen += 1
        count = seen
    try:
        query = parse_qs(environ["QUERY_STRING"])
        status, kind, body = reply(environ["PATH_INFO"], query, count)
    except ValueError as bad:
        status, kind, body = text(400, str(bad))
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    start_response(f"{status} {REASONS[status]}", headers)
    return [body]


# The application is loaded by each worker, when it is about to serve.
with open(os.environ["READY"], "a") as ready:
    ready.write(f"{os.getpid()}\n")

import os


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "18"), ("x-worker", str(os.getpid()))])
    return [b"hello from Python\n"]

"""A world of few pids, as its PID 1: thead ends and starts workers all the time, and strangers count the signals they get.

recycled-pids.py THEAD HOME: the last line that it prints is {"signals": …, "rounds": …, "verbs": …}.
"""

import json
import os
import signal
import subprocess
import sys
import time

thead, home = sys.argv[1:]
# Numbers up to 300 are given out once only.
LIMIT, STRANGERS, SECONDS = 700, 120, 12

strangers = set()
signals = rounds = newest = verbs = 0
failed = []


def stranger():
    """A process that tells by its exit code how many signals reached it."""
    global rounds, newest
    try:
        pid = os.fork()
    except BlockingIOError:
        # All numbers are taken at the moment.
        return False
    if pid == 0:
        got = []
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, lambda number, frame: got.append(number))
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            time.sleep(0.1)
        os._exit(min(len(got), 100))
    strangers.add(pid)
    rounds += pid < newest
    newest = pid
    return True


def collect(options):
    """Counts for the strangers that have ended."""
    global signals
    for pid in list(strangers):
        ended, status = os.waitpid(pid, options)
        if ended:
            strangers.discard(pid)
            signals += 1 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def pause():
    """Strangers come and go."""
    collect(os.WNOHANG)
    while len(strangers) < STRANGERS and stranger():
        pass
    time.sleep(0.02)


def say(*words):
    global verbs
    verb = subprocess.Popen([thead, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while verb.poll() is None:
        pause()
    verbs += 1
    said = verb.stdout.read()
    if verb.returncode:
        failed.append([words, said])
    return verb.returncode


with open("/proc/sys/kernel/pid_max", "w") as limit:
    limit.write(str(LIMIT))
os.environ["THEAD_HOME"] = home
restart = {"intensity": {"restarts": 10000, "period": "60s"}, "backoff": {"first": "1ms", "max": "1ms"}}
config = {"service": {
    "short": {"run": "sleep 0.05", "instances": 6, "ready": {"delay": "0s"}, "restart": restart},
    "long": {"run": "sleep 1000", "instances": 3, "ready": {"delay": "0s"}, "stop": {"timeout": "2s"}},
}}
with open(os.path.join(home, "thead.json"), "w") as file:
    json.dump(config, file)
daemon = subprocess.Popen([thead, "daemon"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while say("daemon", "status"):
    assert daemon.poll() is None and verbs < 100, "the daemon does not come up"
failed.clear()
say("apply", os.path.join(home, "thead.json"))
end = time.monotonic() + SECONDS
while time.monotonic() < end:
    say("restart", "long")
    say("scale", "long", "1")
    say("scale", "long", "3")
    say("stop", "short")
    say("start", "short")
say("daemon", "stop")
daemon.wait()
collect(0)
print(*failed, sep="\n")
print(json.dumps({"signals": signals, "rounds": rounds, "verbs": verbs, "failed": len(failed)}))

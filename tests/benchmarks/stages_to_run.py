"""Stages for test_card: one that says what this machine is, one that is right, and every way to end badly."""

import os
import resource
import signal
import subprocess
import time

from benchmarks.gpu.stages import Skipped


def fine(options):
    yield {"case": "fine", "seconds_allowed": options.seconds}


def interrupts_itself(options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        yield {"case": "interrupted"}


def hangs(options):
    child = subprocess.Popen(["sleep", "600"])
    yield {"case": "before it hangs", "child": child.pid}
    time.sleep(600)


def crashes(options):
    yield {"case": "before it crashes"}
    with options.journal.open("a") as lines:
        lines.write('{"stage": "crashes", "case": "half a li')
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves(options):
    yield {"case": "before it leaves"}
    os._exit(3)


def fails(options):
    yield {"case": "before it fails"}
    raise ValueError("said why")


def skips(options):
    raise Skipped("nothing to run it with")
    yield

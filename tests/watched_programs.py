"""Programs that a watch runs in tests. `python watched_programs.py NAME [WORD]`; standard library alone."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import time

STEP_SECONDS, TOKENS = 0.02, 4096


def steps(count: str = "60") -> None:
    """nanoGPT's lines; tells at its end what it counted itself."""
    print("number of parameters: 123.59M")
    print(f"tokens per iteration will be: {TOKENS:,}", flush=True)
    begun = before = time.perf_counter()
    for step in range(int(count)):
        time.sleep(STEP_SECONDS)
        now = time.perf_counter()
        print(f"iter {step}: loss {9 - step / 100:.4f}, time {(now - before) * 1e3:.2f}ms, mfu 3.00%", flush=True)
        before = now
    print(f"own rate {TOKENS * int(count) / (before - begun):.1f}", flush=True)


def bar(count: str = "60") -> None:
    """tqdm's bar, drawn over itself on standard error."""
    begun = time.perf_counter()
    for step in range(1, int(count) + 1):
        time.sleep(STEP_SECONDS)
        took = int(time.perf_counter() - begun)
        sys.stderr.write(f"\r{100 * step // int(count):3d}%|##  | {step}/{count} [00:{took:02d}<00:09, 9.99s/it]")
        sys.stderr.flush()
    sys.stderr.write("\n")


def hooked(count: str = "60") -> None:
    from rigbench import hooks

    for _ in range(int(count)):
        time.sleep(STEP_SECONDS)
        hooks.step(tokens=1000)


def clocked(how: str, by: str, count: str = "60") -> None:
    """Times its steps by the clock of the day, which is put on by so many seconds in the midst."""
    from rigbench import hooks

    begun, before = time.monotonic(), time.time()
    for step in range(int(count)):
        time.sleep(STEP_SECONDS)
        if step == int(count) // 2:
            with open(os.environ["DAY_CLOCK_AHEAD"], "w") as file:
                file.write(by)
        now, loss = time.time(), f"loss {9 - step / 100:.4f}"
        if how == "hook":
            hooks.step(tokens=TOKENS)
        elif how == "dated":
            print(f"{datetime.datetime.fromtimestamp(now):%Y-%m-%d %H:%M:%S.%f} step {step}/{count} {loss}", flush=True)
        elif how == "step time":
            print(f"step {step}/{count} {loss} dt {(now - before) * 1e3:.2f}ms", flush=True)
        elif how == "rate":
            print(f"step {step}/{count} | {loss} | tok/s {TOKENS / (now - before):.1f}", flush=True)
        before = now
    print(f"own rate {TOKENS * int(count) / (time.monotonic() - begun):.1f}", flush=True)


def broken(count: str = "40") -> None:
    for step in range(int(count)):
        time.sleep(STEP_SECONDS)
        print(f"step {step} loss {'nan' if step > 20 else '2.5'} dt {STEP_SECONDS * 1e3:.1f}ms", flush=True)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stubborn() -> None:
    """Ignores what asks it to end, and says so; ends by itself when it was asked twice, or after a minute."""
    heard: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: (heard.append(number), print(f"heard {number}", flush=True)))
    print("ready", flush=True)
    end = time.monotonic() + 60
    while len(heard) < 2 and time.monotonic() < end:
        time.sleep(0.1)


def away() -> None:
    """Goes on in a process of its own when the first one has ended."""
    if os.fork():
        print("leaving", flush=True)
        os._exit(5)
    time.sleep(0.6)
    print("still here", flush=True)


def flood(megabytes: str = "40") -> None:
    line = "x" * 1023 + "\n"
    for _ in range(int(megabytes) << 10):
        sys.stdout.write(line)
    print("the end")


def binary() -> None:
    sys.stdout.buffer.write(bytes(range(256)) * 400 + b"\n")


def asks() -> None:
    print(f"got {input('? ')!r} on a terminal: {sys.stdout.isatty()}, {os.get_terminal_size()}", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

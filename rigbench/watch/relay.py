"""Holds a command's streams: copies what it writes, hands signals and keys in, and outlives rigbench.

Started by rigbench.watch.session as a file (python -I -S relay.py), in a session of its own and without any other
module of rigbench: it takes few megabytes, and nothing that ends rigbench reaches it. Over a socket it is told

    {"keys": text}  {"signal": number}  {"window": true}  {"panel": text or ""}
    {"line": text}

and tells {"started": pid}, {"failed": words}, {"ended": code}, {"drained": true, "left": whether others go on}. When
the socket ends, rigbench is gone: the terminal is made as it was, and the command goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import re
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time

CHUNK = 1 << 16
WAITING_CHUNKS = 16  # for a reader that is slow; then the command waits, as it would without us
QUIET_SECONDS = 0.05  # after the command's end: whatever it wrote has been read by then
PANEL_ROWS, LEAST_ROWS = 1, 8
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# What ends in the middle of an escape sequence, or of a character in UTF-8.
UNFINISHED = re.compile(rb"(?:\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,400})?|[\xc0-\xff][\x80-\xbf]{0,2})\Z")
WHOLE_SCREEN = re.compile(rb"\x1b\[\?(?:1049|1047|47)([hl])")
WHOLE = re.compile(rb"(?:[\xc0-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2})\Z")


class Tape:
    """What the command wrote, in files of bounded size, and when each piece came: `output.N` beside `times.N`.

    An entry of times is (seconds of the monotonic clock, bytes of output until then), as <dQ. Two pairs are kept.
    """

    MOST_BYTES, TIME_APART_SECONDS = 8 << 20, 0.01

    def __init__(self, folder: str) -> None:
        self._folder, self._number, self._size, self._at = folder, 0, self.MOST_BYTES, 0.0
        self._output = self._times = open(os.devnull, "wb", buffering=0)  # noqa: SIM115, until there is room for more

    def _next(self) -> None:
        self._number += 1
        self._output, self._times = (
            open(os.path.join(self._folder, f"{name}.{self._number}"), "wb", buffering=0)  # noqa: SIM115
            for name in ("output", "times")
        )
        self._size = 0
        for name in ("output", "times"):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(self._folder, f"{name}.{self._number - 2}"))

    def add(self, piece: bytes) -> None:
        """A full disk costs what rigbench learns, never the command."""
        with contextlib.suppress(OSError):
            if self._size + len(piece) > self.MOST_BYTES:
                self._output.close()
                self._times.close()
                self._next()
            self._output.write(piece)
            self._size += len(piece)
            now = time.monotonic()
            if now - self._at >= self.TIME_APART_SECONDS:
                self._at = now
                self._times.write(struct.pack("<dQ", now, self._size))


class Outlet:
    """Writes to one of rigbench's own streams on a thread, and draws the panel below, where that is a terminal."""

    def __init__(self, fd: int) -> None:
        self._fd, self._terminal = fd, os.isatty(fd)
        self._waiting: queue.Queue[bytes | None] = queue.Queue(WAITING_CHUNKS)
        self.gone, self._panel, self._drawn, self._tail = False, "", False, b""
        self._alternate = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        return self._waiting.full()

    def write(self, piece: bytes) -> None:
        self._waiting.put(piece)

    def panel(self, text: str) -> None:
        """One line at the foot of the terminal; "" gives it back. Drawn between two pieces of output."""
        self._panel = text
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(b"")

    def close(self) -> None:
        """Everything is written, or the reader is gone."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (piece := self._waiting.get()) is not None:
            if self._terminal and piece:
                self._follow(piece)
            if not self.gone:
                self._out(piece)
            if self._terminal and not self.gone:
                self._draw()
        if self._drawn:
            self._panel = ""
            self._draw()

    def _out(self, piece: bytes) -> None:
        try:
            while piece:
                piece = piece[os.write(self._fd, piece) :]
        except OSError:  # the reader went away, as `| head` does, or the terminal was closed
            self.gone = True

    def _follow(self, piece: bytes) -> None:
        """Whether the command has taken the whole screen, and whether a drawing may stand here."""
        text = self._tail + piece
        for taken in WHOLE_SCREEN.findall(text):
            self._alternate = taken == b"h"
        self._tail = text[-512:]

    def _draw(self) -> None:
        if not self._panel and not self._drawn:
            return
        if self._alternate or (UNFINISHED.search(self._tail) and not WHOLE.search(self._tail)):
            return
        rows, _ = window(self._fd)
        if not self._panel or rows < LEAST_ROWS:
            self._out(b"\x1b7\x1b[r\x1b[%d;1H\x1b[2K\x1b8" % rows)
            self._drawn = False
            return
        text = self._panel.encode(errors="replace")
        make_room = b"" if self._drawn else b"\x1bD\x1b[1A"  # not a line feed, before which a terminal puts a return
        self._drawn = True
        self._out(
            make_room
            + b"\x1b7\x1b[1;%dr\x1b[%d;1H\x1b[2K\x1b[?7l%b\x1b[0m\x1b[?7h\x1b8" % (rows - PANEL_ROWS, rows, text)
        )


def window(fd: int) -> tuple[int, int]:
    """(rows, columns) of a terminal."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return 24, 80
    return rows or 24, columns or 80


class Relay:
    """One command from its start to the last thing that it, or what it left behind, writes."""

    def __init__(self, control: socket.socket, folder: str, panel: bool, all_to_stderr: bool) -> None:
        self._control, self._tape, self._has_panel = control, Tape(folder), panel
        self._heard, self._with_rigbench, self._ended = b"", True, False
        self._terminals = [os.isatty(fd) for fd in range(3)]
        self._screen = next((fd for fd in (1, 2, 0) if self._terminals[fd]), None)
        self._modes = termios.tcgetattr(self._screen) if self._screen is not None else None
        self._outlets = {fd: Outlet(fd) for fd in (1, 2)}
        self._to_stderr = all_to_stderr
        self._master: int | None = None
        self._screen_outlet: Outlet | None = None
        self._sources: dict[int, Outlet] = {}
        self._choose = selectors.DefaultSelector()

    def start(self, command: list[str]) -> bool:
        """Whether it could be. Where rigbench has a terminal the command has one, where it has a pipe, a pipe."""
        slave, given, kept, mine = -1, [], [], []
        if any(self._terminals):
            self._master, slave = os.openpty()
            if self._modes is not None:
                termios.tcsetattr(slave, termios.TCSANOW, self._modes)
            # Ours, not the command's: what that leaves behind when it ends is not hung up, and Ctrl-Z can stop it.
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            self._set_window()
        for fd in range(3):
            if self._terminals[fd]:
                given.append(slave)
            elif fd == 0:
                given.append(0)
            else:
                read, write = os.pipe()
                given.append(write)
                mine.append((read, fd))
                kept.append(write)

        def in_front() -> None:
            """In a group of its own, which has the terminal, as a shell's job."""
            os.setpgid(0, 0)
            if slave >= 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
                os.tcsetpgrp(slave, os.getpid())
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])

        try:
            self._child = subprocess.Popen(
                command, stdin=given[0], stdout=given[1], stderr=given[2], preexec_fn=in_front
            )
        except OSError as error:
            self._tell({"failed": os.strerror(error.errno or 0), "missing": isinstance(error, FileNotFoundError)})
            return False
        except ValueError as error:  # a NUL in a word
            self._tell({"failed": str(error), "missing": False})
            return False
        for fd in (*kept, *([slave] if slave >= 0 else [])):
            os.close(fd)
        for read, fd in mine:
            self._sources[read] = self._outlets[2 if self._to_stderr else fd]
        if self._master is not None:
            shown = 2 if self._to_stderr or not self._terminals[1] else 1
            self._sources[self._master] = self._outlets[shown]
            self._screen_outlet = self._outlets[shown] if self._terminals[shown] else None
        self._tell({"started": self._child.pid})
        return True

    def run(self) -> int:
        """Until the command has ended and nobody can write any more. Returns its code, a signal as a shell tells it."""
        wake, tell = os.pipe()
        for fd in (wake, tell):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: self._signal(number))
        self._choose.register(wake, selectors.EVENT_READ)
        self._choose.register(self._control, selectors.EVENT_READ)
        drained = False
        while self._sources or not self._ended:
            timeout = QUIET_SECONDS if self._ended and not drained else None
            for fd, outlet in self._sources.items():
                is_full = outlet.full  # asked once: its thread may make room between two questions
                self._listen(fd, not is_full)
                timeout = 0.01 if is_full else timeout
            came = False
            for key, _ in self._choose.select(timeout):
                if key.fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                elif key.fileobj is self._control:
                    self._hear()
                else:
                    came = self._copy(key.fd) or came
            if not self._ended and (code := self._child.poll()) is not None:
                self._ended = True
                self._tell({"ended": code if code >= 0 else 128 - code})
            if self._ended and not drained and (not came or not self._sources):
                drained = True  # what it started and left behind may go on writing
                self._tell({"drained": True, "left": bool(self._sources)})
        if self._with_rigbench and select.select([self._control], [], [], 0)[0]:
            self._hear()  # the last thing that it had to say
        for outlet in self._outlets.values():
            outlet.close()
        if not drained:
            self._tell({"drained": True})
        code = self._child.returncode
        return code if code >= 0 else 128 - code

    def _listen(self, fd: int, wanted: bool) -> None:
        known = fd in self._choose.get_map()
        if wanted and not known:
            self._choose.register(fd, selectors.EVENT_READ)
        elif known and not wanted:
            self._choose.unregister(fd)

    def _copy(self, fd: int) -> bool:
        try:
            piece = os.read(fd, CHUNK)
        except OSError:  # of a terminal whose last user is gone
            piece = b""
        outlet = self._sources[fd]
        if not piece or (outlet.gone and fd != self._master):
            self._drop(fd)  # a command that writes for nobody is told so, as it would be without us
            return False
        self._tape.add(piece)
        outlet.write(piece)
        return True

    def _drop(self, fd: int) -> None:
        self._listen(fd, False)
        self._sources.pop(fd, None)
        if fd == self._master:
            self._master = None
        os.close(fd)

    def _hear(self) -> None:
        try:
            came = self._control.recv(CHUNK)
        except OSError:
            came = b""
        if not came:
            self._alone()
            return
        *lines, self._heard = (self._heard + came).split(b"\n")
        for line in lines:
            word = json.loads(line)
            if "keys" in word and self._master is not None:
                with contextlib.suppress(OSError):
                    os.write(self._master, word["keys"].encode("latin-1"))
            if "signal" in word:
                self._signal(word["signal"])
            if "window" in word:
                self._set_window()
            if "line" in word:  # above the panel, on a line of its own
                self._outlets[2].write(b"\r\n" + word["line"].encode(errors="replace") + b"\r\n")
            if "panel" in word and self._master is not None and self._screen_outlet:
                self._screen_outlet.panel(word["panel"])

    def _alone(self) -> None:
        """Rigbench is gone: its terminal as it was, and on."""
        self._choose.unregister(self._control)
        self._with_rigbench, self._has_panel = False, False
        if self._master is not None and self._screen_outlet:
            self._screen_outlet.panel("")
        self._set_window()
        if self._screen is not None and self._modes is not None:
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self._screen, termios.TCSANOW, self._modes)

    def _set_window(self) -> None:
        if self._master is None or self._screen is None:
            return
        rows, columns = window(self._screen)
        rows -= PANEL_ROWS if self._has_panel and rows >= LEAST_ROWS else 0
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _signal(self, number: int) -> None:
        """To whoever a terminal would give it to: those in its foreground, else the command's own group."""
        group = self._child.pid
        if self._master is not None:
            with contextlib.suppress(OSError):
                group = os.tcgetpgrp(self._master) or group
        for wanted in dict.fromkeys((group, self._child.pid)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(wanted, number)
                if number != signal.SIGCONT:
                    return

    def _tell(self, word: dict[str, object]) -> None:
        if self._with_rigbench:
            with contextlib.suppress(OSError):
                self._control.sendall(json.dumps(word).encode() + b"\n")


def main(words: list[str]) -> int:
    fd, folder, panel, all_to_stderr, *command = words
    control = socket.socket(fileno=int(fd))
    try:
        relay = Relay(control, folder, panel == "panel", all_to_stderr == "stderr")
    except RuntimeError as error:  # no more threads may run
        control.sendall(json.dumps({"failed": str(error)}).encode() + b"\n")
        return 2
    return relay.run() if relay.start(command) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

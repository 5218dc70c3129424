"""Rigbench's side of the relay: starts it, keeps the terminal, hands over signals and keys, reads what was written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.core.screen import told
from rigbench.watch import relay
from rigbench.watch.steps import names_in

if sys.platform != "win32":
    import termios

HANDED_ON = (*relay.FORWARDED, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
KEYS = 4096


class Piece(NamedTuple):
    """Some of the command's output, and when it had come: seconds of the monotonic clock."""

    at_seconds: float
    text: bytes


class Session:
    """A command under way. Use `with`: the terminal and the signals are as they were after it.

    Raises:
        RigbenchError: the command cannot be started.
    """

    def __init__(self, command: Sequence[str], folder: Path, panel: bool, to_stderr: bool) -> None:
        self.folder, self.code, self.over, self.pid = folder, None, False, 0
        self.left = False  # it ended, and something that it started goes on
        self.asked_to_end = False  # by a signal that ends programs
        self.continued_seconds = 0.0  # when it last went on after a stop, by the monotonic clock
        self._terminal = next((fd for fd in (0, 1, 2) if os.isatty(fd)), None)
        self._keyboard = 0 if os.isatty(0) else None
        self._mine, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        words = [str(theirs.fileno()), str(folder), "panel" if panel else "-", "stderr" if to_stderr else "-"]
        self._relay = subprocess.Popen(
            [sys.executable, "-I", "-S", relay.__file__, *words, *command],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.started_seconds = time.monotonic()
        self._heard = b""
        self._before: dict[int, Any] = {}
        self._modes: list[Any] | None = None
        first = self._next_word()
        if "started" not in first:
            self._relay.wait()
            what = f"{command[0]} cannot be started ({first.get('failed', 'it ended at once')})"
            raise RigbenchError(what, "give the command as you would without rigbench")
        self.pid = first["started"]
        self.tape = Tape(folder)

    def _next_word(self) -> dict[str, Any]:
        while b"\n" not in self._heard:
            came = self._mine.recv(4096)
            if not came:
                return {}
            self._heard += came
        line, _, self._heard = self._heard.partition(b"\n")
        word: dict[str, Any] = json.loads(line)
        return word

    def __enter__(self) -> Session:
        for number in HANDED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        self._take_keyboard()
        if self._keyboard is not None:
            threading.Thread(target=self._read_keys, name="rigbench-keys", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.panel("")
        self._give_keyboard()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._mine.close()

    def poll(self) -> bool:
        """Whether the command has ended and all that it wrote is here."""
        while not self.over and (b"\n" in self._heard or select.select([self._mine], [], [], 0)[0]):
            word = self._next_word()
            if "ended" in word:
                self.code = word["ended"]
            self.left = self.left or word.get("left", False)
            self.over = self.over or not word or "drained" in word
        return self.over

    def wait(self, seconds: float) -> None:
        """Until the relay has something to tell, or so long."""
        if not self.over and b"\n" not in self._heard:
            select.select([self._mine], [], [], seconds)

    def read(self) -> Iterator[Piece]:
        """What it wrote since the last time."""
        return self.tape.read()

    def panel(self, text: str) -> None:
        self._say({"panel": text if self._is_in_front() else ""})

    def line(self, text: str) -> None:
        """A line of rigbench's own on standard error, between the command's, or after them."""
        if self.poll():
            sys.stderr.write(f"{told(text)}\n")
        else:
            self._say({"line": told(text)})

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self._say({"signal": number})

    def _say(self, word: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._mine.sendall(json.dumps(word).encode() + b"\n")

    def _is_in_front(self) -> bool:
        """Whether the terminal is ours to write a panel on and to read keys from."""
        if self._terminal is None:
            return False
        try:
            return os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:
            return False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGWINCH:
            self._say({"window": True})
        elif number == signal.SIGTSTP:
            self.panel("")
            self._give_keyboard()
            self.send(number)
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGCONT:
            self.continued_seconds = time.monotonic()
            self._take_keyboard()
            self.send(number)
        else:
            self.asked_to_end = self.asked_to_end or number not in (signal.SIGUSR1, signal.SIGUSR2)
            self.send(number)

    # The command has a terminal of its own, which echoes; ours passes on each key as it comes, but Ctrl-C and the like.
    def _take_keyboard(self) -> None:
        if self._keyboard is None or not self._is_in_front():
            return
        if self._modes is None:
            self._modes = termios.tcgetattr(self._keyboard)
        modes = termios.tcgetattr(self._keyboard)
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(self._keyboard, termios.TCSANOW, modes)

    def _give_keyboard(self) -> None:
        if self._keyboard is not None and self._modes is not None and self._is_in_front():
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._modes)

    def _read_keys(self) -> None:
        assert self._keyboard is not None
        while not self.over:
            if not self._is_in_front() or not select.select([self._keyboard], [], [], 1.0)[0]:
                threading.Event().wait(0.2)
                continue
            if not self._is_in_front():
                continue
            try:
                keys = os.read(self._keyboard, KEYS)
            except OSError:
                return
            if not keys:
                return
            self._say({"keys": keys.decode("latin-1")})


class Tape:
    """Reads what the relay keeps, from file to file."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self.lost = False  # it wrote faster than anybody could read, so that some was dropped
        self._output: IO[bytes] = io.BytesIO()  # until a file is there to be read: somebody may have removed the first
        self._times: IO[bytes] = io.BytesIO()
        self._at = 0.0

    def read(self) -> Iterator[Piece]:
        while True:
            yield from self._rest()
            names = (name.partition("output.")[2] for name in names_in(self._folder))
            newer = sorted(int(number) for number in names if number.isdecimal() and int(number) > self._number)
            if not newer:
                return
            yield from self._rest()  # written before the next file was begun
            for number in newer:
                with contextlib.suppress(FileNotFoundError):  # it writes faster than we read
                    files = [(self._folder / f"{name}.{number}").open("rb") for name in ("output", "times")]
                    self._output.close()
                    self._times.close()
                    self._output, self._times = files
                    self.lost = self.lost or number > self._number + 1
                    self._number = number
                    break
            else:
                return

    def _rest(self) -> Iterator[Piece]:
        """A piece for every time that was noted; what came without a note has that of the last one."""
        place = self._output.tell()
        text = self._output.read()
        if not text:
            return
        for at, until in struct.iter_unpack("<dQ", self._whole_entries()):
            if until > place:
                yield Piece(at, text[: until - place])
                text, place = text[until - place :], until
            self._at = at
        if text:
            yield Piece(self._at, text)

    def _whole_entries(self) -> bytes:
        came = self._times.read()
        whole = len(came) // 16 * 16
        if whole < len(came):
            self._times.seek(whole - len(came), os.SEEK_CUR)
        return came[:whole]

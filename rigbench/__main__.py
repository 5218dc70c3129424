"""The command line's entry, and its last line of defence: no traceback reaches a user, and Ctrl-C always ends it."""

from __future__ import annotations

# No more is imported here: until main has set its handlers, Ctrl-C is a traceback.
import errno
import io
import os
import signal
import sys

from rigbench.core import signals
from rigbench.core.errors import BAD_INPUT, FINE, INTERNAL, INTERRUPTED, NOTHING, RigbenchError

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes half as long as all of this
    from typing import Any

THE_ANSWER = "standard output"
OF_A_NAME = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
PATIENCE_SECONDS = 1.0
TOO_MANY = "no more processes or threads may run here; end some, or raise `ulimit -u` (a container's limit on pids)"
_answered: list[int] = []  # the signals whose handler has run
_said: list[bool] = []  # there once nothing but the interpreter's end is left


def main() -> None:
    """Run the command line and exit with the contract's code."""
    for number in filter(signals.is_heard, signals.STOP):
        signal.signal(number, _interrupt)
    code = INTERRUPTED
    try:
        try:
            if sys.platform != "win32":  # which wakes nobody up by a pipe
                _watch()
            _open_streams()
            code = _run()
            sys.stdout.flush()
        except OSError as error:  # the reader of our output went away, as `| head` does, or its disk is full
            code = FINE if isinstance(error, BrokenPipeError) else BAD_INPUT
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                if code:
                    _say(f"cannot write the answer ({error.strerror}); free space, or write it elsewhere")
            except OSError:
                os.write(2, b"rigbench: too few files may be open; raise `ulimit -n`\n")
        for number in signals.STOP:
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, lambda *_: os._exit(INTERRUPTED))
        _said.append(True)
    except KeyboardInterrupt:  # while the answer was written, or once more while the first one was being answered
        code = INTERRUPTED
    if code != INTERRUPTED:  # else at once: no thread that hangs is waited for, and children go with us
        _finalize()
    os._exit(code)  # for the interpreter's own end has a part in which no handler is left, and a signal kills it


def _finalize() -> None:
    import atexit
    import contextlib
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()


def _interrupt(number: int, frame: object) -> None:
    _answered.append(number)
    signals.let_go(number)
    raise KeyboardInterrupt(signal.Signals(number).name)


def _watch() -> None:
    """Hear signals on a thread as well, for the main one may not answer, or may lose the answer.

    No handler runs while it is in a call that never returns, as into a driver that hangs: then the end is here. And a
    library may swallow the exception, as one that is being imported: then it is raised again.
    """
    import _thread
    import contextlib
    import threading
    import time

    from rigbench.core import progress

    hear, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)

    def listen() -> None:
        heard = 0
        while os.read(hear, 1):
            time.sleep(PATIENCE_SECONDS)
            if _said:
                os._exit(INTERRUPTED)
            if progress.stopping or signal.getsignal(signal.SIGINT) is not _interrupt:
                continue  # somebody sees to it
            if len(_answered) == heard:
                os.write(2, b"rigbench: interrupted\n")
                os._exit(INTERRUPTED)
            heard = len(_answered)
            _thread.interrupt_main()

    with contextlib.suppress(RuntimeError):  # no more threads may run: then the main one alone hears
        threading.Thread(target=listen, name="rigbench-signals", daemon=True).start()


def _open_streams() -> None:
    """Standard streams that take whatever is written: one that was closed is the null device, for a file that is
    opened later would get its number; what an encoding lacks becomes a question mark."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            buffer = io.BufferedWriter(_Stream(number, "wb", closefd=False))
            by_line = stream.line_buffering or stream.write_through or number == 2
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, "replace", line_buffering=by_line))


class _Stream(io.FileIO):
    """Standard output, whose errors tell that they are its own, or standard error, whose disk may be full and whose
    reader may have gone: what cannot be said there must not keep the answer back."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content) or 0
        except OSError as error:
            if self.fileno() == 2:
                return len(content)
            error.filename = THE_ANSWER
            raise


def _run() -> int:
    try:
        import typer

        from rigbench.cli import app
    except KeyboardInterrupt:
        sys.stderr.write("rigbench: interrupted\n")
        return INTERRUPTED
    try:
        return int(app() or FINE)
    except typer.Exit as error:
        return error.exit_code
    except RigbenchError as error:
        # Bad input is the same for all of torchrun's ranks, of which the first one says it.
        rank, size = (os.environ.get(name, "")[:9] for name in ("RANK", "WORLD_SIZE"))
        if error.exit_code != BAD_INPUT or not (rank.isdecimal() and size.isdecimal() and 0 < int(rank) < int(size)):
            _say(str(error))
        return error.exit_code
    except typer.TyperException as error:
        from rigbench.help import wrong_usage

        _say(wrong_usage(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("rigbench: interrupted\n")
        return INTERRUPTED
    except OSError as error:
        if error.filename == THE_ANSWER or isinstance(error, BrokenPipeError):
            raise  # main says so
        if error.errno in OF_A_NAME and error.filename is not None:
            _say(f"cannot use {os.fsdecode(error.filename)[:80]!r} ({str(error.strerror).lower()}); give another name")
            return BAD_INPUT
        if isinstance(error, BlockingIOError) and error.filename is None:  # of fork
            _say(TOO_MANY)
            return NOTHING
        if error.errno == errno.EIO or _stands_nowhere():
            gone = "the folder one stands in was removed; cd to one that is there"
            _say("a disk or device does not answer; dmesg says more" if error.errno == errno.EIO else gone)
            return BAD_INPUT
        _say(_internal(error))
        return INTERNAL
    except MemoryError:
        _say("not enough memory is free for this; end what takes it, or raise `ulimit -v`")
        return NOTHING
    except Exception as error:  # noqa: BLE001 - the last line of defence
        too_many = isinstance(error, RuntimeError) and "start new thread" in str(error)
        _say(TOO_MANY if too_many else _internal(error))
        return NOTHING if too_many else INTERNAL


def _stands_nowhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _internal(error: Exception) -> str:
    import traceback

    from rigbench.core import home

    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    kept = home.log_error("".join(traceback.format_exception(error)))
    words = " ".join(str(error).split())[:200]
    return f"internal error, {type(error).__name__} at {where}: {words}; please report it{kept}"


def _say(line: str) -> None:
    from rigbench.core.screen import told

    sys.stderr.write(f"rigbench: {told(line)}\n")


if __name__ == "__main__":
    main()

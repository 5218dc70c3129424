"""Is each alarm raised when it should be, once, and delivered without holding anybody up?"""

from __future__ import annotations

import http.server
import json
import signal
import socket
import threading
import time

import msgspec
import pytest

from rigbench import alarms
from rigbench.alarms import Alarm, AlarmOptions, Alarms, Behind, Delivery, DiskLeft, State, due
from rigbench.core.errors import RigbenchError
from rigbench.machine.kernel_log import events, labelled

XID = "[1.0] NVRM: Xid (PCI:0000:01:00): {}, pid=1, name=x, words"
ALARM = Alarm("stall", "fault", "", "no step for 60 s; $(touch broken) `id` \"'", 1.0)


def told(**known) -> list[tuple[str, str, str]]:
    return [(alarm.code, alarm.severity, alarm.text) for alarm in due(State(at_seconds=100.0, **known))]


def test_a_quiet_training_raises_none():
    its = State(
        at_seconds=100.0,
        since_step_seconds=4.0,
        usual_step_seconds=1.0,
        disks=(DiskLeft(path="/data", free_bytes=1000, written_bytes_per_s=1.0),),
        left_seconds=900.0,
        behind=Behind(forecast_low=9.0, forecast_high=12.0, budget_low=8.0, budget_high=10.0),
        kernel=tuple(events(["[1.0] nvme nvme0: I/O 1 QID 4 timeout, aborting"])),
    )
    assert list(due(its)) == []
    assert list(due(State(at_seconds=0.0))) == []


def test_each_cause_has_its_alarm():
    assert told(since_step_seconds=100.0, usual_step_seconds=19.0) == [
        ("stall", "fault", "no step for 1 min 40 s, where one takes 19.0 s")
    ]
    assert told(since_step_seconds=9.0, usual_step_seconds=0.1) == []  # a checkpoint takes that
    assert told(throttled={"GPU1": "too hot"}) == [("throttled", "warning", "GPU1 is slowed down: too hot")]
    assert told(lost={"GPU1": "GPU is lost"}) == [("gpu-lost", "fault", "GPU1 answers no more: GPU is lost")]
    assert told(not_a_number="step 12: loss nan") == [
        ("nan", "fault", "the loss is no number any more: step 12: loss nan")
    ]
    disk = DiskLeft(path="/data", free_bytes=10 << 30, written_bytes_per_s=1e6)
    assert told(disks=(disk,), left_seconds=86400.0) == [
        (
            "disk-full",
            "warning",
            "/data will be full in 2 h 59 min, before the end in 24 h (10 GiB left, 1.00 MB/s)",
        )
    ]
    late = Behind(forecast_low=20.0, forecast_high=22.0, budget_low=8.0, budget_high=10.0)
    assert told(behind=late) == [
        (
            "behind",
            "warning",
            "behind its budget: it will take 20 h to 22 h, and 8 h to 10 h was planned",
        )
    ]


@pytest.mark.parametrize(
    ("number", "severity"), [(79, "fault"), (13, "warning"), (45, "information"), (9999, "warning")]
)
def test_every_xid_is_an_alarm(number, severity):
    (alarm,) = due(
        State(at_seconds=1.0, kernel=tuple(labelled(events([XID.format(number)]), {"0000:01:00.0": "GPU0"})))
    )
    assert (alarm.code, alarm.severity) == ("kernel", severity)
    assert alarm.text.startswith("kernel: GPU0 (0000:01:00.0): ")


def test_an_alarm_is_told_once_while_it_holds_and_again_after_the_hold_off():
    its = Alarms(hold_off_seconds=100.0)
    hot = State(at_seconds=0.0, throttled={"GPU0": "too hot"})

    def check(at: float, state: State = hot) -> int:
        return len(its.check(msgspec.structs.replace(state, at_seconds=at)))

    assert [check(at) for at in (0, 50, 100, 150, 240)] == [1, 0, 0, 0, 0]  # held all the time
    assert check(241, State(at_seconds=0.0)) == 0
    assert check(300) == 0  # back within the hold-off
    assert check(401) == 1
    assert check(402, State(at_seconds=0.0, throttled={"GPU0": "x", "GPU1": "x"})) == 1  # another card


def test_memory_does_not_grow_with_what_a_log_makes_up():
    its = Alarms()
    for number in range(3 * alarms.MOST_TOLD):
        its.check(State(at_seconds=float(number), lost={f"GPU{number}": "x"}))
    assert len(its._held) == alarms.MOST_TOLD


def test_a_command_gets_the_words_beside_its_line_never_in_it(tmp_path):
    said: list[str] = []
    command = (
        f'cat > {tmp_path}/stdin; printf "%s|%s|%s" "$RIGBENCH_ALARM" "$RIGBENCH_ALARM_CODE" "$PWD" > {tmp_path}/env'
    )
    delivery = Delivery(AlarmOptions(alert_command=command), said.append)
    delivery.send([ALARM])
    delivery.close(30)
    assert (tmp_path / "stdin").read_text() == ALARM.text + "\n"
    assert (tmp_path / "env").read_text().split("|")[:2] == [ALARM.text, "stall"]
    assert not (tmp_path / "broken").exists()
    assert said == []


@pytest.mark.parametrize(
    ("command", "words"), [("exit 3", "ended with 3"), ("sleep 60 & sleep 60", "had not ended after 0.2 s")]
)
def test_a_command_that_fails_or_hangs_is_said_once(monkeypatch, command, words):
    monkeypatch.setattr(alarms, "COMMAND_SECONDS", 0.2)
    said: list[str] = []
    delivery = Delivery(AlarmOptions(alert_command=command), said.append)
    delivery.send([ALARM, ALARM])
    delivery.close(30)
    assert len(said) == 1
    assert words in said[0]


def test_a_command_that_has_not_ended_with_the_watch_is_ended(tmp_path):
    said: list[str] = []
    delivery = Delivery(AlarmOptions(alert_command=f"mkfifo {tmp_path}/up; exec cat {tmp_path}/up"), said.append)
    delivery.send([ALARM, ALARM])
    while not (tmp_path / "up").exists():
        time.sleep(0.01)
    delivery.close(0.1)
    assert said == ["warning: an alarm was not taken within 0.1 s of the end, and is given up"]
    assert delivery._child is not None
    assert delivery._child.wait() == -signal.SIGKILL


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_words):
        pass


@pytest.fixture
def hook():
    server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    server.got, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def delivered(url: str, count: int = 1) -> list[str]:
    said: list[str] = []
    delivery = Delivery(AlarmOptions(webhook=url), said.append)
    delivery.send([ALARM] * count)
    delivery.close(30)
    return said


def test_a_webhook_gets_json(hook):
    assert delivered(f"http://127.0.0.1:{hook.server_port}/secret") == []
    assert hook.got == [{"text": f"rigbench: {ALARM.text}", "code": "stall", "severity": "fault", "where": ""}]


def test_a_webhook_that_refuses_is_said_once_without_its_secret(hook):
    hook.status = 403
    said = delivered(f"http://127.0.0.1:{hook.server_port}/secret", 3)
    assert len(hook.got) == 3
    assert said == ["warning: the webhook at 127.0.0.1 takes no alarm (Forbidden)"]


def test_a_webhook_that_hangs_costs_the_watcher_nothing(monkeypatch):
    monkeypatch.setattr(alarms, "WEBHOOK_SECONDS", 0.3)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        delivery = Delivery(AlarmOptions(webhook=f"http://127.0.0.1:{deaf.getsockname()[1]}/"), said.append)
        before = time.thread_time()
        delivery.send([ALARM] * (2 * alarms.MOST_WAITING))
        assert time.thread_time() - before < 1.0
        delivery.close(0.8)
        assert any("takes no alarm (timed out)" in line for line in said)
        assert any("faster than they can be delivered" in line for line in said)
        assert said[-1] == "warning: an alarm was not taken within 0.8 s of the end, and is given up"
        assert len(said) == 3


def test_nobody_there_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (said,) = delivered(f"http://127.0.0.1:{port}/")
    assert "Connection refused" in said


@pytest.mark.parametrize("text", ["ftp://x/", "http://", "file:///etc/passwd", "http://a b/", "http://x:99999/", "x"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(RigbenchError, match="is no address"):
        alarms._url(text, "--webhook")


def test_a_disk_that_is_full_within_the_hour_is_told_though_the_end_is_unknown():
    soon, later = (DiskLeft(path="/data", free_bytes=free, written_bytes_per_s=1e6) for free in (10**9, 10**10))
    assert [text for _, _, text in told(disks=(soon, later))] == [
        "/data will be full in 16 min 40 s (954 MiB left, 1.00 MB/s)"
    ]

"""What several test files need: Ctrl-C, a command run in this process, the driver library built once for all."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import msgspec
import pytest
from fakenvml import library

from rigbench import __main__
from rigbench.work.watch import Watch

# Two tests at a time on two cores: a product that waits for both of them takes many times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asserts a time, and so none of hypothesis's examples may.
hypothesis.settings.register_profile("rigbench", deadline=None)
hypothesis.settings.load_profile("rigbench")

QUIET = Path(__file__).parent / "quiet"
# What a shell starts in the background inherits an ignored SIGINT, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup hands down an ignored SIGHUP


@pytest.fixture(scope="session", autouse=True)
def quiet_machine() -> Iterator[None]:
    """Whatever else runs here, no probe of a test is called disturbed: in this process, and in those that it starts."""
    read = Watch.disturbance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "disturbance", lambda *of: msgspec.structs.replace(read(*of), evidence=()))
        patch.setenv("PYTHONPATH", str(QUIET), prepend=os.pathsep)
        patch.setenv("RIGBENCH_KERNEL_LOG", os.devnull)  # what this machine's kernel met is no test's business
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-screens", action="store_true", help="write the screens of tests and README anew")
    parser.addoption("--shots", metavar="DIR", help="where tests/page keeps what a browser shows")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where .ci/run runs the tests, none may be left out: what it lacks is to be installed there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("RIGBENCH_CI") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, which no test may be in CI: {report.longrepr[2] if report.longrepr else ''}"
    return report


def pytest_sessionfinish() -> None:
    """Tests whose process ends slowly are killed by xdist after ten seconds, with what coverage has seen in them."""
    if "rigbench_covered" in sys.modules:
        sys.modules["rigbench_covered"].save()


@pytest.fixture(scope="session")
def built_driver(tmp_path_factory: pytest.TempPathFactory) -> library.FakeDriver:
    if not library.has_compiler():
        pytest.skip(library.NEEDS_COMPILER)
    return library.build(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def fake_driver(built_driver: library.FakeDriver) -> Iterator[library.FakeDriver]:
    """The built library; what it set in this process's environment is undone."""
    before = dict(os.environ)
    yield built_driver
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def rigbench(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command with a home of its own: (exit code, standard output, standard error)."""
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", *map(str, words)])
        code = __main__._run()
        out, err = capsys.readouterr()
        return code, out, err

    return call

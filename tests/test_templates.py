"""Do the files to begin with do what they say, by the programs that they are for?"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from test_compare import run_of

from rigbench import store
from rigbench.cli import COMMANDS
from rigbench.report.profiles import TEMPLATES, template

ROOT = Path(__file__).parents[1]
DOCKERFILES = ("cpu-docker", "cuda-docker")
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "VOLUME", "ENTRYPOINT", "CMD"}


@pytest.fixture
def stubs(tmp_path, monkeypatch) -> Path:
    """A folder of programs that write down how they were called; `calls` has a line each."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return folder


def stub(folder: Path, name: str, does: str = "") -> None:
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> "$CALLS"\n{does}\n')
    path.chmod(0o755)


def calls(folder: Path) -> list[str]:
    path = folder.parent / "calls"
    return path.read_text().splitlines() if path.exists() else []


def sh(name: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess:
    script = tmp_path / "script"
    script.write_text(template(name))
    return subprocess.run(["sh", str(script)], env=os.environ | environment, capture_output=True, text=True)


def test_every_template_is_printed_and_every_file_is_one(rigbench):
    assert set(TEMPLATES.values()) == {path.name for path in (ROOT / "profiles/templates").iterdir()}
    for name in TEMPLATES:
        code, out, err = rigbench("profiles", "--template", name)
        assert (code, err) == (0, "")
        assert out == template(name)
        assert f"rigbench profiles --template {name}" in out
    assert rigbench("profiles", "--template", "nginx")[0] == 2
    assert rigbench("profiles", "rtx-4090", "--template", "ci")[0] == 2


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_call_of_rigbench_in_it_is_one_that_is_taken(name, rigbench):
    """Its command and each of its options, as `rigbench COMMAND --help` lists them."""
    text = template(name).replace("\\\n", " ")
    found = re.findall(
        r"(?:^|[\s\"/])rigbench\"? (run|report|compare|train-probe|doctor|monitor|profiles)\b([^|;)\n]*)", text
    )
    assert found
    for command, rest in found:
        assert command in {entry.name for entry in COMMANDS}
        page = rigbench(command, "--help")[1]
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert option in page, (command, option)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_says_what_docker_reads(name):
    text = template(name).replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = [line.split()[0] for line in lines]
    assert set(words) == INSTRUCTIONS
    assert words[0] == "FROM"
    assert words.index("USER") < words.index("ENTRYPOINT")  # not as root
    for line in lines:
        if line.startswith(("ENTRYPOINT", "CMD")):
            assert json.loads(line.split(maxsplit=1)[1])


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name):
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = beside if beside.exists() else shutil.which("hadolint")
    if not hadolint:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([str(hadolint), "-"], input=template(name), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfiles_steps_end_in_a_rigbench_that_runs(name, tmp_path):
    """Without a container engine: in a folder and an environment of their own, torch taken from this one."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    [site] = (tmp_path / "venv").glob("lib/python3.*/site-packages")
    (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = os.environ | {"PATH": f"{tmp_path}/venv/bin:{os.environ['PATH']}", "PYTHONPATH": ""}
    where = tmp_path / "where"
    where.mkdir()
    ran = []
    for line in template(name).replace("\\\n ", "").splitlines():
        word, _, rest = line.partition(" ")
        if word == "COPY":
            for part in ("rigbench", "profiles"):
                shutil.copytree(ROOT / part, where / part, ignore=shutil.ignore_patterns("__pycache__"))
            for part in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(ROOT / part, where)
        elif word == "ENV":
            environment |= dict(pair.split("=", 1) for pair in rest.split())
        elif word == "RUN" and rest.startswith("pip"):
            assert rest.startswith("pip install --no-cache-dir torch==")
            rest = rest.split(" && ")[1].replace("install", "install --no-deps")
            subprocess.run(["sh", "-ec", rest], cwd=where, env=environment, check=True, capture_output=True)
            ran.append(rest)
        elif word == "ENTRYPOINT":
            [program] = json.loads(rest)
    assert len(ran) == 1
    words = [program, "budget", "--on", "rtx-4090", "-q", "--home", str(tmp_path / "home")]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "EFLOP" in done.stdout
    listed = subprocess.run([program, "profiles", "--template", "ci"], env=environment, capture_output=True, text=True)
    assert listed.stdout == template("ci")  # they are in the package that was installed


def test_a_batch_job_starts_torchrun_once_on_each_host(stubs, tmp_path):
    stub(stubs, "scontrol", 'printf "node7\\nnode8\\n"')
    stub(stubs, "srun", 'shift; exec "$@"')
    stub(stubs, "torchrun", 'echo "home $RIGBENCH_HOME" >> "$CALLS"')
    slurm = {
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_NNODES": "2",
        "SLURM_SUBMIT_DIR": "/scratch",
    }
    done = sh("sbatch", tmp_path, **slurm, SLURM_GPUS_ON_NODE="8")
    assert done.returncode == 0, done.stderr
    assert calls(stubs) == [
        "scontrol show hostnames node[7-8]",
        "srun --kill-on-bad-exit=1 torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-id 42 "
        "--rdzv-endpoint node7:29400 -m rigbench run --quick --label job-42",
        "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-id 42 --rdzv-endpoint node7:29400 "
        "-m rigbench run --quick --label job-42",
        "home /scratch/rigbench",
    ]
    assert "--nproc-per-node 1 " in sh("sbatch", tmp_path, **slurm).stderr or "--nproc-per-node 1 " in calls(stubs)[-2]
    directives = re.findall(r"^#SBATCH (.*)$", template("sbatch"), re.M)
    assert all(re.fullmatch(r"--[a-z-]+(=\S+)?", directive) for directive in directives)


@pytest.mark.parametrize(
    ("code", "says", "drained"),
    [
        (0, "healthy; 2 notes", ""),
        (1, "1 fault: GPU1 fell off the bus", "rigbench: 1 fault: GPU1 fell off the bus"),
        (3, "nothing could be answered", ""),
        (4, "internal error", ""),
        (124, "", "rigbench: the driver did not answer within 50 s"),
    ],
)
def test_a_health_check_drains_on_a_fault_alone(code, says, drained, stubs, tmp_path):
    stub(stubs, "rigbench", f"echo '{says}'; exit {code}")
    stub(stubs, "scontrol")
    stub(stubs, "logger")
    stub(stubs, "hostname", "echo node7")
    done = sh("slurm-health", tmp_path)
    assert done.returncode == 0, done.stderr
    updates = [call for call in calls(stubs) if call.startswith("scontrol")]
    assert updates == ([f"scontrol update NodeName=node7 State=DRAIN Reason={drained}"] if drained else [])
    assert any(call.startswith("logger") for call in calls(stubs)) == (code in (3, 4))


def test_a_health_check_drains_the_one_of_two_hosts_that_has_a_fault(stubs, tmp_path):
    """Each host a namespace with its own name and its own rig, asked by the real doctor."""
    rigs = {"node7": "rigs/dual-rtx4080s-x8x8", "node8": "held_back/hw-slowdown"}
    cases = "".join(f"{name}) rig={ROOT}/tests/{rig};; " for name, rig in rigs.items())
    real = f'case $(hostname -s) in {cases}esac; exec {sys.executable} -m rigbench --replay $rig "$@"'
    stub(stubs, "rigbench", real)
    stub(stubs, "scontrol")
    script = tmp_path / "script"
    script.write_text(template("slurm-health"))
    environment = os.environ | {"RIGBENCH_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    for name in rigs:
        words = ["unshare", "--map-root-user", "--uts", "--net", "sh", "-c", f"hostname {name} && exec sh {script}"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        if "Operation not permitted" in done.stderr:
            pytest.skip("namespaces are not allowed here: a host of its own name is one")
        assert done.returncode == 0, done.stderr
    [update] = [call for call in calls(stubs) if call.startswith("scontrol")]
    assert update.startswith("scontrol update NodeName=node8 State=DRAIN Reason=rigbench: ")
    assert "GPU1 slowed down by hardware slowdown" in update


def test_systemd_takes_the_unit(tmp_path):
    unit = tmp_path / TEMPLATES["systemd"]
    unit.write_text(template("systemd"))
    sections = configparser.ConfigParser(interpolation=None)
    sections.optionxform = str
    sections.read(unit)
    assert sections.sections() == ["Unit", "Service", "Install"]
    assert sections["Service"]["KillSignal"] == "SIGINT"
    if analyze := shutil.which("systemd-analyze"):
        done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True)
        assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])


def test_the_unit_records_until_it_is_told_to_stop(tmp_path):
    line = re.search(r"^ExecStart=(.*)$", template("systemd"), re.M)[1].replace("%S", str(tmp_path))
    (tmp_path / "rigbench-monitor").mkdir()
    words = [sys.executable if word == "rigbench" else word for word in shlex.split(line)[1:]]
    words = [words[0], "-m", "rigbench", *words[1:], "--seconds", "1.5s", "--interval", "0.5s"]
    words.pop(words.index("5s"))
    words.remove("--interval")
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert (tmp_path / "rigbench-monitor" / "readings.jsonl").read_text().count("\n") >= 2


def steps_of(text: str) -> dict[str, str]:
    """The shell of each named step."""
    found = {}
    for name, block in re.findall(r"^      - name: (.*)\n((?:        .*\n?)+)", text, re.M):
        body = re.search(r"run: (?:\|\n)?((?:.*\n?)+)", block)[1]
        found[name] = re.sub(r"^          ", "", body, flags=re.M)
    return found


PROBE = """#!/bin/sh
if [ "$1" = train-probe ]; then
  n=$(( $(cat turn 2>/dev/null || echo 0) + 1 )); echo $n > turn
  cp $n.json home/runs/2026010$n-000000-aaaa.json; cat $n.json; exit 0
fi
exec PYTHON -m rigbench "$@"
"""


def test_the_ci_job_measures_in_turn_and_fails_on_what_got_slower(tmp_path):
    """train-probe is replaced by stored runs; labels and the comparison are the real ones."""
    home = store.Store(tmp_path / "home")
    for number in range(1, 7):
        run = run_of(number, 0.8 if number % 2 == 0 else 1.0, command="train-probe")
        (tmp_path / f"{number}.json").write_bytes(store.encode(run))
    home.runs.mkdir(parents=True)
    for side in ("before", "after"):
        program = tmp_path / f"{side}.venv/bin/rigbench"
        program.parent.mkdir(parents=True)
        program.write_text(PROBE.replace("PYTHON", sys.executable))
        program.chmod(0o755)
    steps = steps_of(template("ci"))
    assert list(steps) == ["set up both sides", "measure in turn", "compare"]
    environment = os.environ | {"RIGBENCH_HOME": str(home.home), "PARAMS": "30M"}

    def step(name: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "-ec", steps[name]], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    measured, compared = step("measure in turn"), step("compare")
    assert (measured.returncode, compared.returncode) == (0, 1), measured.stderr + compared.stderr
    assert "3 got worse by more than 5.0 %" in compared.stderr
    assert [store.read(path).label for path in home.paths()] == ["after", "before"] * 3
    subprocess.run(["bash", "-n", "-c", steps["set up both sides"]], check=True)

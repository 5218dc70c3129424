"""The table of logs that are read: whose they are, how one is known, and what its numbers mean.

A number's meaning goes by its name (`meaning`); a format says it where its program means something else by that name,
or where the name alone leaves it open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from rigbench.logs.scan import Raw, is_step

Meaning = Literal[
    "step",  # counts steps or iterations
    "own time",  # of this step, or the mean of a step since the last line
    "interval time",  # of all steps since the last line
    "mean time",  # of a step, over the whole run so far: never the answer
    "time",  # of a step or since the start: its values decide
    "clock",  # seconds since anything, in which all that happens passes
    "train clock",  # seconds of training alone: stands still in evaluations
    "rate",  # tokens/s of all devices
    "device rate",  # tokens/s of one
    "mean rate",  # tokens/s over the whole run so far, or smoothed: never the answer
    "steps rate",  # steps/s
    "tokens",  # seen so far, on all devices
    "rank tokens",  # seen so far, on one
    "step tokens",  # of one step
    "samples",  # seen so far
    "batch",  # samples of one step
    "loss",
    "nothing",
]


class Format(NamedTuple):
    """One program's log."""

    name: str
    needs: tuple[str, ...]  # names that its rows have
    example: str  # a line or a few, of our own
    tells: str  # what is taken from it, for people
    means: Mapping[str, Meaning] = {}  # where a name means another thing here
    sign: str = ""  # what stands in its first lines
    even: bool = False  # every step has as many tokens; the rate that is shown is smoothed


HF_BAR = "tqdm's bar counts optimizer steps and shows the time since the start"
FORMATS = (
    Format(
        "nanoGPT",
        ("iter", "loss", "time", "mfu"),
        "iter 10: loss 8.9900, time 4622.05ms, mfu 29.50%",
        "iter; time, that of this very iteration (an optimizer step); tokens from `tokens per iteration will be`",
        {"time": "own time"},
    ),
    Format(
        "llama2.c",
        ("", "loss", "lr", "mfu"),
        "130 | loss 9.1000 | lr 1.300000e-05 | 4545.20ms | mfu 12.30%",
        "the number at the line's head is the step; its own time; tokens from `tokens per iteration will be`",
        {"": "step"},
    ),
    Format(
        "llm.c",
        ("step", "of", "loss", "norm", "lr"),
        "step   31/90 | loss 3.512000 (+0.10z)| norm 0.9100 (-0.20z)| lr 6.00e-04 | 51.20 ms | 55.0% bf16 MFU"
        " | 80000 tok/s",
        "step; its own time, in ms; tok/s of all devices, smoothed over about 20 steps",
        even=True,
    ),
    Format(
        "modded-nanogpt",
        ("step", "train_time", "step_avg"),
        "step:20/60 train_loss:6.8000 train_time:4324ms step_avg:216.22ms",
        "step; train_time, the time since the start without evaluations; step_avg is not taken",
        {"train_time": "train clock", "step_avg": "mean time"},
    ),
    Format(
        "nanochat",
        ("step", "loss", "dt", "tok/sec"),
        "step 00042/21400 (0.20%) | loss: 7.1 | dt: 412.30ms | tok/sec: 1,271,617 | mfu: 47.1 | total time: 0.22m",
        "step; dt, its own time; tok/sec of all devices",
    ),
    Format(
        "litgpt",
        ("iter", "step", "iter time"),
        "Epoch 1 | iter 4 step 1 | loss train: 6.012, val: n/a | iter time: 330.18 ms (step) remaining time: 0:40:00",
        "step counts optimizer steps, iter micro-batches; iter time is that of one: those of a step add up",
        {"iter": "step", "iter time": "own time"},
    ),
    Format(
        "litgpt metrics.csv",
        ("iter", "iter_time", "step", "total_tokens"),
        "epoch,iter,iter_time,step,time,tokens,total_tokens\n0,20,0.25,10,5.00,163840,655360\n0,30,0.25,15,7.50,245760,983040",
        "step; time since the start; total_tokens of all devices (tokens are those of one)",
        {"tokens": "rank tokens", "total_tokens": "tokens", "time": "clock"},
    ),
    Format(
        "Megatron-LM",
        ("iteration", "of", "elapsed time per iteration (ms)"),
        " [2026-03-01 03:02:12] iteration       71/     100 | consumed samples:         9088 | elapsed time per"
        " iteration (ms): 5400.5 | learning rate: 1.2E-04 | global batch size:   128 | lm loss: 2.25E+00 |",
        "iteration; the mean time of one since the last line; tokens: global batch size x seq_length, which stands"
        " among the arguments at the head, else --tokens-per-step",
    ),
    Format(
        "torchtitan",
        ("step", "tps", "tflops"),
        "[rank0]:[titan] 2026-03-01 10:00:10,501 - root - INFO - step:  1  loss:  6.41200  memory: 41.30GiB(52.10%)"
        "  tps: 12,340  tflops: 201.50  mfu: 20.37%",
        "step; the date at the head; tps, tokens/s of one device since the last line; with `global batch size` and"
        " `sequence length` of the head all devices'",
        {"tps": "device rate"},
    ),
    Format(
        "torchtitan of 2024",
        ("step", "wps", "mfu"),
        "[rank0]:2024-06-01 10:00:10,501 - root - INFO - step:  1  loss: 10.9000  memory: 41.30GiB(52.10%)  wps: 12,340"
        "  mfu: 20.37%",
        "step; the date at the head; wps, tokens/s of one device since the last line",
        {"wps": "device rate"},
    ),
    Format(
        "Hugging Face Trainer, trl, axolotl",
        ("bar", "bar elapsed"),
        " 30%|###       | 258/873 [15:35<43:27,  4.00s/it]\n{'loss': 1.5, 'learning_rate': 0.0001, 'epoch': 0.89}",
        f"{HF_BAR}; tokens from num_tokens or num_input_tokens_seen where they are logged",
        sign="'loss'",
    ),
    Format(
        "LLaMA-Factory trainer_log.jsonl",
        ("current_steps", "total_steps", "elapsed_time"),
        '{"current_steps": 5, "total_steps": 100, "loss": 2.0, "elapsed_time": "0:00:04", "throughput": 8175.2,'
        ' "total_tokens": 32701}\n'
        '{"current_steps": 10, "total_steps": 100, "loss": 1.9, "elapsed_time": "0:00:08", "throughput": 8175.2,'
        ' "total_tokens": 65402}',
        "current_steps; elapsed_time since the start; total_tokens; throughput is the mean since the start",
        {"current_steps": "step", "throughput": "mean rate", "total_tokens": "tokens", "elapsed_time": "clock"},
    ),
    Format(
        "DeepSpeed",
        ("global_step", "currsamplespersec"),
        "[2026-03-01 10:00:41,417] [INFO] [timer.py:260:stop] epoch=0/micro_step=1800/global_step=450,"
        " RunningAvgSamplesPerSec=25.7, CurrSamplesPerSec=25.8, MemAllocated=4.32GB",
        "global_step; the date at the head; tokens from --tokens-per-step",
    ),
    Format(
        "DeepSpeed pipeline",
        ("steps", "loss", "iter time (s)"),
        "steps: 10 loss: 2.3456 iter time (s): 1.234 samples/sec: 25.932",
        "steps; iter time, of one step; tokens from --tokens-per-step",
    ),
    Format(
        "NeMo",
        ("global_step", "train_step_timing in s"),
        "Training epoch 0, iteration 9/99 | lr: 1e-05 | global_batch_size: 512 | global_step: 9 |"
        " reduced_train_loss: 11.03 | train_step_timing in s: 5.2 | consumed_samples: 5120",
        "global_step; train_step_timing, the step's own time; tokens from --tokens-per-step",
        {"iteration": "nothing", "bar": "nothing", "of": "nothing"},
    ),
    Format(
        "OLMo",
        ("step", "throughput/device/tokens_per_second"),
        "2026-03-01 10:00:00.120 host:0 olmo.train:968 INFO [step=20/1000,epoch=0]\n    train/CrossEntropyLoss=9.2\n"
        "    throughput/total_tokens=41,943,040\n    throughput/device/tokens_per_second=10,234",
        "step; the date at the head; total_tokens of all devices; tokens/s of one device over the last steps",
        {"throughput/device/tokens_per_second": "device rate", "throughput/total_tokens": "tokens"},
    ),
    Format(
        "OLMo-core",
        ("step", "throughput/device/tps"),
        "2026-03-01 10:00:00.120 host:0 olmo_core.train INFO [step=20/1000,epoch=1]\n    train/CE loss=9.2\n"
        "    throughput/total tokens=41,943,040\n    throughput/device/TPS=10,234",
        "step; the date at the head; total tokens of all devices; TPS of one device",
        {"throughput/device/tps": "device rate", "throughput/total tokens": "tokens"},
    ),
    Format(
        "torchtune",
        ("step", "loss", "tokens_per_second_per_gpu"),
        "Step 10 | loss:1.25 lr:2e-05 tokens_per_second_per_gpu:5120.5 peak_memory_active:21.5",
        "Step; tokens_per_second_per_gpu, of one device",
    ),
    Format(
        "W&B history",
        ("_step", "_runtime"),
        "_step,_runtime,_timestamp,train/loss,train/global_step\n0,3.1,1740819120.5,4.0,10\n1,15.1,1740819132.5,3.9,20",
        "train/global_step before global_step before _step, which counts calls of log; _runtime or _timestamp",
    ),
    Format(
        "Hugging Face trainer_state.json",
        ("step", "epoch"),
        '{"global_step": 120, "log_history": [{"epoch": 0.01, "loss": 2.99, "step": 10},'
        ' {"epoch": 1.0, "step": 120, "train_runtime": 240.5}]}',
        "its entries have no time: train_runtime of the whole run is said, and the console's log asked for",
        sign="log_history",
    ),
    Format(
        "Lightning metrics.csv",
        ("epoch", "step"),
        "epoch,step,train_loss\n0,49,3.1\n0,99,2.9",
        "step; a time only where a callback logs one as `time`",
    ),
)


def known(raw: Raw) -> Format | None:
    """The first format whose names stand in at least a third of the rows that have any."""
    rows = [row.items.keys() for row in raw.rows if row.items]
    for it in FORMATS:
        if raw.kind == "text" and (
            "_" + it.needs[0] in ("__step", "_current_steps") or it.name.endswith((".csv", ".json"))
        ):
            continue
        if it.sign and it.sign not in raw.heads and it.sign not in raw.summary:
            continue
        fitting = sum(keys >= set(it.needs) for keys in rows)
        if (fitting and fitting >= len(rows) / 3) or (
            fitting and raw.kind == "text" and fitting >= 3 and fitting > len(rows) / 10
        ):
            return it
    return None


PART = re.compile(
    r"\b(?:eta|remaining|left|val|(?:eval|valid|test)\w{0,8}|forward|fwd|backward|bwd|optim|optimizer|data|dataload\w{0,6}|"
    r"loader|load\w{0,3}|sav\w{1,4}|checkpoint\w{0,4}|ckpt|comm|sync|allreduce|compile|warmup|generat\w{0,5}|h2d|epoch|sleep|"
    r"wait\w{0,3}|inference|rollout|first|max|min|std|p50|p95|p99|flops?|tflops)\b"
)
MEAN = re.compile(r"\b(?:avg|average|mean|running|runningavg\w{0,20}|ema|smooth\w{0,4}|median|cumulative|overall)\b")
PER_STEP = re.compile(
    r"\b(?:per|a) (?:step|iter|iteration|it|batch|update)\b|\b(?:s|ms|sec|seconds?) (?:it|step|iter)\b"
)
STEP_TIME = re.compile(
    r"\b(?:dt|(?:step|iter|iteration|it|batch|update) (?:time|timing|duration|ms|seconds|secs?|s)|time step|steptime)\b"
    r"|\bstep (?:total )?(?:ms|time)\b"
)
CLOCK = re.compile(r"\b(?:elapsed|runtime|wall\w{0,5}|walltime|total time|time total|timestamp|uptime|since|train time|"
                   r"training time|relative time|seconds)\b")  # fmt: skip
DEVICE = re.compile(r"\b(?:device|devices|gpu|gpus|rank|local|tgs|per gpu|worker|chip)\b")
TOKEN_RATE = re.compile(
    r"\b(?:tps|tgs|wps)\b|\btok(?:en)?s? (?:(?:\w{1,12} ){0,3}per |a )?(?:s|sec|secs|second|seconds)\b"
)
STEPS_RATE = re.compile(r"\b(?:step|iter|iteration|it|batch|update)e?s? (?:per )?(?:s|sec|second)\b")
NO_RATE = re.compile(r"\b(?:time|timing|took|duration|elapsed|per (?:step|iter|iteration|it|batch|update))\b")
INTERVAL = re.compile(r"\binterval (?:time|runtime|ms|seconds|secs?|s)\b|\bsince (?:the )?(?:last|previous)\b")
SAMPLES = re.compile(r"\b(?:samples?|sequences|examples|sentences)\b")


def meaning(key: str, unit: str) -> Meaning:
    """What a number is, by its name and its unit."""
    words = re.sub(r"[^a-z0-9]+", " ", key).strip()
    if unit.startswith("tok") and unit.isalpha():
        words, unit = f"{words} tokens".strip(), ""  # seen 104,000 tokens
    if unit == "?" or key in ("of", "bar of"):
        return "nothing"
    if key == "bar elapsed" or unit == "date" or key in ("_runtime", "_timestamp"):
        return "clock"
    if is_step(key) and unit == "":
        return "step"
    part, mean = bool(PART.search(words)), bool(MEAN.search(words))
    if (unit.startswith("tok") and re.search(r"/|per", unit)) or (unit in ("", "%") and TOKEN_RATE.search(words)):
        if part:
            return "nothing"
        return "mean rate" if mean else "device rate" if DEVICE.search(f"{words} {unit}") else "rate"
    if words.endswith("loss") or words.startswith("loss"):
        return "nothing" if re.search(r"\b(?:val|eval|valid|test|scale)\b", words) else "loss"
    if re.search(r"\b(?:tok|tokens?|ntokens)\b", words):
        if part or re.search(
            r"\b(?:max|unique|pad\w{0,4}|trainable|micro|param|seq|sample|generated|completion|prompt)\b", words
        ):
            return "nothing"
        if PER_STEP.search(words) or re.search(r"\b(?:batch|step|ntokens|iteration) ?(?:size|tokens)?\b", words):
            return "nothing" if DEVICE.search(words) else "step tokens"
        return "rank tokens" if DEVICE.search(words) else "tokens"
    if SAMPLES.search(words):
        return "samples" if "consumed" in words else "nothing"
    if words in ("global batch size", "train batch size"):
        return "batch"
    if unit.replace(" ", "") in ("it/s", "its/s", "iter/s", "iters/s", "step/s", "steps/s") or (
        STEPS_RATE.search(words) and not NO_RATE.search(words)
    ):
        return "nothing" if part or mean or DEVICE.search(words) else "steps rate"
    if part:
        return "nothing"
    if unit in ("s", "min", "") and INTERVAL.search(words):
        return "interval time"
    if unit in ("s/it", "s/step", "s/iter") or (
        unit in ("s", "") and (PER_STEP.search(words) or STEP_TIME.search(words))
    ):
        return "mean time" if mean else "own time"
    if unit == "" and not re.search(r"\b(?:time|ms|us|ns|seconds|secs?|s|elapsed|runtime|timestamp)\b", words):
        return "nothing"
    if unit in ("s", "min", "") and CLOCK.search(words):
        return "clock"
    if mean:
        return "mean time" if unit == "s" and re.search(r"\b(?:time|ms|step)\b", words) else "nothing"
    if unit in ("s", "min", "") and (
        re.fullmatch(r"(?:train )?(?:time|took|duration|t|ms|us|ns|s|sec)(?: ms| us| ns| s)?", words) or words == "in"
    ):
        return "time"
    if key in ("~s", "~min"):
        return "time"
    return "nothing"


def of_one_step(key: str, unit: str) -> bool:
    """Whether a time's name or unit says that it is one step's: `step time`, `s/it`; `dt` and `time` do not."""
    words = re.sub(r"[^a-z0-9]+", " ", key).strip()
    return "/" in unit or bool(PER_STEP.search(words) or STEP_TIME.search(re.sub(r"\bdt\b", "", words)))


SMALLER = (
    (re.compile(r"\b(?:ms|msec|millis|milliseconds?)\b"), 1e-3),
    (re.compile(r"\b(?:us|usec|micros|microseconds?)\b"), 1e-6),
    (re.compile(r"\b(?:ns|nsec|nanos|nanoseconds?)\b"), 1e-9),
)


def factor(key: str, unit: str) -> float:
    """Seconds of a number whose unit its name tells."""
    words = re.sub(r"[^a-z0-9]+", " ", key).strip()
    if unit == "min":
        return 60.0
    if unit:
        return 1.0
    for several, seconds in SMALLER:
        if several.search(words):
            return seconds
    return 60.0 if re.search(r"\b(?:min|minutes?)\b", words) else 1.0

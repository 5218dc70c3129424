"""A seeded part of tests/fuzz: hostile texts in places where foreign text stands, and damaged inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import __main__ as fuzz
from fuzz import environments, hostile, inputs, inside, mutants

SEED, INPUTS, EVERY = 2026, 24, 11
TEXTS = sorted(hostile.TEXTS)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With one recorded rig and a few documents, so that it takes seconds."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch, inside.prepared(folder / "home"):
        patch.setattr(inputs, "RIGS", inputs.RIGS[:1])
        patch.setattr(hostile, "RIGS", inputs.RIGS[:1])
        patch.setattr(fuzz, "KEPT", folder / "kept")
        inputs.documents.cache_clear()
        some = inputs.documents()[3::4]
        patch.setattr(inputs, "documents", lambda: some)
        yield folder


@pytest.mark.parametrize("place", hostile.PLACES)
def test_a_hostile_text_in_any_place_reaches_no_terminal(place: str, scratch: Path) -> None:
    text = TEXTS[(SEED + list(hostile.PLACES).index(place)) % len(TEXTS)]
    commands, failed = hostile.combination(place, text, scratch, every=EVERY)
    assert failed == []
    assert commands


def test_damaged_inputs_keep_the_contract(scratch: Path) -> None:
    assert [it for number in range(INPUTS) for it in fuzz.failures_of(SEED, number, scratch, Counter())] == []


def test_what_breaks_the_contract_is_told() -> None:
    assert inside.raw_in("safe \x9b31m text")
    assert environments.end(["sh", "-c", "printf '\\033]0;x\\007'"], {}).kind.startswith("raw")
    assert environments.end(["sh", "-c", "exit 4"], {}).kind.startswith("exit code 4")
    assert environments.end(["true"], {"PATH": "/bin:/usr/bin"}).kind == ""
    assert len(environments.cases()) > 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("place", hostile.PLACES)
def test_every_hostile_text_in_every_place(place: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with inside.prepared(tmp_path / "home"):
        found = {text: hostile.combination(place, text, tmp_path)[1] for text in hostile.TEXTS}
    assert {text: failed for text, failed in found.items() if failed} == {}


def test_the_mutants_that_once_survived_follow_the_sources() -> None:
    assert len(list(mutants.once_survived((Path(mutants.__file__).parent / "survived.toml").read_text()))) > 10

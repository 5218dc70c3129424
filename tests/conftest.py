"""What do several test files need? The driver library that is built once for all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fakenvml import library


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

"""Reads single files out of published wheels, by requests for ranges of bytes: no wheel is downloaded whole.

pip finds the wheels, as it is set up on this machine, and reads them: by its own class for wheels at a distance.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

# Where the wheels are read that a Linux machine with GPUs installs.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64", "any")
FINAL = re.compile(r"\d+(\.\d+)+")


class Wheels:
    def __init__(self, finder: object, session: object) -> None:
        self._finder, self._session = finder, session
        self._links: dict[str, dict[str, object]] = {}

    def versions(self, package: str, oldest: str) -> list[str]:
        """From `oldest` on: the first release of each minor version, and the newest of all."""
        links = {
            str(it.version): it.link
            for it in self._finder.find_all_candidates(package)  # type: ignore[attr-defined]
            if it.link.is_wheel and FINAL.fullmatch(str(it.version)) and not it.link.is_yanked
        }
        self._links[package] = links
        every = sorted((it for it in links if _key(it) >= _key(oldest)), key=_key)
        firsts = {_key(version)[:2]: version for version in reversed(every)}
        return sorted({*firsts.values(), *every[-1:]}, key=_key)

    def read(self, package: str, version: str) -> Callable[[str], str | None]:
        """A function from a path inside that wheel to its text."""
        from pip._internal.network.lazy_wheel import LazyZipOverHTTP

        link = self._links[package][version]
        wheel = zipfile.ZipFile(LazyZipOverHTTP(link.url_without_fragment, self._session))  # type: ignore[attr-defined,arg-type]
        members = set(wheel.namelist())

        @cache
        def text(path: str) -> str | None:
            return wheel.read(path).decode() if path in members else None

        return text


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@contextmanager
def opened() -> Iterator[Wheels]:
    """The wheels that pip's index offers. Exceptions are pip's, of the network."""
    from pip._internal.commands.download import DownloadCommand
    from pip._internal.models.target_python import TargetPython

    command = DownloadCommand("download", "")
    with command.main_context():
        options, _ = command.parse_args([])
        session = command.get_default_session(options)
        target = TargetPython(platforms=list(PLATFORMS), py_version_info=(3, 11))
        finder = command._build_package_finder(options, session, target_python=target, ignore_requires_python=True)
        yield Wheels(finder, session)

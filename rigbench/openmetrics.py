"""Serves readings to Prometheus and whatever else reads its format: an address, and a list that is replaced."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.core.options import Option, Reader
from rigbench.core.record import Absent, Record

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

INSTALL = "pip install 'rigbench[metrics]'"
LOOPBACK = "127.0.0.1"
HOST = re.compile(r"(?:[!-\-/-~]{1,63}(?:\.|$))*")


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Sample(NamedTuple):
    """One reading; those of a name stand together. `name` ends in its SI unit, as `rigbench_gpu_power_watts`."""

    name: str
    help: str
    labels: Mapping[str, str]
    value: float
    kind: Literal["gauge", "counter"] = "gauge"


def _address(text: str, option: str) -> str:
    address_of(text, option)
    return text


def address_of(text: str, option: str) -> Address:
    """`9464` and `:9464` are on loopback alone; other machines are let in by naming an address, as 0.0.0.0:9464.

    Raises:
        RigbenchError: it is no address and port.
    """
    host, port = text.rpartition(":")[0].removeprefix("[").removesuffix("]"), text.rpartition(":")[2]
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) >= 1 << 16 or not HOST.fullmatch(host):
        raise RigbenchError(f"{option} {text[:60]!r} is no address", "give a port, or ADDRESS:PORT, as 127.0.0.1:9464")
    return Address(host or LOOPBACK, int(port))


class MetricsOptions(Record, frozen=True, kw_only=True):
    openmetrics: Annotated[
        str | Absent,
        Option(
            Reader(_address), "Serve the readings there for Prometheus, as 127.0.0.1:9464.", "ADDRESS", private=True
        ),
    ] = Absent("no --openmetrics was given")


class Exporter:
    """A server with a thread of its own. `update` puts new readings in place; a scrape tells the newest."""

    def __init__(self, server: Any, address: Address, readings: _Readings) -> None:
        self._server, self.address, self._readings = server, address, readings

    def update(self, samples: Iterable[Sample]) -> None:
        self._readings.samples = tuple(samples)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class _Readings:
    """What prometheus_client calls a collector."""

    def __init__(self) -> None:
        self.samples: Sequence[Sample] = ()

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Any] = {}
        for name, words, labels, value, kind in self.samples:
            if name not in families:
                family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
                families[name] = family(name, words, labels=list(labels))
            families[name].add_metric(list(labels.values()), value)
        yield from families.values()


def serve(address: Address) -> Exporter:
    """From now on, until it is closed. Port 0 takes a free one, which the exporter's address then tells.

    Raises:
        RigbenchError: prometheus-client is not installed, or the address cannot be had.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise RigbenchError("--openmetrics needs prometheus-client, which is not installed", INSTALL) from None
    registry, readings = CollectorRegistry(), _Readings()
    registry.register(readings)
    try:
        server, _thread = start_http_server(address.port, address.host, registry)
    except OSError as error:
        cure = "another program has that port: give another one" if error.errno == 98 else "give another address"
        raise RigbenchError(f"--openmetrics {address}: {error.strerror or error}", cure) from None
    port = address.port
    with contextlib.suppress(AttributeError):
        port = server.server_port
    return Exporter(server, Address(address.host, port), readings)

"""A distance to the servers: the proxy of distance.rs before each of them."""

from __future__ import annotations

import hashlib
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

SOURCE = Path(__file__).with_name("distance.rs")


class Distance:
    """All servers, so many milliseconds away: there and back."""

    def __init__(self, home: Path, round_trip: float, uris: Iterable[str]) -> None:
        self.round_trip = round_trip
        near = [urlsplit(uri).port or 0 for uri in uris]
        self.ports = dict(zip(near, free_ports(len(near)), strict=True))
        pairs = [f"127.0.0.1:{far}=127.0.0.1:{port}" for port, far in self.ports.items()]
        command = [str(built(home)), str(round_trip / 2), *pairs]
        self.proxy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not self.proxy.stdout or self.proxy.stdout.readline() != "ready\n":
            raise SystemExit("the proxy that keeps a distance did not start")

    def __enter__(self) -> Distance:
        return self

    def __exit__(self, *_: object) -> None:
        """It ends with its standard input."""
        self.proxy.communicate()

    def env(self, near: Mapping[str, str]) -> dict[str, str]:
        """The same variables for a server, with the ports of the proxy."""
        far = dict(near)
        for port, other in self.ports.items():
            for name, value in near.items():
                if value == str(port):
                    far[name] = str(other)
                elif f":{port}" in value:
                    far[name] = value.replace(f":{port}", f":{other}")
        return far


def built(home: Path) -> Path:
    """The proxy, built where it has changed. No package: it needs the standard library alone."""
    program = home / f"distance-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["rustc", "--edition=2024", "-O", str(SOURCE), "-o", str(program)], check=True)
    return program


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports

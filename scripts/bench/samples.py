"""What a run leaves behind: the words that those who measure and those who judge have in common."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

AGAIN = "again"  # the name of our run over what is there already
WITHOUT_READ_BACK = "--verify off"  # the name of our run that does not look at the target afterwards
START_UP = "start-up"  # in place of a pair: nothing is moved


class Role(StrEnum):
    """What a contender is measured for."""

    OURS = "ours"
    VARIANT = "variant"  # ours, with another flag or over what is there already
    LIGHTRAG = "lightrag"
    LOADER = "loader"  # the target's own way in
    READER = "reader"  # the source's own way out


@dataclass(frozen=True)
class Sample:
    """One run.

    `user`, `system` (seconds) and `max_rss` (bytes) are of the process and the children that it waited for, of no server;
    None for a program with a clock of its own, whose preparations they would include. `idle` is the share of the processors'
    time that was idle just before: less than 0.9 where something else was going on. `distance` is the round trip to the
    servers in milliseconds, added to that of this machine. `workspaces` is the number of workspaces. `tls` says that every
    connection to a server was encrypted.
    """

    pair: str
    records: int
    role: Role
    name: str
    round: int
    seconds: float
    user: float | None
    system: float | None
    max_rss: int | None
    idle: float
    distance: float = 0
    workspaces: int = 1
    tls: bool = False

"""A machine's place among those that train together."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import Final

_SIOCGIFADDR: Final = 0x8915


@dataclass(frozen=True, slots=True)
class Place:
    """One of the nodes of a run.

    Attributes:
        nodes: how many there are.
        rank: this one's number; the first one, 0, speaks for all.
        address, port: where the first one's torchrun is met.
    """

    nodes: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500

    @property
    def alone(self) -> bool:
        """Whether there is nobody to meet."""
        return self.nodes == 1

    @property
    def leads(self) -> bool:
        """Whether this one speaks for all."""
        return self.rank == 0

    def torchrun_flags(self, processes: int) -> tuple[str, ...]:
        """How torchrun is told of the place.

        The rendezvous is the static one: it keeps the ranks in the order of the nodes, so that the process
        that writes checkpoints and results is on the machine that uploads them.

        Args:
            processes: on each node.
        """
        if self.alone:
            return ("--standalone", f"--nproc-per-node={processes}")
        return (
            f"--nnodes={self.nodes}",
            f"--node-rank={self.rank}",
            f"--master-addr={self.address}",
            f"--master-port={self.port}",
            f"--nproc-per-node={processes}",
        )

    def variables(self) -> dict[str, str]:
        """The environment variables with which gloo and NCCL take the card that leads to the others.

        Left to themselves they go by the host's name, which may be any of its addresses.
        """
        if self.alone:
            return {}
        card = card_towards(self.address, self.port)
        return {"GLOO_SOCKET_IFNAME": card, "NCCL_SOCKET_IFNAME": card} if card else {}


def card_towards(address: str, port: int) -> str | None:
    """The name of the network card by which an address is reached; None where it cannot be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Of a datagram socket this asks the routing table alone; nothing is sent.
            probe.connect((address, port))
        except OSError:
            return None
        own = probe.getsockname()[0]
        if own.startswith("127."):
            return "lo"
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue  # a card without an address
            if socket.inet_ntoa(answer[20:24]) == own:
                return name
    return None


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])

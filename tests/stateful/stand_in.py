"""The model behind the Engine's face, so that every conversation can be held with the model as well as with the core.

Owns framing for the model and nothing else.  Refuses to know what a request means.
"""

from __future__ import annotations

from tests.stateful.model import Connection, Model
from tests.support.wire import HEADER, PAYLOAD_MAX, Op, pack


class StandIn:
    """As much of `fastxs._core.Engine` as conversations use."""

    def __init__(self) -> None:
        self.model = Model(self.reset)
        self._peers: dict[int, tuple[Connection, bytearray]] = {}
        self._out: dict[int, bytearray] = {}
        self._next = 1

    def attach(self, domid: int) -> int:
        if domid and any(conn.domid == domid for conn in self.model.connections):
            raise ValueError(f"domain {domid} is attached already")
        conn_id, self._next = self._next, self._next + 1
        conn = Connection(domid)
        self.model.connections.append(conn)
        self._peers[conn_id] = conn, bytearray()
        self._out[conn_id] = bytearray()
        return conn_id

    def feed(self, conn_id: int, data: bytes) -> None:
        conn, rest = self._peers[conn_id]
        if conn not in self.model.connections:
            return
        rest += data
        while len(rest) >= HEADER.size:
            op, req_id, tx_id, length = HEADER.unpack_from(rest)
            if length > PAYLOAD_MAX:
                self.disconnect(conn_id)
                return
            if len(rest) < HEADER.size + length:
                return
            self.model.request(conn, op, bytes(rest[HEADER.size : HEADER.size + length]), tx_id)
            self._collect(conn, req_id, tx_id)
            del rest[: HEADER.size + length]

    def reset(self, conn: Connection) -> None:
        """A connection begins anew."""
        for other, rest in self._peers.values():
            if other is conn:
                rest.clear()

    def _collect(self, speaker: Connection | None, req_id: int, tx_id: int) -> None:
        for conn_id, (conn, _) in self._peers.items():
            for kind, payload in conn.out:
                event = kind == Op.WATCH_EVENT
                mine = conn is speaker and not event
                self._out[conn_id] += pack(kind, payload, req_id if mine else 0, tx_id if mine else 0)
            conn.out.clear()

    def take(self, conn_id: int) -> bytes:
        self._collect(None, 0, 0)
        data = bytes(self._out[conn_id])
        self._out[conn_id].clear()
        return data

    def disconnect(self, conn_id: int) -> None:
        conn, _ = self._peers[conn_id]
        if conn in self.model.connections:
            self.model.connections.remove(conn)

    def connections(self) -> list[dict[str, int | str]]:
        return [
            {"id": conn_id, "domid": conn.domid, "watches": len(conn.watches), "transactions": len(conn.transactions)}
            for conn_id, (conn, _) in self._peers.items()
            if conn in self.model.connections
        ]

    def pretend(self, domid: int, exists: bool) -> None:
        if exists:
            self.model.appear(domid)
        elif domid in self.model.domains:
            self.model.vanish(domid)

    def get_quota(self, name: str, domid: int | None = None) -> int:
        return (self.model.quotas if domid is None else self.model.domains[domid].quotas)[name]

    def set_quota(self, name: str, value: int, domid: int | None = None) -> None:
        (self.model.quotas if domid is None else self.model.domains[domid].quotas)[name] = value

    def accounts(self, domid: int) -> dict[str, tuple[int, int]]:
        mine = [conn for conn in self.model.connections if conn.domid == domid]
        values = {
            "nodes": self.model.owned(domid),
            "watches": sum(len(conn.watches) for conn in mine),
            "transactions": sum(len(conn.transactions) for conn in mine),
        }
        return {name: (value, value) for name, value in values.items()}

    def check(self) -> list[str]:
        return []

    def close(self) -> None:
        self._peers.clear()

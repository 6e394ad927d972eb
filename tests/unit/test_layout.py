"""The layout of what rooms share: the sizes that speed and the wire depend on."""

from __future__ import annotations

import pytest

from fastxs._core import ABI
from fastxs.core.probe import Heap, layout
from tests.support.wire import HEADER, PAYLOAD_MAX

CONSTANTS, ITEMS = layout()


def test_every_room_was_built_for_the_same_layout() -> None:
    assert CONSTANTS["abi"] == ABI


def test_the_wire_s_structs_are_the_protocol_s() -> None:
    assert CONSTANTS["Header"] == CONSTANTS["header"] == HEADER.size == 16
    assert CONSTANTS["payload_max"] == PAYLOAD_MAX == 4096
    assert CONSTANTS["Page"] == 2080, "up to and with evtchn_port"


@pytest.mark.parametrize("name", ITEMS)
def test_what_stands_in_tables_begins_with_hash_and_chain(name: str) -> None:
    """A table knows items by these two alone."""
    _, hash_at, chain_at = ITEMS[name]
    assert (hash_at, chain_at) == (0, 4)


def test_entries_of_a_permission_list_follow_it_aligned() -> None:
    assert ITEMS["Perms"][0] % 8 == 0 and CONSTANTS["Ace"] % 8 == 0


def test_a_node_s_head_is_a_cache_line_and_the_others_are_small() -> None:
    """Of a node, only the name and the value may lie behind its first line."""
    assert ITEMS["Node"][0] == 64
    assert ITEMS["WNode"][0] <= 32
    assert ITEMS["Watch"][0] <= 56
    assert ITEMS["TNode"][0] <= 72
    assert Heap.rounded(ITEMS["Held"][0]) == ITEMS["Held"][0]


def test_log_entries_are_aligned() -> None:
    assert CONSTANTS["LogEntry"] == 16

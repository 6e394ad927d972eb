"""Xen's own test-xenstore: every test that it has, and its random mode."""

from __future__ import annotations

import re

from tests.peers.conftest import XEN_BIN, Run

PROGRAM = XEN_BIN / "test-xenstore"
TESTS = (
    "read 1", "read 2000", "write 1", "write 2000", "dir", "rm node", "rm dir", "ta empty", "ta empty x", "ta rmw",
    "ta rmw x", "ta err",
)  # fmt: skip


def test_all_tests_pass(run: Run) -> None:
    done = run(PROGRAM, "-i", "20")
    assert (done.returncode, done.stderr) == (0, ""), done
    passed = re.findall(r"^(.+?) *: avg: [0-9]+ ns \(", done.stdout, re.MULTILINE)
    assert tuple(passed) == TESTS


def test_random_mode(run: Run) -> None:
    done = run(PROGRAM, "-r", "1")
    assert (done.returncode, done.stderr) == (0, ""), done

"""One class for each error word of the wire, which is the fitting builtin, too."""

from __future__ import annotations

import copy
import errno
import pickle
import subprocess
import sys

import pytest

import fastxs
from fastxs import client
from fastxs.client import NotFound, XenStoreError
from fastxs.client.errors import WORDS

WIRE = "EINVAL EACCES EEXIST EISDIR ENOENT ENOMEM ENOSPC EIO ENOTEMPTY ENOSYS EROFS EBUSY EAGAIN EISCONN E2BIG EPERM"

BUILTINS: dict[str, tuple[type[Exception], ...]] = {
    "EINVAL": (ValueError,),
    "EACCES": (PermissionError,),
    "EEXIST": (FileExistsError,),
    "EISDIR": (IsADirectoryError,),
    "ENOENT": (FileNotFoundError, KeyError),
    "ENOMEM": (MemoryError,),
    "ENOSYS": (NotImplementedError,),
    "EAGAIN": (BlockingIOError,),
    "EPERM": (PermissionError,),
}


@pytest.mark.parametrize("word", WIRE.split())
def test_each_word_has_a_class(word: str) -> None:
    cls = WORDS[word.encode()]
    assert cls is getattr(client, cls.__name__)
    error = cls.of(b"/a/b")
    assert error.errno == getattr(errno, word)
    assert error.filename == b"/a/b"
    assert issubclass(cls, XenStoreError)
    for builtin in BUILTINS.get(word, (OSError,)):
        assert isinstance(error, builtin)
    assert str(error) == f"[Errno {error.errno}] {error.strerror}: b'/a/b'"
    for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(same), str(same)) == (cls, str(error))


def test_no_two_words_have_the_same_class() -> None:
    assert len({WORDS[word.encode()] for word in WIRE.split()}) == len(WIRE.split())


def test_a_missing_node_reads_well_although_it_is_a_key_error() -> None:
    assert str(NotFound.of(b"/a")) == "[Errno 2] No such file or directory: b'/a'"


def test_importing_fastxs_loads_no_client() -> None:
    program = "import sys; before = set(sys.modules); import fastxs; print(sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "['fastxs']\n"
    assert fastxs.Client is client.Client
    assert fastxs.AsyncClient is client.AsyncClient
    with pytest.raises(AttributeError, match="NoSuchThing"):
        _ = fastxs.NoSuchThing

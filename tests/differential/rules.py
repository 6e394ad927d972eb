"""The differences that the comparison allows, each a rule in code under the name of an entry of docs/differences.toml.

A rule is as narrow as it can be: it sees the request, both answers and what the conversation has done, and says whether
this difference is the one that its entry describes.  Refuses to know sockets and processes.

Three shapes: an *answer* rule judges two messages that differ; an *extra* rule judges an event that only one side sent;
an *avoid* rule names a request that the reference is not asked, because it would die of it or the two daemons' states
would part for good; where the answer to it changes nothing, ours is asked alone and has to give the expected word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.differential.generate import CREATE, DESTROY, IN_SLOT, RECONNECT, SYNC, Step
from tests.support.wire import Op


class Said(NamedTuple):
    """One message, as it is compared: `echo` says that the tx_id was the request's own (0 for an event)."""

    op: int
    req_id: int
    echo: bool
    payload: bytes

    @property
    def error(self) -> str:
        return self.payload[:-1].decode("latin-1") if self.op == Op.ERROR else ""


@dataclass
class Story:
    """What the conversation did so far, as far as a rule needs it."""

    used: Counter[str] = field(default_factory=Counter)
    reset_kills: bool = False
    """C xenstored here dies of a RESET_WATCHES inside a transaction."""
    step: Step = Step(0, Op.INVALID)
    """The one that is being done."""
    transaction: bool = False
    """One is open."""
    released: set[int] = field(default_factory=set)
    held: dict[int, set[int]] = field(default_factory=dict)
    """Domain -> the targets that it was ever given; gone when it is released."""
    generations: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    """Path -> the last generations that the two sides gave."""


# The rules that need more than two messages; lockstep has them.
RELEASE_ORDER: Final = "release-order"
COMMIT_MORE: Final = "transactions-commit-more"
RELEASED_ACL: Final = "released-acl"
SNAPSHOT: Final = "transactions-snapshot"

Answer = Callable[[Step, Said, Said, Story], bool]
Extra = Callable[[Said, Story], bool]
Avoid = Callable[[Step, Story], "str | None"]
"""None: ask both; "": ask nobody; else the error word that ours alone has to answer."""


@dataclass(frozen=True)
class Rules:
    """The rules for one pair of daemons; `ours` is the first of the pair, `theirs` the reference."""

    answers: dict[str, Answer] = field(default_factory=dict)
    extras_ours: dict[str, Extra] = field(default_factory=dict)
    extras_theirs: dict[str, Extra] = field(default_factory=dict)
    avoids: dict[str, Avoid] = field(default_factory=dict)
    release_order: bool = False
    """A RELEASE's own reply may come before or after its events; lockstep has the rule `RELEASE_ORDER`."""
    transactions: bool = False
    """Ours may commit what the reference refuses, and may answer otherwise inside what the reference will refuse; what
    the reference commits has to be alike throughout.  lockstep has the rules `COMMIT_MORE` and `SNAPSHOT`."""
    unordered: str = ""
    """The id that lets one request's events and its reply come in any order (empty: none does)."""

    def ids(self) -> set[str]:
        """Every id that a rule stands on."""
        ids = {*self.answers, *self.extras_ours, *self.extras_theirs, *self.avoids}
        ids |= {RELEASE_ORDER} if self.release_order else set()
        ids |= {COMMIT_MORE, SNAPSHOT} if self.transactions else set()
        return ids | ({self.unordered} if self.unordered else set())


def strings(payload: bytes) -> list[bytes]:
    """The NUL-terminated strings of a payload; what follows the last NUL is not one."""
    return payload.split(b"\0")[:-1]


def path_of(step: Step) -> bytes:
    """The first string, whether or not a NUL ends it."""
    return step.payload.split(b"\0", 1)[0]


def canonical(path: bytes) -> bytes:
    """Relative paths of a socket belong to domain 0."""
    return path if path[:1] in (b"/", b"@") else b"/local/domain/0/" + path


_DOMID_OPS: Final = {Op.INTRODUCE, Op.RELEASE, Op.GET_DOMAIN_PATH, Op.IS_DOMAIN_INTRODUCED, Op.RESUME, Op.SET_TARGET}
_GOOD_DOMID: Final = re.compile(rb"([ \t\n\v\f\r]*\+?[0-9]+)?\Z")
_HOME: Final = re.compile(rb"/local/domain/[0-9]{1,5}/")


def good_domid(text: bytes) -> bool:
    """What Xen 4.22 takes for a domid: decimal, the whole string, at most 65535; blanks may lead, empty is 0."""
    return bool(_GOOD_DOMID.match(text)) and int(text.strip() or b"0") <= 0xFFFF


def atoi(text: bytes) -> int:
    """What C makes of a text: a number as far as it goes, 0 where there is none."""
    number = re.match(rb"[ \t\n\v\f\r]*([+-]?[0-9]+)", text)
    return int(number[1]) if number else 0


def domids(step: Step) -> list[bytes]:
    """The strings of a request that are domids."""
    return strings(step.payload)[: 2 if step.op == Op.SET_TARGET else 1] if step.op in _DOMID_OPS else []


# -- fastxs beside C xenstored 4.17 -------------------------------------------------------------


def domid_syntax(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    return any(not good_domid(text) for text in domids(step)) and ours.error == "EINVAL" and theirs.error != "EINVAL"


def domid_syntax_avoid(step: Step, story: Story) -> str | None:
    """C 4.17 reads `1x` as 1: only what reads as 0 or as a domain that never exists leaves both states alike."""
    if step.op == Op.GET_DOMAIN_PATH:
        return None
    texts = [text for text in domids(step) if not good_domid(text)]
    return "EINVAL" if any(re.match(rb"\s*\+?0*[1-6](\D|\Z)", text) for text in texts) else None


def malformed_one_path(step: Step, story: Story) -> str | None:
    """C 4.17 answers the errno of something earlier, or aborts."""
    ops = {Op.DIRECTORY, Op.READ, Op.GET_PERMS, Op.MKDIR, Op.RM}
    well_formed = step.payload.endswith(b"\0") and step.payload.count(b"\0") == 1
    return "EINVAL" if step.op in ops and not well_formed else None


def new_operations(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    known = {Op.GET_FEATURE, Op.SET_FEATURE, Op.GET_QUOTA, Op.SET_QUOTA}
    return step.op in known and theirs.error == "ENOSYS" and ours.error != "ENOSYS"


def watch_depth_avoid(step: Step, story: Story) -> str | None:
    """A third string sets a watch here and is refused by C 4.17; depths that both refuse are sent and compared."""
    words = strings(step.payload)
    if step.op != Op.WATCH or len(words) != 3:
        return None
    return "" if 0 <= atoi(words[2]) < 1 << 31 else None


def special_perms(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    path = path_of(step)
    known = path in (b"@introduceDomain", b"@releaseDomain")
    if step.op != Op.GET_PERMS or path[:1] != b"@" or theirs.error != "EINVAL":
        return False
    return ours.op == Op.GET_PERMS if known else ours.error == "ENOENT"


def special_set_perms_avoid(step: Step, story: Story) -> str | None:
    """An unknown special: C 4.17 answers the errno of something earlier, or closes the connection."""
    path = path_of(step)
    odd = step.op == Op.SET_PERMS and path[:1] == b"@" and path not in (b"@introduceDomain", b"@releaseDomain")
    return "" if odd else None


_PATH_OPS: Final = {
    Op.DIRECTORY, Op.READ, Op.GET_PERMS, Op.WATCH, Op.UNWATCH, Op.WRITE, Op.MKDIR, Op.RM, Op.SET_PERMS,
    Op.DIRECTORY_PART,
}  # fmt: skip


def long_path(step: Step, story: Story) -> str | None:
    """Longer than 2048, not counting a domain's home: C 4.17 refuses it to sockets too."""
    path = canonical(path_of(step))
    home = _HOME.match(path)
    return "" if step.op in _PATH_OPS and len(path) - (home.end() if home else 0) > 2048 else None


def control_texts(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    command = path_of(step)
    if strings(step.payload) == [b"log"]:
        return theirs.error == "EINVAL" and ours.payload.startswith(b"Log switch settings:\n")
    alike = ours.op == theirs.op == Op.CONTROL and ours.payload[-1:] == theirs.payload[-1:] == b"\0"
    if not alike or command not in (b"help", b"quota", b"quota-soft"):
        return False
    head = {b"help": b"", b"quota": b"Domain " if len(strings(step.payload)) == 2 else b"Quota settings:\n"}
    return all(said.payload.startswith(head.get(command, b"Quota settings:\n")) for said in (ours, theirs))


def live_update(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    return path_of(step) == b"live-update" and step.op == ours.op == Op.CONTROL


def released_acl(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    """Ours is theirs without entries (never the owner) of domains that were released."""
    if step.op != Op.GET_PERMS or ours.op != Op.GET_PERMS or theirs.op != Op.GET_PERMS:
        return False
    mine = strings(ours.payload)
    rest = iter(mine)
    at = next(rest, None)
    for n, entry in enumerate(strings(theirs.payload)):
        if entry == at:
            at = next(rest, None)
        elif n == 0 or int(entry[1:]) not in story.released:
            return False
    return at is None


def target_avoid(step: Step, story: Story) -> str | None:
    """C 4.17 answers OK to the RELEASE of a target and keeps it, once for each time that it was made one, also when it
    dies; with rings of targets, and then with targets of domain 0, it dies of it."""
    numbers = [atoi(step.payload)] if step.op in (CREATE, DESTROY) else [atoi(word) for word in domids(step)]
    targets = set().union(*story.held.values())
    if step.op in (Op.RELEASE, CREATE, DESTROY):
        return "" if targets.intersection(numbers) else None
    if step.op != Op.SET_TARGET or len(numbers) < 2:
        return None
    domid, target = numbers
    return "" if domid == 0 or domid == target or domid in targets or target in story.held else None


def root_owner_avoid(step: Step, story: Story) -> str | None:
    """With its owner C 4.17 removes the root itself; nothing can be reached from then on."""
    if step.op != Op.SET_PERMS or path_of(step) != b"/":
        return None
    owner = strings(step.payload)[1:2]
    return "" if owner and atoi(owner[0][1:]) in range(1, 7) else None


_LEGAL: Final = re.compile(rb"[-A-Za-z0-9/_@]+\Z")


def illegal(path: bytes) -> bool:
    """No path of SPEC 1.4: a character, an empty component, a slash at the end."""
    return not _LEGAL.match(path) or b"//" in path or (len(path) > 1 and path.endswith(b"/"))


def unwatch_illegal(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    words = strings(step.payload)
    alike = step.op == Op.UNWATCH and len(words) == 2 and illegal(words[0])
    return alike and ours.error == "EINVAL" and theirs.error == "ENOENT"


def special_name_avoid(step: Step, story: Story) -> str | None:
    """C 4.17 takes any bytes behind the @ and sets the watch."""
    words = strings(step.payload)
    odd = step.op == Op.WATCH and len(words) == 2 and words[0][:1] == b"@" and illegal(words[0])
    return "EINVAL" if odd else None


def reset_watches_avoid(step: Step, story: Story) -> str | None:
    """C without the fix of XSA-484 dies of it; outside, with the connection's transactions open, it is well."""
    return "" if story.reset_kills and step.op == Op.RESET_WATCHES and step.tx == IN_SLOT else None


def special_domid_event(event: Said, story: Story) -> bool:
    return bool(re.match(rb"@(introduce|release)Domain/[0-9]+\0", event.payload))


def generation(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    """Generations are opaque; the names that follow are alike, or cut where the longer number left less room."""
    if step.op != Op.DIRECTORY_PART or ours.op != step.op or theirs.op != step.op or not ours.echo or not theirs.echo:
        return False
    (my_gen, nul, mine), (their_gen, their_nul, names) = ours.payload.partition(b"\0"), theirs.payload.partition(b"\0")
    if not (nul and their_nul and my_gen.isdigit() and their_gen.isdigit()):
        return False
    if step.tx == 0:
        # Whoever lists a directory in parts starts again when the number changed: both have to say so alike.
        path = canonical(path_of(step))
        before = story.generations.get(path)
        story.generations[path] = (my_gen, their_gen)
        if before is not None and (before[0] == my_gen) != (before[1] == their_gen):
            return False
    if mine == names:
        return True
    short, long = sorted((ours.payload, theirs.payload), key=len)
    gap = abs(len(my_gen) - len(their_gen))
    short_names, long_names = (part.partition(b"\0")[2] for part in (short, long))
    rest = len(long_names) - len(short_names)
    return gap > 0 and long_names.startswith(short_names) and len(short) > 4096 - 70 and rest < 70


FASTXS_C: Final = Rules(
    answers={
        "domid-syntax": domid_syntax,
        "new-operations": new_operations,
        "special-get-perms": special_perms,
        "control-texts": control_texts,
        "live-update": live_update,
        RELEASED_ACL: released_acl,
        "generation-opaque": generation,
        "unwatch-illegal-path": unwatch_illegal,
    },
    extras_ours={"special-domid": special_domid_event},
    avoids={
        "malformed-one-path": malformed_one_path,
        "release-of-target": target_avoid,
        "owner-of-root": root_owner_avoid,
        "domid-syntax": domid_syntax_avoid,
        "watch-depth": watch_depth_avoid,
        "special-set-perms": special_set_perms_avoid,
        "path-max-sockets": long_path,
        "watch-special-name": special_name_avoid,
        "reset-watches-in-transaction": reset_watches_avoid,
    },
    release_order=True,
    transactions=True,
)


def quota_memory(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    """Alike but for the number of bytes."""
    memory = re.compile(rb"\nmemory +: +[0-9]+")
    return step.op == Op.CONTROL and memory.sub(b"", ours.payload) == memory.sub(b"", theirs.payload) != ours.payload


# Two of a kind: what the daemon does not define is not asked.
C_C: Final = Rules(
    answers={"quota-memory": quota_memory},
    avoids={
        "special-set-perms": special_set_perms_avoid,
        "malformed-one-path": malformed_one_path,
        "release-of-target": target_avoid,
        "domid-syntax": domid_syntax_avoid,
        "owner-of-root": root_owner_avoid,
        "reset-watches-in-transaction": reset_watches_avoid,
    },
)

# -- oxenstored beside C xenstored 4.17: looser in most things, so only plain requests are asked ---------------------


def ox_directory_order(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    return step.op == Op.DIRECTORY == ours.op and sorted(strings(ours.payload)) == sorted(strings(theirs.payload))


def ox_words(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    return ours.op == theirs.op == Op.ERROR


def ox_looser(step: Step, ours: Said, theirs: Said, story: Story) -> bool:
    """WATCH and UNWATCH inside a transaction are answered with tx_id 0; lists of more than 4096 bytes are sent."""
    if step.op == Op.DIRECTORY and theirs.error == "E2BIG":
        return len(ours.payload) > 4096
    if step.op == Op.TRANSACTION_START == ours.op == theirs.op:
        return atoi(ours.payload) > 0
    return step.op in (Op.WATCH, Op.UNWATCH) and (ours.op, ours.payload) == (theirs.op, theirs.payload)


_OX_STRINGS: Final = {Op.WATCH: 2, Op.UNWATCH: 2, Op.READ: 1, Op.DIRECTORY: 1, Op.MKDIR: 1, Op.RM: 1, Op.GET_PERMS: 1}
_OX_PATH: Final = re.compile(rb"(?!/tool|/deep|[^\0]*//)/?[a-z0-9/]*[a-z0-9]\0")


def ox_plain(step: Step, story: Story) -> str | None:
    """Only what both define: legal paths below `/`, domain 0 for owner, live transactions, nothing beside them."""
    words = strings(step.payload)
    if step.op in (RECONNECT, SYNC):
        return None
    if story.transaction and not step.tx:
        return ""
    if step.op in (Op.TRANSACTION_START, Op.TRANSACTION_END):
        live = step.tx < 0 or step.op == Op.TRANSACTION_START
        return None if live and step.payload in (b"\0", b"T\0", b"F\0") else ""
    plain = step.op in Op._value2member_map_ and {
        Op.WRITE: len(step.payload) < 1000,
        Op.SET_PERMS: words[1:2] == [b"n0"] and all(re.match(rb"[nrwb][0-4]\Z", word) for word in words[1:]),
    }.get(Op(step.op), _OX_STRINGS.get(Op(step.op)) == len(words))
    return None if plain and step.tx <= 0 and _OX_PATH.match(step.payload) else ""


def ox_below(event: Said, story: Story) -> bool:
    """oxenstored fires watches below a removed node whether or not there was anything where they watch."""
    return story.step.op in (Op.RM, Op.TRANSACTION_END)


def ox_undone(event: Said, story: Story) -> bool:
    """At a commit it does not fire for what was written and then removed with its parent."""
    return story.step.op == Op.TRANSACTION_END


OX_C: Final = Rules(
    answers={"ox-directory-order": ox_directory_order, "ox-words": ox_words, "ox-looser": ox_looser},
    extras_ours={"ox-looser": ox_below},
    extras_theirs={"ox-looser": ox_undone},
    avoids={"ox-looser": ox_plain},
    unordered="ox-event-order",
)

RULES: Final[dict[tuple[str, str], Rules]] = {
    ("fastxs", "c"): FASTXS_C,
    ("c", "c"): C_C,
    ("ox", "c"): OX_C,
    ("ox", "ox"): Rules(avoids={"ox-looser": ox_plain}),
    ("fastxs", "fastxs"): Rules(),
}

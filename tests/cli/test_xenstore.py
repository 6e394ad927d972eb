"""One long session with Debian's xenstore commands and with ours: what they print and how they end is the same.

Each side has a daemon of its own; a command that did something else than its twin shows at once, or in what later
commands see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from fastxs.hypervisor.host import BINARIES, Kind
from tests.cli.sides import commands, compare, debian, ours, two_hosts

SESSION: Final = """
# an empty store; what -h, no words and wrong options say goes to standard error
ls
ls /
ls -f
ls -h
ls --help
ls --he
ls -r
ls -u /
ls -t
ls -R
ls -n 5
ls -n
ls -pn
ls -Z
ls --bogus
ls --raw=1
ls --r /
ls --=x
ls -fpX /
ls -hZ
ls -Zh
ls -- -x
ls -
list
list -h
list -f /
list -R /
list -Z /
read
read -h
read -t /tool
read -f /tool
read -n 1 /tool
read --number
read -: /tool
read -\udcff /tool
write
write -h
write -p /a b
write /a
write /a b /c
write -5 /a
write /a -5
write /a --
rm
rm -h
rm -p /a
exists
exists -h
exists -p /tool
chmod
chmod -h
chmod -p /tool n0
watch
watch -h
watch -p /tool
watch -n
xenstore
xenstore -h
xenstore -f ls
xenstore bogus
xenstore ls -f
xenstore read /tool
xenstore read
xenstore xenstore-ls

# write, read, list
write /d/1 a
write /d/2 b /d/3 c /d/1 again
write -R /d/raw 'a\\tb\\x41'
write -s /d/s s
write --raw /d/raw2 '\\'
write /d/dash -
write -- /d/minus -5
write -Z /d/z z
write /d/empty ''
write rel/a/b relative
write /bad/ x
write 'bad path' x
write /ok 1 '/bad path' 2
exists /ok
write '' x
write / root
read /
write / ''
write @introduceDomain x
read /d/1
read -s /d/1
read -R /d/1
read -R -R /d/1
read -p /d/1
read -pR /d/1
read --prefix /d/1 /d/2
read -p -R /d/1 /d/2
read /d/1 /d/2 /d/3
read /d/1 /d/missing /d/2
read -p /d/1 /d/2 /d/missing
read /d/missing
read /d/missing /d/1
read /d/1/
read //d
read ''
read 'bad path'
read rel/a/b
read /local/domain/0/rel/a/b
read d/1
read -- /d/minus
read /d/raw /d/raw2 /d/dash /d/empty
read @introduceDomain
read /d/2 -p /d/3
list /d
list -p /d
list --prefix /d rel
list /
list -p /
list / /d
list /d /missing /
list /d/1
list -s /d
list ''
list 'bad path'
list rel
list -p rel/a
exists /d
exists -s /d
exists /missing
exists /d /missing
exists /missing /d
exists 'bad path'
exists ''
exists rel/a/b

# values: every escape that people type, and bytes that need one
write /v 'a\\tb\\nc\\rd\\\\e\\x41\\101\\0\\x\\xZ\\xa\\8\\q"'
read /v
read -R /v
write /v '\\'
read /v
write /v '\\x'
read /v
write /v '\\x4g\\x414\\xAF\\X41\\x00'
read /v
write /v '\\0\\00\\000\\1\\12\\123\\1234\\400\\777\\08\\8'
read /v
write /v '\\x 4\\x-4\\x+4\\x  4\\x-f\\x+\\x-\\x--4'
read /v
write /v '\\x0x41\\x0X\\x x\\x\t7'
read /v
write /v '\\"\\a\\b\\e\\f\\v\\N\\{newline}x'
read /v
write /v 'é\udcff\udc80 ~'
read /v
ls -f /
write -R /v '\t\r\x01\x07\x08\x1b\x7f\udc80\udcff\\'
read /v
read -R /v
ls /
write /v '\\001\\x1f\\x7f\\x80\\xff'
ls -p /
read -p /v

# ls: trees, widths, permissions
ls /d
ls -f /d
ls --flat /d
ls -p /d
ls --prefix /d
ls -fp /d
ls -s /d
ls rel
ls -f rel
ls -f rel/a
ls /d /tool
ls -f /d /tool
ls /d /missing /tool
ls /missing
ls /d/
ls ''
ls 'bad path'
ls @introduceDomain
ls /d -f
write /w/{v40} {x40} /w/b {x69} /w/c {x70} /w/d/e/f/g {x80} /w/h {x51} /w/i {x52} /w/j {x50}
write /w/esc '{\\n60}' /w/k '{\\n70}'
ls /w
ls -p /w
ls -f /w
ls -fp /w
write {/p1000} deep
ls
ls -p
ls -f
chmod -u {/p1000} n0 r1
ls -p {/p990}
rm -t {/p1000}
exists /p
write /x {x4093}
read /x
write /x {x4094}
read -R /x
write /x {x3000} /y {x5000}
exists /y
rm /x
write /wide/{n90}1 1 /wide/{n90}2 2 /wide/{n90}3 3 /wide/{n90}4 4 /wide/{n90}5 5 /wide/{n90}6 6 /wide/{n90}7 7
write /wide/{n1900}a 1 /wide/{n1900}b 2 /wide/{n1900}c 3
list /wide
ls /wide
ls -fp /wide
rm /wide

# permissions
chmod /d n0 r1 w2 b3
ls -p
ls -fp
chmod /d
chmod /d/1 x0
chmod /d/1 ''
chmod /d/1 0
chmod /d/1 N0
chmod /d/1 n0 x5
chmod /d/1 r
ls -p /d
chmod /d/1 b0x
ls -p /d
chmod /d/1 'n 0' 'r+7' r08 w0x10 n4294967298
ls -p /d
chmod /d/1 n0,r1
ls -p /d
chmod /d/1 r-1
chmod /d/1 n0 r99999999999999999999
chmod /d/1 n65536
chmod /d/1 n5
chmod -s /d/2 r0
chmod /missing n0
chmod -r /missing n0
chmod -u /missing n0
chmod / n0
chmod -u / n0
chmod 'bad path' n0
chmod -u rel/a/b n0
chmod -u @introduceDomain n0
chmod @introduceDomain n0
chmod -r /w n0 r3
ls -p /w
chmod -u /w/d/e n0 r4
ls -p
chmod -ru /w/d n0 r5
chmod --recurse --upto /w/d/e n0 b6
chmod --rec --up /w/d/e/f n0 b6
ls -fp
chmod -r rel n0 r1
ls -p rel
chmod -r /d/1 n0

# rm
rm /d/1 /d/2
rm /d/1
rm /missing
rm /missing/x
rm /d/3 /missing/x
exists /d/3
rm -s /d/3
rm /
rm -t /
rm ''
rm 'bad path'
rm @introduceDomain
write /t/a/b/c/d ''
rm /t/a/b/c/d
ls -f /t
rm -t /t/a/b/c
exists /t
write /t/a/b/c '' /t/a/x ''
rm -t /t/a/b/c
ls -f /t
write /t/a/b/c '' /t/v valued /t/v/a/b ''
rm --tidy /t/a/b/c /t/a/x /t/v/a/b
ls -f /t
rm -t /top
rm -tt /t/99
rm -t /t/x/y/z /t/v
exists /t/v
rm -t rel/a/b
ls -f /
rm /d /w /t /v /ok
ls

# watch: the first events
watch -n 1 /tool
watch -n1 /tool
watch --number=1 /tool
watch --num 1 /tool
watch -n 0 /tool
watch -n abc /tool
watch -n '' /tool
watch -n 0x2 /tool
watch -n -5 /tool
watch -n 2 /tool /missing
watch -n ' 2' /tool /missing
watch -n +1x /tool
watch -n 5 -n 1 /tool
watch -n 4294967297 /tool
watch -n 3 /tool /tool
watch -n 2 @introduceDomain @releaseDomain
watch -n 1 rel/x
watch -n 1 'bad path'
watch -n 1 /tool 'bad path'
watch -n 1 -Z /tool
watch -n 1 -- -x

# the daemon itself
control
control help
control help me
control bogus
control ''
control -x
control -- check
control check
control check x
control log
control log on
control log off
control log on off
control log xx
control print
control print hello
control print ''
control print -x
control print --help
control print a b
control memreport
control logfile
control quota
control quota 0
control quota 77
control quota set nodes 5000
control quota set nodes
control quota set bogus 1
control quota set nodes x
control quota
control quota-soft
control quota-soft set memory 1000000
control quota-soft
control print {x4090}
control print {x4091}
control {x4096}
control live-update
control live-update -t
control live-update -t 5
control live-update -c
control live-update -F
control live-update /nonexistent
control live-update -h
control live-update /nonexistent -t 5 -F -c x
"""


@pytest.mark.parametrize("kind", ["fastxs", "c"])
def test_session(kind: Kind) -> None:
    with two_hosts(kind) as hosts:
        compare(SESSION, hosts)


def test_where_there_is_no_daemon(tmp_path: Path) -> None:
    """Words are judged before a daemon is looked for, but for those of a live update."""
    env = {"XENSTORED_PATH": str(tmp_path / "socket")}
    for words in commands(SESSION):
        assert ours(words, env) == debian(words, env), words


def test_live_update_of_c_xenstored() -> None:
    """The daemon becomes the program that is named; here it is its own."""
    with two_hosts("c") as hosts:
        compare(f"write /a 1\ncontrol live-update -t 9 -F {BINARIES['c']}\nls -fp\ncontrol check", hosts)

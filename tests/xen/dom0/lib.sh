# What scenarios share: words to say and wait, guests to make and to talk to.

. /xen/store.sh

say() { echo "T+$(cut -d' ' -f1 /proc/uptime) $*"; }

fail() { # say what there is to see, and end the scenario
	say "FAIL $*"
	xl list
	timeout 10 xenstore-ls -sfp | tail -n 120
	tail -n 30 /var/log/xen/console/*.log /var/log/xen/*.log
	xl dmesg | tail -n 10
	exit 1
}

until_ok() { # SECONDS COMMAND...: again and again, until it succeeds
	end=$(($(cut -d. -f1 /proc/uptime) + $1))
	shift
	until eval "$@" >/dev/null 2>&1; do
		[ "$(cut -d. -f1 /proc/uptime)" -lt $end ] || fail "in vain: $*"
		sleep 0.4 # what is waited for has the CPU meanwhile
	done
}

show() { # COMMAND...: its output is what every XenStore daemon must lead to (test_host.py compares)
	echo "= $ $*"
	eval "$@" 2>&1 | sed 's/^/= /'
}

tree() { # [PATH]: the store's nodes with their permissions, in an order that does not depend on who was first
	show "xenstore-ls -fp ${1:-} | sort"
}

guest() { # NAME [LINE...]: create it, with more lines for its configuration
	name=$1
	shift
	{
		cat <<-CONFIG
			name = "$name"
			type = "pv"
			kernel = "/boot/vmlinux"
			ramdisk = "/boot/guest.cpio.gz"
			memory = 128
			extra = "console=hvc0 panic=1 quiet rodata=off ipv6.disable=1 cryptomgr.notests"
			on_crash = "destroy"
		CONFIG
		printf '%s\n' "$@"
	} >"/tmp/$name.cfg"
	xl create -q "/tmp/$name.cfg" || fail "xl create $name"
}

home() { echo "/local/domain/$(xl domid "$1")"; }

ready() { # NAME...: until the guests have come up and said so
	for name; do until_ok 240 "xenstore-read $(home "$name")/data/ready"; done
}

order() { # NAME COMMAND: the guest runs it; no answer is expected
	xenstore-write -R "$(home "$1")/data/do" "$(cut -d' ' -f1 /proc/uptime) $2"
}

ask() { # NAME COMMAND: the guest runs it; prints what that prints, with its status
	at=$(home "$1")/data
	number=$(cut -d' ' -f1 /proc/uptime)
	xenstore-write -R "$at/do" "$number $2"
	until_ok 240 "xenstore-read $at/done | grep -q '^$number '"
	answer=$(xenstore-read -R "$at/done")
	answer=${answer#* }
	echo "${answer#* }"
	return "${answer%% *}"
}

gone() { for name; do until_ok 120 "! xl domid $name"; done; }

store() { xenstore-ls -fp | grep -v /data/ping; } # as it was, if nothing but a witness has written

witness() { # NAME: the guest writes on and on, and watches; so does dom0
	(xenstore-watch "/watched/$1" >"/tmp/watched-$1" &)
	order "$1" '
		(n=0; while xenstore-write data/ping $((n += 1)); do sleep 0.2; done) >/dev/null 2>&1 &
		xenstore-watch data/watched >/tmp/watched 2>&1 &
		until [ -s /tmp/watched ]; do sleep 0.1; done
		xenstore-write data/watches 1'
	until_ok 120 "xenstore-read $(home "$1")/data/watches && [ -s /tmp/watched-$1 ]"
}

unaware() { # NAME WORD: no write of the guest has failed, each watch fires once, the console speaks, it answers
	at=$(home "$1")/data
	pinged=$(xenstore-read "$at/ping")
	xenstore-write "/watched/$1/$2" "$2" "$at/watched/$2" "$2"
	until_ok 120 "grep -q /$2 /tmp/watched-$1"
	said=$(ask "$1" "until grep -q /$2 /tmp/watched; do sleep 0.1; done; echo $2 >/dev/hvc0; sort /tmp/watched | uniq -d")
	[ -z "$said$(sort "/tmp/watched-$1" | uniq -d)" ] || fail "told twice: $said"
	until_ok 120 "grep -q $2 /var/log/xen/console/guest-$1.log"
	until_ok 120 "[ \$(xenstore-read $at/ping) -gt $pinged ]"
	say "$1 is unaware: $2"
}

witnessed() { # there are no witnesses any more
	killall xenstore-watch
	xenstore-rm /watched
}

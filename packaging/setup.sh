# shellcheck shell=sh
# What ./run and ./test share: from any Debian to a built fastxs in .venv.  Sourced with the checkout
# as working directory.  Every step looks first whether it is done, so a second start takes seconds
# and needs no network.

# What must be on the machine, and the Debian package that brings it: package, kind, how to see that it is there.
# `needed`: fastxs cannot be built without it.  `peer`: other people's daemons and clients, for tests and for trying.
# `xen`: a real Xen host under QEMU, for tests; its hypervisor and kernel are not installed (tests/xen/parts.py).
machine_needs() {
	cat <<-'TABLE'
		gcc             needed  command -v gcc
		libc6-dev       needed  test -n "$(printf '#include <errno.h>' | gcc -E - 2>/dev/null)"
		python3         needed  find_python
		python3-dev     needed  test -f "$("$(find_python)" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
		python3-venv    needed  "$(find_python)" -c 'import ensurepip, venv'
		xen-utils-4.17  peer    test -x /usr/lib/xen-4.17/bin/xenstored
		xenstore-utils  peer    command -v xenstore-ls
		qemu-system-x86 xen     command -v qemu-system-x86_64
		busybox-static  xen     test -x /bin/busybox
	TABLE
}

say() { printf 'fastxs: %s\n' "$*" >&2; }

find_python() {
	for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
		if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
			command -v "$python"
			return
		fi
	done
	return 1
}

missing() { # KIND...: the packages of these kinds that are not there
	machine_needs | while read -r package kind check; do
		case " $* " in *" $kind "*) eval "$check" </dev/null >/dev/null 2>&1 || printf ' %s' "$package" ;; esac
	done
}

apt_install() { # no service may start only because somebody runs our tests: hence policy-rc.d
	policy=/usr/sbin/policy-rc.d
	if [ -e "$policy" ]; then policy=; else
		trap 'rm -f "$policy"' EXIT
		trap 'exit 130' INT TERM
		printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
	fi
	export DEBIAN_FRONTEND=noninteractive
	[ -n "${updated:-}" ] || { apt-get -q update && updated=yes; } || true
	installed=0
	apt-get -q -y --no-install-recommends install "$@" || installed=$?
	if [ -n "$policy" ]; then
		rm -f "$policy"
		trap - EXIT INT TERM
	fi
	return "$installed"
}

install_machine() { # KIND...: what is wanted beside `needed`, which alone can stop us
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		for kind in needed "$@"; do
			packages=$(missing "$kind")
			[ -n "$packages" ] || continue
			say "installing$packages"
			# shellcheck disable=SC2086 # a list of words
			apt_install $packages >&2 || true
		done
	fi
	needed=$(missing needed) others=$(missing "$@")
	[ -n "$needed$others" ] || return 0
	say "this machine lacks$needed$others"
	printf '  as root, run: apt-get update && apt-get install -y --no-install-recommends%s\n' "$needed$others" >&2
	if [ -n "$needed" ]; then
		say "cannot build without$needed"
		return 1
	fi
	say "going on: tests that need$others are skipped"
}

pip_install() {
	for try in 1 2 3; do
		.venv/bin/python -m pip --disable-pip-version-check install -q --no-build-isolation --retries 5 --timeout 60 "$@" && return
		say "pip failed (try $try of 3)"
	done
	return 1
}

stamp() { # what the environment depends on; a moved checkout has to be installed again, too
	printf '%s ' "$PWD" && cat pyproject.toml .venv/pyvenv.cfg | cksum
}

install_python() {
	if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
		"$(find_python)" -m venv --clear .venv || return
	fi
	[ "$(cat .venv/.fastxs-stamp 2>/dev/null)" != "$(stamp)" ] || return 0
	say "installing what pyproject.toml asks for into .venv and building (minutes, the first time)"
	requires=$(.venv/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
	# shellcheck disable=SC2086 # a list of words
	pip_install $requires && pip_install --editable '.[dev]' && stamp >.venv/.fastxs-stamp
}

build() {
	flock .venv/.build.lock .venv/bin/python setup.py -q build_ext --inplace
}

setup() { # KIND...: see machine_needs
	install_machine "$@" && install_python && build
}

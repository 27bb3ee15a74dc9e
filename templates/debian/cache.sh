# How build.sh, which sources this file, makes a thing once: locks, logs, scratch folders and
# the cache. What checkouts share lies in $CACHE, each thing under a hash of all that it
# depends on. A file has its final name only when it is complete: it is made in a scratch
# folder, $NEW in build/ or $TMP in the cache, that goes away with the script, however that
# ends.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2317 # CODE and MADE are for build.sh; functions that start and quietly run look unreachable

readonly SYSTEM_PATH=/usr/sbin:/usr/bin:/sbin:/bin # where a recipe may find its tools

# settle sees to it that nothing unfinished stays.
settle() {
	[[ $(uname -sm) == 'Linux x86_64' ]] || die "this builds on x86-64 Linux only"
	[[ -n $CACHE ]] || die "no HOME to put the cache in" "set COCOROOT_CACHE to a folder"
	[[ $CACHE != *[[:space:]:]* ]] || die "a kernel cannot be built below '$CACHE': a space or a colon in the name"
	mkdir -p build/log
	trap tidy EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
}

# lock_build takes build/ for this run only, and leaves the scratch folder $NEW there.
lock_build() {
	exec {BUILD_LOCK}>build/.lock
	flock -n "$BUILD_LOCK" || { say "waiting for another build.sh in this folder" && flock "$BUILD_LOCK"; }
	rm -rf build/.new.* # left by a run that was killed
	NEW=$(mktemp -d build/.new.XXXXXX)
}

# lock NAME takes a part of the cache, until unlock, and leaves the scratch folder $TMP.
lock() {
	mkdir -p "$CACHE/tmp"
	exec {LOCK}>"$CACHE/$1.lock"
	flock -n "$LOCK" || { say "waiting for another build.sh that makes the $1" && flock "$LOCK"; }
	[[ -z $TMP ]] || return 0
	find "$CACHE/tmp" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} + # left by a run that was killed
	TMP=$(mktemp -d "$CACHE/tmp/XXXXXX")
}

unlock() { exec {LOCK}>&-; }

# tidy ends what still runs and removes what is unfinished.
tidy() {
	local group
	for group in $(jobs -p); do
		kill -- "-$group" 2>/dev/null || true
	done
	wait
	rm -rf ${NEW:+"$NEW"} ${TMP:+"$TMP"}
}

# built ends the part of a run that makes things, so that another run may start.
built() {
	rm -rf ${NEW:+"$NEW"} ${TMP:+"$TMP"}
	NEW='' TMP=''
	exec {BUILD_LOCK}>&-
}

say() { printf '%s\n' "$*"; }

# die ERROR [HINT]
die() {
	printf 'build.sh: error: %s\n' "$1" >&2
	[[ -z ${2:-} ]] || printf 'build.sh: hint: %s\n' "$2" >&2
	exit 1
}

# start COMMAND… runs a command or function in the background, as a process group of its
# own, so that an interrupt ends all of it; then wait for $GROUP.
start() {
	set -m
	"$@" </dev/null &
	set +m
	GROUP=$!
}

# try LOG COMMAND… keeps the output in build/log/LOG.log and the exit code in CODE. On a
# terminal the output's last line is the progress. (Not in an if: bash would ignore failures
# inside a function.)
try() {
	local log=build/log/$1.log
	shift
	CODE=0
	start "$@" >"$log" 2>&1
	while [[ -t 2 ]] && kill -0 "$GROUP" 2>/dev/null; do
		printf '\r\033[K  %.70s' "$(tail -n 1 "$log" | tr -cd '[:print:]')" >&2
		sleep 0.3
	done
	[[ ! -t 2 ]] || printf '\r\033[K' >&2
	wait "$GROUP" || CODE=$?
}

# quietly LOG COMMAND… is try that shows the log's end when the command fails, and ends.
quietly() {
	try "$@"
	((CODE == 0)) && return
	tail -n 40 "build/log/$1.log" >&2
	grep -aE '^ *(--- FAIL:|[a-z_]+_test\.go:[0-9]+: )' "build/log/$1.log" | grep -v ' console:$' | tail -n 20 >&2 || true # which test it was
	die "exit code $CODE from: ${*:2:3}" "the whole log is build/log/$1.log"
}

# put FILE NAME gives a finished file or folder its name in build/, unless the same content
# lies there already.
put() {
	! diff -rq --no-dereference "$1" "$2" >/dev/null 2>&1 || return 0
	mkdir -p "$(dirname "$2")"
	cp -r --reflink=auto "$1" "$NEW/put"
	[[ ! -d $2 ]] || rm -rf "$2"
	mv -T "$NEW/put" "$2"
}

# made WHAT FILE tells the user where it is.
made() { printf '%-9s %s (%s bytes)\n' "$1" "$2" "$(stat -Lc %s "$2")"; }

# check NAME COMMAND… prints the name, runs the command, prints how long it took.
check() {
	local begin=$SECONDS
	printf '%-12s' "$1"
	quietly "test-$1" "${@:2}"
	printf ' ok %5d s\n' $((SECONDS - begin))
}

# recipe NAME INPUTS [--check] SCRIPT ARGUMENT… leaves MADE, what SCRIPT ARGUMENT… OUT makes
# of OUT, kept in the cache by the hash of INPUTS, a text with all that it depends on. With
# --check the script runs again, in another folder, and has to make the same.
recipe() {
	local name=$1 check=$3 clean=(nice env -i "PATH=$SYSTEM_PATH" LC_ALL=C TZ=UTC HOME=/nonexistent ${http_proxy:+"http_proxy=$http_proxy"})
	MADE=$CACHE/$name/$(sha256 <<<"$2")
	shift 3
	[[ ! -e $MADE || $check == --check && ! -e $MADE.reproducible ]] || return 0
	lock "$name"
	if [[ ! -e $MADE ]]; then
		say "making the $name"
		mkdir -p "$CACHE/$name" "$TMP/$name"
		quietly "$name" "${clean[@]}" "TMPDIR=$TMP/$name" "$@" "$TMP/made"
		mv -T "$TMP/made" "$MADE"
	fi
	if [[ $check == --check && ! -e $MADE.reproducible ]]; then
		say "making the $name again, in another folder, to compare"
		mkdir -p "$TMP/else/where/$name"
		quietly "$name-again" "${clean[@]}" "TMPDIR=$TMP/else/where/$name" "$@" "$TMP/again"
		diff -r "$MADE" "$TMP/again" || die "two builds of the $name differ"
		rm -rf "$TMP/again"
		touch "$MADE.reproducible"
	fi
	unlock
}

sha256() { sha256sum "$@" | cut -d ' ' -f 1; }

# content FOLDER… prints a hash of all that is in them, but for prose.
content() { tar -c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --exclude='*.md' "$@" | sha256; }

# tool_inputs TOOL… prints which build of a tool this is.
tool_inputs() {
	local tool PATH=$SYSTEM_PATH
	for tool in "$@" "$(gcc -print-prog-name=cc1)"; do
		tool=$(realpath "$(command -v "$tool")")
		printf 'tool %s %s %s\n' "$tool" "$(package_of "$tool")" "$(sha256 "$tool")"
	done
}

#!/usr/bin/env bash
# The one entrance to building, trying and testing cocoroot: ./build.sh help.
#
# What was made lies in build/, which git ignores. What is slow to make or to
# get lies in the cache, which checkouts share. A file has its final name only
# when it is complete: it is made in a scratch folder, $NEW or $TMP, that goes
# away with this script, however that ends.
# shellcheck disable=SC2317 # functions that start and quietly run look unreachable
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

readonly DISK_KEY=736869e5-84f0-4973-92ec-06879ce3da0b # the default of cocoroot.key=
readonly DEMO_LINE='demo: running from the encrypted root'
readonly FRAGMENT=templates/kernel/cocoroot.config
readonly MODULAR=templates/kernel/modular.config
readonly SYSTEM_PATH=/usr/sbin:/usr/bin:/sbin:/bin # where a kernel build may find its tools

# Debian packages, each with what shows that it is there: a command or a file.
readonly C_PACKAGES=(gcc=gcc libc6-dev=/usr/include/stdio.h)
readonly KERNEL_PACKAGES=(
	"${C_PACKAGES[@]}" make=make flex=flex bison=bison bc=bc libelf-dev=/usr/include/libelf.h
	zstd=zstd xz-utils=xz kmod=/sbin/depmod
)
readonly BOOT_PACKAGES=(qemu-system-x86=qemu-system-x86_64 squashfs-tools=mksquashfs cryptsetup-bin=cryptsetup e2fsprogs=mke2fs)

usage() {
	cat <<-'END'
		usage: ./build.sh VERB

		  demo              boot a sealed image in QEMU, without SEV hardware
		  test              set everything up and run every check
		  tools             build/cocoroot, its man pages and build/init
		  firmware          build/OVMF.amdsev.fd
		  kernel [--check]  build/bzImage and build/modules; --check builds them a
		                    second time, in another folder, and compares
		  kernels           build/modular and build/debian-kernel, which tests boot
		  initrd [--debug]  build/initrd.img; --debug makes build/debug.img, an archive
		                    with a shell, for nothing that is secret
		  bench             what sealing costs beside stock tools, and a boot beside
		                    other initrds
		  fuzz [SECONDS]    run every fuzz target for so long, 60 by default; test
		                    runs their seeds
		  clean [--cache]   remove build/; with --cache the cache as well
		  help              this text

		Missing Debian packages are installed with apt, as root or through sudo.

		  COCOROOT_CACHE=DIR  what checkouts share (default ~/.cache/cocoroot)
		  OVMF=FILE           use this firmware
		  KERNEL=FILE         use this kernel, and with KERNEL_MODULES=DIR the modules
		                      in DIR/lib/modules/VERSION
	END
}

main() {
	case "$*" in
	demo) settle; demo ;;
	test) settle; all_checks ;;
	tools) settle; tools ;;
	firmware) settle; firmware ;;
	kernel | 'kernel --check') settle; kernel "${2:-}" ;;
	kernels) settle; kernels ;;
	initrd | 'initrd --debug') settle; initrd "${2:-}" ;;
	fuzz | 'fuzz '[1-9]*) settle; fuzz "${2:-60}" ;;
	bench) settle; bench ;;
	clean | 'clean --cache') settle; clean "${2:-}" ;;
	'' | help | -h | --help) usage ;;
	*) usage >&2 && exit 2 ;;
	esac
}

# settle fixes every path, takes the cache for this run alone, and sees to it
# that nothing unfinished stays.
settle() {
	[[ $(uname -sm) == 'Linux x86_64' ]] || die "this builds on x86-64 Linux only"
	CACHE=${COCOROOT_CACHE:-${HOME:+$HOME/.cache/cocoroot}}
	[[ -n $CACHE ]] || die "no HOME to put the cache in" "set COCOROOT_CACHE to a folder"
	[[ $CACHE != *[[:space:]:]* ]] || die "a kernel cannot be built below '$CACHE': a space or a colon in the name"
	CACHE=$(realpath -m -- "$CACHE")
	OVMF=${OVMF:+$(realpath -m -- "$OVMF")}
	KERNEL=${KERNEL:+$(realpath -m -- "$KERNEL")}
	KERNEL_MODULES=${KERNEL_MODULES:+$(realpath -m -- "$KERNEL_MODULES")}
	cd "$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")"

	mkdir -p build/log "$CACHE"
	exec {LOCK}>"$CACHE/lock"
	flock -n "$LOCK" || { say "waiting for another build.sh that uses $CACHE" && flock "$LOCK"; }
	mkdir -p "$CACHE/tmp"
	rm -rf "$CACHE"/tmp/* # left by a run that was killed
	TMP=$(mktemp -d "$CACHE/tmp/XXXXXX")
	NEW=$(mktemp -d build/.new.XXXXXX)
	trap tidy EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
}

# tidy ends what still runs and removes what is unfinished.
tidy() {
	local group
	for group in $(jobs -p); do
		kill -- "-$group" 2>/dev/null || true
	done
	wait
	[[ -z $TMP ]] || rm -rf "$TMP" "$NEW"
}

# built ends the part of a run that makes things, so that another run may start.
built() {
	rm -rf "$TMP" "$NEW"
	TMP=
	exec {LOCK}>&-
}

say() { printf '%s\n' "$*"; }

# die ERROR [HINT]
die() {
	printf 'build.sh: error: %s\n' "$1" >&2
	[[ -z ${2:-} ]] || printf 'build.sh: hint: %s\n' "$2" >&2
	exit 1
}

# start COMMAND… runs a command or function in the background, as a process
# group of its own, so that an interrupt ends all of it; then wait for $GROUP.
# (Not behind || or in an if: bash would ignore failures inside the function.)
start() {
	set -m
	"$@" </dev/null &
	set +m
	GROUP=$!
}

# quietly LOG COMMAND… keeps the output in build/log/LOG.log and shows its end
# when the command fails. On a terminal its last line is the progress.
quietly() {
	local log=build/log/$1.log code=0
	shift
	start "$@" >"$log" 2>&1
	while [[ -t 2 ]] && kill -0 "$GROUP" 2>/dev/null; do
		printf '\r\033[K  %.70s' "$(tail -n 1 "$log" | tr -cd '[:print:]')" >&2
		sleep 0.3
	done
	[[ ! -t 2 ]] || printf '\r\033[K' >&2
	wait "$GROUP" || code=$?
	((code == 0)) && return
	tail -n 40 "$log" >&2
	die "exit code $code from: ${*:1:3}" "the whole log is $log"
}

# put FILE NAME gives a finished file or folder its name in build/, unless the
# same content lies there already.
put() {
	! diff -rq --no-dereference "$1" "$2" >/dev/null 2>&1 || return 0
	mkdir -p "$(dirname "$2")"
	cp -r --reflink=auto "$1" "$NEW/put"
	[[ ! -d $2 ]] || rm -rf "$2"
	mv -T "$NEW/put" "$2"
}

# made WHAT FILE tells the user where it is.
made() { printf '%-9s %s (%s bytes)\n' "$1" "$2" "$(stat -Lc %s "$2")"; }

sha256() { sha256sum "$@" | cut -d ' ' -f 1; }

# --- Debian packages ---------------------------------------------------------

# packages REASON NAME=SIGN… installs those whose sign is missing.
packages() {
	local reason=$1 item missing=() names
	shift
	for item; do
		command -v "${item#*=}" >/dev/null || [[ -e ${item#*=} ]] || missing+=("${item%%=*}")
	done
	((${#missing[@]})) || return 0
	names=${missing[*]}
	command -v apt-get >/dev/null || die "missing $reason: $names (Debian's names)" "install them with this system's own tools"
	say "installing $names $reason"
	apt_as_root install "${missing[@]}" || { apt_as_root update && apt_as_root install "${missing[@]}"; } || {
		tail -n 5 build/log/apt.log 2>/dev/null >&2 || true
		die "cannot install $names, needed $reason" "as root: apt-get install $names"
	}
}

apt_as_root() {
	local sudo=()
	((EUID == 0)) || sudo=("$(command -v sudo)") || return
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends \
		-o DPkg::Lock::Timeout=600 "$@" >>build/log/apt.log 2>&1
}

release() { sed -n 's/^VERSION_CODENAME=//p' /etc/os-release; }

# open_suite SUITE makes a suite of the system's own mirror ready for apt_in, or
# with "system" the system's own package lists.
open_suite() {
	local dir=$CACHE/apt/$1
	command -v apt-get >/dev/null || die "this is not a Debian system" "put a Go into PATH, and say OVMF=FILE KERNEL=FILE"
	[[ -n $(mirror) ]] || apt_as_root update || die "the package lists are missing" "as root: apt-get update"
	[[ $1 != system && -z $(find "$dir/updated" -mmin -1440 2>/dev/null) ]] || return 0
	[[ -n $(mirror) ]] || die "no Debian mirror in this system's apt configuration" "say OVMF=FILE KERNEL=FILE"
	mkdir -p "$dir"/{lists,cache/archives}/partial
	printf '%s\n' 'Types: deb' 'Components: main' 'Targets: Packages' "Suites: $1" "URIs: $(mirror)" >"$dir/suite.sources"
	mirror_key | sed 's/^/Signed-By: /' >>"$dir/suite.sources"
	if apt_in "$1" apt-get update >build/log/apt-suite.log 2>&1; then
		touch "$dir/updated"
	elif [[ -e $dir/updated ]]; then
		say "cannot refresh the package lists of $1: using those of $(date -r "$dir/updated" +%F)"
	else
		tail -n 5 build/log/apt-suite.log >&2
		die "cannot get the package lists of $1 from $(mirror)"
	fi
}

# mirror prints where the system has this release of Debian from.
mirror() {
	# shellcheck disable=SC2016 # these are fields for apt-get
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
		awk -v release="$(release)" '$1 == "Debian" && $2 == release && $3 == "main" && !n++ { sub("/$", "", $4); print $4 }'
}

# mirror_key prints the key file that the system's configuration names for it,
# in either form; apt's own keys serve when there is none.
mirror_key() {
	{
		find /etc/apt -name '*.list' -exec cat {} + | grep '^deb ' | grep -F "$(mirror)" | sed -n 's/.*signed-by=\([^] ]*\).*/\1/p'
		find /etc/apt -name '*.sources' -exec awk 1 '{}' ';' -exec echo ';' | awk -v RS= -v uri="$(mirror)" 'index($0, uri)' | sed -n 's/^Signed-By: *//p'
	} | grep -m 1 ^/ || true
}

# apt_in SUITE TOOL… runs apt-get or apt-cache; for a SUITE other than "system"
# with that suite as its only source and all its files in the cache.
apt_in() {
	local dir=$CACHE/apt/$1 suite=$1 tool=$2 options=(-q -o APT::Sandbox::User=root)
	shift 2
	[[ $suite == system ]] || options+=(
		-o "Dir::Etc::SourceList=$dir/suite.sources" -o Dir::Etc::SourceParts=/dev/null
		-o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache"
		-o Acquire::Languages=none -o APT::Update::Error-Mode=any
		-o Acquire::AllowInsecureRepositories=false -o APT::Get::AllowUnauthenticated=false
	)
	"$tool" "${options[@]}" "$@"
}

# offered SUITE PACKAGE prints the version that can be had, or nothing.
offered() { apt_in "$1" apt-cache policy "$2" | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }

# names SUITE PATTERN prints the package names that match all of it, oldest
# version first.
names() { apt_in "$1" apt-cache pkgnames | { grep -xE "$2" || true; } | sort -V; }

# fetch SUITE PACKAGE[=VERSION] DIR; apt checks signature and hash.
fetch() { mkdir -p "$3" && cd "$3" && apt_in "$1" apt-get download "$2"; }

# unpack SUITE DIR PACKAGE… puts what these packages contain into the cache
# folder DIR; nothing is installed.
unpack() {
	local suite=$1 dir=$2 package
	shift 2
	for package; do
		say "getting $package $(offered "$suite" "$package") from $suite into the cache" >&2
		quietly "fetch-$package" fetch "$suite" "$package" "$TMP/$package"
		dpkg -x "$TMP/$package"/*.deb "$TMP/$dir"
	done
	mv "$TMP/$dir" "$CACHE/$dir"
}

# --- Tools -------------------------------------------------------------------

# go_ready puts a Go into PATH that can get the toolchain go.mod pins, and makes
# every go command use that toolchain.
go_ready() {
	local go pinned
	pinned=$(awk '$1 == "toolchain" { print $2 }' go.mod)
	for go in "$(command -v go || true)" /usr/local/go/bin/go "$CACHE"/go/usr/lib/go-*/bin/go unpack; do
		! go_switches "$go" || break
	done
	if [[ $go == unpack ]]; then
		unpack_go
		go=$(echo "$CACHE"/go/usr/lib/go-*/bin/go)
	fi
	if [[ $(GOTOOLCHAIN=local go_version "$go") != "$pinned" ]]; then
		packages 'for the Go module proxy' ca-certificates=/etc/ssl/certs/ca-certificates.crt
	fi
	PATH=$(dirname "$go"):$PATH
	export PATH GOTOOLCHAIN=$pinned GOFLAGS=-buildvcs=false GOWORK=off
	[[ -n ${HOME:-} ]] || export GOPATH=$CACHE/gopath GOCACHE=$CACHE/gocache
	quietly go-toolchain go version
}

go_version() { (cd / && "$1" env GOVERSION); }

# go_switches GO tells whether this is Go 1.21 or later, the first that can get
# another toolchain.
go_switches() {
	local version
	version=$(GOTOOLCHAIN=local go_version "$1" 2>/dev/null) || return
	printf 'go1.21\n%s\n' "$version" | sort -CV
}

# unpack_go takes the newest Go of the backports.
unpack_go() {
	local suite go
	suite=$(release)-backports
	open_suite "$suite"
	go=$(names "$suite" 'golang-1\.[0-9]+-go' | tail -n 1)
	[[ -n $go ]] || die "no Go 1.21 or later, here or in $suite" "put one into PATH"
	unpack "$suite" go "$go" "${go%-go}-src"
}

tools() {
	go_ready
	quietly tools build_tools
	put "$NEW/cocoroot" build/cocoroot
	put "$NEW/init" build/init
	put "$NEW/man" build/man
	made tools build/cocoroot
	made tools build/init
}

# build_tools: init alone is built with the experiment that wipes its secrets,
# and without inlining, which makes the archive a tenth smaller. The tool knows
# by its hash the firmware that was built from source, which is when there is a
# build/firmware.version, a line that says from what.
build_tools() {
	local own='' version
	version=$(git describe --tags --always --dirty 2>/dev/null || true)
	[[ ! -e build/firmware.version ]] || own="$(sha256 build/OVMF.amdsev.fd) $(cat build/firmware.version)"
	export CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1
	GOEXPERIMENT='' go build -trimpath -ldflags="-s -w -X 'main.ownFirmware=$own' -X main.built=$version" -o "$NEW/cocoroot" ./cmds/cocoroot
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0) go run -tags man ./cmds/cocoroot "$NEW/man"
	GOEXPERIMENT=runtimesecret go build -trimpath -gcflags=all=-l -ldflags='-s -w' -o "$NEW/init" ./cmds/init
}

# --- Firmware ----------------------------------------------------------------

# firmware: Debian has the package in the releases after 13. It is one
# file, for a guest, and depends on nothing.
firmware() {
	local file suite own=$CACHE/firmware/usr/share/ovmf/OVMF.amdsev.fd
	[[ -z $OVMF || -f $OVMF ]] || die "no firmware $OVMF"
	for file in "$OVMF" /usr/share/{ovmf,OVMF,edk2/ovmf,edk2/x64,qemu}/OVMF.amdsev.fd "$own"; do
		[[ ! -f $file ]] || break
	done
	for suite in forky sid; do
		[[ ! -f $file ]] || break
		open_suite "$suite"
		[[ -z $(offered "$suite" ovmf-amdsev) ]] || unpack "$suite" firmware ovmf-amdsev
	done
	[[ -f $file ]] || die "this system's mirror has no package ovmf-amdsev" "get an OVMF.amdsev.fd and say OVMF=FILE"
	rm -f build/firmware.version # it was not built here
	put "$file" build/OVMF.amdsev.fd
	made firmware build/OVMF.amdsev.fd
}

# --- Kernel ------------------------------------------------------------------

# kernel [--check]
kernel() {
	if [[ -n $KERNEL ]]; then
		[[ -f $KERNEL ]] || die "no kernel $KERNEL"
		put "$KERNEL" build/bzImage
		rm -rf build/modules build/kernel.*
		[[ -z $KERNEL_MODULES ]] || put "$KERNEL_MODULES/lib/modules" build/modules/lib/modules
	else
		packages 'to build the kernel' "${KERNEL_PACKAGES[@]}"
		kernel_source
		kernel_inputs >"$TMP/inputs"
		kernel_cached . "$TMP/inputs" "$1"
		put "$MADE/bzImage" build/bzImage
		put "$MADE/config" build/kernel.config
		put "$MADE/lib" build/modules/lib
		put "$TMP/inputs" build/kernel.inputs
	fi
	made kernel build/bzImage
}

# kernels leaves what `cocoroot initrd --modules` is tested with: build/modular,
# whose drivers are modules, as distributions have them, and build/debian-kernel.
kernels() {
	modular_kernel
	debian_kernel
}

# modular_kernel is made like the kernel, with MODULAR's lines in the place of
# those of the same symbols.
modular_kernel() {
	[[ -z $KERNEL ]] || return 0 # this system may not be able to build one
	packages 'to build the kernel' "${KERNEL_PACKAGES[@]}"
	[[ -n ${VERSION:-} ]] || kernel_source
	mkdir -p "$TMP/modular/${FRAGMENT%/*}"
	awk -F '[ =]' '
		{ name = /^CONFIG_/ ? $1 : /^# CONFIG_/ ? $2 : "" }
		NR == FNR { if (name) replaced[name]; next }
		!(name in replaced)
		' "$MODULAR" "$FRAGMENT" | cat - "$MODULAR" >"$TMP/modular/$FRAGMENT"
	(cd "$TMP/modular" && kernel_inputs) >"$TMP/modular/inputs"
	kernel_cached "$TMP/modular" "$TMP/modular/inputs" ''
	put "$MADE/bzImage" build/modular/bzImage
	put "$MADE/lib" build/modular/lib
	made kernel build/modular/bzImage
}

# debian_kernel gets Debian's kernel for clouds. It is not installed, so depmod
# is run here.
debian_kernel() {
	local dir=$CACHE/debian-kernel
	packages 'for the tests' kmod=/sbin/depmod
	if ! compgen -G "$dir/lib/modules/*/modules.dep" >/dev/null; then
		rm -rf "$dir"
		open_suite bookworm
		unpack bookworm debian-kernel "$(names bookworm 'linux-image-6\.1\.0-[0-9]+-cloud-amd64' | tail -n 1)"
		/sbin/depmod -b "$dir" "$(ls "$dir/lib/modules")"
		cp "$dir"/boot/vmlinuz-* "$dir/bzImage"
	fi
	ln -sfnT "$dir" build/debian-kernel
	made kernel build/debian-kernel/bzImage
}

# kernel_cached FOLDER INPUTS [--check] leaves MADE, what compile makes in
# FOLDER, where it finds its fragment.
kernel_cached() {
	MADE=$CACHE/kernel/$(sha256 "$2")
	if [[ ! -e $MADE ]]; then
		say "building a kernel from $SOURCE $VERSION, about $((18 / $(nproc) + 1)) minutes"
		fetch_source
		quietly kernel compile_in "$1" "$TMP/kernel" "$TMP/made"
		mkdir -p "$CACHE/kernel"
		mv "$TMP/made" "$MADE"
	fi
	if [[ $3 == --check && ! -e $MADE/reproducible ]]; then
		say "building the kernel again, in another folder, to compare"
		fetch_source
		quietly kernel-again compile_in "$1" "$TMP/else/where" "$TMP/again"
		diff -r "$MADE" "$TMP/again" || die "two builds of the kernel differ"
		date +%F >"$MADE/reproducible"
	fi
}

# kernel_source chooses SUITE, SOURCE and VERSION: Linux 6.12, for which the
# fragment is written, or else the next newer one. Debian 12 has it among its
# security updates and in its backports.
kernel_source() {
	for SUITE in system "$(release)-backports"; do
		open_suite "$SUITE"
		SOURCE=$(names "$SUITE" 'linux-source-[0-9]+\.[0-9]+' | awk '$0 == "linux-source-6.12" { seen = 1 } seen && !n++')
		VERSION=$(offered "$SUITE" "${SOURCE:-linux-source}")
		[[ -z $SOURCE || -z $VERSION ]] || return 0
	done
	die "no linux-source-6.12 in this system's archive or its backports" "say KERNEL=FILE"
}

# kernel_inputs prints all that the bytes of the kernel depend on.
kernel_inputs() {
	local tool PATH=$SYSTEM_PATH
	printf 'source %s %s %s\n' "$SOURCE" "$VERSION" "$(source_sha256)"
	printf 'fragment %s\n' "$(sha256 "$FRAGMENT")"
	printf 'recipe %s\n' "$(declare -f compile | sha256)"
	for tool in gcc "$(gcc -print-prog-name=cc1)" as ld zstd; do
		tool=$(realpath "$(command -v "$tool")")
		printf 'tool %s %s %s\n' "$tool" "$(package_of "$tool")" "$(sha256 "$tool")"
	done
}

source_sha256() { apt_in "$SUITE" apt-cache show "$SOURCE=$VERSION" | awk '$1 == "SHA256:" && !n++ { print $2 }'; }

package_of() {
	local name
	name=$(dpkg -S "$1" 2>/dev/null | cut -d : -f 1) || true
	# shellcheck disable=SC2016 # these are fields for dpkg-query
	dpkg-query -W -f '${Package} ${Version}' "${name:-none}" 2>/dev/null || printf 'no package'
}

# fetch_source leaves DEB, the source package.
fetch_source() {
	DEB=$CACHE/source/$(source_sha256).deb
	[[ ! -e $DEB ]] || return 0
	quietly fetch-source fetch "$SUITE" "$SOURCE=$VERSION" "$TMP/source"
	rm -rf "$CACHE/source"
	mkdir "$CACHE/source"
	mv "$TMP/source"/*.deb "$DEB"
}

# compile_in FOLDER SCRATCH OUT
compile_in() { cd "$1"; compile "$2" "$3"; }

# compile SCRATCH OUT
compile() {
	local tree=$1 out=$2 make
	mkdir -p "$tree" "$out"
	dpkg --fsys-tarfile "$DEB" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
		tar -xJ --no-same-owner --strip-components=1 -C "$tree"
	make=(env -i "PATH=$SYSTEM_PATH" LC_ALL=C TZ=UTC HOME=/nonexistent
		KBUILD_BUILD_USER=cocoroot KBUILD_BUILD_HOST=cocoroot KBUILD_BUILD_VERSION=1
		KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970'
		nice make -C "$tree" "-j$(nproc)")
	cp templates/kernel/cocoroot.config "$tree/kernel/configs/"
	"${make[@]}" tinyconfig cocoroot.config
	settled "$tree"
	"${make[@]}" bzImage modules
	"${make[@]}" modules_install "INSTALL_MOD_PATH=$out" INSTALL_MOD_STRIP=1
	rm -f "$out"/lib/modules/*/build "$out"/lib/modules/*/source # links into the scratch folder
	cp "$tree/arch/x86/boot/bzImage" "$out/bzImage"
	cp "$tree/.config" "$out/config"
	rm -rf "$tree"
}

# settled TREE fails, naming them, when symbols of the fragment did not end up
# as written: misspelt, renamed, or lacking what they depend on.
settled() {
	local lost
	lost=$(
		awk -F '[ =]' '
			!/^(# )?CONFIG_/ { next }
			{ name = $1; is = substr($0, length(name) + 2) }
			/^#/ { name = $2; is = "" }
			NR == FNR { value[name] = is; next }
			value[name] != is { print name " is " (value[name] ? value[name] : "not set") }
			' "$1/.config" "$FRAGMENT"
		grep -oE 'CONFIG_[A-Z0-9_]+' "$FRAGMENT" | sort | comm -23 - <(
			grep -rhoE --include='Kconfig*' '^\s*(menu)?config [A-Z0-9_]+' "$1" | sed 's/.* /CONFIG_/' | sort
		) | sed 's/$/ is unknown to this kernel/'
	)
	[[ -z $lost ]] || die "the kernel's configuration is not as $FRAGMENT says:"$'\n'"$lost"
}

# --- Archive -----------------------------------------------------------------

# initrd [--debug]
initrd() {
	tools
	kernel ''
	if [[ $1 == --debug ]]; then debug_archive; else archive; fi
}

archive() { write_archive initrd --init build/init; }

# write_archive NAME OPTION… leaves build/NAME.img, with the kernel's modules.
write_archive() {
	local name=$1 modules=()
	shift
	[[ ! -d build/modules ]] || modules=(--modules build/modules --kver "$(ls build/modules/lib/modules)")
	quietly "$name" build/cocoroot initrd -o "$NEW/$name.img" "$@" "${modules[@]}"
	put "$NEW/$name.img" "build/$name.img"
	made "$name" "build/$name.img"
}

debug_archive() {
	quietly debug-tools build_debug
	put "$NEW/debuginit" build/debuginit
	put "$NEW/commands.cpio" build/commands.cpio
	write_archive debug --debug
}

# build_debug: the commands and the shell come from u-root's own builder, which
# runs in u-root's module, for its go.sum pins what they are made from. The
# small shell sends no escape sequences to the console.
build_debug() {
	local out=$PWD/$NEW
	export CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1
	GOEXPERIMENT=runtimesecret go build -trimpath -gcflags=all=-l -ldflags='-s -w' -o "$out/debuginit" ./cmds/debuginit
	export GOEXPERIMENT=
	go build -o "$out/u-root" github.com/u-root/u-root
	cd "$(go list -m -f '{{.Dir}}' github.com/u-root/u-root)"
	"$out/u-root" -o "$out/commands.cpio" -initcmd= -defaultsh= -go-build-tags=goshsmall ./cmds/core/*
}

# --- Demo --------------------------------------------------------------------

demo() {
	local code=0
	packages 'for the demo' "${BOOT_PACKAGES[@]}"
	firmware
	initrd ''
	demo_root
	demo_seal
	built
	start demo_boot
	wait "$GROUP" || code=$?
	((code == 0)) || exit "$code"
	tr -d '\r' <build/log/demo.log | grep -x "$DEMO_LINE" ||
		die "the guest never said '$DEMO_LINE'" "its console is in build/log/demo.log"
}

# demo_root: templates/demo/init and a static busybox from its package, which is
# not installed, for it would take the place of the system's.
demo_root() {
	local root=$NEW/root applet
	if [[ ! -e $CACHE/busybox ]]; then
		open_suite system
		unpack system busybox busybox-static
	fi
	mkdir -p "$root"/{bin,dev,etc,proc,root,run,sbin,sys,tmp,usr,var}
	install -m 755 "$CACHE/busybox/bin/busybox" "$root/bin/busybox"
	for applet in $("$root/bin/busybox" --list); do
		[[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
	done
	install -m 755 templates/demo/init "$root/sbin/init"
	put "$root" build/demo/root
}

# demo_seal seals again only when root, tool or options changed.
demo_seal() {
	local stamp
	stamp=$({ tar -c --sort=name --mtime=@0 --owner=0 --group=0 -C build/demo root && cat build/cocoroot && declare -f demo_seal; } | sha256)
	if [[ $stamp != "$(cat build/demo/stamp 2>/dev/null)" || ! -e build/demo/image ]]; then
		rm -f build/demo/stamp
		quietly seal build/cocoroot seal build/demo/root -o build/demo/image --key-out build/demo/key \
			--cmdline-out build/demo/cmdline --manifest-out build/demo/manifest.json --append quiet --force
		echo "$stamp" >build/demo/stamp
	fi
	made image build/demo/image
}

demo_boot() {
	build/cocoroot launch --simulate --firmware build/OVMF.amdsev.fd --kernel build/bzImage \
		--initrd build/initrd.img --cmdline-file build/demo/cmdline --disk build/demo/image \
		--secret "$DISK_KEY=build/demo/key" 2>&1 | tee build/log/demo.log
}

# --- Tests -------------------------------------------------------------------

all_checks() {
	local all host
	packages 'for the tests' "${BOOT_PACKAGES[@]}" "${C_PACKAGES[@]}" shellcheck=shellcheck mmdebstrap=mmdebstrap \
		kmod=/sbin/depmod zstd=zstd erofs-utils=mkfs.erofs openssh-client=ssh-keygen xz-utils=xz fdisk=fdisk libxml2-utils=xmllint libssl-dev=/usr/include/openssl/evp.h
	firmware
	tools
	kernel --check
	archive
	debug_archive
	kernels
	demo_root
	demo_seal
	debian_root
	ssh_root
	schemas
	built
	export CGO_ENABLED=1 GOEXPERIMENT=runtimesecret
	all=$(go list ./...)
	mapfile -t host < <(grep -v ^cocoroot/cmds/ <<<"$all")
	check gofmt formatted
	check shellcheck shellcheck build.sh .ci/run templates/demo/init templates/images/*/build templates/images/debian-ssh/root/usr/local/sbin/take-host-key
	check vet go vet ./...
	check vet-plain env GOEXPERIMENT= go vet ./...
	check staticcheck go tool staticcheck ./...
	check unit go test -race "${host[@]}"
	check boot env CGO_ENABLED=0 go test -count=1 -timeout 40m ./cmds/...
	say "all checks passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
}

# check NAME COMMAND… prints the name, runs the command, prints how long it took.
check() {
	local begin=$SECONDS
	printf '%-12s' "$1"
	quietly "test-$1" "${@:2}"
	printf ' ok %5d s\n' $((SECONDS - begin))
}

formatted() {
	local files
	files=$("$(go env GOROOT)/bin/gofmt" -l .)
	[[ -z $files ]] || die "not as gofmt has it: $files"
}

# debian_root leaves build/debian12.tar, which the tests seal and boot: Debian
# 12 with systemd, from the system's mirror.
debian_root() {
	local tar
	tar=$CACHE/debian-root/$(declare -f bootstrap | sha256).tar
	if [[ ! -e $tar ]]; then
		((EUID == 0)) || packages 'to make a Debian root as a user' uidmap=newuidmap
		say "making a Debian 12 root for the boot tests"
		open_suite bookworm
		quietly debian-root bootstrap "$CACHE/apt/bookworm/suite.sources" "$TMP/root.tar"
		mkdir -p "$CACHE/debian-root"
		mv "$TMP/root.tar" "$tar"
	fi
	put "$tar" build/debian12.tar
	made debian build/debian12.tar
}

# bootstrap SOURCES TAR
bootstrap() {
	SOURCE_DATE_EPOCH=1700000000 mmdebstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev,dmsetup,cryptsetup-bin \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$2" "$1"
}

# ssh_root leaves build/debian-ssh/root.tar, the recipe of that name, and build/debian-ssh/user,
# the key that logs in to it. A key for tests, made with the root, opens nothing else.
ssh_root() {
	local recipe=templates/images/debian-ssh dir
	dir=$CACHE/debian-ssh/$(tar -c --sort=name --mtime=@0 --owner=0 --group=0 "$recipe" | sha256)
	if [[ ! -e $dir ]]; then
		((EUID == 0)) || packages 'to make a Debian root as a user' uidmap=newuidmap
		say "making the Debian root with OpenSSH for the boot tests"
		open_suite bookworm
		mkdir -p "$TMP/ssh" "$CACHE/debian-ssh"
		ssh-keygen -q -t ed25519 -N '' -C test -f "$TMP/ssh/user"
		quietly ssh-root "$recipe/build" "$TMP/ssh/user.pub" "$TMP/ssh/root.tar" "$CACHE/apt/bookworm/suite.sources"
		mv "$TMP/ssh" "$dir"
	fi
	put "$dir" build/debian-ssh
	made debian-ssh build/debian-ssh/root.tar
}

# schemas leaves libvirt's own grammar of a domain, which the templates are held
# against: Debian 12's, and Debian 13's, which has SEV-SNP.
schemas() {
	local suite package
	for package in bookworm=libvirt0 trixie=libvirt-common; do
		suite=${package%=*}
		if [[ ! -e $CACHE/libvirt-$suite ]]; then
			open_suite "$suite"
			unpack "$suite" "libvirt-$suite" "${package#*=}"
		fi
		put "$CACHE/libvirt-$suite/usr/share/libvirt/schemas" "build/libvirt/$suite"
	done
}

# --- Fuzzing -----------------------------------------------------------------

# fuzz SECONDS runs the fuzz targets of all packages, one after another. What
# fails one is left in its package's testdata/fuzz, and test runs it from then on.
# Go would take up to a minute to make each input of interest smaller, which on
# headers of some kilobytes was all that it ever did.
fuzz() {
	local log targets package name
	[[ $1 =~ ^[0-9]+$ ]] || die "'$1' is not a number of seconds"
	go_ready
	built
	export CGO_ENABLED=0
	quietly fuzz-targets go test -list '^Fuzz' ./...
	mapfile -t targets < <(awk '/^Fuzz/ { name[n++] = $1 } $1 == "ok" { for (i = 0; i < n; i++) print $2, name[i]; n = 0 }' build/log/fuzz-targets.log)
	((${#targets[@]})) || die "there are no fuzz targets"
	while read -r package name; do
		log=fuzz-$(basename "$package")-$name
		printf '%-44s' "${package#cocoroot/} $name"
		quietly "$log" go test -run '^$' -fuzz "^$name\$" -fuzztime "$1s" -fuzzminimizetime 0x "$package"
		awk '/^fuzz: elapsed/ { runs = $5; total = $NF } END { print runs, "runs,", total + 0, "inputs kept" }' "build/log/$log.log"
	done < <(printf '%s\n' "${targets[@]}")
}

# --- Benchmarks --------------------------------------------------------------

bench() {
	packages 'for the benchmarks' "${BOOT_PACKAGES[@]}" mmdebstrap=mmdebstrap e2fsprogs=mke2fs openssl=openssl
	firmware
	initrd ''
	demo_root
	peers
	built
	export CGO_ENABLED=0 GOEXPERIMENT=runtimesecret COCOROOT_REQUIRE_TOOLS=1
	go test -run '^$' -bench . ./initramfs/image/xts
	# 2 GiB of scratch files go to TMPDIR: it says which disk is measured.
	go test -run '^$' -bench '^BenchmarkSeal$' -benchtime 5x -timeout 60m ./initramfs/image/sealed
	go test -run '^$' -bench . -benchtime 1x -timeout 60m ./cmds/init
}

# peers leaves in build/peers what BenchmarkBoot compares with: the initrds that
# Debian 12 makes with initramfs-tools and with dracut, and its kernel.
peers() {
	local dir
	dir=$CACHE/peers/$(declare -f peers_in peers_make | sha256)
	if [[ ! -e $dir ]]; then
		((EUID == 0)) || packages 'to make a Debian root as a user' uidmap=newuidmap
		say "making the initrds of Debian 12 to compare with"
		open_suite bookworm
		mkdir -p "$TMP/peers" "$CACHE/peers"
		quietly peers peers_make "$CACHE/apt/bookworm/suite.sources" "$TMP/peers"
		mv "$TMP/peers" "$dir"
	fi
	put "$dir" build/peers
	made peers build/peers/initramfs-tools.img
	made peers build/peers/dracut.img
}

# peers_make SOURCES DIR
peers_make() {
	head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$2/key"
	declare -f peers_in >"$2/peers.sh"
	# shellcheck disable=SC2016 # mmdebstrap's shell has the root in $1
	mmdebstrap --variant=minbase --format=null --include=linux-image-cloud-amd64,initramfs-tools,cryptsetup-initramfs,dracut-core,systemd-sysv,udev \
		--customize-hook="upload '$2/key' /etc/bench.key" --customize-hook="upload '$2/peers.sh' /tmp/peers.sh" \
		--customize-hook='chroot "$1" bash -c ". /tmp/peers.sh; set -e; peers_in"' \
		--customize-hook="download /tmp/initramfs-tools.img '$2/initramfs-tools.img'" \
		--customize-hook="download /tmp/dracut.img '$2/dracut.img'" --customize-hook="download /tmp/vmlinuz '$2/vmlinuz'" \
		bookworm /dev/null "$1"
	rm "$2/peers.sh"
	chmod 644 "$2"/*
}

# peers_in runs in the Debian root. The UUID is BenchmarkBoot's.
peers_in() {
	local version
	version=$(ls /lib/modules)
	chmod 600 /etc/bench.key
	echo 'root UUID=11111111-1111-4111-8111-111111111111 /etc/bench.key luks,initramfs' >/etc/crypttab
	echo 'KEYFILE_PATTERN=/etc/bench.key' >>/etc/cryptsetup-initramfs/conf-hook
	echo 'UMASK=0077' >>/etc/initramfs-tools/initramfs.conf
	mkinitramfs -o /tmp/initramfs-tools.img "$version"
	dracut --force --no-hostonly --add crypt --include /etc/bench.key /etc/bench.key /tmp/dracut.img "$version"
	cp "/boot/vmlinuz-$version" /tmp/vmlinuz
}

# --- Cleaning ----------------------------------------------------------------

# clean [--cache]
clean() {
	if [[ $1 == --cache ]]; then
		chmod -R u+w "$CACHE/gopath" 2>/dev/null || true # Go's module cache is read-only
		rm -rf "$CACHE"/{apt,busybox,debian-kernel,debian-root,debian-ssh,firmware,go,gocache,gopath,kernel,libvirt-bookworm,libvirt-trixie,lock,peers,source,tmp}
		rmdir --ignore-fail-on-non-empty "$CACHE"
	fi
	rm -rf build
}

main "$@"; exit # on one line, for this file may change while it runs

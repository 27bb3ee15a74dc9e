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

# shellcheck source=templates/debian/debian.sh
. "$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")/templates/debian/debian.sh"

usage() {
	cat <<-'END'
		usage: ./build.sh VERB

		  demo              boot a sealed image in QEMU, without SEV hardware
		  test              set everything up and run every check
		  tools             build/cocoroot, its man pages and build/init
		  firmware [--check]  build/OVMF.amdsev.fd
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
	firmware | 'firmware --check') settle; firmware "${2:-}" ;;
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
	local log=build/log/$1.log
	try "$@"
	((CODE == 0)) && return
	tail -n 40 "$log" >&2
	die "exit code $CODE from: ${*:2:3}" "the whole log is $log"
}

# try LOG COMMAND… is quietly that leaves the exit code in CODE.
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

# --- Tools -------------------------------------------------------------------

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

# firmware [--check]
firmware() {
	if [[ -n $OVMF ]]; then
		[[ -f $OVMF ]] || die "no firmware $OVMF"
		put "$OVMF" build/OVMF.amdsev.fd
		rm -f build/firmware.{inputs,version}
	else
		packages 'to build the firmware' "${FIRMWARE_PACKAGES[@]}"
		firmware_inputs >"$TMP/firmware.inputs"
		get orig edk2
		recipe firmware "$TMP/firmware.inputs" "$1" templates/firmware/build "$FILE"
		put "$MADE" build/OVMF.amdsev.fd
		put "$TMP/firmware.inputs" build/firmware.inputs
		printf 'edk2 %s, built with inputs %.16s\n' "$(pin orig edk2 | cut -d ' ' -f 1)" "$(sha256 build/firmware.inputs)" >build/firmware.version
	fi
	made firmware build/OVMF.amdsev.fd
}

# firmware_inputs prints all that the bytes of the firmware depend on.
firmware_inputs() {
	printf 'source %s\n' "$(pin orig edk2)"
	printf 'templates/firmware %s\n' "$(content --exclude='*.md' templates/firmware)"
	tool_inputs gcc "$(gcc -print-prog-name=cc1)" as ld nasm python3 iasl
}

# stock_firmware leaves Debian's own build, which tests show to be open where ours is not.
stock_firmware() {
	unpacked ovmf-amdsev
	put "$DIR/usr/share/ovmf/OVMF.amdsev.fd" build/stock/OVMF.amdsev.fd
	made firmware build/stock/OVMF.amdsev.fd
}

# recipe NAME INPUTS [--check] SCRIPT ARGUMENT… leaves MADE, what SCRIPT ARGUMENT… OUT
# makes of OUT, kept in the cache by the hash of the file INPUTS. With --check the script
# runs again, in another folder, and has to make the same.
recipe() {
	local name=$1 inputs=$2 check=$3 clean=(env -i "PATH=$SYSTEM_PATH" LC_ALL=C TZ=UTC HOME=/nonexistent)
	shift 3
	MADE=$CACHE/$name/$(sha256 "$inputs")
	mkdir -p "$CACHE/$name" "$TMP/$name" "$TMP/else/where/$name"
	if [[ ! -e $MADE ]]; then
		say "building the $name"
		quietly "$name" "${clean[@]}" "TMPDIR=$TMP/$name" nice "$@" "$TMP/made"
		mv -T "$TMP/made" "$MADE"
	fi
	if [[ $check == --check && ! -e $MADE.reproducible ]]; then
		say "building the $name again, in another folder, to compare"
		quietly "$name-again" "${clean[@]}" "TMPDIR=$TMP/else/where/$name" nice "$@" "$TMP/again"
		diff -r "$MADE" "$TMP/again" || die "two builds of the $name differ"
		date +%F >"$MADE.reproducible"
	fi
}

# content FOLDER… prints a hash of all that is in them.
content() { tar -c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "$@" | sha256; }

# tool_inputs TOOL… prints which build of a tool this is.
tool_inputs() {
	local tool PATH=$SYSTEM_PATH
	for tool; do
		tool=$(realpath "$(command -v "$tool")")
		printf 'tool %s %s %s\n' "$tool" "$(package_of "$tool")" "$(sha256 "$tool")"
	done
}

package_of() {
	local name
	name=$(dpkg -S "$1" 2>/dev/null | cut -d : -f 1) || true
	# shellcheck disable=SC2016 # these are fields for dpkg-query
	dpkg-query -W -f '${Package} ${Version}' "${name:-none}" 2>/dev/null || printf 'no package'
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
	[[ -n ${DEB:-} ]] || kernel_source
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
	packages 'for the tests' kmod=/sbin/depmod
	unpacked linux-image-6.1.0-50-cloud-amd64
	if [[ ! -e $DIR/bzImage ]]; then
		/sbin/depmod -b "$DIR" "$(ls "$DIR/lib/modules")"
		cp "$DIR"/boot/vmlinuz-* "$DIR/bzImage"
	fi
	ln -sfnT "$DIR" build/debian-kernel
	made kernel build/debian-kernel/bzImage
}

# kernel_cached FOLDER INPUTS [--check] leaves MADE, what compile makes in
# FOLDER, where it finds its fragment.
kernel_cached() {
	MADE=$CACHE/kernel/$(sha256 "$2")
	if [[ ! -e $MADE ]]; then
		say "building a kernel, about $((18 / $(nproc) + 1)) minutes"
		quietly kernel compile_in "$1" "$TMP/kernel" "$TMP/made"
		mkdir -p "$CACHE/kernel"
		mv "$TMP/made" "$MADE"
	fi
	if [[ $3 == --check && ! -e $MADE/reproducible ]]; then
		say "building the kernel again, in another folder, to compare"
		quietly kernel-again compile_in "$1" "$TMP/else/where" "$TMP/again"
		diff -r "$MADE" "$TMP/again" || die "two builds of the kernel differ"
		date +%F >"$MADE/reproducible"
	fi
}

# kernel_inputs prints all that the bytes of the kernel depend on.
kernel_inputs() {
	local PATH=$SYSTEM_PATH
	printf 'source %s\n' "${DEB##*/}"
	printf 'fragment %s\n' "$(sha256 "$FRAGMENT")"
	printf 'recipe %s\n' "$(declare -f compile | sha256)"
	tool_inputs gcc "$(gcc -print-prog-name=cc1)" as ld zstd
}

# kernel_source leaves DEB, the source package: Linux 6.12, for which the fragment is
# written.
kernel_source() {
	get deb linux-source-6.12
	DEB=$FILE
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
	firmware ''
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
	unpacked busybox-static
	mkdir -p "$root"/{bin,dev,etc,proc,root,run,sbin,sys,tmp,usr,var}
	install -m 755 "$DIR/bin/busybox" "$root/bin/busybox"
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
	firmware ''
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
	check shellcheck shellcheck -x build.sh templates/debian/debian.sh .ci/run templates/demo/init templates/images/*/build templates/images/debian-ssh/root/usr/local/sbin/take-host-key
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
		list bookworm || die "there is no Debian 12 to be had"
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
		list bookworm || die "there is no Debian 12 to be had"
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
	local package
	for package in bookworm=libvirt0 trixie=libvirt-common; do
		unpacked "${package#*=}"
		put "$DIR/usr/share/libvirt/schemas" "build/libvirt/${package%=*}"
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
	firmware ''
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
		list bookworm || die "there is no Debian 12 to be had"
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
		rm -rf "$CACHE"/{apt,debian,debian-root,debian-ssh,firmware,gocache,gopath,kernel,lock,peers,tmp,unpacked}
		rmdir --ignore-fail-on-non-empty "$CACHE"
	fi
	rm -rf build
}

main "$@"; exit # on one line, for this file may change while it runs

#!/usr/bin/env bash
# The one entrance to building, trying and testing cocoroot: ./build.sh help.
#
# What was made lies in build/, which git ignores; what is slow to make or to get lies in the cache,
# which checkouts share (templates/debian/cache.sh). Debian's packages come as templates/debian/pins
# says. Kernel, firmware and roots have recipes of their own in templates/, beside their sources.
# shellcheck disable=SC2317 # functions that start and quietly run look unreachable
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

readonly DISK_KEY=736869e5-84f0-4973-92ec-06879ce3da0b # the default of cocoroot.key=
readonly DEMO_LINE='demo: running from the encrypted root'

# What the caller names is found from the caller's folder.
CACHE=${COCOROOT_CACHE:-${HOME:+$HOME/.cache/cocoroot}}
CACHE=${CACHE:+$(realpath -m -- "$CACHE")}
OVMF=${OVMF:+$(realpath -m -- "$OVMF")}
KERNEL=${KERNEL:+$(realpath -m -- "$KERNEL")}
KERNEL_MODULES=${KERNEL_MODULES:+$(realpath -m -- "$KERNEL_MODULES")}
NEW='' TMP=''
cd "$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")"
. templates/debian/cache.sh
. templates/debian/debian.sh

usage() {
	cat <<-'END'
		usage: ./build.sh VERB…

		  demo                boot a sealed image in QEMU, without SEV hardware
		  test                set everything up and run every check
		  tools               build/cocoroot, its man pages, build/init and build/run
		  firmware [--check]  build/OVMF.amdsev.fd
		  kernel [--check]    build/bzImage and build/modules; --check builds a second
		                      time, in another folder, and compares
		  initrd [--debug]    build/initrd.img; --debug makes build/debug.img, an archive
		                      with a shell, for nothing that is secret
		  bench               the tool beside stock tools, a boot beside other initrds
		  recording           the README's picture of the demo, from a real run
		  fuzz [SECONDS]      run every fuzz target for so long, 60 by default; test
		                      runs their seeds
		  soak [HOURS]        boots and fuzz targets in turn, for so long, 8 by default
		  fixture NAME        what only tests need, in build/NAME; they call this
		  clean [--cache]     remove build/; with --cache the cache as well

		Missing Debian packages are installed with apt, as root or through sudo.

		  COCOROOT_CACHE=DIR  what checkouts share (default ~/.cache/cocoroot)
		  OVMF=FILE           use this firmware
		  KERNEL=FILE         use this kernel, and with KERNEL_MODULES=DIR the modules
		                      in DIR/lib/modules/VERSION
	END
}

main() {
	case "$*" in
	'' | help | -h | --help) usage; return ;;
	recording) exec templates/recording/build templates/recording/demo.svg ;;
	'fixture '*) settle; . initramfs/oracle/fixtures/make.sh; fixture "$2"; return ;;
	esac
	settle
	lock_build
	while (($#)); do
		case "$1 ${2:-}" in
		'firmware --check' | 'kernel --check' | 'initrd --debug') "$1" "$2"; shift ;;
		'tools '* | 'firmware '* | 'kernel '* | 'initrd '*) "$1" '' ;;
		'test ') all_checks ;;
		'demo ' | 'bench ' | 'clean ' | 'clean --cache' | 'fuzz ' | 'fuzz '[1-9]* | 'soak ' | 'soak '[1-9]*) "$@"; return ;;
		*) usage >&2; exit 2 ;;
		esac
		shift
	done
}

tools() {
	go_ready
	quietly tools build_tools
	put "$NEW/cocoroot" build/cocoroot
	put "$NEW/init" build/init
	put "$NEW/run" build/run
	put "$NEW/man" build/man
	made tools build/cocoroot
}

# build_tools: only init is built with the experiment that wipes its secrets. It and run, which go
# into archives and images, are a tenth smaller without inlining. The tool knows by its hash the
# firmware that was built from source, which is when there is a build/firmware.version.
build_tools() {
	local own='' version
	version=$(git describe --tags --always --dirty 2>/dev/null || true)
	[[ ! -e build/firmware.version ]] || own="$(sha256 build/OVMF.amdsev.fd) $(cat build/firmware.version)"
	export CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1
	GOEXPERIMENT='' go build -trimpath -ldflags="-s -w -X 'main.ownFirmware=$own' -X main.built=$version" -o "$NEW/cocoroot" ./cmds/cocoroot
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0) go run -tags man ./cmds/cocoroot "$NEW/man"
	GOEXPERIMENT='' go build -trimpath -gcflags=all=-l -ldflags='-s -w' -o "$NEW/run" ./cmds/run
	GOEXPERIMENT=runtimesecret go build -trimpath -gcflags=all=-l -ldflags='-s -w' -o "$NEW/init" ./cmds/init
}

firmware() {
	local inputs
	if [[ -n $OVMF ]]; then
		[[ -f $OVMF ]] || die "no firmware $OVMF"
		put "$OVMF" build/OVMF.amdsev.fd
		rm -f build/firmware.{inputs,version}
	else
		packages 'to build the firmware' "${FIRMWARE_PACKAGES[@]}"
		get orig edk2
		inputs="source ${FILE##*/}
recipe $(content templates/firmware)
$(tool_inputs gcc as ld nasm python3 iasl)"
		recipe firmware "$inputs" "$1" templates/firmware/build "$FILE"
		put "$MADE" build/OVMF.amdsev.fd
		echo "$inputs" >build/firmware.inputs
		echo "edk2 $(pin orig edk2 | cut -d ' ' -f 1), inputs $(sha256 <<<"$inputs" | head -c 16)" >build/firmware.version
	fi
	made firmware build/OVMF.amdsev.fd
}

kernel() {
	if [[ -n $KERNEL ]]; then
		[[ -f $KERNEL ]] || die "no kernel $KERNEL"
		put "$KERNEL" build/bzImage
		rm -rf build/modules build/kernel.*
		[[ -z $KERNEL_MODULES ]] || put "$KERNEL_MODULES/lib/modules" build/modules/lib/modules
	else
		kernel_recipe kernel "$1" templates/kernel/cocoroot.config
		put "$MADE/bzImage" build/bzImage
		put "$MADE/config" build/kernel.config
		put "$MADE/lib" build/modules/lib
		echo "$INPUTS" >build/kernel.inputs
	fi
	made kernel build/bzImage
}

# kernel_recipe NAME [--check] FRAGMENT… leaves MADE and the text INPUTS.
kernel_recipe() {
	packages 'to build the kernel' "${KERNEL_PACKAGES[@]}"
	get deb linux-source-6.12
	INPUTS="source ${FILE##*/}
recipe $(content templates/kernel/build "${@:3}")
$(tool_inputs gcc as ld zstd)"
	recipe "$1" "$INPUTS" "$2" templates/kernel/build "$FILE" "${@:3}"
}

initrd() {
	tools
	kernel ''
	if [[ $1 == --debug ]]; then debug_archive; else archive initrd --init build/init; fi
}

# archive NAME OPTION… leaves build/NAME.img, with the kernel's modules.
archive() {
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
	archive debug --debug
}

# build_debug: commands and shell come from u-root's own builder, which runs in u-root's module, for
# its go.sum pins what they are made from. The small shell sends the console no escape sequences.
build_debug() {
	local out=$PWD/$NEW
	export CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1
	GOEXPERIMENT=runtimesecret go build -trimpath -gcflags=all=-l -ldflags='-s -w' -o "$out/debuginit" ./cmds/debuginit
	export GOEXPERIMENT=
	go build -o "$out/u-root" github.com/u-root/u-root
	cd "$(go list -m -f '{{.Dir}}' github.com/u-root/u-root)"
	"$out/u-root" -o "$out/commands.cpio" -initcmd= -defaultsh= -go-build-tags=goshsmall ./cmds/core/*
}

demo() {
	local code=0
	packages 'for the demo' "${BOOT_PACKAGES[@]}"
	firmware ''
	initrd ''
	demo_image
	built
	start demo_boot
	wait "$GROUP" || code=$?
	((code == 0)) || exit "$code"
	tr -d '\r' <build/log/demo.log | grep -x "$DEMO_LINE" ||
		die "the guest never said '$DEMO_LINE'" "its console is in build/log/demo.log"
}

demo_root() {
	unpacked busybox-static
	recipe demo "$(content templates/demo) ${DIR##*/}" '' templates/demo/build "$DIR/bin/busybox"
}

# demo_image seals again only when root, tool or options changed.
demo_image() {
	local stamp
	demo_root
	put "$MADE" build/demo/root
	stamp="$(content build/demo/root) $(sha256 build/cocoroot) $(declare -f demo_image | sha256)"
	if [[ $stamp != "$(cat build/demo/stamp 2>/dev/null)" || ! -e build/demo/image ]]; then
		rm -f build/demo/stamp
		quietly seal build/cocoroot seal build/demo/root -o build/demo/image --key-out build/demo/key \
			--cmdline-out build/demo/cmdline --manifest-out build/demo/manifest.json --force
		echo "$stamp" >build/demo/stamp
	fi
	made image build/demo/image
}

demo_boot() {
	build/cocoroot launch --simulate --firmware build/OVMF.amdsev.fd --kernel build/bzImage \
		--initrd build/initrd.img --cmdline-file build/demo/cmdline --disk build/demo/image \
		--secret "$DISK_KEY=build/demo/key" 2>&1 | tee build/log/demo.log
}

all_checks() {
	local packages scripts
	everything
	built
	export CGO_ENABLED=1 GOEXPERIMENT=runtimesecret
	mapfile -t packages < <(go list ./... | grep -v ^cocoroot/cmds/)
	mapfile -t scripts < <(grep -rIlE '^#!.*[ /](ba)?sh$' build.sh .ci templates cmds initramfs unlock)
	# shellcheck disable=SC2016 # for the inner shell
	check gofmt bash -ec 'files=$(gofmt -l .); echo "$files"; [[ -z $files ]]'
	check shellcheck shellcheck -ax "${scripts[@]}"
	check vet go vet ./...
	check vet-plain env GOEXPERIMENT= go vet ./...
	check staticcheck go tool staticcheck ./...
	check unit go test -race -timeout 60m "${packages[@]}"
	check boot env CGO_ENABLED=0 go test -count=1 -timeout 60m ./cmds/...
	say "all checks passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
}

# everything makes what the tests need, but for their fixtures.
everything() {
	[[ -e /sys/class/block ]] || die "the tests need /sys, for cryptsetup asks it" "in a chroot: mount -t sysfs sysfs /sys"
	packages 'for the tests' "${BOOT_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
	firmware --check
	kernel --check
	initrd ''
	debug_archive
}

# fuzz SECONDS runs the fuzz targets of all packages, one after another. What fails one is left in
# its package's testdata/fuzz, and test runs it from then on. Inputs of interest are not made
# smaller: for headers of some kilobytes Go takes a minute each.
fuzz() {
	local log targets package name
	go_ready
	built
	export CGO_ENABLED=0
	quietly fuzz-targets go test -list '^Fuzz' ./...
	mapfile -t targets < <(awk '/^Fuzz/ { name[n++] = $1 } $1 == "ok" { for (i = 0; i < n; i++) print $2, name[i]; n = 0 }' build/log/fuzz-targets.log)
	((${#targets[@]})) || die "there are no fuzz targets"
	while read -r package name; do
		log=fuzz-$(basename "$package")-$name
		printf '%-44s' "${package#cocoroot/} $name"
		quietly "$log" go test -run '^$' -fuzz "^$name\$" -fuzztime "${1:-60}s" -fuzzminimizetime 0x "$package"
		awk '/^fuzz: elapsed/ { runs = $5; total = $NF } END { print runs, "runs,", total + 0, "inputs kept" }' "build/log/$log.log"
	done < <(printf '%s\n' "${targets[@]}")
}

# soak HOURS ends with the first thing that fails. It begins with every kind of machine; of the
# other boots it has all cases, of which test has a few each.
soak() {
	local end=$((SECONDS + ${1:-8} * 3600)) boots=(env CGO_ENABLED=0 GOEXPERIMENT=runtimesecret COCOROOT_SOAK=1 go test -count=1 -timeout 6h ./cmds/init)
	everything
	built
	check machines "${boots[@]}" -run '^TestMachines$'
	while ((SECONDS < end)); do
		check boot "${boots[@]}" -skip '^TestMachines$'
		(fuzz 60)
	done
}

bench() {
	packages 'for the benchmarks' "${BOOT_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
	firmware ''
	initrd ''
	built
	export CGO_ENABLED=0 GOEXPERIMENT=runtimesecret COCOROOT_REQUIRE_TOOLS=1
	go test -run '^$' -bench . ./initramfs/image/xts ./unlock/verity/tree
	go test -run '^$' -bench '^Benchmark(Tool|Run)$' -benchtime 5x -timeout 60m ./cmds/cocoroot
	go test -run '^$' -bench . -benchtime 1x -timeout 60m ./cmds/init
}

clean() {
	if [[ ${1:-} == --cache ]]; then
		chmod -R u+w "$CACHE/gopath" 2>/dev/null || true # Go's module cache is read-only
		rm -rf "$CACHE"/{apt,debian,unpacked,firmware,kernel,modular,faketsm,demo,debian-kernel,debian13-kernel,debian12.tar,debian-ssh,sqlite,containers,peers,btrfs,gocache,gopath,lock,tmp} "$CACHE"/*.lock
		rmdir --ignore-fail-on-non-empty "$CACHE"
	fi
	rm -rf build
}

main "$@"; exit # on one line, for this file may change while it runs

# How build.sh, which sources this file, gets what it needs from Debian's mirror and a Go.
# Packages are installed only when a command or header is missing; everything else is
# unpacked into the cache, as the file pins says, and the system stays as it is.
# shellcheck shell=bash
# shellcheck disable=SC2034 # FILE and DIR are for build.sh

# A package and what shows that it is there: a command or a file.
readonly C_PACKAGES=(gcc=gcc libc6-dev=/usr/include/stdio.h)
readonly FIRMWARE_PACKAGES=("${C_PACKAGES[@]}" "g++=g++" make=make nasm=nasm uuid-dev=/usr/include/uuid/uuid.h python3=python3 patch=patch xz-utils=xz acpica-tools=iasl)
readonly KERNEL_PACKAGES=(
	"${C_PACKAGES[@]}" make=make flex=flex bison=bison bc=bc libelf-dev=/usr/include/libelf.h
	zstd=zstd xz-utils=xz kmod=/sbin/depmod
)
readonly TEST_PACKAGES=(
	"${C_PACKAGES[@]}" shellcheck=shellcheck mmdebstrap=mmdebstrap kmod=/sbin/depmod zstd=zstd erofs-utils=mkfs.erofs
	openssh-client=ssh-keygen openssl=openssl xz-utils=xz fdisk=fdisk libxml2-utils=xmllint swtpm=swtpm libssl-dev=/usr/include/openssl/evp.h
	zsh=zsh fish=fish qemu-utils=qemu-img
)
readonly BOOT_PACKAGES=(qemu-system-x86=qemu-system-x86_64 squashfs-tools=mksquashfs squashfs-tools-ng=tar2sqfs cryptsetup-bin=cryptsetup e2fsprogs=mke2fs)

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
	apt_as_root install "${missing[@]}" || { update_system; apt_as_root install "${missing[@]}"; } || {
		tail -n 5 build/log/apt.log >&2 || true
		die "cannot install $names, needed $reason" "as root: apt-get install $names"
	}
}

apt_as_root() {
	local sudo=()
	((EUID == 0)) || sudo=("$(command -v sudo)") || return
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends \
		-o DPkg::Lock::Timeout=600 "$@" >>build/log/apt.log 2>&1
}

# update_system: one stale list among the system's does not spoil the others.
update_system() { apt_as_root update || say "apt-get update failed: $(grep -m 1 '^E:' build/log/apt.log)"; }

release() { sed -n 's/^VERSION_CODENAME=//p' /etc/os-release; }

# mirror SUITE prints where the system's own apt configuration has this suite from, or
# else its release of Debian.
mirror() {
	# shellcheck disable=SC2016 # these are fields for apt-get
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
		awk -v suite="$1" -v release="$(release)" '
			$1 != "Debian" || $3 != "main" { next }
			$2 == suite { found = $4 }
			$2 == release { else_ = $4 }
			END { uri = found ? found : else_; sub("/$", "", uri); print uri }'
}

# apt_in LIST TOOL… runs apt-get or apt-cache with LIST as its only source and all its
# files in the cache.
apt_in() {
	local dir=$CACHE/apt/$1 tool=$2
	shift 2
	"$tool" -q -o APT::Sandbox::User=root -o "Dir::Etc::SourceList=$dir/suite.sources" -o Dir::Etc::SourceParts=/dev/null \
		-o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o Acquire::Languages=none -o APT::Update::Error-Mode=any \
		-o Acquire::AllowInsecureRepositories=false -o APT::Get::AllowUnauthenticated=false "$@"
}

# list NAME brings a package list of the system's mirror into the cache, once a day; NAME
# is a suite, or with -src after it the suite's list of sources. apt checks the signature.
# A list that is past its date is marked: nothing is taken from it but what is pinned.
list() {
	local dir=$CACHE/apt/$1 log=$PWD/build/log/apt-$1.log suite=${1%-src} type=deb target=Packages uri
	[[ -z $(find "$dir/updated" -mmin -1440 2>/dev/null) ]] || return 0
	command -v apt-get >/dev/null || die "this is not a Debian system" "put a Go into PATH, and say OVMF=FILE KERNEL=FILE"
	[[ -n $(mirror "$suite") ]] || update_system
	uri=$(mirror "$suite")
	[[ -n $uri ]] || die "no Debian mirror in this system's apt configuration" "say OVMF=FILE KERNEL=FILE"
	[[ $1 == "$suite" ]] || { type=deb-src && target=Sources; }
	mkdir -p "$dir"/{lists,cache/archives}/partial
	printf '%s\n' "Types: $type" 'Components: main' "Targets: $target" "Suites: $suite" "URIs: $uri" >"$dir/suite.sources"
	find /usr/share/keyrings/debian-archive-keyring.gpg -printf 'Signed-By: %p\n' >>"$dir/suite.sources" 2>/dev/null || true
	if apt_in "$1" apt-get -o Acquire::Check-Date=true -o Acquire::Check-Valid-Until=true update >"$log" 2>&1; then
		rm -f "$dir/expired"
	elif grep -q 'is expired' "$log" && touch "$dir/expired" && apt_in "$1" apt-get -o Acquire::Check-Valid-Until=false update >>"$log" 2>&1; then
		say "the mirror's list of $1 has expired: only what is pinned is taken from it"
	elif [[ -e $dir/updated ]]; then
		say "cannot refresh the list of $1: using that of $(date -r "$dir/updated" +%F)"
		return 0
	else
		say "cannot get the list of $1 from $uri: $(grep -m 1 '^E:' "$log")"
		return 1
	fi
	touch "$dir/updated"
}

# pin KIND NAME prints VERSION SUITE SHA-256.
pin() { awk -v kind="$1" -v name="$2" '$1 == kind && $2 == name { print $3, $4, $5 }' templates/debian/pins; }

# suites FIRST prints where to look, the first one first.
suites() { printf '%s\n' "$1" bookworm bookworm-updates bookworm-security bookworm-backports trixie trixie-updates trixie-backports forky sid | awk '!seen[$0]++'; }

# package_of FILE prints the installed package that it belongs to.
package_of() {
	local name
	name=$(dpkg -S "$1" 2>/dev/null | cut -d : -f 1) || true
	# shellcheck disable=SC2016 # these are fields for dpkg-query
	dpkg-query -W -f '${Package} ${Version}' "${name:-none}" 2>/dev/null || printf 'no package'
}

# get KIND NAME leaves FILE, in the cache: what the pins name, with that SHA-256.
get() {
	local version suite hash
	read -r version suite hash < <(pin "$1" "$2") || die "templates/debian/pins has no $1 $2"
	FILE=$CACHE/debian/$hash.$2
	[[ ! -e $FILE ]] || return 0
	lock debian
	if [[ ! -e $FILE ]] && ! pinned "$1" "$2" "$version" "$suite" "$hash"; then
		[[ $1 == deb ]] || die "this system's mirror has no $1 tarball of $2 $version any more"
		say "the mirror has no $2 $version any more: taking the newest"
		newest "$2" "$suite"
	fi
	unlock
}

# pinned KIND NAME VERSION SUITE SHA-256 leaves FILE, or fails. Later revisions of a source
# package have the same tarball.
pinned() {
	local suite name names=("$2=$3")
	[[ $1 == deb ]] || names+=("$2")
	for suite in $(suites "$4"); do
		[[ $1 == deb ]] || suite+=-src
		list "$suite" || continue
		for name in "${names[@]}"; do
			if take "$1" "$suite" "$name" && [[ $(sha256 "$TMP"/get/*) == "$5" ]]; then
				keep
				return
			fi
		done
	done
	return 1
}

# newest NAME SUITE leaves FILE: the newest package of that name, or of one that has
# other numbers in it. A list that is past its date has no say here.
newest() {
	local pattern suite name hash exact=${1//./\\.}
	exact=${exact//+/\\+}
	for pattern in "$exact" "$(sed -E 's/[0-9]+/[0-9]+/g' <<<"$exact")"; do
		for suite in $(suites "$2"); do
			if ! list "$suite" || [[ -e $CACHE/apt/$suite/expired ]]; then continue; fi
			name=$(apt_in "$suite" apt-cache pkgnames | grep -xE "$pattern" | sort -V | tail -n 1) || continue
			hash=$(apt_in "$suite" apt-cache show --no-all-versions "$name" | awk '$1 == "SHA256:" { print $2 }')
			FILE=$CACHE/debian/$hash.$name
			[[ ! -e $FILE ]] || return 0
			take deb "$suite" "$name" || continue
			keep
			return
		done
	done
	die "this system's mirror has no package $1 in a list that is not past its date"
}

# take KIND LIST NAME[=VERSION] leaves one file in $TMP/get.
take() {
	local verb=(download)
	[[ $1 != orig ]] || verb=(source --download-only --tar-only)
	rm -rf "$TMP/get"
	mkdir "$TMP/get"
	try "get-${3%%=*}" take_in "$TMP/get" "$2" "${verb[@]}" "$3"
	((CODE == 0))
}

take_in() { cd "$1" && apt_in "$2" apt-get "${@:3}" && [[ -e $(echo ./*) ]]; }

# keep gives what take left its name in the cache.
keep() {
	say "got $(basename "$TMP"/get/*) with the signature of Debian's list"
	mkdir -p "$CACHE/debian"
	mv "$TMP"/get/* "$FILE"
}

# unpacked NAME… leaves DIR, in the cache, with what these packages contain.
unpacked() {
	local name files=()
	for name; do
		get deb "$name"
		files+=("$FILE")
	done
	DIR=$CACHE/unpacked/$(printf '%s\n' "${files[@]##*/}" | sha256)
	[[ ! -e $DIR ]] || return 0
	lock debian
	mkdir -p "$CACHE/unpacked" "$TMP/unpack"
	for name in "${files[@]}"; do
		dpkg -x "$name" "$TMP/unpack"
	done
	[[ -e $DIR ]] || mv "$TMP/unpack" "$DIR"
	rm -rf "$TMP/unpack"
	unlock
}

# go_ready puts a Go into PATH that can get the toolchain go.mod pins, and makes every go
# command use that toolchain.
go_ready() {
	local go pinned
	pinned=$(awk '$1 == "toolchain" { print $2 }' go.mod)
	for go in "$(command -v go || true)" /usr/local/go/bin/go ''; do
		! go_switches "$go" || break
	done
	if [[ -z $go ]]; then
		unpacked golang-1.24-go golang-1.24-src
		go=$(echo "$DIR"/usr/lib/go-*/bin/go)
	fi
	if [[ $(GOTOOLCHAIN=local go_version "$go") != "$pinned" ]]; then
		packages 'for the Go module proxy' ca-certificates=/etc/ssl/certs/ca-certificates.crt
	fi
	PATH=$(dirname "$go"):$PATH
	export PATH GOTOOLCHAIN=$pinned GOFLAGS=-buildvcs=false GOWORK=off
	[[ -n ${HOME:-} ]] || export GOPATH=$CACHE/gopath GOCACHE=$CACHE/gocache
	export GOEXPERIMENT=
	quietly go-toolchain go version
	PATH=$(go env GOROOT)/bin:$PATH # an older go does not know, or even crashes at, our GOEXPERIMENT
}

go_version() { (cd / && "$1" env GOVERSION); }

# go_switches GO tells whether this is Go 1.21 or later, the first that can get another
# toolchain.
go_switches() {
	local version
	version=$(GOTOOLCHAIN=local go_version "$1" 2>/dev/null) || return
	printf 'go1.21\n%s\n' "$version" | sort -CV
}

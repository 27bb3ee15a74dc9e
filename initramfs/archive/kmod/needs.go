package kmod

import "cocoroot/unlock/policy"

// EFISecret is the driver that shows the guest its secrets.
const EFISecret = "efi_secret"

// sevGuest is the driver that asks the processor for attestation reports. It needs
// configfs-tsm, which shows them.
const sevGuest = "sev_guest"

// need is one name that the guest depends on.
type need struct {
	name     string // of a module, or an alias that the kernel asks for
	required bool   // no sealed image boots without it
	lack     string // what a guest without it cannot do; empty when none minds
}

// needs is all that a guest may need, in load order. Each name stands for
// itself, what it depends on, and whatever the kernel would have loaded for
// it by itself. What a kernel has built in needs nothing.
//
// efi_secret is first: when a later module fails or never comes back, only a
// kernel that has this one can wipe the secrets (wipeAll in cmds/init). It is
// not required, for Debian's kernels have none; such a guest ends with
// NO-EFI-SECRET, and no secret is used.
//
// The crypto names are those that the kernel asks modprobe for when dm-verity
// wants sha256 and dm-crypt xts(aes) (crypto/api.c, crypto_larval_lookup:
// "crypto-NAME", then "cryptomgr", which puts templates together). xts asks
// for ecb by a soft dependency; the allow-list of LUKS2 headers has no other
// cipher or IV mode (plain64 is part of dm-crypt). dm-crypt may depend on
// encrypted-keys, which does not load without cbc(aes) and says so nowhere.
//
// Mounting asks for fs-NAME. The three file systems are those that seal makes
// or takes; none of them needs a character set (nls).
//
// A guest that writes to disks needs what unlock/volume puts together: with
// hmac and authenc for dm-crypt, and btrfs.
//
// A guest that asks its owner over a channel needs a report to show, and a way to
// speak. Nothing is injected into it: it does without efi_secret.
func needs(g Guest) []need {
	all := []need{
		{EFISecret, false, "it cannot receive a secret and ends with NO-EFI-SECRET"},

		// Devices. The bus is virtio's own; NVMe and SCSI come with PCI.
		{"virtio_pci", false, "it has no virtio disk"},
		{"virtio_blk", false, "it has no virtio-blk disk (/dev/vda)"},
		{"virtio_scsi", false, "it has no virtio-scsi disk (/dev/sda)"},
		{"sd_mod", false, "it has no SCSI disk (/dev/sda)"},
		{"nvme", false, "it has no NVMe disk (/dev/nvme0n1)"},

		// The image: verity below, decryption above.
		{"cryptomgr", true, ""},
		{"crypto-sha256", true, ""},
		{"crypto-aes", true, ""},
		{"crypto-xts", true, ""},
		{"crypto-cbc", false, ""},
		{"dm_mod", true, ""},
		{"dm_verity", true, ""},
		{"dm_crypt", true, ""},

		// What is in the image, and the writable layer over it.
		{"fs-squashfs", false, "it cannot mount a squashfs image, as seal makes it"},
		{"fs-erofs", false, "it cannot mount an erofs image"},
		{"fs-ext4", false, "it cannot mount an ext4 image"},
		{"fs-overlay", false, "it has no writable layer and needs cocoroot.overlay=none"},
	}
	if g.Writes {
		for _, name := range []string{"crypto-hmac", "crypto-authenc", "encrypted_keys", "loop", "dm_integrity", "fs-btrfs"} {
			all = append(all, need{name, true, ""})
		}
	}
	if g.Channel == "" {
		return all
	}
	all[0].lack = ""
	all = append(all, need{sevGuest, true, ""})
	switch g.Channel { // serial ports are in every kernel
	case policy.Virtio:
		all = append(all, need{"virtio_console", true, ""})
	case policy.TCP:
		all = append(all, need{"virtio_net", false, "it has no virtio network card"})
	case policy.Vsock:
		all = append(all, need{"vmw_vsock_virtio_transport", true, ""})
	}
	return all
}

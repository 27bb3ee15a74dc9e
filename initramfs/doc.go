// Package initramfs is the owner's side of cocoroot: everything that happens
// outside the guest. It is named after the first thing that an owner makes and
// measures, the archive that the guest's kernel unpacks; the folders are named
// after the rest of the work, in its order:
//
//	archive   make the initramfs archive, with the kernel modules it needs
//	image     make and check a sealed image from a root file system
//	measure   compute the launch digest; read firmware
//	launch    start a guest in QEMU, simulated or on SEV hardware
//	release   check a guest's launch report and release the secrets to it
//	vm        keep all of that in one folder, made from one file of settings
//
// inspect says what any of the files in all this is, doctor what works on a
// machine; state asks, in the guest, how new its state disks are. files reads and
// writes files, fault has errors with a next step, strictjson reads the files that
// pass between owner and host. oracle is for tests only.
//
// The guest's side is unlock, which these packages import for the formats that
// both sides share. The guest links nothing of initramfs.
package initramfs

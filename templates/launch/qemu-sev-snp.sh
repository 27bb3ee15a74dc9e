#!/bin/sh
# Starts the guest under QEMU with SEV-SNP. On the host, as a user who may open
# /dev/kvm and /dev/sev, and lock the guest's memory (ulimit -l).
#
# QEMU 9.1 and Linux 6.11 or later.
#
# SEV-SNP has no launch secret. Without an SVSM that brings the key, the guest
# ends with SECRET-NONE.
#
# After a reboot the guest has no secret: QEMU ends, and this is a new launch.
exec {{sh .QEMU}} \
  -no-user-config -nodefaults -nographic -no-reboot \
  -machine q35,smm=off,vmport=off,confidential-guest-support=sev0,memory-backend=ram0 \
  -accel kvm \
  -cpu {{sh .CPUType}} \
  -m {{.Memory}} \
  -smp {{.CPUs}} \
  -bios {{sh .Firmware}} \
  -kernel {{sh .Kernel}} \
  -initrd {{sh .Initrd}} \
  -append {{sh .Cmdline}} \
  -object memory-backend-memfd,id=ram0,size={{.Memory}}M,share=on \
  -object sev-snp-guest,id=sev0,cbitpos={{.CBit}},reduced-phys-bits={{.ReducedPhysBits}},policy={{hex .Policy}},kernel-hashes=on \
  -drive {{sh (print "if=none,id=disk0,format=raw,file=" (comma .Disk) ",readonly=on")}} \
  -device virtio-blk-pci,drive=disk0,disable-legacy=on,iommu_platform=on{{if .Serial}}{{sh (print ",serial=" (comma .Serial))}}{{end}} \
  -serial stdio{{if .QMPSocket}} \
  -chardev {{sh (print "socket,id=qmp,server=on,wait=off,path=" (comma .QMPSocket))}} \
  -mon chardev=qmp,mode=control{{end}}

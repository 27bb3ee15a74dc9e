/** The boot module: what its files share. **/
#ifndef COCOROOT_BOOT_H_
#define COCOROOT_BOOT_H_

#include <Uefi.h>
#include <Halt.h>
#include <Library/BaseLib.h>
#include <Library/BaseMemoryLib.h>
#include <Library/UefiBootServicesTableLib.h>

#define DIGEST_SIZE  32

/** A file of the host's, copied to private memory before anyone looks at it. **/
typedef struct {
  UINT8    *Data;
  UINT32   Size; // bytes
} BLOB;

/** All that the host gives to boot. **/
typedef struct {
  BLOB    Kernel;
  BLOB    Initrd;
  BLOB    CommandLine; // with its final NUL
} BLOBS;

/** Allocates zeroed pages below 4 GiB, or halts. **/
VOID * AllocatePagesOrHalt (IN EFI_MEMORY_TYPE Type, IN UINT64 Size);

/** Copies kernel, initrd and command line from the host, or halts. **/
VOID FetchBlobs (OUT BLOBS *Blobs);

/** Halts unless the measured table has exactly one hash for each blob, and it
    is the blob's. **/
VOID VerifyBlobs (IN CONST BLOBS *Blobs);

VOID Sha256 (IN CONST UINT8 *Data, IN UINTN Size, OUT UINT8 Digest[DIGEST_SIZE]);

/** Installs this firmware's own ACPI tables, or halts. **/
VOID InstallAcpi (VOID);

/** Makes the text that the kernel's EFI stub prints go to the serial port. **/
VOID InstallConsole (IN OUT EFI_SYSTEM_TABLE *SystemTable);

#endif

/** The measured table of hashes, which QEMU writes and the platform measures
    (QEMU target/i386/sev.c). Little-endian, packed: a GUID, the length of the
    whole table with this header, and entries of a GUID, a length with its own
    header, and a SHA-256.

    That the table is measured makes it the owner's; it is checked all the same,
    for a launch without SEV.
**/
#include "Boot.h"
#include <Library/PcdLib.h>

#pragma pack (1)
typedef struct {
  EFI_GUID    Guid;
  UINT16      Length;
} HEADER;

typedef struct {
  HEADER    Header;
  UINT8     Digest[DIGEST_SIZE];
} ENTRY;
#pragma pack ()

STATIC CONST EFI_GUID  mTable = {
  0x9438d606, 0x4f22, 0x4cc9, { 0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21 }
};
STATIC CONST EFI_GUID  mKernel = {
  0x4de79437, 0xabd2, 0x427f, { 0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b }
};
STATIC CONST EFI_GUID  mInitrd = {
  0x44baf731, 0x3a2f, 0x4bd7, { 0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d }
};
STATIC CONST EFI_GUID  mCommandLine = {
  0x97d02dd8, 0xbd20, 0x4c94, { 0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a }
};

/** Returns the only hash under a GUID; NULL for none. Halts at a malformed
    table. **/
STATIC CONST UINT8 * FindDigest (IN CONST EFI_GUID *Guid)
{
  CONST UINT8   *Table  = (CONST UINT8 *)(UINTN)FixedPcdGet32 (PcdQemuHashTableBase);
  CONST HEADER  *Header = (CONST HEADER *)Table;
  CONST ENTRY   *Entry;
  CONST UINT8   *Found = NULL;
  UINTN         At;

  if (!CompareGuid (&Header->Guid, &mTable)) {
    Halt ("no table of measured hashes; the launch needs kernel-hashes=on");
  }

  if ((Header->Length > FixedPcdGet32 (PcdQemuHashTableSize)) || (Header->Length < sizeof *Header)) {
    Halt ("the table of measured hashes is malformed");
  }

  for (At = sizeof *Header; At < Header->Length; At += sizeof *Entry) {
    Entry = (CONST ENTRY *)(Table + At);
    if ((Header->Length - At < sizeof *Entry) || (Entry->Header.Length != sizeof *Entry)) {
      Halt ("the table of measured hashes is malformed");
    }

    if (CompareGuid (&Entry->Header.Guid, Guid)) {
      if (Found != NULL) {
        Halt ("the table of measured hashes has an entry twice");
      }

      Found = Entry->Digest;
    }
  }

  return Found;
}

STATIC VOID VerifyBlob (
    IN CONST BLOB *Blob, IN CONST EFI_GUID *Guid, IN CONST CHAR8 *NoHash, IN CONST CHAR8 *WrongHash)
{
  CONST UINT8  *Want = FindDigest (Guid);
  UINT8        Digest[DIGEST_SIZE];

  if (Want == NULL) {
    Halt (NoHash);
  }

  Sha256 (Blob->Data, Blob->Size, Digest);
  if (CompareMem (Want, Digest, sizeof Digest) != 0) {
    Halt (WrongHash);
  }
}

VOID VerifyBlobs (IN CONST BLOBS *Blobs)
{
  VerifyBlob (
    &Blobs->Kernel, &mKernel,
    "the kernel has no measured hash", "the kernel is not the measured one"
    );
  VerifyBlob (
    &Blobs->Initrd, &mInitrd,
    "the initrd has no measured hash", "the initrd is not the measured one"
    );
  VerifyBlob (
    &Blobs->CommandLine, &mCommandLine,
    "the command line has no measured hash", "the command line is not the measured one"
    );
}

/** Kernel, initrd and command line, by fw_cfg's DMA interface (QEMU
    docs/specs/fw_cfg.rst; all fields of a request are big-endian).

    The host controls every byte here, the sizes and the directory included. DMA
    needs memory that the host can read and write. What comes through it is
    copied to private memory, and only the copy is used.
**/
#include "Boot.h"
#include <IndustryStandard/QemuFwCfg.h>
#include <Library/IoLib.h>
#include <Library/MemEncryptSevLib.h>

#define MAX_FILES    4096       // directory entries that are looked at
#define MAX_BLOB     SIZE_1GB   // kernel or initrd
#define MAX_CMDLINE  SIZE_64KB
#define BUFFER_SIZE  SIZE_1MB

typedef struct {
  FW_CFG_DMA_ACCESS    Request;
  UINT8                Pad[EFI_PAGE_SIZE - sizeof (FW_CFG_DMA_ACCESS)];
  UINT8                Buffer[BUFFER_SIZE];
} SHARED;

STATIC volatile SHARED  *mShared;

STATIC VOID OpenShared (VOID)
{
  mShared = AllocatePagesOrHalt (EfiBootServicesData, sizeof *mShared);
  if (MemEncryptSevIsEnabled () &&
      RETURN_ERROR (MemEncryptSevClearPageEncMask (0, (UINTN)mShared, EFI_SIZE_TO_PAGES (sizeof *mShared))))
  {
    Halt ("cannot share memory with the host");
  }
}

STATIC VOID CloseShared (VOID)
{
  if (MemEncryptSevIsEnabled () &&
      RETURN_ERROR (MemEncryptSevSetPageEncMask (0, (UINTN)mShared, EFI_SIZE_TO_PAGES (sizeof *mShared))))
  {
    Halt ("cannot take shared memory back from the host");
  }
}

/** Runs one request for at most BUFFER_SIZE bytes. **/
STATIC VOID Transfer (IN UINT32 Control, IN UINT32 Size)
{
  UINT64  Request = (UINTN)&mShared->Request;
  UINT32  Answer;

  mShared->Request.Control = SwapBytes32 (Control);
  mShared->Request.Length  = SwapBytes32 (Size);
  mShared->Request.Address = SwapBytes64 ((UINTN)mShared->Buffer);
  MemoryFence ();
  IoWrite32 (FW_CFG_IO_DMA_ADDRESS, SwapBytes32 ((UINT32)(Request >> 32)));
  IoWrite32 (FW_CFG_IO_DMA_ADDRESS + 4, SwapBytes32 ((UINT32)Request));
  do {
    Answer = SwapBytes32 (mShared->Request.Control);
    MemoryFence ();
    if ((Answer & FW_CFG_DMA_CTL_ERROR) != 0) {
      Halt ("the host refused a fw_cfg request");
    }
  } while (Answer != 0);
}

/** Reads on in the selected item. **/
STATIC VOID Read (IN UINT32 Size, OUT VOID *To)
{
  UINT8   *At = To;
  UINT32  Part;

  for ( ; Size > 0; Size -= Part, At += Part) {
    Part = MIN (Size, BUFFER_SIZE);
    Transfer (FW_CFG_DMA_CTL_READ, Part);
    CopyMem (At, (CONST VOID *)mShared->Buffer, Part);
  }
}

STATIC VOID ReadItem (IN UINT16 Item, IN UINT32 Size, OUT VOID *To)
{
  Transfer ((UINT32)Item << 16 | FW_CFG_DMA_CTL_SELECT, 0);
  Read (Size, To);
}

STATIC UINT32 ReadSize (IN UINT16 Item)
{
  UINT32  Size;

  ReadItem (Item, sizeof Size, &Size);
  return Size;
}

/** Returns the item of QEMU's unchanged copy of the kernel, or 0 where there is
    none: before QEMU 10 the other two items have a header that QEMU filled in
    when the guest is not encrypted. **/
STATIC UINT16 FindKernelFile (OUT UINT32 *Size)
{
  struct {
    UINT32    Size;
    UINT16    Item;
    UINT16    Reserved;
    CHAR8     Name[QEMU_FW_CFG_FNAME_SIZE];
  } File;
  UINT32  Count;

  ReadItem (QemuFwCfgItemFileDir, sizeof Count, &Count);
  for (Count = MIN (SwapBytes32 (Count), MAX_FILES); Count > 0; Count--) {
    Read (sizeof File, &File);
    if (CompareMem (File.Name, "etc/boot/kernel", sizeof "etc/boot/kernel") == 0) {
      *Size = SwapBytes32 (File.Size);
      return SwapBytes16 (File.Item);
    }
  }

  return 0;
}

/** Reads the blob that consists of two items; the second may be empty. **/
STATIC VOID FetchBlob (
    OUT BLOB *Blob, IN UINT64 Max, IN UINT16 Item1, IN UINT64 Size1, IN UINT16 Item2, IN UINT64 Size2)
{
  if (Size1 + Size2 > Max) {
    Halt ("the host gave a file that is too large");
  }

  Blob->Size = (UINT32)(Size1 + Size2);
  Blob->Data = AllocatePagesOrHalt (EfiLoaderData, Size1 + Size2);
  ReadItem (Item1, (UINT32)Size1, Blob->Data);
  if (Size2 > 0) {
    ReadItem (Item2, (UINT32)Size2, Blob->Data + Size1);
  }
}

VOID FetchBlobs (OUT BLOBS *Blobs)
{
  UINT32  KernelFileSize;
  UINT16  KernelFile;

  OpenShared ();
  KernelFile = FindKernelFile (&KernelFileSize);
  if (KernelFile != 0) {
    FetchBlob (&Blobs->Kernel, MAX_BLOB, KernelFile, KernelFileSize, 0, 0);
  } else {
    FetchBlob (
      &Blobs->Kernel, MAX_BLOB,
      QemuFwCfgItemKernelSetupData, ReadSize (QemuFwCfgItemKernelSetupSize),
      QemuFwCfgItemKernelData, ReadSize (QemuFwCfgItemKernelSize)
      );
  }

  FetchBlob (&Blobs->Initrd, MAX_BLOB, QemuFwCfgItemInitrdData, ReadSize (QemuFwCfgItemInitrdSize), 0, 0);
  FetchBlob (
    &Blobs->CommandLine, MAX_CMDLINE,
    QemuFwCfgItemCommandLineData, ReadSize (QemuFwCfgItemCommandLineSize), 0, 0
    );
  CloseShared ();
}

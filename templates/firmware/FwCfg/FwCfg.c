/** QemuFwCfgLib for the phases before the boot module: of all that the host
    offers, it reads the memory map and the number of CPUs, and nothing else.

    Both are read once and checked; upstream's code, which asks for the memory
    map several times, gets the same checked copy each time. Reads go through
    the data port, byte by byte: no memory is shared with the host.

    QEMU docs/specs/fw_cfg.rst: directory and file names are big-endian, the
    rest little-endian.
**/
#include <Uefi.h>
#include <Halt.h>
#include <IndustryStandard/E820.h>
#include <IndustryStandard/QemuFwCfg.h>
#include <Library/BaseLib.h>
#include <Library/BaseMemoryLib.h>
#include <Library/IoLib.h>
#include <Library/QemuFwCfgLib.h>

#define MAX_FILES    4096         // directory entries that are looked at
#define MAX_RANGES   32           // ranges of a memory map, and of memory in it
#define MIN_LOW_RAM  SIZE_128MB   // what a boot needs
#define MAX_LOW_RAM  0xB0000000ULL // where q35's memory below 4 GiB ends
#define MAX_RAM      SIZE_512GB   // where the 64-bit PCI window of the DSDT begins
#define MAX_CPUS     512
#define MAP_ITEM     0xFFFF       // what our own copy of the map is selected by

STATIC EFI_E820_ENTRY64  mMap[MAX_RANGES];
STATIC UINTN             mMapSize; // bytes; 0 before the map is read
STATIC UINTN             mAt;      // of the next read, when MAP_ITEM is selected
STATIC UINT16            mItem;

STATIC VOID Select (IN UINT16 Item) { IoWrite16 (FW_CFG_IO_SELECTOR, Item); }
STATIC VOID Read (IN UINTN Size, OUT VOID *To) { IoReadFifo8 (FW_CFG_IO_DATA, Size, To); }

/** Returns the item and size of etc/e820, or halts. **/
STATIC UINT16 FindMap (OUT UINT32 *Size)
{
  struct {
    UINT32    Size;
    UINT16    Item;
    UINT16    Reserved;
    CHAR8     Name[QEMU_FW_CFG_FNAME_SIZE];
  } File;
  UINT32  Count;

  Select (QemuFwCfgItemFileDir);
  Read (sizeof Count, &Count);
  for (Count = MIN (SwapBytes32 (Count), MAX_FILES); Count > 0; Count--) {
    Read (sizeof File, &File);
    if (CompareMem (File.Name, "etc/e820", sizeof "etc/e820") == 0) {
      *Size = SwapBytes32 (File.Size);
      return SwapBytes16 (File.Item);
    }
  }

  Halt ("the host gave no memory map");
  return 0;
}

/** Halts unless memory may lie in a range. **/
STATIC VOID CheckRange (IN CONST EFI_E820_ENTRY64 *Range)
{
  UINT64  End = Range->BaseAddr + Range->Length;

  if ((Range->Length == 0) || (End < Range->BaseAddr) || (((Range->BaseAddr | Range->Length) & EFI_PAGE_MASK) != 0)) {
    Halt ("a range of the memory map is malformed");
  }

  if (Range->BaseAddr == 0) {
    if (End < MIN_LOW_RAM) {
      Halt ("too little memory; 128 MiB are the least");
    }

    if (End > MAX_LOW_RAM) {
      Halt ("there is memory where devices belong");
    }
  } else if ((Range->BaseAddr < BASE_4GB) || (End > MAX_RAM)) {
    Halt ("there is memory where devices belong");
  }
}

/** Reads the memory map, of which only the memory is kept, and halts unless it
    is sound: memory from 0, the rest of it from 4 GiB on, below the PCI window,
    and no two ranges that overlap. **/
STATIC VOID ReadMap (VOID)
{
  EFI_E820_ENTRY64  *Range = mMap, *Other;
  UINT32            Size;
  UINT16            Item;
  BOOLEAN           LowRam = FALSE;

  Item = FindMap (&Size);
  if ((Size > sizeof mMap) || (Size % sizeof *mMap != 0)) {
    Halt ("the memory map has a wrong size");
  }

  for (Select (Item); Size > 0; Size -= sizeof *Range) {
    Read (sizeof *Range, Range);
    if (Range->Type != EfiAcpiAddressRangeMemory) {
      continue;
    }

    CheckRange (Range);
    LowRam |= Range->BaseAddr == 0;
    for (Other = mMap; Other < Range; Other++) {
      if ((Range->BaseAddr < Other->BaseAddr + Other->Length) && (Other->BaseAddr < Range->BaseAddr + Range->Length)) {
        Halt ("two ranges of the memory map overlap");
      }
    }

    Range++;
  }

  if (!LowRam) {
    Halt ("there is no memory at address 0");
  }

  mMapSize = (UINTN)Range - (UINTN)mMap;
}

RETURN_STATUS EFIAPI QemuFwCfgFindFile (IN CONST CHAR8 *Name, OUT FIRMWARE_CONFIG_ITEM *Item, OUT UINTN *Size)
{
  if (AsciiStrCmp (Name, "etc/e820") != 0) {
    return RETURN_NOT_FOUND;
  }

  if (mMapSize == 0) {
    ReadMap ();
  }

  *Item = MAP_ITEM;
  *Size = mMapSize;
  return RETURN_SUCCESS;
}

BOOLEAN EFIAPI QemuFwCfgIsAvailable (VOID) { return TRUE; }

VOID EFIAPI QemuFwCfgSelectItem (IN FIRMWARE_CONFIG_ITEM Item)
{
  mItem = (UINT16)Item;
  mAt   = 0;
}

// For whatever else upstream's code could ask for.
STATIC VOID Refuse (VOID) { Halt ("an item was asked for that this firmware does not read"); }

VOID EFIAPI QemuFwCfgReadBytes (IN UINTN Size, OUT VOID *Buffer)
{
  if ((mItem != MAP_ITEM) || (Size > mMapSize - mAt)) {
    Refuse ();
  }

  CopyMem (Buffer, (UINT8 *)mMap + mAt, Size);
  mAt += Size;
}

UINT16 EFIAPI QemuFwCfgRead16 (VOID)
{
  UINT16  Cpus;

  if (mItem != QemuFwCfgItemSmpCpuCount) {
    Refuse ();
  }

  Select (mItem);
  Read (sizeof Cpus, &Cpus);
  if ((Cpus == 0) || (Cpus > MAX_CPUS)) {
    Halt ("the host gave an impossible number of CPUs");
  }

  return Cpus;
}

UINT8 EFIAPI QemuFwCfgRead8 (VOID) { Refuse (); return 0; }
UINT32 EFIAPI QemuFwCfgRead32 (VOID) { Refuse (); return 0; }
UINT64 EFIAPI QemuFwCfgRead64 (VOID) { Refuse (); return 0; }
VOID EFIAPI QemuFwCfgSkipBytes (IN UINTN Size) { Refuse (); }

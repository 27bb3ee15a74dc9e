/* What the firmware's own C files need of edk2, for a program that tests them
   on the host. Every header that they include leads here. Types and values as
   in UEFI 2.10 and in QEMU's docs/specs/fw_cfg.rst. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t   UINT8;
typedef uint16_t  UINT16;
typedef uint32_t  UINT32;
typedef uint64_t  UINT64;
typedef uint64_t  UINTN;
typedef char      CHAR8;
typedef uint16_t  CHAR16;
typedef UINT8     BOOLEAN;
typedef UINTN     EFI_STATUS;
typedef UINTN     RETURN_STATUS;
typedef UINTN     FIRMWARE_CONFIG_ITEM;
typedef int       EFI_MEMORY_TYPE;
typedef void      EFI_SYSTEM_TABLE;
typedef struct { UINT32 A; UINT16 B, C; UINT8 D[8]; } EFI_GUID;
typedef struct { UINT64 BaseAddr, Length; UINT32 Type; } __attribute__ ((packed)) EFI_E820_ENTRY64;
typedef struct { UINT32 Control, Length; UINT64 Address; } __attribute__ ((packed)) FW_CFG_DMA_ACCESS;

#define VOID      void
#define CONST     const
#define STATIC    static
#define IN
#define OUT
#define OPTIONAL
#define EFIAPI
#define TRUE      1
#define FALSE     0

#define RETURN_SUCCESS         0
#define RETURN_NOT_FOUND       (1ULL << 63 | 14)
#define RETURN_ERROR(s)        ((int64_t)(s) < 0)
#define EFI_ERROR(s)           RETURN_ERROR (s)
#define MIN(a, b)              ((a) < (b) ? (a) : (b))
#define MAX(a, b)              ((a) > (b) ? (a) : (b))
#define MAX_UINT32             0xFFFFFFFFU
#define EFI_PAGE_SIZE          0x1000
#define EFI_PAGE_MASK          0xFFF
#define EFI_SIZE_TO_PAGES(n)   (((n) + EFI_PAGE_MASK) / EFI_PAGE_SIZE)
#define SIZE_64KB              0x10000
#define SIZE_1MB               0x100000
#define SIZE_128MB             0x8000000
#define SIZE_1GB               0x40000000
#define SIZE_512GB             0x8000000000ULL
#define BASE_4GB               0x100000000ULL

enum { EfiLoaderData = 2, EfiBootServicesData = 4 };
enum { EfiAcpiAddressRangeMemory = 1, EfiAcpiAddressRangeReserved, EfiAcpiAddressRangeACPI };

#define FW_CFG_IO_SELECTOR      0x510
#define FW_CFG_IO_DATA          0x511
#define FW_CFG_IO_DMA_ADDRESS   0x514
#define FW_CFG_DMA_CTL_ERROR    1
#define FW_CFG_DMA_CTL_READ     2
#define FW_CFG_DMA_CTL_SELECT   8
#define QEMU_FW_CFG_FNAME_SIZE  56
enum {
	QemuFwCfgItemSmpCpuCount = 0x05, QemuFwCfgItemKernelSize = 0x08, QemuFwCfgItemInitrdSize = 0x0b,
	QemuFwCfgItemKernelData = 0x11, QemuFwCfgItemInitrdData = 0x12, QemuFwCfgItemCommandLineSize = 0x14,
	QemuFwCfgItemCommandLineData = 0x15, QemuFwCfgItemKernelSetupSize = 0x17, QemuFwCfgItemKernelSetupData = 0x18,
	QemuFwCfgItemFileDir = 0x19,
};

#define SwapBytes16               __builtin_bswap16
#define SwapBytes32               __builtin_bswap32
#define SwapBytes64               __builtin_bswap64
#define MemoryFence()             __sync_synchronize ()
#define CpuPause()
#define CopyMem(to, from, n)      memmove (to, (const void *)(from), n)
#define ZeroMem(to, n)            memset (to, 0, n)
#define CompareMem                memcmp
#define CompareGuid(a, b)         (memcmp (a, b, sizeof (EFI_GUID)) == 0)
#define AsciiStrCmp               strcmp
#define FixedPcdGet32(name)       name /* a variable of the harness, as long as a pointer */

static inline UINT32 ReadUnaligned32 (const UINT32 *p) { UINT32 v; memcpy (&v, p, sizeof v); return v; }
static inline void WriteUnaligned32 (UINT32 *p, UINT32 v) { memcpy (p, &v, sizeof v); }
static inline void WriteUnaligned64 (UINT64 *p, UINT64 v) { memcpy (p, &v, sizeof v); }

extern UINTN PcdQemuHashTableBase, PcdQemuHashTableSize;

void IoWrite16 (UINTN port, UINT16 value);
void IoWrite32 (UINTN port, UINT32 value);
void IoReadFifo8 (UINTN port, UINTN size, void *to);
BOOLEAN MemEncryptSevIsEnabled (void);
RETURN_STATUS MemEncryptSevClearPageEncMask (UINTN cr3, UINTN at, UINTN pages);
RETURN_STATUS MemEncryptSevSetPageEncMask (UINTN cr3, UINTN at, UINTN pages);

RETURN_STATUS QemuFwCfgFindFile (const CHAR8 *name, FIRMWARE_CONFIG_ITEM *item, UINTN *size);
void QemuFwCfgSelectItem (FIRMWARE_CONFIG_ITEM item);
void QemuFwCfgReadBytes (UINTN size, void *to);
UINT16 QemuFwCfgRead16 (void);

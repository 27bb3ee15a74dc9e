/** The boot module, which is all of the boot device selection phase: it takes
    kernel, initrd and command line from the host, halts unless they are the
    measured ones, installs the ACPI tables and starts the kernel. There is no
    other boot option, and no way back.
**/
#include "Boot.h"
#include <Guid/LinuxEfiInitrdMedia.h>
#include <Protocol/Bds.h>
#include <Protocol/DevicePath.h>
#include <Protocol/LoadFile2.h>
#include <Protocol/LoadedImage.h>
#include <Protocol/Timer.h>

#pragma pack (1)
typedef struct {
  VENDOR_DEVICE_PATH          Vendor;
  EFI_DEVICE_PATH_PROTOCOL    End;
} INITRD_PATH;
#pragma pack ()

STATIC BLOBS        mBlobs;
STATIC INITRD_PATH  mInitrdPath = {
  {
    { MEDIA_DEVICE_PATH,    MEDIA_VENDOR_DP,                { sizeof (VENDOR_DEVICE_PATH)       } },
    LINUX_EFI_INITRD_MEDIA_GUID
  },
  { END_DEVICE_PATH_TYPE, END_ENTIRE_DEVICE_PATH_SUBTYPE, { sizeof (EFI_DEVICE_PATH_PROTOCOL) } }
};

VOID * AllocatePagesOrHalt (IN EFI_MEMORY_TYPE Type, IN UINT64 Size)
{
  EFI_PHYSICAL_ADDRESS  Address = MAX_UINT32;
  UINTN                 Pages   = EFI_SIZE_TO_PAGES (MAX (Size, 1));

  if (EFI_ERROR (gBS->AllocatePages (AllocateMaxAddress, Type, Pages, &Address))) {
    Halt ("too little memory for what the host gave to boot");
  }

  return ZeroMem ((VOID *)(UINTN)Address, EFI_PAGES_TO_SIZE (Pages));
}

/** EFI_LOAD_FILE2_PROTOCOL of the handle at which Linux looks for its initrd. **/
STATIC EFI_STATUS EFIAPI LoadInitrd (
    IN EFI_LOAD_FILE2_PROTOCOL *This, IN EFI_DEVICE_PATH_PROTOCOL *Path, IN BOOLEAN BootPolicy, IN OUT UINTN *Size, IN VOID *Buffer OPTIONAL)
{
  UINTN  Have = *Size;

  if (BootPolicy) {
    return EFI_UNSUPPORTED;
  }

  *Size = mBlobs.Initrd.Size;
  if ((Buffer == NULL) || (Have < *Size)) {
    return EFI_BUFFER_TOO_SMALL;
  }

  CopyMem (Buffer, mBlobs.Initrd.Data, *Size);
  return EFI_SUCCESS;
}

STATIC EFI_LOAD_FILE2_PROTOCOL  mLoadInitrd = { LoadInitrd };

STATIC VOID SetCommandLine (OUT EFI_LOADED_IMAGE_PROTOCOL *Kernel)
{
  CONST BLOB  *Line = &mBlobs.CommandLine;
  CHAR16      *Wide;
  UINT32      Index;

  if ((Line->Size == 0) || (Line->Data[Line->Size - 1] != 0)) {
    Halt ("the command line has no end");
  }

  Wide = AllocatePagesOrHalt (EfiLoaderData, Line->Size * sizeof *Wide);
  for (Index = 0; Index < Line->Size; Index++) {
    Wide[Index] = Line->Data[Index];
  }

  Kernel->LoadOptions     = Wide;
  Kernel->LoadOptionsSize = Line->Size * sizeof *Wide;
}

STATIC VOID StartKernel (VOID)
{
  EFI_HANDLE                 Image  = NULL;
  EFI_HANDLE                 Initrd = NULL;
  EFI_LOADED_IMAGE_PROTOCOL  *Loaded;
  EFI_STATUS                 Status;

  Status = gBS->LoadImage (FALSE, gImageHandle, NULL, mBlobs.Kernel.Data, mBlobs.Kernel.Size, &Image);
  if (!EFI_ERROR (Status)) {
    Status = gBS->HandleProtocol (Image, &gEfiLoadedImageProtocolGuid, (VOID **)&Loaded);
  }

  if (EFI_ERROR (Status)) {
    Halt ("the kernel is not an EFI program");
  }

  SetCommandLine (Loaded);
  if (mBlobs.Initrd.Size > 0) {
    Status = gBS->InstallMultipleProtocolInterfaces (
                    &Initrd,
                    &gEfiLoadFile2ProtocolGuid, &mLoadInitrd,
                    &gEfiDevicePathProtocolGuid, &mInitrdPath,
                    NULL
                    );
    if (EFI_ERROR (Status)) {
      Halt ("cannot offer the initrd");
    }
  }

  gBS->StartImage (Image, NULL, NULL);
  Halt ("the kernel did not start");
}

STATIC VOID EFIAPI Boot (IN EFI_BDS_ARCH_PROTOCOL *This)
{
  FetchBlobs (&mBlobs);
  VerifyBlobs (&mBlobs);
  InstallAcpi ();
  StartKernel ();
}

// A timer that never ticks, which is all that the core and ExitBootServices need.

STATIC EFI_STATUS EFIAPI RegisterHandler (IN EFI_TIMER_ARCH_PROTOCOL *This, IN EFI_TIMER_NOTIFY Notify)
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS EFIAPI SetTimerPeriod (IN EFI_TIMER_ARCH_PROTOCOL *This, IN UINT64 Period)
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS EFIAPI GetTimerPeriod (IN EFI_TIMER_ARCH_PROTOCOL *This, OUT UINT64 *Period)
{
  *Period = 0;
  return EFI_SUCCESS;
}

STATIC EFI_STATUS EFIAPI GenerateSoftInterrupt (IN EFI_TIMER_ARCH_PROTOCOL *This) { return EFI_UNSUPPORTED; }

STATIC EFI_TIMER_ARCH_PROTOCOL  mTimer = {
  RegisterHandler, SetTimerPeriod, GetTimerPeriod, GenerateSoftInterrupt
};
STATIC EFI_BDS_ARCH_PROTOCOL    mBoot = { Boot };

/** Installs the boot phase, and what else the core waits for before it comes to
    it. Protocols that are installed empty have no user here. **/
EFI_STATUS EFIAPI BootEntry (IN EFI_HANDLE ImageHandle, IN EFI_SYSTEM_TABLE *SystemTable)
{
  InstallConsole (SystemTable);
  return gBS->InstallMultipleProtocolInterfaces (
                &ImageHandle,
                &gEfiBdsArchProtocolGuid, &mBoot,
                &gEfiTimerArchProtocolGuid, &mTimer,
                &gEfiCapsuleArchProtocolGuid, NULL,
                &gEfiMetronomeArchProtocolGuid, NULL,
                &gEfiMonotonicCounterArchProtocolGuid, NULL,
                &gEfiRealTimeClockArchProtocolGuid, NULL,
                &gEfiResetArchProtocolGuid, NULL,
                &gEfiSecurityArchProtocolGuid, NULL,
                &gEfiVariableArchProtocolGuid, NULL,
                &gEfiVariableWriteArchProtocolGuid, NULL,
                &gEfiWatchdogTimerArchProtocolGuid, NULL,
                NULL
                );
}

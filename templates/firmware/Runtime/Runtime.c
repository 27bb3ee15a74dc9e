/** The runtime services: none, and the table that says so. The functions lie in
    memory that the kernel keeps, which is why this is a module of its own.
**/
#include <Uefi.h>
#include <Guid/RtPropertiesTable.h>
#include <Library/UefiBootServicesTableLib.h>
#include <Library/UefiRuntimeServicesTableLib.h>

STATIC EFI_STATUS EFIAPI Unsupported (VOID) { return EFI_UNSUPPORTED; }

EFI_STATUS EFIAPI RuntimeEntry (IN EFI_HANDLE ImageHandle, IN EFI_SYSTEM_TABLE *SystemTable)
{
  EFI_RT_PROPERTIES_TABLE  *Table;
  EFI_STATUS               Status;

  gRT->GetTime                   = (EFI_GET_TIME)Unsupported;
  gRT->SetTime                   = (EFI_SET_TIME)Unsupported;
  gRT->GetWakeupTime             = (EFI_GET_WAKEUP_TIME)Unsupported;
  gRT->SetWakeupTime             = (EFI_SET_WAKEUP_TIME)Unsupported;
  gRT->GetVariable               = (EFI_GET_VARIABLE)Unsupported;
  gRT->GetNextVariableName       = (EFI_GET_NEXT_VARIABLE_NAME)Unsupported;
  gRT->SetVariable               = (EFI_SET_VARIABLE)Unsupported;
  gRT->QueryVariableInfo         = (EFI_QUERY_VARIABLE_INFO)Unsupported;
  gRT->GetNextHighMonotonicCount = (EFI_GET_NEXT_HIGH_MONO_COUNT)Unsupported;
  gRT->ResetSystem               = (EFI_RESET_SYSTEM)Unsupported;
  gRT->UpdateCapsule             = (EFI_UPDATE_CAPSULE)Unsupported;
  gRT->QueryCapsuleCapabilities  = (EFI_QUERY_CAPSULE_CAPABILITIES)Unsupported;

  Status = gBS->AllocatePool (EfiRuntimeServicesData, sizeof *Table, (VOID **)&Table);
  if (EFI_ERROR (Status)) {
    return Status;
  }

  Table->Version                  = EFI_RT_PROPERTIES_TABLE_VERSION;
  Table->Length                   = sizeof *Table;
  Table->RuntimeServicesSupported = 0;
  return gBS->InstallConfigurationTable (&gEfiRtPropertiesTableGuid, Table);
}

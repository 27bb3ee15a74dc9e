/** ACPI tables of this firmware's own (ACPI 6.5, chapter 5). None of the host's
    is read: AML of the host's would run in the guest's kernel.

    Of the host's there is in them which CPUs have come up.
**/
#include "Boot.h"
#include <IndustryStandard/Acpi.h>
#include <IndustryStandard/MemoryMappedConfigurationSpaceAccessTable.h>
#include <Library/PcdLib.h>
#include <Protocol/MpService.h>
#include <Dsdt.h> // dsdt_aml_code, which iasl makes of Dsdt.asl

#define PM_BASE     0x600 // where upstream's PlatformPei puts the power management ports
#define ACPI_ON     2     // the value that makes ICH9 raise SCIs, at port SMI_PORT
#define ACPI_OFF    3
#define SMI_PORT    0xB2
#define RESET_PORT  0xCF9
#define SCI         9    // interrupt of ACPI
#define TIMER       0    // ISA interrupt that is wired to pin 2
#define TIMER_PIN   2

#define OEM_ID        "COCO  "
#define OEM_TABLE_ID  SIGNATURE_64 ('C', 'O', 'C', 'O', 'R', 'O', 'O', 'T')

typedef EFI_ACPI_DESCRIPTION_HEADER  HEADER;

#pragma pack (1)
typedef struct {
  EFI_ACPI_MEMORY_MAPPED_CONFIGURATION_BASE_ADDRESS_TABLE_HEADER                           Header;
  EFI_ACPI_MEMORY_MAPPED_ENHANCED_CONFIGURATION_SPACE_BASE_ADDRESS_ALLOCATION_STRUCTURE    Ecam;
} MCFG;

typedef struct {
  EFI_ACPI_6_5_MULTIPLE_APIC_DESCRIPTION_TABLE_HEADER    Header;
  EFI_ACPI_6_5_IO_APIC_STRUCTURE                         IoApic;
  EFI_ACPI_6_5_INTERRUPT_SOURCE_OVERRIDE_STRUCTURE       Timer;
  EFI_ACPI_6_5_INTERRUPT_SOURCE_OVERRIDE_STRUCTURE       Sci;
  // then an entry for each CPU, of one of two sizes
} MADT;

/** All tables but the last, whose size depends on the number of CPUs. **/
typedef struct {
  EFI_ACPI_6_5_FIRMWARE_ACPI_CONTROL_STRUCTURE    Facs; // first, for it must be aligned to 64 bytes
  EFI_ACPI_6_5_ROOT_SYSTEM_DESCRIPTION_POINTER    Rsdp;
  EFI_ACPI_6_5_FIXED_ACPI_DESCRIPTION_TABLE       Fadt;
  MCFG                                            Mcfg;
  UINT8                                           Dsdt[sizeof dsdt_aml_code];
  struct {
    HEADER    Header;
    UINT64    Table[3];
  } Xsdt;
} TABLES;
#pragma pack ()

/** Fills in the header of a table whose body is complete. **/
STATIC VOID Finish (IN OUT VOID *Table, IN UINT32 Signature, IN UINT32 Size, IN UINT8 Revision)
{
  HEADER  *Header = Table;

  Header->Signature       = Signature;
  Header->Length          = Size;
  Header->Revision        = Revision;
  Header->OemTableId      = OEM_TABLE_ID;
  Header->OemRevision     = 1;
  Header->CreatorId       = SIGNATURE_32 ('C', 'O', 'C', 'O');
  Header->CreatorRevision = 1;
  CopyMem (Header->OemId, OEM_ID, sizeof Header->OemId);
  Header->Checksum = 0;
  Header->Checksum = CalculateCheckSum8 (Table, Size);
}

STATIC EFI_ACPI_6_5_GENERIC_ADDRESS_STRUCTURE Port (IN UINT16 Number, IN UINT8 Bytes)
{
  EFI_ACPI_6_5_GENERIC_ADDRESS_STRUCTURE  Address = {
    EFI_ACPI_6_5_SYSTEM_IO, Bytes * 8, 0, EFI_ACPI_6_5_UNDEFINED, Number
  };

  return Address;
}

STATIC VOID MakeFadt (IN OUT TABLES *T)
{
  EFI_ACPI_6_5_FIXED_ACPI_DESCRIPTION_TABLE  *Fadt = &T->Fadt;

  Fadt->Dsdt         = (UINT32)(UINTN)T->Dsdt;
  Fadt->XDsdt        = (UINTN)T->Dsdt;
  Fadt->FirmwareCtrl = (UINT32)(UINTN)&T->Facs;
  Fadt->SciInt       = SCI;
  Fadt->SmiCmd       = SMI_PORT;
  Fadt->AcpiEnable   = ACPI_ON;
  Fadt->AcpiDisable  = ACPI_OFF;
  Fadt->Pm1aEvtBlk   = PM_BASE;
  Fadt->Pm1EvtLen    = 4;
  Fadt->XPm1aEvtBlk  = Port (PM_BASE, 4);
  Fadt->Pm1aCntBlk   = PM_BASE + 4;
  Fadt->Pm1CntLen    = 2;
  Fadt->XPm1aCntBlk  = Port (PM_BASE + 4, 2);
  Fadt->PmTmrBlk     = PM_BASE + 8;
  Fadt->PmTmrLen     = 4;
  Fadt->XPmTmrBlk    = Port (PM_BASE + 8, 4);
  Fadt->PLvl2Lat     = 0xFFF; // no C2
  Fadt->PLvl3Lat     = 0xFFF; // no C3
  Fadt->Century      = 0x32;
  Fadt->ResetReg     = Port (RESET_PORT, 1);
  Fadt->ResetValue   = 0xF;
  Fadt->IaPcBootArch = EFI_ACPI_6_5_LEGACY_DEVICES | EFI_ACPI_6_5_VGA_NOT_PRESENT | EFI_ACPI_6_5_PCIE_ASPM_CONTROLS;
  Fadt->Flags        = EFI_ACPI_6_5_WBINVD | EFI_ACPI_6_5_PROC_C1 | EFI_ACPI_6_5_PWR_BUTTON |
                       EFI_ACPI_6_5_SLP_BUTTON | EFI_ACPI_6_5_RESET_REG_SUP;
  Fadt->MinorVersion = 5;
  Finish (Fadt, EFI_ACPI_6_5_FIXED_ACPI_DESCRIPTION_TABLE_SIGNATURE, sizeof *Fadt, 6);
}

STATIC VOID MakeMcfg (OUT MCFG *Mcfg)
{
  Mcfg->Ecam.BaseAddress  = FixedPcdGet64 (PcdPciExpressBaseAddress);
  Mcfg->Ecam.EndBusNumber = 0xFF;
  Finish (
    Mcfg,
    EFI_ACPI_6_5_PCI_EXPRESS_MEMORY_MAPPED_CONFIGURATION_SPACE_BASE_ADDRESS_DESCRIPTION_TABLE_SIGNATURE,
    sizeof *Mcfg,
    1
    );
}

STATIC VOID Override (
    OUT EFI_ACPI_6_5_INTERRUPT_SOURCE_OVERRIDE_STRUCTURE *Override, IN UINT8 Source, IN UINT32 Pin, IN UINT16 Flags)
{
  Override->Type                  = EFI_ACPI_6_5_INTERRUPT_SOURCE_OVERRIDE;
  Override->Length                = sizeof *Override;
  Override->Source                = Source;
  Override->GlobalSystemInterrupt = Pin;
  Override->Flags                 = Flags;
}

/** Writes the entry of a CPU, whose kind depends on its APIC ID (ACPI 6.5,
    5.2.12.12), and returns its end. **/
STATIC UINT8 * PutCpu (OUT UINT8 *At, IN UINTN Index, IN UINT64 ApicId)
{
  EFI_ACPI_6_5_PROCESSOR_LOCAL_APIC_STRUCTURE    *Short = (VOID *)At;
  EFI_ACPI_6_5_PROCESSOR_LOCAL_X2APIC_STRUCTURE  *Long  = (VOID *)At;

  if (ApicId < 0xFF) {
    Short->Type             = EFI_ACPI_6_5_PROCESSOR_LOCAL_APIC;
    Short->Length           = sizeof *Short;
    Short->AcpiProcessorUid = (UINT8)Index;
    Short->ApicId           = (UINT8)ApicId;
    Short->Flags            = EFI_ACPI_6_5_LOCAL_APIC_ENABLED;
    return At + sizeof *Short;
  }

  Long->Type             = EFI_ACPI_6_5_PROCESSOR_LOCAL_X2APIC;
  Long->Length           = sizeof *Long;
  Long->AcpiProcessorUid = (UINT32)Index;
  Long->X2ApicId         = (UINT32)ApicId;
  Long->Flags            = EFI_ACPI_6_5_LOCAL_APIC_ENABLED;
  return At + sizeof *Long;
}

/** Returns the table of the CPUs that have come up, with the IDs that they
    themselves gave. **/
STATIC MADT * MakeMadt (VOID)
{
  EFI_MP_SERVICES_PROTOCOL   *Mp;
  EFI_PROCESSOR_INFORMATION  Info;
  UINTN                      Cpus, Enabled, Index;
  MADT                       *Madt;
  UINT8                      *At;

  if (EFI_ERROR (gBS->LocateProtocol (&gEfiMpServiceProtocolGuid, NULL, (VOID **)&Mp)) ||
      EFI_ERROR (Mp->GetNumberOfProcessors (Mp, &Cpus, &Enabled)))
  {
    Halt ("cannot count the CPUs");
  }

  Madt = AllocatePagesOrHalt (
           EfiACPIReclaimMemory,
           sizeof *Madt + Cpus * sizeof (EFI_ACPI_6_5_PROCESSOR_LOCAL_X2APIC_STRUCTURE)
           );
  Madt->Header.LocalApicAddress = 0xFEE00000;
  Madt->Header.Flags            = EFI_ACPI_6_5_PCAT_COMPAT;
  Madt->IoApic.Type             = EFI_ACPI_6_5_IO_APIC;
  Madt->IoApic.Length           = sizeof Madt->IoApic;
  Madt->IoApic.IoApicAddress    = 0xFEC00000;
  Override (&Madt->Timer, TIMER, TIMER_PIN, 0);
  Override (&Madt->Sci, SCI, SCI, 0xD); // active high, level
  At = (UINT8 *)(Madt + 1);
  for (Index = 0; Index < Cpus; Index++) {
    if (EFI_ERROR (Mp->GetProcessorInfo (Mp, Index, &Info))) {
      Halt ("cannot tell the CPUs apart");
    }

    At = PutCpu (At, Index, Info.ProcessorId);
  }

  Finish (Madt, EFI_ACPI_6_5_MULTIPLE_APIC_DESCRIPTION_TABLE_SIGNATURE, (UINT32)(At - (UINT8 *)Madt), 6);
  return Madt;
}

VOID InstallAcpi (VOID)
{
  TABLES  *T = AllocatePagesOrHalt (EfiACPIReclaimMemory, sizeof *T);

  T->Facs.Signature = EFI_ACPI_6_5_FIRMWARE_ACPI_CONTROL_STRUCTURE_SIGNATURE;
  T->Facs.Length    = sizeof T->Facs;
  T->Facs.Version   = 2;
  CopyMem (T->Dsdt, dsdt_aml_code, sizeof T->Dsdt);
  MakeFadt (T);
  MakeMcfg (&T->Mcfg);

  T->Xsdt.Table[0] = (UINTN)&T->Fadt;
  T->Xsdt.Table[1] = (UINTN)&T->Mcfg;
  T->Xsdt.Table[2] = (UINTN)MakeMadt ();
  Finish (&T->Xsdt, EFI_ACPI_6_5_EXTENDED_SYSTEM_DESCRIPTION_TABLE_SIGNATURE, sizeof T->Xsdt, 1);

  T->Rsdp.Signature   = EFI_ACPI_6_5_ROOT_SYSTEM_DESCRIPTION_POINTER_SIGNATURE;
  T->Rsdp.Revision    = EFI_ACPI_6_5_ROOT_SYSTEM_DESCRIPTION_POINTER_REVISION;
  T->Rsdp.Length      = sizeof T->Rsdp;
  T->Rsdp.XsdtAddress = (UINTN)&T->Xsdt;
  CopyMem (T->Rsdp.OemId, OEM_ID, sizeof T->Rsdp.OemId);
  T->Rsdp.Checksum         = CalculateCheckSum8 ((UINT8 *)&T->Rsdp, 20); // the fields of ACPI 1.0
  T->Rsdp.ExtendedChecksum = CalculateCheckSum8 ((UINT8 *)&T->Rsdp, sizeof T->Rsdp);
  if (EFI_ERROR (gBS->InstallConfigurationTable (&gEfiAcpi20TableGuid, &T->Rsdp))) {
    Halt ("cannot install the ACPI tables");
  }
}

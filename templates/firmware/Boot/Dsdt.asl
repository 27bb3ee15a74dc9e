// What Linux needs to know of a q35 machine: where its PCI devices may lie, and
// how to power off. Nothing in it depends on the host, and there is no method:
// nothing here can touch memory.
DefinitionBlock ("", "DSDT", 2, "COCO  ", "COCOROOT", 1)
{
    Name (\_S5, Package () { 0, 0, 0, 0 }) // the sleep type that ICH9 powers off at

    Device (\_SB.PCI0)
    {
        Name (_HID, EisaId ("PNP0A08")) // PCI Express root
        Name (_CID, EisaId ("PNP0A03"))
        Name (_UID, 0)
        Name (_CRS, ResourceTemplate ()
        {
            WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0xFF, 0, 0x100)
            IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
            WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0, 0x0CF7, 0, 0x0CF8)
            WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0x0D00, 0xFFFF, 0, 0xF300)
            // between the highest low memory and the configuration space
            DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                0, 0xB0000000, 0xDFFFFFFF, 0, 0x30000000)
            // up to the I/O APIC
            DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                0, 0xF0000000, 0xFEBFFFFF, 0, 0x0EC00000)
            // for large devices: from the highest memory that the firmware takes
            // to AMD's HyperTransport range, within 40 address bits
            QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                0, 0x8000000000, 0xFCFFFFFFFF, 0, 0x7D00000000)
        })
    }

    Device (\_SB.ECAM) // the configuration space of the MCFG table is taken
    {
        Name (_HID, EisaId ("PNP0C02"))
        Name (_CRS, ResourceTemplate () { Memory32Fixed (ReadWrite, 0xE0000000, 0x10000000) })
    }
}

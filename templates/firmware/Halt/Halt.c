/** DebugLib without debug output, in which a failed ASSERT stops the machine.

    Many checks that edk2 makes of what the host says are only ASSERTs. A build
    that defines MDEPKG_NDEBUG has none of them. This one keeps them all.
**/
#include <Base.h>
#include <Halt.h>
#include <Library/DebugLib.h>
#include <Library/PcdLib.h>

#define COM1  0x3f8 // data register of the first serial port

// Plain instructions: IoLib and BaseLib need a DebugLib themselves.
VOID EFIAPI SerialPut (IN CHAR8 Character)
{
  __asm__ __volatile__ ("outb %b0, %w1" : : "a" (Character), "d" (COM1));
}

STATIC VOID Print (IN CONST CHAR8 *Text)
{
  while (*Text != 0) {
    SerialPut (*Text++);
  }
}

STATIC VOID WipeSecret (VOID)
{
  volatile UINT64  *Word = (volatile UINT64 *)(UINTN)FixedPcdGet32 (PcdSevLaunchSecretBase);
  UINTN            Words = FixedPcdGet32 (PcdSevLaunchSecretSize) / sizeof *Word;

  while (Words-- > 0) {
    *Word++ = 0;
  }
}

STATIC VOID Stop (VOID)
{
  Print ("\r\n");
  for ( ; ; ) {
    __asm__ __volatile__ ("cli; hlt");
  }
}

VOID EFIAPI Halt (IN CONST CHAR8 *Reason)
{
  WipeSecret ();
  Print ("cocoroot firmware: ");
  Print (Reason);
  Stop ();
}

VOID EFIAPI DebugAssert (IN CONST CHAR8 *FileName, IN UINTN LineNumber, IN CONST CHAR8 *Description)
{
  CHAR8  Line[16], *Digit = Line + sizeof Line;

  WipeSecret ();
  *--Digit = 0;
  do {
    *--Digit = '0' + LineNumber % 10;
  } while ((LineNumber /= 10) > 0);

  Print ("cocoroot firmware: a check failed in ");
  Print (FileName);
  Print (" line ");
  Print (Digit);
  Stop ();
}

VOID EFIAPI DebugPrint (IN UINTN ErrorLevel, IN CONST CHAR8 *Format, ...) { }

VOID EFIAPI DebugVPrint (IN UINTN ErrorLevel, IN CONST CHAR8 *Format, IN VA_LIST Arguments) { }

VOID EFIAPI DebugBPrint (IN UINTN ErrorLevel, IN CONST CHAR8 *Format, IN BASE_LIST Arguments) { }

VOID *EFIAPI DebugClearMemory (OUT VOID *Buffer, IN UINTN Length) { return Buffer; }
BOOLEAN EFIAPI DebugAssertEnabled (VOID) { return TRUE; }
BOOLEAN EFIAPI DebugPrintEnabled (VOID) { return FALSE; }
BOOLEAN EFIAPI DebugCodeEnabled (VOID) { return FALSE; }
BOOLEAN EFIAPI DebugClearMemoryEnabled (VOID) { return FALSE; }
BOOLEAN EFIAPI DebugPrintLevelEnabled (IN CONST UINTN ErrorLevel) { return FALSE; }

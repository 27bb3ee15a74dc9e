/** The console of the kernel's EFI stub: text goes to the serial port, and the
    rest does nothing.
**/
#include "Boot.h"
#include <Protocol/SimpleTextOut.h>

STATIC EFI_STATUS EFIAPI OutputString (IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *This, IN CHAR16 *Text)
{
  for ( ; *Text != 0; Text++) {
    SerialPut (*Text < 0x80 ? (CHAR8)*Text : '?');
  }

  return EFI_SUCCESS;
}

STATIC EFI_STATUS EFIAPI Reset (IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *This, IN BOOLEAN Extended)
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS EFIAPI TestString (IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *This, IN CHAR16 *Text)
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS EFIAPI QueryMode (
    IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *This, IN UINTN Mode, OUT UINTN *Columns, OUT UINTN *Rows)
{
  *Columns = 80;
  *Rows    = 25;
  return EFI_SUCCESS;
}

STATIC EFI_STATUS EFIAPI SetNumber (IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *This, IN UINTN Number)
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS EFIAPI ClearScreen (IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *This) { return EFI_SUCCESS; }

STATIC EFI_STATUS EFIAPI SetCursorPosition (
    IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *This, IN UINTN Column, IN UINTN Row)
{
  return EFI_SUCCESS;
}

STATIC EFI_SIMPLE_TEXT_OUTPUT_MODE      mMode = { .MaxMode = 1 };
STATIC EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  mConsole = {
  .Reset             = Reset,
  .OutputString      = OutputString,
  .TestString        = TestString,
  .QueryMode         = QueryMode,
  .SetMode           = SetNumber,
  .SetAttribute      = SetNumber,
  .ClearScreen       = ClearScreen,
  .SetCursorPosition = SetCursorPosition,
  .EnableCursor      = Reset,
  .Mode              = &mMode
};

VOID InstallConsole (IN OUT EFI_SYSTEM_TABLE *SystemTable)
{
  SystemTable->ConOut = &mConsole;
  SystemTable->StdErr = &mConsole;
}

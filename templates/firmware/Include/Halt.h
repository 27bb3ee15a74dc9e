/** How this firmware stops. **/
#ifndef COCOROOT_HALT_H_
#define COCOROOT_HALT_H_

/**
  Zeroes the area of the launch secret, prints one line on the first serial
  port, "cocoroot firmware: " and the reason, and stands still.

  Callable in every phase after the reset vector. The library that implements
  DebugLib has it, so a failed ASSERT of edk2 ends here too.
**/
VOID EFIAPI Halt (IN CONST CHAR8 *Reason);

/** Writes one character to the first serial port. **/
VOID EFIAPI SerialPut (IN CHAR8 Character);

#endif

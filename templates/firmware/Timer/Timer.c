/** TimerLib over the ACPI power management timer, at the port where upstream's
    PlatformPei puts it. Upstream's own instance asks the host for that port in
    every module.

    The counter has 24 bits and runs at 3,579,545 Hz (ACPI 6.5, 4.8.3.3).
**/
#include <Base.h>
#include <Library/IoLib.h>
#include <Library/TimerLib.h>

#define PORT       0x608
#define FREQUENCY  3579545ULL
#define MASK       0xFFFFFF

STATIC VOID Delay (IN UINT64 Ticks)
{
  UINT32  Now, Last = IoRead32 (PORT);

  for (Ticks++; Ticks > 0; Last = Now) {
    Now    = IoRead32 (PORT);
    Ticks -= MIN (Ticks, (Now - Last) & MASK);
  }
}

UINTN EFIAPI MicroSecondDelay (IN UINTN MicroSeconds)
{
  Delay (MicroSeconds * FREQUENCY / 1000000);
  return MicroSeconds;
}

UINTN EFIAPI NanoSecondDelay (IN UINTN NanoSeconds)
{
  Delay (NanoSeconds * FREQUENCY / 1000000000);
  return NanoSeconds;
}

UINT64 EFIAPI GetPerformanceCounter (VOID) { return IoRead32 (PORT) & MASK; }

UINT64 EFIAPI GetPerformanceCounterProperties (OUT UINT64 *Start OPTIONAL, OUT UINT64 *End OPTIONAL)
{
  if (Start != NULL) {
    *Start = 0;
  }

  if (End != NULL) {
    *End = MASK;
  }

  return FREQUENCY;
}

UINT64 EFIAPI GetTimeInNanoSecond (IN UINT64 Ticks) { return Ticks * 1000000000 / FREQUENCY; }

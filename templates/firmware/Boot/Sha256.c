/** SHA-256 (FIPS 180-4). **/
#include "Boot.h"

#define BLOCK_SIZE  64
#define LENGTH_AT   56 // of the 64-bit length in the last block

STATIC CONST UINT32  mRound[64] = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
};

STATIC UINT32 Rotate (IN UINT32 Word, IN UINTN Bits) { return Word >> Bits | Word << (32 - Bits); }

STATIC
UINT32
Expand (
  IN CONST UINT32  *Word // the one to make; the 16 before it are known
  )
{
  UINT32  Old = Word[-15], New = Word[-2];

  return Word[-16] + Word[-7] +
         (Rotate (Old, 7) ^ Rotate (Old, 18) ^ Old >> 3) +
         (Rotate (New, 17) ^ Rotate (New, 19) ^ New >> 10);
}

STATIC VOID Compress (IN OUT UINT32 State[8], IN CONST UINT8 *Block)
{
  UINT32  Word[64], S[8], Sum1, Sum2;
  UINTN   Index;

  // Working variable n, 0 for "a" to 7 for "h". Each round moves them up by one.
  #define V(n)  S[((n) - Index) % 8]

  CopyMem (S, State, sizeof S);
  for (Index = 0; Index < 64; Index++) {
    if (Index < 16) {
      Word[Index] = SwapBytes32 (ReadUnaligned32 ((CONST UINT32 *)Block + Index));
    } else {
      Word[Index] = Expand (Word + Index);
    }

    Sum1 = V (7) + mRound[Index] + Word[Index] + ((V (4) & V (5)) ^ (~V (4) & V (6))) +
           (Rotate (V (4), 6) ^ Rotate (V (4), 11) ^ Rotate (V (4), 25));
    Sum2 = ((V (0) & V (1)) ^ (V (0) & V (2)) ^ (V (1) & V (2))) +
           (Rotate (V (0), 2) ^ Rotate (V (0), 13) ^ Rotate (V (0), 22));
    V (3) += Sum1;
    V (7)  = Sum1 + Sum2;
  }

  #undef V
  for (Index = 0; Index < 8; Index++) {
    State[Index] += S[Index];
  }
}

VOID Sha256 (IN CONST UINT8 *Data, IN UINTN Size, OUT UINT8 Digest[DIGEST_SIZE])
{
  UINT32  State[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
  };
  UINT8   Last[2 * BLOCK_SIZE] = { 0 };
  UINTN   Rest, LastSize, At;

  for (At = 0; Size - At >= BLOCK_SIZE; At += BLOCK_SIZE) {
    Compress (State, Data + At);
  }

  Rest     = Size - At;
  LastSize = Rest < LENGTH_AT ? BLOCK_SIZE : 2 * BLOCK_SIZE;
  CopyMem (Last, Data + At, Rest);
  Last[Rest] = 0x80;
  WriteUnaligned64 ((UINT64 *)(Last + LastSize - 8), SwapBytes64 ((UINT64)Size * 8));
  for (At = 0; At < LastSize; At += BLOCK_SIZE) {
    Compress (State, Last + At);
  }

  for (At = 0; At < 8; At++) {
    WriteUnaligned32 ((UINT32 *)Digest + At, SwapBytes32 (State[At]));
  }
}

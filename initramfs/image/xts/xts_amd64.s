#include "textflag.h"

// The reduction of a doubled tweak: x^128 = x^7 + x^2 + x + 1 (IEEE 1619,
// 5.2) in the lowest 32 bits, and in the third 32 bits the carry from the
// low half to the high half.
DATA carry<>+0(SB)/8, $0x87
DATA carry<>+8(SB)/8, $0x01
GLOBL carry<>(SB), RODATA|NOPTR, $16

// NEXT sets to = from * x in GF(2^128), little-endian, and uses tmp. Bit 63
// and bit 127 are spread over the 32-bit lanes 2 and 0, masked to what each
// carries into, and added to the two halves shifted left on their own.
#define NEXT(from, to, tmp) \
	VPSHUFD $0x13, from, tmp;      \
	VPSRAD  $31, tmp, tmp;         \
	VPAND   carry<>(SB), tmp, tmp; \
	VPADDQ  from, from, to;        \
	VPXOR   tmp, to, to

// EACH applies op with the operand x to the eight blocks in X0 to X7.
#define EACH(op, x) \
	op x, X0, X0; \
	op x, X1, X1; \
	op x, X2, X2; \
	op x, X3, X3; \
	op x, X4, X4; \
	op x, X5, X5; \
	op x, X6, X6; \
	op x, X7, X7

// ROUND does round i with its key.
#define ROUND(i) \
	VMOVDQU (16*i)(AX), X10; \
	EACH(VAESENC, X10)

// KEEP puts the tweak of block i of the next granule where DX says, and makes
// the one after it.
#define KEEP(i) \
	VMOVDQU X8, (16*i)(DX); \
	NEXT(X8, X8, X9)

// TWEAKED xors the eight blocks with their tweaks.
#define TWEAKED \
	VPXOR 0(BX), X0, X0;  \
	VPXOR 16(BX), X1, X1; \
	VPXOR 32(BX), X2, X2; \
	VPXOR 48(BX), X3, X3; \
	VPXOR 64(BX), X4, X4; \
	VPXOR 80(BX), X5, X5; \
	VPXOR 96(BX), X6, X6; \
	VPXOR 112(BX), X7, X7

// func encryptSector(schedules, dst, src *byte, granules int, number uint64)
//
// X0 to X7 hold blocks, X8 the newest tweak. The tweaks of a granule lie where
// BX says; those of the next are made between the rounds, which do not wait
// for them.
TEXT ·encryptSector(SB), NOSPLIT, $256-40
	MOVQ schedules+0(FP), AX
	MOVQ dst+8(FP), DI
	MOVQ src+16(FP), SI
	MOVQ granules+24(FP), CX
	MOVQ number+32(FP), DX

	// The first tweak: the number, encrypted with the second key.
	VMOVQ       DX, X8
	VPXOR       240(AX), X8, X8
	VAESENC     256(AX), X8, X8
	VAESENC     272(AX), X8, X8
	VAESENC     288(AX), X8, X8
	VAESENC     304(AX), X8, X8
	VAESENC     320(AX), X8, X8
	VAESENC     336(AX), X8, X8
	VAESENC     352(AX), X8, X8
	VAESENC     368(AX), X8, X8
	VAESENC     384(AX), X8, X8
	VAESENC     400(AX), X8, X8
	VAESENC     416(AX), X8, X8
	VAESENC     432(AX), X8, X8
	VAESENC     448(AX), X8, X8
	VAESENCLAST 464(AX), X8, X8

	LEAQ tweaks-256(SP), DX
	LEAQ tweaks-128(SP), BX
	KEEP(0)
	KEEP(1)
	KEEP(2)
	KEEP(3)
	KEEP(4)
	KEEP(5)
	KEEP(6)
	KEEP(7)

granule:
	XCHGQ   BX, DX
	VMOVDQU 0(AX), X10
	VPXOR   0(SI), X10, X0
	VPXOR   16(SI), X10, X1
	VPXOR   32(SI), X10, X2
	VPXOR   48(SI), X10, X3
	VPXOR   64(SI), X10, X4
	VPXOR   80(SI), X10, X5
	VPXOR   96(SI), X10, X6
	VPXOR   112(SI), X10, X7
	TWEAKED
	ROUND(1)
	KEEP(0)
	ROUND(2)
	KEEP(1)
	ROUND(3)
	KEEP(2)
	ROUND(4)
	KEEP(3)
	ROUND(5)
	KEEP(4)
	ROUND(6)
	KEEP(5)
	ROUND(7)
	KEEP(6)
	ROUND(8)
	KEEP(7)
	ROUND(9)
	ROUND(10)
	ROUND(11)
	ROUND(12)
	ROUND(13)
	VMOVDQU 224(AX), X10
	EACH(VAESENCLAST, X10)
	TWEAKED
	VMOVDQU X0, 0(DI)
	VMOVDQU X1, 16(DI)
	VMOVDQU X2, 32(DI)
	VMOVDQU X3, 48(DI)
	VMOVDQU X4, 64(DI)
	VMOVDQU X5, 80(DI)
	VMOVDQU X6, 96(DI)
	VMOVDQU X7, 112(DI)
	ADDQ    $128, SI
	ADDQ    $128, DI
	DECQ    CX
	JNZ     granule

	VZEROALL // the tweaks, and below those in memory
	VMOVDQU Y0, 0(BX)
	VMOVDQU Y0, 32(BX)
	VMOVDQU Y0, 64(BX)
	VMOVDQU Y0, 96(BX)
	VMOVDQU Y0, 0(DX)
	VMOVDQU Y0, 32(DX)
	VMOVDQU Y0, 64(DX)
	VMOVDQU Y0, 96(DX)
	RET

// MIX sets key ^= key<<32 ^ key<<64 ^ key<<96 ^ X2, uses X3, and appends the
// result to the schedule at DI (FIPS 197, 5.2, four words at once).
#define MIX(key) \
	VPSLLDQ $4, key, X3;  \
	VPXOR   X3, key, key; \
	VPSLLDQ $8, key, X3;  \
	VPXOR   X3, key, key; \
	VPXOR   X2, key, key; \
	VMOVDQU key, (DI);    \
	ADDQ    $16, DI

// EVEN makes the next round key with RotWord, SubWord and the round constant,
// ODD one with SubWord only.
#define EVEN(rcon) \
	VAESKEYGENASSIST rcon, X1, X2; \
	VPSHUFD          $0xff, X2, X2; \
	MIX(X0)
#define ODD \
	VAESKEYGENASSIST $0, X0, X2;   \
	VPSHUFD          $0xaa, X2, X2; \
	MIX(X1)

// func expandKey(key, schedule *byte)
//
// X0 and X1 hold the last two round keys.
TEXT ·expandKey(SB), NOSPLIT, $0-16
	MOVQ    key+0(FP), SI
	MOVQ    schedule+8(FP), DI
	VMOVDQU 0(SI), X0
	VMOVDQU 16(SI), X1
	VMOVDQU X0, 0(DI)
	VMOVDQU X1, 16(DI)
	ADDQ    $32, DI
	EVEN($0x01)
	ODD
	EVEN($0x02)
	ODD
	EVEN($0x04)
	ODD
	EVEN($0x08)
	ODD
	EVEN($0x10)
	ODD
	EVEN($0x20)
	ODD
	EVEN($0x40)
	VZEROALL // the keys
	RET

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

// EACH applies op with the round key at key to the eight blocks in X0 to X7.
// VEX encodings, unlike AES-NI's first ones, take unaligned memory.
#define EACH(op, key) \
	op key, X0, X0; \
	op key, X1, X1; \
	op key, X2, X2; \
	op key, X3, X3; \
	op key, X4, X4; \
	op key, X5, X5; \
	op key, X6, X6; \
	op key, X7, X7

// func encryptSector(schedules, dst, src *byte, granules int, number uint64)
//
// X0 to X7 hold blocks, X8 to X15 their tweaks. The next tweaks do not wait
// for the rounds, so the processor computes them at the same time.
TEXT ·encryptSector(SB), NOSPLIT, $0-40
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

granule:
	NEXT(X8, X9, X0)
	NEXT(X9, X10, X1)
	NEXT(X10, X11, X2)
	NEXT(X11, X12, X3)
	NEXT(X12, X13, X4)
	NEXT(X13, X14, X5)
	NEXT(X14, X15, X6)

	VPXOR 0(SI), X8, X0
	VPXOR 16(SI), X9, X1
	VPXOR 32(SI), X10, X2
	VPXOR 48(SI), X11, X3
	VPXOR 64(SI), X12, X4
	VPXOR 80(SI), X13, X5
	VPXOR 96(SI), X14, X6
	VPXOR 112(SI), X15, X7

	EACH(VPXOR, 0(AX))
	EACH(VAESENC, 16(AX))
	EACH(VAESENC, 32(AX))
	EACH(VAESENC, 48(AX))
	EACH(VAESENC, 64(AX))
	EACH(VAESENC, 80(AX))
	EACH(VAESENC, 96(AX))
	EACH(VAESENC, 112(AX))
	EACH(VAESENC, 128(AX))
	EACH(VAESENC, 144(AX))
	EACH(VAESENC, 160(AX))
	EACH(VAESENC, 176(AX))
	EACH(VAESENC, 192(AX))
	EACH(VAESENC, 208(AX))
	EACH(VAESENCLAST, 224(AX))

	VPXOR   X8, X0, X0
	VPXOR   X9, X1, X1
	VPXOR   X10, X2, X2
	VPXOR   X11, X3, X3
	VPXOR   X12, X4, X4
	VPXOR   X13, X5, X5
	VPXOR   X14, X6, X6
	VPXOR   X15, X7, X7
	VMOVDQU X0, 0(DI)
	VMOVDQU X1, 16(DI)
	VMOVDQU X2, 32(DI)
	VMOVDQU X3, 48(DI)
	VMOVDQU X4, 64(DI)
	VMOVDQU X5, 80(DI)
	VMOVDQU X6, 96(DI)
	VMOVDQU X7, 112(DI)

	NEXT(X15, X8, X0)
	ADDQ $128, SI
	ADDQ $128, DI
	DECQ CX
	JNZ  granule

	VZEROALL // the tweaks
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
// ODD one with SubWord alone.
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

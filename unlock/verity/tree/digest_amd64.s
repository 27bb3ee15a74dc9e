//go:build !purego

#include "textflag.h"

// The round constants (FIPS 180-4, 4.2.2), the first of two in the lower half.
DATA k<>+0(SB)/8, $0x71374491428a2f98
DATA k<>+8(SB)/8, $0xe9b5dba5b5c0fbcf
DATA k<>+16(SB)/8, $0x59f111f13956c25b
DATA k<>+24(SB)/8, $0xab1c5ed5923f82a4
DATA k<>+32(SB)/8, $0x12835b01d807aa98
DATA k<>+40(SB)/8, $0x550c7dc3243185be
DATA k<>+48(SB)/8, $0x80deb1fe72be5d74
DATA k<>+56(SB)/8, $0xc19bf1749bdc06a7
DATA k<>+64(SB)/8, $0xefbe4786e49b69c1
DATA k<>+72(SB)/8, $0x240ca1cc0fc19dc6
DATA k<>+80(SB)/8, $0x4a7484aa2de92c6f
DATA k<>+88(SB)/8, $0x76f988da5cb0a9dc
DATA k<>+96(SB)/8, $0xa831c66d983e5152
DATA k<>+104(SB)/8, $0xbf597fc7b00327c8
DATA k<>+112(SB)/8, $0xd5a79147c6e00bf3
DATA k<>+120(SB)/8, $0x1429296706ca6351
DATA k<>+128(SB)/8, $0x2e1b213827b70a85
DATA k<>+136(SB)/8, $0x53380d134d2c6dfc
DATA k<>+144(SB)/8, $0x766a0abb650a7354
DATA k<>+152(SB)/8, $0x92722c8581c2c92e
DATA k<>+160(SB)/8, $0xa81a664ba2bfe8a1
DATA k<>+168(SB)/8, $0xc76c51a3c24b8b70
DATA k<>+176(SB)/8, $0xd6990624d192e819
DATA k<>+184(SB)/8, $0x106aa070f40e3585
DATA k<>+192(SB)/8, $0x1e376c0819a4c116
DATA k<>+200(SB)/8, $0x34b0bcb52748774c
DATA k<>+208(SB)/8, $0x4ed8aa4a391c0cb3
DATA k<>+216(SB)/8, $0x682e6ff35b9cca4f
DATA k<>+224(SB)/8, $0x78a5636f748f82ee
DATA k<>+232(SB)/8, $0x8cc7020884c87814
DATA k<>+240(SB)/8, $0xa4506ceb90befffa
DATA k<>+248(SB)/8, $0xc67178f2bef9a3f7
GLOBL k<>(SB), RODATA|NOPTR, $256

// What PSHUFB takes to reverse the bytes of each 32-bit word: messages are
// big-endian.
DATA swap<>+0(SB)/8, $0x0405060700010203
DATA swap<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap<>(SB), RODATA|NOPTR, $16

// The instructions hold a state as the words ABEF and CDGH, A and C the
// highest, and a schedule as four words a register. Stream a has its state in
// X1 and X2 and the newest 16 words of its schedule in X3 to X6, stream b in
// X7, X8 and X9 to X12. X0 is the operand that SHA256RNDS2 does not name.

// ROUNDS does four rounds of one stream; X13 holds their constants, w their
// words. Two rounds turn ABEF into the new CDGH without a change, so the
// registers trade places, and after two more have them back.
#define ROUNDS(w, abef, cdgh) \
	MOVO        X13, X0;        \
	PADDD       w, X0;          \
	SHA256RNDS2 X0, abef, cdgh; \
	PSHUFD      $0x0e, X0, X0;  \
	SHA256RNDS2 X0, cdgh, abef

// FOUR does rounds 4i to 4i+3 of both streams. Those of one wait for each
// other, never for those of the other: that is the point of it all.
#define FOUR(i, a, b) \
	MOVOU (16*i)(BX), X13; \
	ROUNDS(a, X1, X2);     \
	ROUNDS(b, X7, X8)

// WORDS turns the oldest of 16 words, w0, into the four that come after w3
// (FIPS 180-4, 6.2.2, step 1).
#define WORDS(w0, w1, w2, w3) \
	SHA256MSG1 w1, w0;      \
	MOVO       w3, X15;     \
	PALIGNR    $4, w2, X15; \
	PADDD      X15, w0;     \
	SHA256MSG2 w3, w0

// SIXTEEN does rounds 4i to 4i+15 on words that it makes first.
#define SIXTEEN(i) \
	WORDS(X3, X4, X5, X6);    \
	WORDS(X9, X10, X11, X12); \
	FOUR(i, X3, X9);          \
	WORDS(X4, X5, X6, X3);    \
	WORDS(X10, X11, X12, X9); \
	FOUR((i+1), X4, X10);     \
	WORDS(X5, X6, X3, X4);    \
	WORDS(X11, X12, X9, X10); \
	FOUR((i+2), X5, X11);     \
	WORDS(X6, X3, X4, X5);    \
	WORDS(X12, X9, X10, X11); \
	FOUR((i+3), X6, X12)

// LOAD reads 16 bytes of a message.
#define LOAD(from, to) \
	MOVOU  from, to; \
	PSHUFB X14, to

// ADD adds the state before the block, which still lies in memory, and puts
// the sum there.
#define ADD(at, state) \
	MOVOU at(AX), X15; \
	PADDD X15, state;  \
	MOVOU state, at(AX)

// func compress(states *[2]state, a, b *byte, blocks int)
TEXT ·compress(SB), NOSPLIT, $0-32
	MOVQ  states+0(FP), AX
	MOVQ  a+8(FP), SI
	MOVQ  b+16(FP), DI
	MOVQ  blocks+24(FP), CX
	LEAQ  k<>(SB), BX
	MOVOU swap<>(SB), X14
	MOVOU 0(AX), X1
	MOVOU 16(AX), X2
	MOVOU 32(AX), X7
	MOVOU 48(AX), X8

block:
	LOAD(0(SI), X3)
	LOAD(16(SI), X4)
	LOAD(32(SI), X5)
	LOAD(48(SI), X6)
	LOAD(0(DI), X9)
	LOAD(16(DI), X10)
	LOAD(32(DI), X11)
	LOAD(48(DI), X12)
	FOUR(0, X3, X9)
	FOUR(1, X4, X10)
	FOUR(2, X5, X11)
	FOUR(3, X6, X12)
	SIXTEEN(4)
	SIXTEEN(8)
	SIXTEEN(12)
	ADD(0, X1)
	ADD(16, X2)
	ADD(32, X7)
	ADD(48, X8)
	ADDQ $64, SI
	ADDQ $64, DI
	DECQ CX
	JNZ  block
	RET

// func hasSHA() bool
TEXT ·hasSHA(SB), NOSPLIT, $0-1
	MOVB $0, ret+0(FP)
	XORL AX, AX
	CPUID
	CMPL AX, $7
	JB   done
	MOVL $7, AX
	XORL CX, CX
	CPUID
	SHRL $29, BX
	ANDL $1, BX
	MOVB BX, ret+0(FP)

done:
	RET

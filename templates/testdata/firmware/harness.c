/* Runs the firmware's own C files as a program. Standard input and output are
   the host: the test answers each access to the fw_cfg device.

   To the test, all numbers u32 in this machine's order (x86-64):
     's' ITEM           the item was selected at the port
     'p' SIZE           bytes are read at the port: it answers SIZE bytes
     'd' CONTROL SIZE   a DMA request: it answers CONTROL, then what was read
     'h' SIZE TEXT      the firmware halts
     'r' SIZE BYTES     a result
   Sanitizers end the program at an access that is out of bounds. */
#include "Boot.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

UINTN PcdQemuHashTableBase, PcdQemuHashTableSize;

static UINTN  shared, sharedSize; /* what the host can see */
static UINT32 dmaHigh;

static void
fail (const char *why)
{
	fprintf (stderr, "harness: %s\n", why);
	exit (2);
}

static void
put (char op, const UINT32 *numbers, int n, const void *data, size_t size)
{
	if (putchar (op) == EOF || fwrite (numbers, sizeof *numbers, n, stdout) != (size_t)n ||
	    (size && fwrite (data, 1, size, stdout) != size) || fflush (stdout)) {
		fail ("nobody listens");
	}
}

static void
get (void *to, size_t size)
{
	if (size && fread (to, 1, size, stdin) != size) {
		fail ("no answer");
	}
}

static UINT32
number (void)
{
	UINT32 n;

	get (&n, sizeof n);
	return n;
}

static void
result (const void *data, UINT32 size)
{
	put ('r', &size, 1, data, size);
}

void
Halt (const CHAR8 *reason)
{
	UINT32 size = strlen (reason);

	put ('h', &size, 1, reason, size);
	exit (0);
}

void
SerialPut (CHAR8 c)
{
	fail ("it prints");
}

/* --- the device */

void
IoWrite16 (UINTN port, UINT16 value)
{
	UINT32 item = value;

	if (port != FW_CFG_IO_SELECTOR) {
		fail ("a write of 16 bits to another port");
	}
	put ('s', &item, 1, NULL, 0);
}

void
IoReadFifo8 (UINTN port, UINTN size, void *to)
{
	UINT32 n = size;

	if (port != FW_CFG_IO_DATA) {
		fail ("a read from another port");
	}
	put ('p', &n, 1, NULL, 0);
	get (to, size);
}

static int
isShared (UINTN at, UINTN size)
{
	return at >= shared && size <= sharedSize && at - shared <= sharedSize - size;
}

void
IoWrite32 (UINTN port, UINT32 value)
{
	volatile FW_CFG_DMA_ACCESS *request;
	UINT32                     numbers[2];
	UINTN                      buffer;

	if (port == FW_CFG_IO_DMA_ADDRESS) {
		dmaHigh = SwapBytes32 (value);
		return;
	}
	if (port != FW_CFG_IO_DMA_ADDRESS + 4) {
		fail ("a write of 32 bits to another port");
	}
	request = (void *)((UINT64)dmaHigh << 32 | SwapBytes32 (value));
	if (!isShared ((UINTN)request, sizeof *request)) {
		fail ("a request in memory that is not shared");
	}
	numbers[0] = SwapBytes32 (request->Control);
	numbers[1] = SwapBytes32 (request->Length);
	buffer     = SwapBytes64 (request->Address);
	if (numbers[1] > 0 && !isShared (buffer, numbers[1])) {
		fail ("a buffer in memory that is not shared");
	}
	put ('d', numbers, 2, NULL, 0);
	request->Control = SwapBytes32 (number ());
	if (request->Control == 0 && (numbers[0] & FW_CFG_DMA_CTL_READ)) {
		get ((void *)buffer, numbers[1]);
	}
}

BOOLEAN
MemEncryptSevIsEnabled (void)
{
	return TRUE;
}

RETURN_STATUS
MemEncryptSevClearPageEncMask (UINTN cr3, UINTN at, UINTN pages)
{
	if (sharedSize) {
		fail ("memory is shared twice");
	}
	shared     = at;
	sharedSize = pages * EFI_PAGE_SIZE;
	return RETURN_SUCCESS;
}

RETURN_STATUS
MemEncryptSevSetPageEncMask (UINTN cr3, UINTN at, UINTN pages)
{
	if (at != shared || pages * EFI_PAGE_SIZE != sharedSize) {
		fail ("other memory is taken back than was shared");
	}
	memset ((void *)shared, 0xaa, sharedSize); /* the host's last word: nobody may listen to it */
	sharedSize = 0;
	return RETURN_SUCCESS;
}

/* As long as asked for, so that a byte more is seen. */
void *
AllocatePagesOrHalt (EFI_MEMORY_TYPE type, UINT64 size)
{
	void *p;

	if (size > 1ULL << 31 || !(p = calloc (1, size ? size : 1))) {
		fail ("an allocation without a bound");
	}
	return p;
}

/* --- what is tested */

static void
fetch (void)
{
	BLOBS b;

	memset (&b, 0, sizeof b);
	FetchBlobs (&b);
	if (sharedSize) {
		fail ("memory stays shared");
	}
	result (b.Kernel.Data, b.Kernel.Size);
	result (b.Initrd.Data, b.Initrd.Size);
	result (b.CommandLine.Data, b.CommandLine.Size);
}

static BLOB
blob (void)
{
	BLOB b;

	b.Size = number ();
	b.Data = malloc (b.Size);
	get (b.Data, b.Size);
	return b;
}

static void
verify (void)
{
	BLOBS b;
	BLOB  table = blob ();

	PcdQemuHashTableBase = (UINTN)table.Data;
	PcdQemuHashTableSize = table.Size;
	b.Kernel             = blob ();
	b.Initrd             = blob ();
	b.CommandLine        = blob ();
	VerifyBlobs (&b);
	result (NULL, 0);
}

static void
sha256 (void)
{
	UINT8 digest[DIGEST_SIZE];

	for ( ; ; ) {
		BLOB b = blob ();
		Sha256 (b.Data, b.Size, digest);
		result (digest, sizeof digest);
		free (b.Data);
	}
}

/* upstream asks several times, and gets parts */
static void
memory (void)
{
	FIRMWARE_CONFIG_ITEM item;
	UINTN                size, at;
	UINT8                *map;
	int                  i;

	if (QemuFwCfgFindFile ("etc/boot/shim", &item, &size) == RETURN_SUCCESS ||
	    QemuFwCfgFindFile ("opt/ovmf/X-PciMmio64Mb", &item, &size) == RETURN_SUCCESS) {
		fail ("it finds what it must not look for");
	}
	for (i = 0; i < 2; i++) {
		if (QemuFwCfgFindFile ("etc/e820", &item, &size) != RETURN_SUCCESS) {
			fail ("no memory map");
		}
		map = malloc (size);
		QemuFwCfgSelectItem (item);
		for (at = 0; at < size; at += sizeof (EFI_E820_ENTRY64)) {
			QemuFwCfgReadBytes (sizeof (EFI_E820_ENTRY64), map + at);
		}
		result (map, size);
	}
}

static void
cpus (void)
{
	UINT16 n;

	QemuFwCfgSelectItem (QemuFwCfgItemSmpCpuCount);
	n = QemuFwCfgRead16 ();
	result (&n, sizeof n);
}

int
main (int argc, char **argv)
{
	static const struct { const char *name; void (*run)(void); } modes[] = {
		{ "fetch", fetch }, { "verify", verify }, { "sha256", sha256 }, { "memory", memory }, { "cpus", cpus },
	};

	for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++) {
		if (argc == 2 && !strcmp (argv[1], modes[i].name)) {
			modes[i].run ();
			return 0;
		}
	}
	return 2;
}

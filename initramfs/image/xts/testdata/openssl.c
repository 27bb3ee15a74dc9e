// Encrypts with OpenSSL what it reads: times key (64 bytes), tweak (16) and
// sector (its length is the argument), and writes the ciphertexts.
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	unsigned char key[64], tweak[16];
	int n = argc == 2 ? atoi(argv[1]) : 0, got;
	unsigned char *in = malloc(n), *out = malloc(n);
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();

	if (n <= 0 || !in || !out || !c)
		return 1;
	while (fread(key, sizeof key, 1, stdin) == 1) {
		if (fread(tweak, sizeof tweak, 1, stdin) != 1 || fread(in, n, 1, stdin) != 1 ||
		    !EVP_EncryptInit_ex(c, EVP_aes_256_xts(), NULL, key, tweak) ||
		    !EVP_EncryptUpdate(c, out, &got, in, n) || got != n ||
		    fwrite(out, n, 1, stdout) != 1)
			return 1;
	}
	return fflush(stdout) != 0;
}

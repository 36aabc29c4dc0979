// Looks up the names of a file with the C library's getaddrinfo, one after the other and from the first
// again, for so many seconds, and prints how many nanoseconds each took, 0 for one that failed.
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	static char names[1000][256];
	int n = 0;
	FILE *file = argc == 3 ? fopen(argv[1], "r") : NULL;

	if (!file)
		return 1;
	while (n < 1000 && fscanf(file, "%255s", names[n]) == 1)
		n++;

	long long end = now() + (long long)(atof(argv[2]) * 1e9);

	for (int i = 0; n && now() < end; i++) {
		struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
		long long start = now();
		int failed = getaddrinfo(names[i % n], NULL, &hints, &found);

		printf("%lld\n", failed ? 0 : now() - start);
		if (!failed)
			freeaddrinfo(found);
	}
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
// Looks a name up with c-ares, as Envoy and Node.js do: prints the addresses, one a line, or why not.
#include <ares.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/select.h>

static int failed;

static void found(void *arg, int status, int timeouts, struct ares_addrinfo *list)
{
	struct ares_addrinfo_node *a;
	char text[INET6_ADDRSTRLEN];

	(void)arg, (void)timeouts;
	if (status != ARES_SUCCESS) {
		printf("%s\n", ares_strerror(status));
		failed = 1;
		return;
	}
	for (a = list->nodes; a; a = a->ai_next) {
		const void *addr = a->ai_family == AF_INET
			? (const void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr
			: (const void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
		puts(inet_ntop(a->ai_family, addr, text, sizeof text));
	}
	ares_freeaddrinfo(list);
}

int main(int argc, char **argv)
{
	struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	ares_channel channel;

	if (argc != 2 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
		return 2;
	ares_getaddrinfo(channel, argv[1], NULL, &hints, found, NULL);
	for (;;) {
		struct timeval wait;
		fd_set in, out;
		int n;

		FD_ZERO(&in);
		FD_ZERO(&out);
		n = ares_fds(channel, &in, &out);
		if (!n)
			return failed;
		select(n, &in, &out, NULL, ares_timeout(channel, NULL, &wait));
		ares_process(channel, &in, &out);
	}
}

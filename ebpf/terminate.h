// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// Ends connected sockets whose backend has left the frontend they asked for. Whose that is, is judged
// here, from what the socket was told and where it is connected to now: so whatever is not ours, or has
// meanwhile gone elsewhere, is never touched, and a restart of dnsd forgets nobody. These programs run
// when dnsd reads them and are loaded for that; a kernel without bpf_sock_destroy works without them.
#pragma once

#include "udp.h"

/* How long a TCP connection may outlive its backend's leaving, s. Set when loading. */
volatile const __u32 drain;

enum { IPV4 = 2 }; /* AF_INET */

/* What is needed of the kernel's own types; the loader finds out where the fields are. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct net {
	__u64 net_cookie;
};

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	unsigned short skc_family;
	struct {
		struct net *net;
	} skc_net;
	struct in6_addr skc_v6_daddr;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
};

struct udp_sock;
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
};

#pragma clang attribute pop

extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

/* A line of what list_left says. */
struct leaver {
	__u64 netns;
	__u32 left; /* as in struct translation */
	__u32 protocol;
};

/* Where a socket's packets go now; port 0: it is not connected. */
static __always_inline struct endpoint connected_to(const struct sock_common *sk)
{
	struct endpoint to = { .port = sk->skc_dport };

	if (sk->skc_family == IPV4) {
		to.addr.word[2] = bpf_htonl(0xffff);
		to.addr.word[3] = sk->skc_daddr;
	} else {
		for (int i = 0; i < 4; i++)
			to.addr.word[i] = sk->skc_v6_daddr.in6_u.u6_addr32[i];
	}
	return to;
}

/* What a connected socket was told about its peer; none: it went there by itself, or is not connected. */
static __always_inline struct translation *told(struct sock_common *sk)
{
	struct socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);

	if (!s)
		return NULL;

	struct endpoint peer = connected_to(sk);

	return peer.port ? recall(s, &peer) : NULL;
}

struct search {
	const struct translation *of;
	__u32 base; /* of the slots to look through */
	bool found;
};

static long compare(__u64 i, struct search *search)
{
	__u32 n = search->base + i;
	struct slot *slot = bpf_map_lookup_elem(&slots, &n);
	__u32 id = slot ? slot->backend : NO_BACKEND;
	struct backend *backend = bpf_map_lookup_elem(&backends, &id);

	if (!backend || !same(&backend->addr, &search->of->backend.addr) ||
	    (backend->port && backend->port != search->of->backend.port))
		return 0;
	search->found = true;
	return 1;
}

/*
 * Whether the backend a socket was sent to is none any more of the frontend's that it had asked for. By
 * address, all of the set and those on standby: a backend that comes back may have another number.
 */
static __always_inline bool has_left(struct translation *t, __u8 protocol, __u64 cookie)
{
	struct pod *pod = bpf_map_lookup_elem(&pods, &cookie);

	if (!pod)
		return false;

	__u64 view = pod->view;

	if (!(pod->flags & POD_LB) || !still_ours(pod, cookie))
		return false;

	__u32 service = find_service(&t->frontend, protocol, view);
	__u64 *published = bpf_map_lookup_elem(&services, &service);
	__u64 word = published ? *(volatile __u64 *)published : 0;
	__u32 id = (__u32)word;
	struct set *set = bpf_map_lookup_elem(&sets, &id);

	if (!word || !set)
		return true;
	if (set->lasting || t->word == word)
		return false;

	struct search search = { .of = t, .base = set->members };

	bpf_loop(set->size + set->standby, compare, &search, 0);
	if (search.found)
		t->word = word;
	return !search.found;
}

static __always_inline __u32 seconds(void)
{
	return bpf_ktime_get_ns() / 1000000000 ?: 1;
}

/* Writes a line for every socket, of any netns, whose backend has left, and notes since when. */
SEC("iter/bpf_sk_storage_map")
int list_left(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	struct translation *t = sk ? told(&sk->__sk_common) : NULL;

	if (!t)
		return 0;

	struct leaver line = { .netns = sk->__sk_common.skc_net.net->net_cookie, .protocol = sk->sk_protocol };

	if (!has_left(t, line.protocol, line.netns)) {
		t->left = 0;
		return 0;
	}
	if (!t->left)
		t->left = seconds();
	line.left = t->left;
	bpf_seq_write(ctx->meta->seq, &line, sizeof(line));
	return 0;
}

/* For each socket that was ended, a byte is read. */
static __always_inline void say_ended(struct bpf_iter_meta *meta, enum count protocol)
{
	char byte = 0;

	count(protocol);
	bpf_seq_write(meta->seq, &byte, sizeof(byte));
}

/* Ends the netns' connections whose backend left as long ago as the drain time. */
SEC("iter/tcp")
int end_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct translation *t = sk ? told(sk) : NULL;

	if (t && t->left && seconds() - t->left >= drain &&
	    has_left(t, IPPROTO_TCP, sk->skc_net.net->net_cookie) && !bpf_sock_destroy(sk))
		say_ended(ctx->meta, COUNT_TCP_ENDED);
	return 0;
}

/* Ends the netns' connected UDP sockets whose backend has left. Who is not connected has lost nothing. */
SEC("iter/udp")
int end_udp(struct bpf_iter__udp *ctx)
{
	struct sock_common *sk = (struct sock_common *)ctx->udp_sk;
	struct translation *t = sk ? told(sk) : NULL;

	if (t && has_left(t, IPPROTO_UDP, sk->skc_net.net->net_cookie) && !bpf_sock_destroy(sk))
		say_ended(ctx->meta, COUNT_UDP_ENDED);
	return 0;
}

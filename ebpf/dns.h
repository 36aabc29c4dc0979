// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// Which port-53 traffic goes to dnsd's listener in the pod, and whose name the reply carries back.
// Nothing is stored per socket: every nameserver of a pod has a listener on a port of its own, so the
// port a reply comes from says which nameserver was meant.
#pragma once

#include "maps.h"

#define DNS_PORT bpf_htons(53)

/* ns without a heartbeat after which dnsd counts as hung. */
static const __s64 heartbeat_limit = 2000000000;

static __always_inline bool is_v4(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool same(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

static __always_inline bool same_endpoint(const struct endpoint *a, const struct endpoint *b)
{
	return a->port == b->port && same(&a->addr, &b->addr);
}

/* What was read before it was read before what comes after it. Of all barriers BPF has this one everywhere. */
static __always_inline void read_barrier(void)
{
	__u64 word = 0;

	__sync_lock_test_and_set(&word, 1);
}

/*
 * A hash element that user space replaces or deletes may carry another pod's row a moment later, while a
 * hook still reads it. So: copy what you need, then ask, then act. An element is taken out of the hash
 * before it is written to again, so what is there now was there all the time.
 */
static __always_inline bool still_ours(const struct pod *pod, __u64 cookie)
{
	read_barrier();
	return bpf_map_lookup_elem(&pods, &cookie) == pod && *(volatile const __u64 *)&pod->cookie == cookie;
}

/* ns since dnsd was last seen. Signed: the coarse clock runs up to a tick behind the one dnsd reads. */
static __always_inline __s64 silence(void)
{
	__u32 zero = 0;
	__u64 *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	return beat ? bpf_ktime_get_coarse_ns() - *(volatile __u64 *)beat : 0;
}

static __always_inline bool listener_alive(__u64 cookie, __u32 i, bool tcp, __be16 port)
{
	struct listener_key key = { .cookie = cookie, .slot = i << 1 | tcp };
	struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, &key);

	if (!sk)
		return false;
	bool there = bpf_htons(sk->src_port) == port;
	bpf_sk_release(sk);
	return there;
}

/* Aims `to`, a nameserver's port 53, at the pod's listener for it. False: leave the socket alone. */
static __always_inline bool dns_forward(struct bpf_sock_addr *ctx, const struct pod *pod, __u64 cookie,
					struct endpoint *to)
{
	bool tcp = ctx->protocol == IPPROTO_TCP;
	struct bpf_sock *sk = ctx->sk;

	if (!(pod->flags & POD_DNS))
		return false;
	for (__u32 i = 0; i < MAX_NAMESERVERS; i++) {
		const struct endpoint *ns = &pod->nameservers[i];
		__be16 port = ns->port;

		if (!port || !same(&ns->addr, &to->addr))
			continue;
		/* The pod's address cannot be reached through another interface than lo and the pod's own. */
		if (sk->bound_dev_if && sk->bound_dev_if != pod->ifindex) {
			count(COUNT_DNS_OTHER_DEVICE);
			return false;
		}
		if (silence() > heartbeat_limit) {
			count(COUNT_DNS_STALE_HEARTBEAT);
			return false;
		}
		if (!listener_alive(cookie, i, tcp, port)) {
			count(COUNT_DNS_NO_LISTENER);
			return false;
		}
		struct address here = is_v4(&to->addr) ? pod->addr4 : pod->addr6;

		if (!still_ours(pod, cookie))
			return false;
		to->addr = here;
		to->port = port;
		count(COUNT_DNS_CAPTURED);
		return true;
	}
	return false;
}

/*
 * Whether a UDP port of the pod is no program's of the pod: what came from there, came from a listener that has
 * died since. The next dnsd's may have it already, by its mark, before the kernel is told so.
 */
static __always_inline bool nobodys(void *ctx, const struct endpoint *from, bool v4)
{
	struct bpf_sock_tuple to = {};
	struct bpf_sock *sk;

	if (v4) {
		to.ipv4.daddr = from->addr.word[3];
		to.ipv4.dport = from->port;
	} else {
		__builtin_memcpy(to.ipv6.daddr, from->addr.word, sizeof(to.ipv6.daddr));
		to.ipv6.dport = from->port;
	}
	sk = bpf_sk_lookup_udp(ctx, &to, v4 ? sizeof(to.ipv4) : sizeof(to.ipv6), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return true;

	bool own = sk->mark == OWN_MARK;

	bpf_sk_release(sk);
	return own;
}

/*
 * Turns `from`, one of the pod's listeners, into the nameserver it stands for. Only while that listener
 * lives, or has left its port to nobody: the port may belong to a program of the pod.
 */
static __always_inline bool dns_restore(struct bpf_sock_addr *ctx, struct endpoint *from)
{
	__u16 port = bpf_ntohs(from->port);

	if (port < PORT_LOW || port > PORT_HIGH)
		return false;

	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct pod *pod = bpf_map_lookup_elem(&pods, &cookie);

	if (!pod)
		return false;

	bool v4 = is_v4(&from->addr);

	if (!same(&from->addr, v4 ? &pod->addr4 : &pod->addr6))
		return false;
	for (__u32 i = 0; i < MAX_NAMESERVERS; i++) {
		struct address ns = pod->nameservers[i].addr;

		if (from->port != pod->nameservers[i].port || is_v4(&ns) != v4)
			continue;

		bool tcp = ctx->protocol == IPPROTO_TCP;

		if ((!listener_alive(cookie, i, tcp, from->port) && (tcp || !nobodys(ctx, from, v4))) ||
		    !still_ours(pod, cookie))
			return false;
		from->addr = ns;
		from->port = DNS_PORT;
		count(COUNT_DNS_RESTORED);
		return true;
	}
	return false;
}

// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// The hooks of a connection: its start, the name of its peer, how it went and its end.
#pragma once

#include "lb.h"

enum { DENY, ALLOW };

/* Before 5.18 there is no helper to choose the errno: the application gets EPERM. Set when loading. */
volatile const __u32 can_set_retval;

static __always_inline struct endpoint read4(struct bpf_sock_addr *ctx)
{
	return (struct endpoint){ .addr.word = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 },
				  .port = ctx->user_port };
}

static __always_inline struct endpoint read6(struct bpf_sock_addr *ctx)
{
	return (struct endpoint){ .addr.word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
						 ctx->user_ip6[3] },
				  .port = ctx->user_port };
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	ctx->user_ip4 = e->addr.word[3];
	ctx->user_port = e->port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	ctx->user_ip6[0] = e->addr.word[0];
	ctx->user_ip6[1] = e->addr.word[1];
	ctx->user_ip6[2] = e->addr.word[2];
	ctx->user_ip6[3] = e->addr.word[3];
	ctx->user_port = e->port;
}

static __always_inline int refuse(void)
{
	if (can_set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return DENY;
}

/* Where a socket that wants to reach `to` really goes. */
static __always_inline enum verdict forward(struct bpf_sock_addr *ctx, struct endpoint *to, bool connecting)
{
	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return LEAVE;

	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct pod *pod = bpf_map_lookup_elem(&pods, &cookie);

	if (!pod)
		return LEAVE;
	if (ctx->sk->mark == OWN_MARK) {
		count(COUNT_OWN_SOCKET);
		return LEAVE;
	}
	if (to->port == DNS_PORT) {
		struct endpoint asked = *to;

		if (dns_forward(ctx, pod, cookie, to)) {
			forget(ctx->sk, &asked, connecting);
			return REWRITE;
		}
	}

	struct client client = { .cookie = cookie, .view = pod->view, .addr = is_v4(&to->addr) ? pod->addr4 : pod->addr6 };

	if (!(pod->flags & POD_LB) || !still_ours(pod, cookie))
		return LEAVE;
	return balance(ctx, &client, to, connecting);
}

/* Who a peer or sender is to the application. */
static __always_inline bool restore(struct bpf_sock_addr *ctx, struct endpoint *from)
{
	return dns_restore(ctx, from) || lb_restore(ctx, from);
}

static __always_inline int forward4(struct bpf_sock_addr *ctx, bool connecting)
{
	struct endpoint to = read4(ctx);

	switch (forward(ctx, &to, connecting)) {
	case LEAVE:
		return ALLOW;
	case REFUSE:
		return refuse();
	case REWRITE:
		write4(ctx, &to);
	}
	return ALLOW;
}

static __always_inline int forward6(struct bpf_sock_addr *ctx, bool connecting)
{
	struct endpoint to = read6(ctx);

	switch (forward(ctx, &to, connecting)) {
	case LEAVE:
		return ALLOW;
	case REFUSE:
		return refuse();
	case REWRITE:
		write6(ctx, &to);
	}
	return ALLOW;
}

static __always_inline int restore4(struct bpf_sock_addr *ctx)
{
	struct endpoint from = read4(ctx);

	if (restore(ctx, &from))
		write4(ctx, &from);
	return ALLOW;
}

static __always_inline int restore6(struct bpf_sock_addr *ctx)
{
	struct endpoint from = read6(ctx);

	if (restore(ctx, &from))
		write6(ctx, &from);
	return ALLOW;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return forward4(ctx, true);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx, true);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *sk)
{
	struct socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);

	if (s)
		uncount(s);
	return ALLOW;
}

/*
 * Follows the TCP connections we placed. The close is un-counted here too, because sock_release sees an
 * MPTCP socket and not the subflow that connected. An application that gives up has released its socket
 * before the state changes, so a close in SYN_SENT that is still counted is the backend's doing.
 */
SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op;

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    op != BPF_SOCK_OPS_STATE_CB && op != BPF_SOCK_OPS_RTO_CB)
		return ALLOW;

	struct bpf_sock *sk = ctx->sk;
	struct socket *s = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : NULL;

	if (!s || !s->counted)
		return ALLOW;
	switch (op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG |
						       BPF_SOCK_OPS_RTO_CB_FLAG);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		handshake_done(s);
		break;
	case BPF_SOCK_OPS_RTO_CB:
		if (ctx->state == BPF_TCP_SYN_SENT) {
			count(COUNT_TCP_CONNECT_TIMEOUT);
			handshake_failed(s);
		}
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] != BPF_TCP_CLOSE || !uncount(s))
			break;
		if (ctx->args[0] == BPF_TCP_SYN_SENT) {
			count(COUNT_TCP_CONNECT_FAILED);
			handshake_failed(s);
		}
	}
	return ALLOW;
}

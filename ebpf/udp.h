// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// The hooks of a datagram. An AF_INET6 socket with an IPv4-mapped destination sends through sendmsg4 and
// receives through recvmsg6.
#pragma once

#include "connect.h"

/*
 * A plain send() on a connected AF_INET6 socket with a mapped peer comes here too, with the peer its
 * connect() has chosen: nothing is left to decide.
 */
static __always_inline bool is_peer4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk->dst_port == (__be16)ctx->user_port && sk->dst_ip4 == ctx->user_ip4;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return is_peer4(ctx) ? ALLOW : forward4(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx, false);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// From the address a socket asks for to the backend it gets, or to a refusal.
#pragma once

#include "pick.h"

enum verdict { LEAVE, REWRITE, REFUSE };

/* The service behind an endpoint for one view, NO_SERVICE: somebody else's address. */
static __always_inline __u32 find_service(const struct endpoint *to, __u8 protocol, __u64 view)
{
	struct frontend key = { .addr = to->addr };
	struct target *known = bpf_map_lookup_elem(&frontends, &key), *exact;

	if (!known) /* every address of ours has this row, so all others leave here */
		return NO_SERVICE;

	__u32 any = known->service;

	key.port = to->port;
	key.protocol = protocol;
	key.view = view;
	exact = bpf_map_lookup_elem(&frontends, &key);
	if (exact)
		return exact->service;
	if (!view)
		return any;
	key.view = 0;
	exact = bpf_map_lookup_elem(&frontends, &key);
	if (exact)
		return exact->service;
	key.port = 0;
	key.protocol = 0;
	key.view = view;
	exact = bpf_map_lookup_elem(&frontends, &key);
	return exact ? exact->service : any;
}

/* Whether an address nothing is behind is one that only we can give: packets to it could only get lost. */
static __always_inline bool is_nobodys(const struct address *a)
{
	__u32 family = is_v4(a) ? RANGE_V4 : RANGE_V6;
	struct range *range = bpf_map_lookup_elem(&ranges, &family);

	if (!range || !range->mask.word[0])
		return false;
	for (int i = 0; i < 4; i++)
		if ((a->word[i] ^ range->addr.word[i]) & range->mask.word[i])
			return false;
	return true;
}

static __always_inline void note_affinity(__u64 cookie, __u32 service, __u32 id, __u32 incarnation)
{
	struct affinity_key key = { .client = cookie, .service = service };
	struct affinity now = { .last = bpf_ktime_get_coarse_ns(), .backend = id, .incarnation = incarnation };

	bpf_map_update_elem(&affinities, &key, &now, BPF_ANY);
}

/* Sends the socket to the backend in a slot, and notes it where the way back will look. */
static __always_inline enum verdict place(struct bpf_sock_addr *ctx, const struct set *set, choice c,
					  __u32 service, __u64 word, const struct client *client,
					  struct endpoint *to, bool connecting)
{
	__u32 n = (__u32)c;
	struct slot *slot = bpf_map_lookup_elem(&slots, &n);
	__u32 id = slot ? slot->backend : NO_BACKEND;
	struct backend *backend = bpf_map_lookup_elem(&backends, &id);
	struct backend_state *state = bpf_map_lookup_elem(&backend_states, &id);

	if (fitness_of(c) == UNFIT || !backend || !state) {
		count(COUNT_LB_REFUSED);
		return REFUSE;
	}

	bool probe = fitness_of(c) == PROBING;
	__u32 max = ctx->protocol == IPPROTO_TCP ? set->max_connections : 0;
	struct endpoint target = { .addr = backend->addr, .port = backend->port ?: to->port };
	struct socket *s = bpf_sk_storage_get(&sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (s && connecting && max && !admit(s, service, max)) {
		count(COUNT_LB_OVER_LIMIT);
		return REFUSE;
	}
	if (s) {
		remember(s, &target, to, word, id);
		if (connecting)
			track(s, service, id, backend->incarnation, state, client->cookie, probe);
	} else { /* no memory: it connects, but shows the backend as its peer */
		count(COUNT_LB_UNTRACKED);
	}
	if (set->affinity)
		note_affinity(client->cookie, service, id, backend->incarnation);
	if (probe)
		count(COUNT_LB_PROBES);
	__sync_fetch_and_add(&state->connections, 1);
	count(COUNT_LB_TRANSLATED);
	*to = target;
	return REWRITE;
}

/* Aims `to`, if it is a frontend, at a backend; REFUSE when there is none to give. */
static __always_inline enum verdict balance(struct bpf_sock_addr *ctx, const struct client *client,
					    struct endpoint *to, bool connecting)
{
	__u32 service = find_service(to, ctx->protocol, client->view);

	if (service == NO_SERVICE) {
		forget(ctx->sk, to, connecting);
		if (!is_nobodys(&to->addr))
			return LEAVE;
		count(COUNT_LB_NOBODYS);
		return REFUSE;
	}

	__u64 word = word_of(service);
	__u32 id = (__u32)word;
	struct set *set = bpf_map_lookup_elem(&sets, &id);
	struct socket *s = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);

	if (s && connecting)
		uncount(s);
	if (s && !connecting && stay(s, to, word))
		return REWRITE;
	if (!word || !set) {
		count(COUNT_LB_REFUSED);
		return REFUSE;
	}

	__u32 wants = (is_v4(&to->addr) ? WANT_V4 : 0) | (ctx->protocol == IPPROTO_TCP ? WANT_HEALTH : 0);

	return place(ctx, set, pick(set, service, id, wants, client), service, word, client, to, connecting);
}

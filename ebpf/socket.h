// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// What a socket that was sent to a backend remembers of it, for the way back and for its end.
#pragma once

#include "health.h"

#define NO_BACKEND 0xffffffffu
#define NO_SLOT 0xffffffffu

/* Halvings that find one of the members of the largest set. */
enum { HALVINGS = 18 };

/* The set a service's word names at present. */
static __always_inline __u64 word_of(__u32 service)
{
	__u64 *word = bpf_map_lookup_elem(&services, &service);

	return word ? *(volatile __u64 *)word : 0;
}

/*
 * The slot among a set's members that has a backend, or NO_SLOT. A function of its own and without a
 * branch in its loop, for the verifier's sake.
 */
__noinline __u32 find_member(__u32 id, __u32 backend)
{
	struct set *set = bpf_map_lookup_elem(&sets, &id);

	if (!set || !set->size)
		return NO_SLOT;

	__u32 n = set->members, left = set->size;

	for (int i = 0; i < HALVINGS && left > 1; i++) {
		__u32 half = left / 2, middle = n + half;
		struct slot *slot = bpf_map_lookup_elem(&slots, &middle);

		if (!slot)
			return NO_SLOT;
		/* half, if that is not beyond the backend */
		n += half & (__u32)(((__s64)slot->backend - 1 - (__s64)backend) >> 63);
		left -= half;
	}

	struct slot *slot = bpf_map_lookup_elem(&slots, &n);

	return slot && slot->backend == backend ? n : NO_SLOT;
}

/* The live state behind a socket's last connect(); none when the backend's index has changed hands. */
static __always_inline struct backend_state *state_of(const struct socket *s)
{
	__u32 id = s->backend;
	struct backend *backend = bpf_map_lookup_elem(&backends, &id);

	if (!backend || backend->incarnation != s->incarnation)
		return NULL;
	return bpf_map_lookup_elem(&backend_states, &id);
}

/* Counts a socket against its service's limit; false: there are as many already. */
static __always_inline bool admit(struct socket *s, __u32 service, __u32 max)
{
	struct service_state *state = bpf_map_lookup_elem(&service_states, &service);

	if (!state)
		return false;
	if (__sync_fetch_and_add(&state->active, 1) >= max) {
		__sync_fetch_and_add(&state->active, (__u32)-1);
		__sync_fetch_and_add(&state->refused, 1);
		return false;
	}
	s->admitted = state->incarnation;
	return true;
}

/*
 * Takes the socket out of its backend's active connections, and its service's, once: release, TCP close
 * and the next connect() may all come by. Says whether this call was the one. (A __sync_fetch_and_sub
 * would crash clang 19.)
 */
static __always_inline bool uncount(struct socket *s)
{
	if (!__sync_lock_test_and_set(&s->counted, 0))
		return false;

	struct backend_state *state = state_of(s);

	if (state)
		__sync_fetch_and_add(&state->active, (__u32)-1);
	if (s->admitted) {
		__u32 id = s->service;
		struct service_state *service = bpf_map_lookup_elem(&service_states, &id);

		if (service && service->incarnation == s->admitted)
			__sync_fetch_and_add(&service->active, (__u32)-1);
		s->admitted = 0;
	}
	return true;
}

static __always_inline void track(struct socket *s, __u32 service, __u32 id, __u32 incarnation,
				  struct backend_state *state, __u64 client, bool probe)
{
	s->service = service;
	s->backend = id;
	s->incarnation = incarnation;
	s->client = client;
	s->health = probe ? PROBE : UNJUDGED;
	note_user(state, client);
	__sync_fetch_and_add(&state->active, 1);
	s->counted = 1;
}

/* What the socket was told about this backend. */
static __always_inline struct translation *recall(struct socket *s, const struct endpoint *backend)
{
	for (int i = 0; i < RING; i++)
		if (same_endpoint(&s->ring[i].backend, backend))
			return &s->ring[i];
	return NULL;
}

/* The port goes away first and comes last: another thread's recvmsg never sees half an entry. */
static __always_inline void remember(struct socket *s, const struct endpoint *backend,
				     const struct endpoint *frontend, __u64 word, __u32 id)
{
	struct translation *t = recall(s, backend);

	if (!t)
		t = &s->ring[__sync_fetch_and_add(&s->next, 1) % RING];
	*(volatile __be16 *)&t->backend.port = 0;
	t->backend.addr = backend->addr;
	t->frontend = *frontend;
	t->word = word;
	t->id = id;
	t->left = 0;
	barrier();
	*(volatile __be16 *)&t->backend.port = backend->port;
}

/* A destination of its own choice: nothing this socket was told about it holds any longer. */
static __always_inline void forget(struct bpf_sock *sk, const struct endpoint *to, bool connecting)
{
	struct socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);

	if (!s)
		return;
	if (connecting)
		uncount(s);

	struct translation *t = recall(s, to);

	if (t)
		*(volatile __be16 *)&t->backend.port = 0;
}

/* Whether what a socket was told holds under the service's present word: the backend is still in the set. */
static __always_inline bool holds(struct translation *t, __u64 word)
{
	__u32 id = t->id;
	struct backend *backend = bpf_map_lookup_elem(&backends, &id);

	if (t->word == word)
		return true;
	if (!backend || !same(&backend->addr, &t->backend.addr) ||
	    (backend->port && backend->port != t->backend.port) || find_member((__u32)word, id) == NO_SLOT)
		return false;
	t->word = word;
	return true;
}

/* Datagrams of one socket to one frontend may be one conversation: they stay with one backend. */
static __always_inline bool stay(struct socket *s, struct endpoint *to, __u64 word)
{
	for (int i = 0; i < RING; i++) {
		struct translation *t = &s->ring[i];

		if (t->backend.port && same_endpoint(&t->frontend, to) && holds(t, word)) {
			*to = t->backend;
			return true;
		}
	}
	return false;
}

/* Turns `from`, a backend this socket was sent to, into the frontend it had asked for. */
static __always_inline bool lb_restore(struct bpf_sock_addr *ctx, struct endpoint *from)
{
	struct socket *s = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	struct translation *t = s ? recall(s, from) : NULL;

	if (!t)
		return false;
	*from = t->frontend;
	count(COUNT_LB_RESTORED);
	return true;
}

static __always_inline void handshake_failed(struct socket *s)
{
	struct backend_state *state = state_of(s);
	enum health health = s->health;

	if (!state || health == JUDGED)
		return;
	s->health = JUDGED;
	note_failure((__u32)word_of(s->service), state, s->client, health == PROBE);
}

static __always_inline void handshake_done(struct socket *s)
{
	struct backend_state *state = state_of(s);

	s->health = JUDGED;
	if (state)
		note_success(state);
}

// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// Which backend a connection or datagram to a frontend goes to, and what its socket remembers of that.
#pragma once

#include "dns.h"

enum verdict { LEAVE, REWRITE, REFUSE };

/* Draws by weight before the members are looked through one by one, and how far that goes. */
enum { DRAWS = 4, LOOKS = 16 };

/* How many members of a new set are looked through for a backend to stay with. */
enum { MEMBERS = 128 };

/* A backend whose handshake fails rests this long, twice as long each time again up to 64 s. */
static const __u64 ejection_base = 1000000000;
enum { MAX_DOUBLINGS = 6 };

enum fitness { UNFIT, FIT, PROBING, EJECTED };

/* What a socket needs to know, all in one register: which slot, and how fit its backend is. */
typedef __u64 choice;

static __always_inline choice choose(enum fitness fitness, __u32 slot)
{
	return (__u64)fitness << 32 | slot;
}

static __always_inline enum fitness fitness_of(choice c)
{
	return c >> 32;
}

#define NO_BACKEND 0xffffffffu

enum { WANT_V4 = 1, WANT_HEALTH = 2 };

/* How long the n-th ejection in a row lasts, n from 1. */
static __always_inline __u64 ejection(__u32 n)
{
	return ejection_base << (n > MAX_DOUBLINGS ? MAX_DOUBLINGS : n - 1);
}

/* The service behind an endpoint for one view, NO_SERVICE: somebody else's address. */
static __always_inline __u32 find_service(const struct endpoint *to, __u8 protocol, __u64 view)
{
	struct frontend key = { .addr = to->addr };
	__u32 *known = bpf_map_lookup_elem(&frontends, &key);

	if (!known) /* every address of ours has this row, so all others leave here */
		return NO_SERVICE;

	__u32 any = *known, *exact;

	key.port = to->port;
	key.protocol = protocol;
	key.view = view;
	exact = bpf_map_lookup_elem(&frontends, &key);
	if (exact)
		return *exact;
	if (!view)
		return any;
	key.view = 0;
	exact = bpf_map_lookup_elem(&frontends, &key);
	if (exact)
		return *exact;
	key.port = 0;
	key.protocol = 0;
	key.view = view;
	exact = bpf_map_lookup_elem(&frontends, &key);
	return exact ? *exact : any;
}

/* Which slot to look at on the i-th try. */
static __always_inline __u32 draw(const struct set *set, __u64 *cursor, __u32 i, __u32 random)
{
	if (i >= DRAWS)
		return set->members + (random + i) % set->size;
	if (set->policy == ROUND_ROBIN)
		return set->base + (__u32)(__sync_fetch_and_add(cursor, 1) % set->count);
	return set->base + bpf_get_prandom_u32() % set->count;
}

/*
 * Whether the backend in slot n can be used. An ejection that has run out lets one connection through as
 * a probe: who moves eject_until first has it. A datagram learns nothing, so health does not concern it.
 */
static __always_inline enum fitness judge(__u32 n, __u32 other, __u32 wants)
{
	struct slot *slot = bpf_map_lookup_elem(&slots, &n);

	if (!slot || slot->backend == other)
		return UNFIT;

	__u32 id = slot->backend;
	struct backend *backend = bpf_map_lookup_elem(&backends, &id);
	struct backend_state *state = bpf_map_lookup_elem(&backend_states, &id);

	if (!backend || !state || is_v4(&backend->addr) != !!(wants & WANT_V4))
		return UNFIT;

	__u64 until = *(volatile __u64 *)&state->eject_until;

	if (!until || !(wants & WANT_HEALTH))
		return FIT;

	__u64 now = bpf_ktime_get_coarse_ns();
	__u64 next = now + ejection(state->ejections + 1);

	if (until > now || __sync_val_compare_and_swap(&state->eject_until, until, next) != until)
		return EJECTED;
	return PROBING;
}

/*
 * A slot of the set whose backend is fit and not `other`; when all rest, one that is ejected. A function
 * of its own, not inlined, so that the verifier goes through the loop once and not once per way to it.
 */
__noinline __u64 find_slot(__u32 service, __u32 id, __u32 other, __u32 wants)
{
	struct set *set = bpf_map_lookup_elem(&sets, &id);
	__u64 *cursor = bpf_map_lookup_elem(&cursors, &service);
	__u32 random = bpf_get_prandom_u32();
	choice resting = choose(UNFIT, 0);

	if (!set || !cursor || !set->count || !set->size)
		return resting;
	for (__u32 i = 0; i < DRAWS + LOOKS && i < DRAWS + set->size; i++) {
		__u32 n = draw(set, cursor, i, random);
		enum fitness fitness = judge(n, other, wants);

		if (fitness == FIT || fitness == PROBING)
			return choose(fitness, n);
		if (fitness == EJECTED)
			resting = choose(EJECTED, n);
	}
	return resting;
}

/* Whether a has fewer connections for its weight than b. */
static __always_inline bool less_busy(__u32 a, __u32 b)
{
	struct slot *left = bpf_map_lookup_elem(&slots, &a), *right = bpf_map_lookup_elem(&slots, &b);

	if (!left || !right)
		return false;

	struct backend_state *l = bpf_map_lookup_elem(&backend_states, &left->backend);
	struct backend_state *r = bpf_map_lookup_elem(&backend_states, &right->backend);

	return l && r &&
	       (__u64)*(volatile __u32 *)&l->active * right->weight <
		       (__u64)*(volatile __u32 *)&r->active * left->weight;
}

/*
 * Picks a backend of the right family out of a set. LEAST_REQUEST is the less busy of two different
 * ones. All ejected means try anyway: one that refuses is no worse than nobody.
 */
static __always_inline choice pick(__u32 service, __u32 id, __u32 wants)
{
	choice first = find_slot(service, id, NO_BACKEND, wants);
	struct set *set = bpf_map_lookup_elem(&sets, &id);
	__u32 n = (__u32)first;
	struct slot *slot = bpf_map_lookup_elem(&slots, &n);

	if (fitness_of(first) == EJECTED)
		count(COUNT_LB_ALL_EJECTED);
	if (fitness_of(first) != FIT || !set || set->policy != LEAST_REQUEST || set->size < 2 || !slot)
		return first;

	choice second = find_slot(service, id, slot->backend, wants);

	if (fitness_of(second) == PROBING ||
	    (fitness_of(second) == FIT && less_busy((__u32)second, n)))
		return second;
	return first;
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

/*
 * Takes the socket out of its backend's active connections, once: release, TCP close and the next
 * connect() may all come by. Says whether this call was the one. (A __sync_fetch_and_sub would crash
 * clang 19.)
 */
static __always_inline bool uncount(struct socket *s)
{
	if (!__sync_lock_test_and_set(&s->counted, 0))
		return false;

	struct backend_state *state = state_of(s);

	if (state)
		__sync_fetch_and_add(&state->active, (__u32)-1);
	return true;
}

static __always_inline void track(struct socket *s, __u32 id, __u32 incarnation, struct backend_state *state,
				  bool probe)
{
	s->backend = id;
	s->incarnation = incarnation;
	s->health = probe ? PROBE : UNJUDGED;
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

/* Whether a set, as far as it is looked through, has a backend. Not inlined: see find_slot(). */
__noinline __u32 has_member(__u32 id, __u32 backend)
{
	struct set *set = bpf_map_lookup_elem(&sets, &id);

	for (__u32 i = 0; set && i < MEMBERS && i < set->size; i++) {
		__u32 n = set->members + i;
		struct slot *slot = bpf_map_lookup_elem(&slots, &n);

		if (slot && slot->backend == backend)
			return true;
	}
	return false;
}

/* Whether what a socket was told holds under the service's present word: the backend is still in the set. */
static __always_inline bool holds(struct translation *t, __u64 word)
{
	__u32 id = t->id;
	struct backend *backend = bpf_map_lookup_elem(&backends, &id);

	if (t->word == word)
		return true;
	if (!backend || !same(&backend->addr, &t->backend.addr) ||
	    (backend->port && backend->port != t->backend.port) || !has_member((__u32)word, id))
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

/* Sends the socket to the backend in a slot, and notes it where the way back will look. */
static __always_inline enum verdict place(struct bpf_sock_addr *ctx, choice c, __u64 word, struct endpoint *to,
					  bool connecting)
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
	struct endpoint target = { .addr = backend->addr, .port = backend->port ?: to->port };
	struct socket *s = bpf_sk_storage_get(&sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (s) {
		remember(s, &target, to, word, id);
		if (connecting)
			track(s, id, backend->incarnation, state, probe);
	} else { /* no memory: it connects, but shows the backend as its peer */
		count(COUNT_LB_UNTRACKED);
	}
	if (probe)
		count(COUNT_LB_PROBES);
	__sync_fetch_and_add(&state->connections, 1);
	count(COUNT_LB_TRANSLATED);
	*to = target;
	return REWRITE;
}

/* Aims `to`, if it is a frontend, at a backend; REFUSE when the frontend has none to give. */
static __always_inline enum verdict balance(struct bpf_sock_addr *ctx, __u64 view, struct endpoint *to,
					    bool connecting)
{
	__u32 service = find_service(to, ctx->protocol, view);

	if (service == NO_SERVICE) {
		forget(ctx->sk, to, connecting);
		return LEAVE;
	}

	__u64 *published = bpf_map_lookup_elem(&services, &service);
	__u64 word = published ? *(volatile __u64 *)published : 0;
	struct socket *s = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);

	if (s && connecting)
		uncount(s);
	if (s && !connecting && stay(s, to, word))
		return REWRITE;

	__u32 wants = (is_v4(&to->addr) ? WANT_V4 : 0) | (ctx->protocol == IPPROTO_TCP ? WANT_HEALTH : 0);

	return place(ctx, word ? pick(service, (__u32)word, wants) : choose(UNFIT, 0), word, to, connecting);
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

/* One step of back-off per ejection, however many handshakes were under way when it began. */
static __always_inline void handshake_failed(struct socket *s)
{
	struct backend_state *state = state_of(s);
	__u32 health = s->health;

	if (!state || health == JUDGED)
		return;
	s->health = JUDGED;
	__sync_fetch_and_add(&state->failures, 1);
	if (health != PROBE && state->eject_until)
		return;
	state->ejections++;
	state->eject_until = bpf_ktime_get_coarse_ns() + ejection(state->ejections);
}

static __always_inline void handshake_done(struct socket *s)
{
	struct backend_state *state = state_of(s);

	s->health = JUDGED;
	if (state && state->eject_until) {
		state->ejections = 0;
		state->eject_until = 0;
	}
}

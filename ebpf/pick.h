// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// Which backend of a service's set a connection or datagram goes to.
#pragma once

#include "socket.h"

/* Draws by weight before the members are looked through one by one, and how far that goes. */
enum { DRAWS = 4, LOOKS = 64 };

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

enum { WANT_V4 = 1, WANT_HEALTH = 2 };

/* Who asks. */
struct client {
	__u64 cookie;
	__u64 view;
	struct address addr;
};

static __always_inline __u32 mix(__u32 h)
{
	h = (h ^ h >> 16) * 0x85ebca6b;
	h = (h ^ h >> 13) * 0xc2b2ae35;
	return h ^ h >> 16;
}

/* The same on every node, for as long as the pod has its address. */
static __always_inline __u32 hash_of(const struct address *a)
{
	__u32 h = 0;

	for (int i = 0; i < 4; i++)
		h = mix(h * 31 + bpf_ntohl(a->word[i]));
	return h;
}

static __always_inline bool is_hashed(const struct set *set)
{
	return set->policy == RING_HASH || set->policy == MAGLEV;
}

/*
 * The slot of the i-th try. A client whose entry of the hash table is of no use goes on to others in an
 * order of its own, so that the clients of a dead backend spread over all the rest.
 */
static __always_inline __u32 draw(const struct set *set, struct service_state *state, __u32 i, __u32 number)
{
	if (is_hashed(set))
		return set->base + (__u32)((__u64)(i ? mix(number + i) : number) * set->count >> 32);
	if (set->policy == ROUND_ROBIN)
		return set->base + (__u32)(__sync_fetch_and_add(&state->cursor, 1) % set->count);
	return set->base + bpf_get_prandom_u32() % set->count;
}

/* Whether the backend in slot n can be used. A datagram learns nothing, so health does not concern it. */
static __always_inline enum fitness judge(const struct set *set, __u32 set_id, __u32 n, __u32 other,
					  __u32 wants, __u64 client)
{
	struct slot *slot = bpf_map_lookup_elem(&slots, &n);

	if (!slot || slot->backend == other || slot->v4 != (wants & WANT_V4))
		return UNFIT;

	__u32 id = slot->backend;
	struct backend_state *state = bpf_map_lookup_elem(&backend_states, &id);

	if (!state)
		return UNFIT;
	if (!(wants & WANT_HEALTH) || slot->always || !is_kept_from(set, state, client))
		return FIT;
	return may_probe(set_id, id, client) ? PROBING : EJECTED;
}

/*
 * A member of the set that is fit and not `other`; when all rest, one that is ejected. This and what
 * calls it are functions of their own for the verifier's sake, too.
 */
__noinline __u64 look_through(__u32 id, __u32 other, __u32 wants, __u32 number, __u64 client)
{
	struct set *set = bpf_map_lookup_elem(&sets, &id);
	choice resting = choose(UNFIT, 0);

	if (!set || !set->size)
		return resting;
	for (__u32 i = 0; i < LOOKS && i < set->size; i++) {
		__u32 n = set->members + (number + i) % set->size;
		enum fitness fitness = judge(set, id, n, other, wants, client);

		if (fitness == FIT || fitness == PROBING)
			return choose(fitness, n);
		if (fitness == EJECTED)
			resting = choose(EJECTED, n);
	}
	return resting;
}

/*
 * The same by the service's policy. What is wanted has above it the hash of the client, only used by
 * policies that hash: five arguments are all there can be.
 */
__noinline __u64 find_slot(__u32 service, __u32 id, __u32 other, __u64 hash_and_wants, __u64 client)
{
	__u32 hash = hash_and_wants >> 32, wants = hash_and_wants;
	struct set *set = bpf_map_lookup_elem(&sets, &id);
	struct service_state *state = bpf_map_lookup_elem(&service_states, &service);

	if (!set || !state || !set->count)
		return choose(UNFIT, 0);

	__u32 number = is_hashed(set) ? hash : bpf_get_prandom_u32();

	for (__u32 i = 0; i < DRAWS; i++) {
		__u32 n = draw(set, state, i, number);
		enum fitness fitness = judge(set, id, n, other, wants, client);

		if (fitness == FIT || fitness == PROBING)
			return choose(fitness, n);
	}
	return look_through(id, other, wants, number, client);
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

/* The slot of the backend this client had last, if it is not too long ago and may still be used. */
static __always_inline choice find_former(const struct set *set, __u32 service, __u32 id, __u32 wants,
					  __u64 cookie)
{
	struct affinity_key key = { .client = cookie, .service = service };
	struct affinity *former = bpf_map_lookup_elem(&affinities, &key);

	if (!former || bpf_ktime_get_coarse_ns() - former->last >= set->affinity * ms)
		return choose(UNFIT, 0);

	__u32 index = former->backend;
	struct backend *backend = bpf_map_lookup_elem(&backends, &index);

	if (!backend || backend->incarnation != former->incarnation)
		return choose(UNFIT, 0);

	__u32 n = find_member(id, index);

	return n == NO_SLOT ? choose(UNFIT, 0) : choose(judge(set, id, n, NO_BACKEND, wants, cookie), n);
}

/*
 * Picks a backend of the right family out of a set. LEAST_REQUEST is the less busy of two different
 * ones. All ejected means try anyway: one that refuses is no worse than nobody.
 */
static __always_inline choice pick(const struct set *set, __u32 service, __u32 id, __u32 wants,
				   const struct client *client)
{
	choice first;

	if (set->affinity) {
		first = find_former(set, service, id, wants, client->cookie);
		if (fitness_of(first) == FIT || fitness_of(first) == PROBING) {
			count(COUNT_LB_RETURNED);
			return first;
		}
	}
	first = find_slot(service, id, NO_BACKEND, (__u64)(is_hashed(set) ? hash_of(&client->addr) : 0) << 32 | wants,
			  client->cookie);

	__u32 n = (__u32)first;
	struct slot *slot = bpf_map_lookup_elem(&slots, &n);

	if (fitness_of(first) == EJECTED)
		count(COUNT_LB_ALL_EJECTED);
	if (fitness_of(first) != FIT || set->policy != LEAST_REQUEST || set->size < 2 || !slot)
		return first;

	choice second = find_slot(service, id, slot->backend, wants, client->cookie);

	if (fitness_of(second) == PROBING ||
	    (fitness_of(second) == FIT && less_busy((__u32)second, n)))
		return second;
	return first;
}

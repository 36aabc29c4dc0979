// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// Whether a backend is worth a connection. What is known of it is the same for the whole node: how many
// handshakes have failed in a row, whoever tried. Whether that is too many, and how long it rests then,
// each service says for itself. So of two services that share a backend one may leave it alone while the
// other still tries, and what either finds out serves both.
//
// But one pod's word counts for that pod alone: its own network policy may be what is in the way, or it
// may want others to lose a backend. When handshakes of a second pod fail as well, the backend is it; then
// who has had a probe waits twice as long for the next, so that others come to find out, too.
#pragma once

#include "dns.h"

enum fitness { UNFIT, FIT, PROBING, EJECTED };

static const __u64 ms = 1000000;

/* Enough to be over any limit, too few to overflow. */
enum { MAX_DOUBLINGS = 16 };

/* How many members of a set are looked at for how many of them are ejected. */
enum { COUNTED = 1024 };

static __always_inline bool is_ejected(const struct set *set, __u32 streak)
{
	return streak >= set->consecutive;
}

/* Whether a pod is to leave a backend alone. */
static __always_inline bool is_kept_from(const struct set *set, const struct backend_state *state, __u64 client)
{
	__u64 accuser = *(volatile const __u64 *)&state->accuser;

	return is_ejected(set, *(volatile const __u32 *)&state->streak) && (accuser == client || accuser & SEVERAL);
}

/* ns that a backend which is ejected rests. */
static __always_inline __u64 ejection(const struct set *set, __u32 streak)
{
	__u64 further = streak - set->consecutive;
	__u64 time = set->ejection * ms, max = set->max_ejection * ms;

	if (set->growth == LINEAR)
		time *= further + 1;
	else
		time <<= further < MAX_DOUBLINGS ? further : MAX_DOUBLINGS;
	return time < max ? time : max;
}

/* 1 if they are the same, else 0; without a branch. */
static __always_inline __u64 equal(__u64 a, __u64 b)
{
	__u64 difference = a ^ b;

	return (difference | -difference) >> 63 ^ 1;
}

/*
 * Whether a backend that is ejected may be probed. An ejection that has run out lets one connection
 * through and goes on for all others: who moves failed_at first has it. A function of its own, not
 * inlined, so that the verifier goes through it once and not once per step of the loops that ask.
 */
__noinline __u32 may_probe(__u32 set_id, __u32 id, __u64 client)
{
	struct set *set = bpf_map_lookup_elem(&sets, &set_id);
	struct backend_state *state = bpf_map_lookup_elem(&backend_states, &id);

	if (!set || !state)
		return false;

	__u64 failed_at = *(volatile __u64 *)&state->failed_at, now = bpf_ktime_get_coarse_ns();
	__u64 accuser = *(volatile __u64 *)&state->accuser;
	__u32 streak = state->streak;

	if (!is_ejected(set, streak)) /* it may have ended just now */
		return true;

	__u64 rest = ejection(set, streak) << equal(accuser, SEVERAL | client);

	/* Signed: the coarse clock lags behind itself on other CPUs. */
	if ((__s64)(failed_at + rest - now) > 0 ||
	    __sync_val_compare_and_swap(&state->failed_at, failed_at, now) != failed_at)
		return false;
	if (accuser & SEVERAL)
		*(volatile __u64 *)&state->accuser = SEVERAL | client;
	return true;
}

/*
 * Whether one more member of a set may be ejected as far as a pod is concerned; one always may. Of a
 * large set the first members speak for all.
 */
__noinline __u32 may_eject(__u32 id, __u64 client)
{
	struct set *set = bpf_map_lookup_elem(&sets, &id);

	if (!set)
		return false;

	__u32 looked = set->size < COUNTED ? set->size : COUNTED;
	__u64 ejected = 0;

	for (__u32 i = 0; i < COUNTED && i < set->size; i++) {
		__u32 n = set->members + i;
		struct slot *slot = bpf_map_lookup_elem(&slots, &n);
		struct backend_state *state = slot ? bpf_map_lookup_elem(&backend_states, &slot->backend) : NULL;

		if (!state)
			break;
		/* is_kept_from() without a branch: two ways per step would be too many for the verifier. */
		ejected += (__u64)((__s64)set->consecutive - 1 - (__s64)state->streak) >> 63 &
			   (equal(state->accuser, client) | state->accuser >> 63);
	}
	return !ejected || (ejected + 1) * 100 <= (__u64)looked * set->max_percent;
}

/* A handshake has failed: a step towards an ejection, or if it was the probe of one, a longer one. */
static __always_inline void note_failure(__u32 id, struct backend_state *state, __u64 client, bool probe)
{
	struct set *set = bpf_map_lookup_elem(&sets, &id);
	__u32 streak = state->streak;

	__sync_fetch_and_add(&state->failures, 1);
	if (!set)
		return;

	bool ejected = is_ejected(set, streak);
	__u64 accuser = state->accuser;
	bool second = streak && accuser != client && !(accuser & SEVERAL);

	/* Of those under way when it was ejected, however many, none says anything new. */
	if (ejected && !probe && !second)
		return;
	if ((streak + 1 == set->consecutive || (ejected && second)) && set->max_percent < 100 && !may_eject(id, client))
		return;
	state->failed_at = bpf_ktime_get_coarse_ns();
	state->accuser = second ? SEVERAL : streak && accuser & SEVERAL ? accuser : client;
	barrier();
	if (ejected && second) /* for the others it is the first time */
		*(volatile __u32 *)&state->streak = set->consecutive;
	else
		__sync_fetch_and_add(&state->streak, 1);
}

/* Somebody connects. What follows from there being others is user space's to say: ejects(). */
static __always_inline void note_user(struct backend_state *state, __u64 client)
{
	if (state->user == client)
		return;
	if (state->user)
		state->shared_at = bpf_ktime_get_coarse_ns();
	state->user = client;
}

static __always_inline void note_success(struct backend_state *state)
{
	if (state->streak)
		*(volatile __u32 *)&state->streak = 0;
}

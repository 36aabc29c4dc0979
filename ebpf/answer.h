// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// DNS answered where it is asked: a query on its way to dnsd's listener over the pod's lo, or to the
// nameserver itself over the pod's interface, is turned into its reply if that is known. In any doubt it
// goes on as it is. What is answered, dnsd would answer in the same words, but for the order of addresses.
#pragma once

#include "query.h"

/* Verdicts of a tcx program; older headers lack them. */
enum { GO_ON = -1, DELIVER = 0, DROP = 2 };

/* What the SOA record of a negative answer says, and where in it pointers to the zone's name are. Set when loading. */
struct authority {
	__u8 record[AUTHORITY_SIZE];
	__u8 size;
	__u8 pointers[3];
};

volatile const struct authority authority;

/* ns without a heartbeat after which what dnsd knew is not true any more: a day, as RFC 8767 has it for caches. */
static const __s64 answer_limit = 24LL * 3600 * 1000000000;

/*
 * Copies an element of a hash. One that is replaced may be another key's a moment later, while it is being
 * read, and so the copy is only good if afterwards the element is where it was and of the same version.
 */
#define copied(map, key, element, copy)                                                             \
	({                                                                                          \
		__u64 version = *(volatile const __u64 *)&(element)->version;                       \
                                                                                                    \
		read_barrier();                                                                     \
		*(copy) = *(element);                                                               \
		read_barrier();                                                                     \
		bpf_map_lookup_elem(map, key) == (element) &&                                       \
			*(volatile const __u64 *)&(element)->version == version;                    \
	})

static __always_inline void write16(__u8 *to, __u16 n)
{
	to[0] = n >> 8;
	to[1] = n;
}

/* The part of a record before its data; its owner is a name at an offset of the message. */
static __always_inline void write_head(__u8 *to, __u16 owner, __u16 type, __be32 ttl, __u16 size)
{
	write16(to, 0xc000 | owner);
	write16(to + 2, type);
	write16(to + 4, CLASS_IN);
	__builtin_memcpy(to + 6, &ttl, 4);
	write16(to + 10, size);
}

static __always_inline void write_addresses(struct query *q, const struct answer *a, bool v4, struct records *r)
{
	__u32 n = v4 ? a->n4 : a->n6, first = bpf_get_prandom_u32();

	if (!n || n > MOST_ADDRESSES)
		return;
	asm volatile("" : "+r"(n)); /* so that the loop's own end stays: Linux before 6.8 does not see this one */
	for (__u32 i = 0; i < MOST_ADDRESSES; i++) {
		__u32 k = (first + i) % n & (MOST_ADDRESSES - 1);

		if (i >= n)
			break;
		if (v4) {
			write_head(q->records + i * 16, DNS_HEADER, QTYPE_A, a->ttl, 4);
			__builtin_memcpy(q->records + i * 16 + 12, a->addr4[k], 4);
		} else {
			write_head(q->records + i * 28, DNS_HEADER, QTYPE_AAAA, a->ttl, 16);
			__builtin_memcpy(q->records + i * 28 + 12, a->addr6[k], 16);
		}
	}
	r->answers = bpf_htons(n);
	r->size = n * (v4 ? 16 : 28);
}

/* No such data: the SOA record of the zone, whose name is the end of the question's. */
static __always_inline void write_authority(struct query *q, const struct answer *a, struct records *r)
{
	for (int i = 0; i < AUTHORITY_SIZE; i++)
		q->records[i] = authority.record[i];
	for (int i = 0; i < 3; i++)
		write16(q->records + (authority.pointers[i] & 63), 0xc000 | (DNS_HEADER + a->zone));
	r->authorities = bpf_htons(1);
	r->size = authority.size;
}

/* Answers from the declared names: a namespace's own first, then everybody's. */
static __always_inline bool declared(struct query *q, struct records *r)
{
	__u16 qtype = bpf_ntohs(q->rest.qtype);
	bool address = qtype == QTYPE_A || qtype == QTYPE_AAAA;

	if (q->size > SHORT_NAME || (!address && qtype != QTYPE_HTTPS && qtype != QTYPE_SVCB))
		return false;
	__builtin_memcpy(q->name.wire, q->question.wire, SHORT_NAME);
	q->name.view = q->from.view;

	struct answer *found = bpf_map_lookup_elem(&names, &q->name), *a = &q->answer;

	if (!found && q->from.view) {
		q->name.view = 0;
		found = bpf_map_lookup_elem(&names, &q->name);
	}
	if (!found)
		return false;
	if (!copied(&names, &q->name, found, a) || a->flags & ANSWER_ELSEWHERE)
		return false;
	if (!address && !(a->flags & ANSWER_VIRTUAL)) /* else they could lead past the virtual address */
		return false;

	bool v4 = qtype == QTYPE_A, virtual = a->flags & ANSWER_VIRTUAL;

	if (address && (v4 ? a->n4 : a->n6 && (q->from.v6 || !virtual)))
		write_addresses(q, a, v4, r);
	else
		write_authority(q, a, r);
	return r->size;
}

/* Answers as dnsd did when the same was asked by somebody with the same namespace and search list. */
static __always_inline bool learned_of(struct query *q, const struct answering *now, struct records *r)
{
	if (!q->from.asker)
		return false;
	q->question.view = q->from.view;
	q->question.asker = q->from.asker;
	q->question.qtype = q->rest.qtype;

	struct reply *found = bpf_map_lookup_elem(&learned, &q->question), *known = &q->reply;

	if (!found)
		return false;
	if (!copied(&learned, &q->question, found, known) || known->generation != *(volatile const __u64 *)&now->generation)
		return false;

	__u32 n = known->count, step = known->step, first = n > 1 ? bpf_get_prandom_u32() % n : 0;

	__builtin_memcpy(q->records, known->records, MOST_RECORDS);
	for (__u32 i = 0; i < MOST_ROTATED && i < n && first; i++) {
		__u32 to = known->fixed + i * step, from = known->fixed + (first + i) % n * step;

		asm volatile("" : "+r"(to), "+r"(from)); /* what is checked is what is used */
		if (to > MOST_RECORDS - 16 || from > MOST_RECORDS - 16)
			return false;
		__builtin_memcpy(q->records + to, known->records + from, 16);
		if (step == 16)
			continue;
		if (to > MOST_RECORDS - 28 || from > MOST_RECORDS - 28)
			return false;
		__builtin_memcpy(q->records + to + 16, known->records + from + 16, 12);
	}
	r->size = known->size;
	r->answers = known->answers;
	r->authorities = known->authorities;
	r->rcode = known->rcode;
	return true;
}

enum fate { LEFT, TURNED, SPOILT };

/* Turns a query into its reply if that is known. The packet is unchanged unless it says TURNED. */
static __always_inline enum fate look_at(struct __sk_buff *skb, struct query *q, const struct answering *now, bool inside)
{
	struct records r = {};
	bool v4;

	if (!find_pod(skb, q, inside, &v4))
		return LEFT;

	struct outcomes *counts = bpf_map_lookup_elem(&outcomes, &q->from.cookie);

	if (!counts) /* not to be answered here any more */
		return LEFT;

	__u64 silent = *(volatile const __u64 *)&now->silent_until;
	__s64 alone = silence();

	if (silent && bpf_ktime_get_ns() < silent) {
		__sync_fetch_and_add(&counts->watched, 1);
		return LEFT;
	}
	if (alone > answer_limit) {
		count(COUNT_DNS_ANSWER_TOO_OLD);
		return LEFT;
	}
	if (!read_query(skb, q)) {
		__sync_fetch_and_add(&counts->unusual, 1);
		return LEFT;
	}
	if (declared(q, &r)) {
		__sync_fetch_and_add(&counts->declared, 1);
	} else if (learned_of(q, now, &r)) {
		if (r.rcode)
			__sync_fetch_and_add(&counts->denied, 1);
		else
			__sync_fetch_and_add(&counts->learned, 1);
	} else {
		__sync_fetch_and_add(&counts->unknown, 1);
		return LEFT;
	}
	if (!turn(skb, q, &r, v4))
		return SPOILT;
	count(COUNT_DNS_ANSWERED);
	if (alone > heartbeat_limit)
		count(COUNT_DNS_ANSWERED_ALONE);
	return TURNED;
}

static __always_inline enum fate answer(struct __sk_buff *skb, bool inside)
{
	__u32 zero = 0;
	struct query *q = bpf_map_lookup_elem(&queries, &zero);
	struct answering *now = bpf_map_lookup_elem(&answering, &zero);

	if (!q || !now || __sync_lock_test_and_set(&q->busy, 1))
		return LEFT;

	enum fate fate = look_at(skb, q, now, inside);

	*(volatile __u64 *)&q->busy = 0;
	return fate;
}

/*
 * The programs below are not at any interface themselves: what is there is a program of each pod's own, which
 * writes the pod's cookie into cb and goes on here. One at an interface could ask for the cookie since
 * Linux 6.15 only; and so all of them are exchanged, or put out of work, by one element of a map.
 */

/* On lo: what is turned around goes on to the client instead of the listener. */
SEC("tcx/egress")
int answer_inside(struct __sk_buff *skb)
{
	switch (answer(skb, true)) {
	case TURNED:
		return DELIVER;
	case SPOILT: /* half written: the client asks again */
		return DROP;
	default:
		return GO_ON;
	}
}

/* On the pod's interface: while no listener is there, and for pods without one. */
SEC("tcx/egress")
int answer_outside(struct __sk_buff *skb)
{
	__u8 from[ETH_ALEN], to[ETH_ALEN];

	switch (answer(skb, false)) {
	case TURNED:
		if (bpf_skb_load_bytes(skb, 0, to, ETH_ALEN) || bpf_skb_load_bytes(skb, ETH_ALEN, from, ETH_ALEN) ||
		    bpf_skb_store_bytes(skb, 0, from, ETH_ALEN, 0) || bpf_skb_store_bytes(skb, ETH_ALEN, to, ETH_ALEN, 0))
			return DROP;
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	case SPOILT:
		return DROP;
	default:
		return GO_ON;
	}
}

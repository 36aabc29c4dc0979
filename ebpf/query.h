// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// A DNS query in a packet: found, read, and turned around into its reply.
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include "dns.h"

enum { DNS_HEADER = 12, QTYPE_A = 1, QTYPE_SOA = 6, QTYPE_AAAA = 28, QTYPE_OPT = 41, QTYPE_SVCB = 64, QTYPE_HTTPS = 65 };
enum { CLASS_IN = 1 };
enum { QR = 0x80, AA = 0x04, RD = 0x01, RA = 0x80, CD = 0x10, DO = 0x80, OPCODE_AND_QR = 0xf8 };
enum { OPT_SIZE = 11, EDNS_SIZE = 1232, MOST_LABELS = 32 };

struct ipv6_header {
	__be32 flow;
	__be16 payload;
	__u8 next, hops;
	struct address from, to;
};

struct dns_header {
	__be16 id;
	__u8 bits, more_bits;
	__be16 questions, answers, authorities, additionals;
};

/* What comes after the name in a query: an OPT record without options, or nothing. */
struct rest {
	__be16 qtype, qclass;
	__u8 opt[OPT_SIZE];
	__u8 pad;
};

/* Whose query it is: what of the pod's row the answer depends on. */
struct inquirer {
	__u64 cookie, view, asker;
	bool v6; /* it has an IPv6 address */
};

/* A query that is being looked at, too large for the stack. */
struct query {
	__u64 busy;
	struct inquirer from;
	struct question question;
	struct name name;
	struct dns_header header;
	struct rest rest;
	__u32 udp;     /* offset of the UDP header */
	__be16 length; /* in it */
	__u16 pad;
	__u32 size;    /* of the name on the wire */
	struct answer answer; /* copies: see copied() */
	struct reply reply;
	__u8 records[MOST_RECORDS + 16]; /* with room for OPT, and for zeros up to a whole word */
};

/*
 * One is enough: while a packet is sent, no other is on this processor; but it may be on kernels for real
 * time, where the first has it. Not pinned: it means nothing to anybody else.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct query);
} queries SEC(".maps");

/* What is written behind the question. */
struct records {
	__u32 size;
	__be16 answers, authorities;
	__u8 rcode;
};

#define ONES 0x0101010101010101ULL
#define TOPS (ONES << 7)

/* Eight characters at once; a label's length, below 64, is no letter. */
static __always_inline __u64 lower(__u64 text)
{
	__u64 low = text & ~TOPS;
	__u64 from_a = low + (0x80 - 'A') * ONES, after_z = low + (0x80 - 'Z' - 1) * ONES;

	return text | (from_a & ~after_z & ~text & TOPS) >> 2;
}

/* The size of the name at the start of wire, its last byte included; 0: none that is looked for. */
static __always_inline __u32 name_size(const __u8 *wire)
{
	__u32 at = 0;

	for (int i = 0; i < MOST_LABELS; i++) {
		if (at >= LONG_NAME)
			return 0;
		__u8 label = wire[at & (LONG_NAME - 1)];

		if (!label)
			return at + 1;
		if (label > 63)
			return 0;
		at += label + 1;
	}
	return 0;
}

/*
 * Gives up unless 1 <= n <= most, so that the verifier sees it: of what is used, not of a copy, by two
 * comparisons, and none with 0, of which Linux before 6.8 learns nothing.
 */
#define check_within(n, most)                                                                       \
	do {                                                                                        \
		asm volatile("" : "+r"(n));                                                         \
		if (n < 1)                                                                          \
			return false;                                                               \
		asm volatile("" : "+r"(n));                                                         \
		if (n > (most))                                                                     \
			return false;                                                               \
	} while (0)

/* Reads the name at an offset into the question, in lower case and followed by zeros. */
static __always_inline bool read_name(struct __sk_buff *skb, __u32 at, struct query *q)
{
	__s64 room = (__s64)skb->len - at;

	if (room > LONG_NAME)
		room = LONG_NAME;
	check_within(room, LONG_NAME);
	if (bpf_skb_load_bytes(skb, at, q->question.wire, room))
		return false;

	__u32 size = name_size(q->question.wire);

	asm volatile("" : "+r"(size));
	if (size < 2 || size > LONG_NAME)
		return false;
	q->size = size;
	__builtin_memset(q->question.wire, 0, LONG_NAME);
	if (bpf_skb_load_bytes(skb, at, q->question.wire, size))
		return false;

	__u64 *words = (__u64 *)q->question.wire;

	for (int i = 0; i < LONG_NAME / 8; i++)
		words[i] = lower(words[i]);
	return true;
}

/*
 * Reads a plain question: QUERY, one question of class IN, nothing else but an OPT record of version 0
 * without options. All others are dnsd's.
 */
static __always_inline bool read_query(struct __sk_buff *skb, struct query *q)
{
	__u32 dns = q->udp + sizeof(struct udphdr);

	if (bpf_skb_load_bytes(skb, dns, &q->header, sizeof(q->header)))
		return false;
	if (q->header.bits & OPCODE_AND_QR || q->header.questions != bpf_htons(1) || q->header.answers ||
	    q->header.authorities || q->header.additionals & ~bpf_htons(1))
		return false;
	if (!read_name(skb, dns + DNS_HEADER, q))
		return false;

	__u32 at = dns + DNS_HEADER + q->size;

	if (skb->len == at + 4) {
		if (q->header.additionals || bpf_skb_load_bytes(skb, at, &q->rest, 4))
			return false;
	} else {
		const __u8 *opt = q->rest.opt; /* owner, type, size, extended rcode, version, flags, length */

		if (skb->len != at + 4 + OPT_SIZE || !q->header.additionals ||
		    bpf_skb_load_bytes(skb, at, &q->rest, 4 + OPT_SIZE))
			return false;
		if (opt[0] || opt[1] || opt[2] != QTYPE_OPT || opt[6] || opt[9] || opt[10])
			return false;
	}
	return q->rest.qclass == bpf_htons(CLASS_IN);
}

/* Whether what is sent to the i-th port of the pod's own is for dnsd: its listener's, or left by one that died. */
static __always_inline bool is_dnsds(struct __sk_buff *skb, __u64 cookie, __u32 i, const struct endpoint *to, bool v4)
{
	return listener_alive(cookie, i, false, to->port) || nobodys(skb, to, v4);
}

/* Finds the UDP header, and notes whose packet it is; false: not one that is looked at. */
static __always_inline bool find_pod(struct __sk_buff *skb, struct query *q, bool inside, bool *v4)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct endpoint to = { .addr.word = { 0, 0, bpf_htonl(0xffff), 0 } };
	struct udphdr *udp;

	*v4 = skb->protocol == bpf_htons(ETH_P_IP);
	if (*v4) {
		struct iphdr *ip = data + ETH_HLEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || *(__u8 *)ip != 0x45 || ip->protocol != IPPROTO_UDP ||
		    ip->frag_off & bpf_htons(0x3fff) || bpf_ntohs(ip->tot_len) + ETH_HLEN != skb->len)
			return false;
		to.addr.word[3] = ip->daddr;
	} else {
		struct ipv6_header *ip = data + ETH_HLEN;

		udp = (void *)(ip + 1);
		if (skb->protocol != bpf_htons(ETH_P_IPV6) || (void *)(udp + 1) > end || *(__u8 *)ip >> 4 != 6 ||
		    ip->next != IPPROTO_UDP || ip->payload != udp->len || !udp->check)
			return false;
		to.addr = ip->to;
	}
	if (!skb->sk) /* forwarded: of another namespace, and nobody can say which */
		return false;
	to.port = udp->dest;
	q->udp = (void *)udp - data;
	q->length = udp->len;
	if (bpf_ntohs(q->length) + q->udp != skb->len || skb->gso_size || skb->mark == OWN_MARK)
		return false;

	__u16 port = bpf_ntohs(to.port);

	if (inside ? port < PORT_LOW || port > PORT_HIGH : port != 53)
		return false;

	__u64 cookie = (__u64)skb->cb[1] << 32 | skb->cb[0]; /* as the pod's own program says */
	struct pod *pod = bpf_map_lookup_elem(&pods, &cookie);

	if (!pod || !(pod->flags & POD_DNS) || (inside && !same(&to.addr, *v4 ? &pod->addr4 : &pod->addr6)))
		return false;
	q->from.cookie = cookie;
	q->from.view = pod->view;
	q->from.asker = pod->asker;
	q->from.v6 = pod->addr6.word[0] || pod->addr6.word[1] || pod->addr6.word[2] || pod->addr6.word[3];
	for (__u32 i = 0; i < MAX_NAMESERVERS; i++) {
		const struct endpoint *ns = &pod->nameservers[i];

		if (inside ? ns->port == to.port && is_v4(&ns->addr) == *v4 : same(&ns->addr, &to.addr))
			return still_ours(pod, cookie) && (!inside || is_dnsds(skb, cookie, i, &to, *v4));
	}
	return false;
}

/* A sum over a piece of a packet that begins at an odd offset, or not, as 16 bits of the whole's. */
static __always_inline __u32 fold(__u32 sum, bool odd)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return odd ? (__u16)(sum << 8 | sum >> 8) : sum;
}

/*
 * Makes the UDP checksum that of the reply. Where the device is to sum up what is sent, as lo and veth are,
 * there is only a sum over addresses and length yet, and only the length in that is changed.
 */
static __always_inline bool sum_up(struct __sk_buff *skb, struct query *q, const struct dns_header *new, __u32 tail,
				   __be16 length)
{
	__u32 at = q->udp + offsetof(struct udphdr, check), old_tail = q->header.additionals ? OPT_SIZE + 1 : 0;

	tail = (tail + 3) & ~3u;
	asm volatile("" : "+r"(tail));
	if (tail > sizeof(q->records))
		return false;

	__u32 sum = fold(bpf_csum_diff((__be32 *)&q->header, DNS_HEADER, (__be32 *)new, DNS_HEADER, 0), false);

	sum += fold(bpf_csum_diff((__be32 *)q->rest.opt, old_tail, (__be32 *)q->records, tail, 0), q->size & 1);
	sum += (__u16)~q->length + length;
	/* Ports and addresses only change places. */
	return !bpf_l4_csum_replace(skb, at, 0, sum, BPF_F_MARK_MANGLED_0) &&
	       !bpf_l4_csum_replace(skb, at, q->length, length, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | 2);
}

/* Turns the packet around: what it asks, with the records behind it, from where it was going. */
static __always_inline bool turn(struct __sk_buff *skb, struct query *q, const struct records *r, bool v4)
{
	__u32 at = q->udp + sizeof(struct udphdr) + DNS_HEADER + q->size + 4;
	__s64 size = r->size;
	struct dns_header header = q->header;

	check_within(size, MOST_RECORDS);

	__u8 *opt = q->records + size;

	__builtin_memset(opt, 0, 16);
	if (header.additionals) {
		opt[2] = QTYPE_OPT;
		opt[3] = EDNS_SIZE >> 8;
		opt[4] = EDNS_SIZE & 0xff;
		opt[7] = q->rest.opt[7] & DO;
		size += OPT_SIZE;
	}
	check_within(size, MOST_RECORDS + OPT_SIZE);

	__u32 end = at + size;
	__be16 length = bpf_htons(end - q->udp);

	header.bits = QR | AA | (header.bits & RD);
	header.more_bits = RA | (header.more_bits & CD) | r->rcode;
	header.answers = r->answers;
	header.authorities = r->authorities;
	if (bpf_skb_change_tail(skb, end, 0) || bpf_skb_store_bytes(skb, at, q->records, size, 0) ||
	    !sum_up(skb, q, &header, size, length))
		return false;

	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct udphdr *udp;

	if (v4) {
		struct iphdr *ip = data + ETH_HLEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) + DNS_HEADER > data_end)
			return false;

		__be32 from = ip->saddr;
		__be16 total = bpf_htons(end - ETH_HLEN);

		ip->saddr = ip->daddr;
		ip->daddr = from;
		ip->check = ~fold((__u16)~ip->check + (__u16)~ip->tot_len + total, false);
		ip->tot_len = total;
	} else {
		struct ipv6_header *ip = data + ETH_HLEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) + DNS_HEADER > data_end)
			return false;

		struct address from = ip->from;

		ip->from = ip->to;
		ip->to = from;
		ip->payload = length;
	}

	__be16 port = udp->source;

	udp->source = udp->dest;
	udp->dest = port;
	udp->len = length;
	*(struct dns_header *)(udp + 1) = header;
	return true;
}

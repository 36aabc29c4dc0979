// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// Every map that is pinned, and with it every limit. dnsd is the only writer but for what sockets do:
// service_states, backend_states, sockets, affinities, outcomes, counters.
#pragma once

#include "types.h"

#define PINNED __uint(pinning, LIBBPF_PIN_BY_NAME)

/* For user space: what the layouts in types.h were when the maps were made. Pinned by it, last of all. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, enum agreed);
} schema SEC(".maps");

/* By netns cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct pod);
	PINNED;
} pods SEC(".maps");

/* The kernel takes a socket out when it closes: being found here is being alive. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 65536);
	__type(key, struct listener_key);
	__type(value, __u64);
	PINNED;
} listeners SEC(".maps");

/* What answers DNS, for the programs at the interfaces of pods to go on with; empty: nothing does. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, ANSWERERS);
	__type(key, enum answerer);
	__type(value, __u32);
	PINNED;
} answerers SEC(".maps");

/* CLOCK_MONOTONIC, ns: when dnsd was last seen doing its work. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	PINNED;
} heartbeat SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, enum count);
	__type(value, __u64);
	PINNED;
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct frontend);
	__type(value, struct target);
	PINNED;
} frontends SEC(".maps");

/* generation << 32 | set: the one word that changes what a service is. 0: nothing yet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, __u64);
	PINNED;
} services SEC(".maps");

/* By service. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct service_state);
	PINNED;
} service_states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct set);
	PINNED;
} sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1048576);
	__type(key, __u32);
	__type(value, struct slot);
	PINNED;
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct backend);
	PINNED;
} backends SEC(".maps");

/* By backend; apart from it, so that what is read on every connect and what is written do not meet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct backend_state);
	PINNED;
} backend_states SEC(".maps");

/* Lives and dies with the socket; only a socket that was sent to a backend has one. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket);
	PINNED;
} sockets SEC(".maps");

/* Full of clients that may still come back, it forgets the one who was longest away. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
	PINNED;
} affinities SEC(".maps");

/* Where virtual addresses are given from, for each family. */
enum { RANGE_V4, RANGE_V6, RANGES };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RANGES);
	__type(key, __u32);
	__type(value, struct range);
	PINNED;
} ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct name);
	__type(value, struct answer);
	PINNED;
} names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct question);
	__type(value, struct reply);
	PINNED;
} learned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answering);
	PINNED;
} answering SEC(".maps");

/* By netns cookie, of the pods whose queries are answered. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct outcomes);
	PINNED;
} outcomes SEC(".maps");

static __always_inline void count(enum count what)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &what);

	if (n) /* another socket may come in between, on the same processor */
		__sync_fetch_and_add(n, 1);
}

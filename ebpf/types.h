// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// What the hooks and the Go side both read and write. The Go twins are generated from here; any change
// of size or meaning asks for a new SCHEMA_VERSION.
#pragma once

#include <linux/types.h>

/* Numbers both sides must agree on. */
enum agreed {
	SCHEMA_VERSION = 3,
	MAX_NAMESERVERS = 4,
	PORT_LOW = 64512, /* the band dnsd's listeners live in */
	PORT_HIGH = 65499,
	OWN_MARK = 0x6e646e73, /* SO_MARK of dnsd's own sockets, "ndns" in ASCII: they go where they say */
	LONG_NAME = 128,       /* the longest name that is answered in the kernel, in bytes on the wire */
	MOST_ROTATED = 8,      /* addresses of a learned reply that change places */
};

enum { RING = 4 };

/* Network byte order; IPv4 as ::ffff:a.b.c.d, so that one path serves both families and mapped sockets. */
struct address {
	__u32 word[4];
};

struct endpoint {
	struct address addr;
	__be16 port;
	__u16 pad;
};

enum pod_flags { POD_DNS = 1, POD_LB = 2 };

/* A pod's row. nameservers[i].addr is whom the pod asks, .port where dnsd listens for that one. */
struct pod {
	__u64 cookie; /* the row's own key: see still_ours() */
	__u64 view;
	__u64 asker; /* pods with the same one get the same answers; 0: answers are not shared */
	__u32 ifindex;
	enum pod_flags flags;
	struct address addr4; /* all zero: the pod has none */
	struct address addr6;
	struct endpoint nameservers[MAX_NAMESERVERS];
};

struct listener_key {
	__u64 cookie;
	__u32 slot; /* nameserver index << 1 | 1 for TCP */
	__u32 pad;
};

/* port 0 and protocol 0: any. A row with both and view 0 exists for every address that has a row at all. */
struct frontend {
	struct address addr;
	__be16 port;
	__u8 protocol;
	__u8 pad[5];
	__u64 view;
};

/* The service index of an address's {any port, any protocol, everybody} row that only says "ours". */
#define NO_SERVICE 0xffffffffu

/* What is behind a frontend. Written in place, see writeRows: so it has a lock, which nobody takes who only reads. */
struct target {
	struct bpf_spin_lock lock;
	__u32 service;
};

enum policy { RANDOM, ROUND_ROBIN, LEAST_REQUEST, RING_HASH, MAGLEV };

/* How long a backend rests whose handshakes go on failing: twice as long each time, or longer by the first. */
enum growth { DOUBLING, LINEAR };

/* Never edited once a service's word has named it. */
struct set {
	enum policy policy;
	__u32 base;    /* slots[base, base+count): every backend weight times and evenly spread, or the hash table */
	__u32 count;
	__u32 members; /* slots[members, members+size): every backend once, by number */
	__u32 size;
	__u32 standby; /* the slots after the members: no new connection goes there, those of before stay */
	__u32 lasting; /* 1: connections stay, too, with a backend that is none of this any more */
	__u32 used;    /* 1 once the row was ever written */
	__u32 affinity;        /* ms for which a client that comes back is sent where it was; 0: at once elsewhere */
	__u32 max_connections; /* open at once; 0: any number */
	__u32 consecutive;     /* handshakes that fail in a row and eject a backend */
	__u32 ejection;        /* ms that the first ejection lasts */
	__u32 max_ejection;    /* ms that none exceeds */
	enum growth growth;
	__u32 max_percent;     /* of the members that may be ejected; one always may */
	__u32 pad;
};

struct slot {
	__u32 backend;
	__u16 weight;
	__u8 always; /* 1: used although ejected, there are too few others */
	__u8 v4;     /* 1: the backend's address is one of IPv4 */
};

struct backend {
	struct address addr;
	__be16 port; /* 0: the port the client asked for */
	__u16 pad;
	__u32 incarnation; /* goes up when the index is given to another address; 0: never used */
};

/* A bit of an accuser beside which stands who has the probe, or had the last one. */
#define SEVERAL (1ULL << 63)

/*
 * Facts about a backend, whoever noticed; what follows from them is up to the settings of each service.
 * One cache line each, so that busy backends do not slow their neighbours down.
 */
struct backend_state {
	__u32 active;
	__u32 streak; /* handshakes that failed since one succeeded, as far as they count */
	__u64 connections;
	__u64 failures;
	__u64 failed_at; /* ns, monotonic: when the streak last grew, or a probe was let through */
	__u64 accuser;   /* netns cookie of the pod whose handshakes the streak is of; with SEVERAL: see there */
	__u64 user;      /* that of the pod which connected last */
	__u64 shared_at; /* ns, monotonic: when that was last another one than before; 0: never */
	__u64 pad;
};

struct service_state {
	__u64 cursor;      /* connections ROUND_ROBIN has placed */
	__u64 refused;     /* for max_connections */
	__u32 active;      /* connections counted against max_connections */
	__u32 incarnation; /* goes up when the index is given to another service */
	__u64 pad;
};

/* Whose connections are sent to one backend for a time. */
struct affinity_key {
	__u64 client; /* netns cookie */
	__u32 service;
	__u32 pad;
};

struct affinity {
	__u64 last; /* ns, monotonic: the newest connection */
	__u32 backend;
	__u32 incarnation; /* the backend's */
};

/* Addresses that are ours alone. No range: all zero. */
struct range {
	struct address addr;
	struct address mask;
};

/* What a socket was told about one backend: replies from it are shown as coming from the frontend. */
struct translation {
	struct endpoint backend;
	struct endpoint frontend;
	__u64 word;    /* the service's word when the backend was last known to be in its set */
	__u32 id;      /* the backend's index */
	__u32 left;    /* since when the backend is not the frontend's any more, s, monotonic; 0: it is */
};

enum health { UNJUDGED, PROBE, JUDGED };

struct socket {
	__u32 backend; /* of the last connect() */
	__u32 incarnation;
	__u32 counted; /* 1 while this socket is in the backend's active */
	enum health health; /* likewise */
	__u32 next;    /* ring entry to overwrite next */
	__u32 service;  /* likewise */
	__u32 admitted; /* the service's incarnation while this socket is in its active, else 0 */
	__u32 pad;
	__u64 client;   /* netns cookie of who connected */
	struct translation ring[RING];
};

/* Limits of what is answered in the kernel, in bytes; a name's with its length bytes, as on the wire. */
enum {
	SHORT_NAME = 64,
	MOST_ADDRESSES = 4,
	MOST_RECORDS = 320,
	AUTHORITY_SIZE = 64,
};

/* A declared name in lower case, followed by zeros, and the namespace that sees it, 0 for everybody. */
struct name {
	__u8 wire[SHORT_NAME];
	__u64 view;
};

/* ELSEWHERE: dnsd knows. VIRTUAL: IPv6 addresses are for pods that have one themselves. */
enum answer_flags { ANSWER_ELSEWHERE = 1, ANSWER_VIRTUAL = 2 };

/* What a declared name has. */
struct answer {
	__u64 version; /* of the row, never the same twice: see copied() */
	__be32 ttl;
	enum answer_flags flags;
	__u8 n4, n6;
	__u8 zone; /* where in the name that of the zone begins, for negative answers */
	__u8 pad[5];
	__u8 addr4[MOST_ADDRESSES][4];
	__u8 addr6[MOST_ADDRESSES][16];
};

/* What somebody asked; key of a reply dnsd has given. */
struct question {
	__u8 wire[LONG_NAME];
	__u64 view;
	__u64 asker;
	__be16 qtype;
	__u8 pad[6];
};

/* Good for as long as the table of names is of that generation. */
struct reply {
	__u64 version;
	__u64 generation;
	__u16 size;   /* of the records, which follow the question */
	__be16 answers, authorities;
	__u16 fixed;  /* where the addresses begin, each with so many bytes: */
	__u16 step;
	__u8 count;   /* of addresses; they come last */
	__u8 rcode;
	__u8 pad[4];
	__u8 records[MOST_RECORDS];
};

/* What dnsd tells those who answer in its place. */
struct answering {
	__u64 generation;   /* of the table of names that it answers from */
	__u64 silent_until; /* ns, monotonic: somebody wants to see every query, and dnsd is there to show them */
	__u8 secret[32];    /* for dnsd: what askers are numbered with. It lives as long as what was learned for them. */
};

/* How many of a pod's queries were answered, and why others were not. */
struct outcomes {
	__u64 declared; /* from the names */
	__u64 learned;  /* from what dnsd has said before */
	__u64 denied;   /* likewise: there is no such name */
	__u64 unknown;
	__u64 unusual;  /* not a plain question, or with too long a name */
	__u64 watched;  /* while somebody wanted to see them */
};

/* Which of a pod's interfaces a packet leaves by, for what answers DNS there. */
enum answerer { ANSWERER_INSIDE, ANSWERER_OUTSIDE, ANSWERERS };

/* What was done and why; each has a counter, exported under its name in lower case without COUNT_. */
enum count {
	COUNT_DNS_CAPTURED,
	COUNT_DNS_NO_LISTENER,
	COUNT_DNS_STALE_HEARTBEAT,
	COUNT_DNS_OTHER_DEVICE,
	COUNT_DNS_RESTORED,
	COUNT_DNS_ANSWERED,
	COUNT_DNS_ANSWERED_ALONE, /* of those, while no dnsd was there */
	COUNT_DNS_ANSWER_TOO_OLD,
	COUNT_OWN_SOCKET,
	COUNT_LB_TRANSLATED,
	COUNT_LB_REFUSED,
	COUNT_LB_RESTORED,
	COUNT_LB_UNTRACKED,
	COUNT_LB_ALL_EJECTED,
	COUNT_LB_PROBES,
	COUNT_LB_OVER_LIMIT,
	COUNT_LB_NOBODYS,
	COUNT_LB_RETURNED,
	COUNT_TCP_CONNECT_FAILED,
	COUNT_TCP_CONNECT_TIMEOUT,
	COUNT_TCP_ENDED,
	COUNT_UDP_ENDED,
	COUNTS,
};

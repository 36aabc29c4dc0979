//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//
// The kernel half of nodens, one object: hooks at the socket calls of every process below a cgroup, and
// programs that answer DNS on the interfaces of pods.
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "answer.h"
#include "terminate.h"

/* Loaded as GPL: the coarse clock and others are for such programs only. */
char LICENSE[] SEC("license") = "GPL";

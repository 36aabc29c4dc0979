// Package conformance holds nodens to its promises: each is a script in testdata/script that anyone can
// run against any build.
//
// The scripts play in a small world of namespaces (package world) with the real CNI plugins, real
// nameservers and a mesh control plane that replays what a real istiod said.
package conformance

import "embed"

// Captures are DiscoveryResponses that istiod 1.31.0 sent, one folder a case with the input that made it
// (input.yaml) and one file a response in binary form: cds, eds, lds and nds, with a suffix where
// istiod or the node was configured differently (hashalloc: VIPs by hash, not from the objects' status).
//
//go:embed testdata/xds
var Captures embed.FS

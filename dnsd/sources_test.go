package main

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/keep"
)

// What each of several clusters said is kept on disk beside what they came to together: none of it may be
// taken for a source that is not configured any more.
func TestWhatSourcesKeep(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	c, err := config.Read(writeFile(t, "kube: {cluster: west, remotes: [{cluster: east, kubeconfig: /nonexistent}]}"))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := keep.Open(t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	s := sources(c, log, kept)
	if len(s) != 1 || !slices.Equal(s[0].members, []string{"kube-west", "kube-east"}) {
		t.Errorf("%+v", s)
	}
}

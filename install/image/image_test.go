package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const name = "example.com/nodens:test"

var architectures = []string{"amd64", "arm64"}

// folders makes what build is given; no two calls have anything in common but the files' contents.
func folders(t *testing.T, mode os.FileMode, at time.Time) string {
	t.Helper()
	dir := t.TempDir()
	for _, arch := range architectures {
		sub := filepath.Join(dir, "linux-"+arch)
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, p := range programs {
			path := filepath.Join(sub, p)
			if err := errors.Join(os.WriteFile(path, []byte(strings.Repeat(p+arch, 1000)), mode), os.Chtimes(path, at, at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestSameBytesTwice(t *testing.T) {
	var digests, files [2]string
	for i, dir := range []string{folders(t, 0o600, time.Now()), folders(t, 0o755, time.Unix(1e9, 0))} {
		out := filepath.Join(t.TempDir(), "image.tar")
		digest, err := build(dir, name, out)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		digests[i], files[i] = digest.String(), string(data)
	}
	if digests[0] != digests[1] {
		t.Errorf("digests %s and %s", digests[0], digests[1])
	}
	if files[0] != files[1] {
		t.Error("the files differ")
	}

	changed := folders(t, 0o755, time.Now())
	if err := os.WriteFile(filepath.Join(changed, "linux-arm64", "dnsd"), []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	digest, err := build(changed, name, filepath.Join(t.TempDir(), "image.tar"))
	if err != nil || digest.String() == digests[0] {
		t.Errorf("another program, digest %s, %v; want another digest", digest, err)
	}
}

func TestImage(t *testing.T) {
	out := filepath.Join(t.TempDir(), "image.tar")
	digest, err := build(folders(t, 0o600, time.Now()), name, out)
	if err != nil {
		t.Fatal(err)
	}
	path, err := layout.FromPath(unpack(t, out))
	if err != nil {
		t.Fatal(err)
	}
	top, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%+v, %v; want one entry", manifest, err)
	}
	entry := manifest.Manifests[0]
	if entry.Digest != digest || entry.Annotations["io.containerd.image.name"] != name {
		t.Errorf("the entry is %+v; want %s, %s", entry, name, digest)
	}
	index, err := top.ImageIndex(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	images, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, arch := range architectures {
		if p := images.Manifests[i].Platform; p == nil || p.Architecture != arch || p.OS != "linux" {
			t.Errorf("image %d is for %v, want linux/%s", i, p, arch)
		}
		img, err := index.Image(images.Manifests[i].Digest)
		if err != nil {
			t.Fatal(err)
		}
		files := contents(t, img)
		for _, p := range programs {
			if f := files["bin/"+p]; f.Mode != 0o755 || f.data != strings.Repeat(p+arch, 1000) {
				t.Errorf("%s: bin/%s has mode %o and %.20q...", arch, p, f.Mode, f.data)
			}
		}
		if link := files["var/run"]; link.Linkname != "../run" {
			t.Errorf("%s: var/run leads to %q", arch, link.Linkname)
		}
	}
}

func TestMissingProgram(t *testing.T) {
	dir := folders(t, 0o755, time.Now())
	if err := os.Remove(filepath.Join(dir, "linux-arm64", "nodens-stub")); err != nil {
		t.Fatal(err)
	}
	if _, err := build(t.TempDir(), name, filepath.Join(t.TempDir(), "image.tar")); err == nil {
		t.Error("an image of no architecture")
	}
	_, err := build(dir, name, filepath.Join(t.TempDir(), "image.tar"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "arm64") {
		t.Errorf("%v; want what is missing", err)
	}
}

type packed struct {
	tar.Header
	data string
}

func contents(t *testing.T, img v1.Image) map[string]packed {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	return readTar(t, r)
}

func readTar(t *testing.T, r io.Reader) map[string]packed {
	t.Helper()
	files := map[string]packed{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s is of %v, owned by %d:%d", h.Name, h.ModTime, h.Uid, h.Gid)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = packed{*h, string(data)}
	}
}

func unpack(t *testing.T, archive string) string {
	t.Helper()
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, f := range readTar(t, bytes.NewReader(data)) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(f.data), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

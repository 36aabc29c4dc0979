package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of every file: when something was built is not part of what it is.
var epoch = time.Unix(0, 0).UTC()

// build writes the image of the programs in folder to the file out, and returns the digest that a
// registry would know it by.
func build(folder, name, out string) (v1.Hash, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	folders, err := filepath.Glob(filepath.Join(folder, "linux-*")) // sorted
	if err == nil && len(folders) == 0 {
		err = fmt.Errorf("%s has no folder linux-ARCHITECTURE", folder)
	}
	if err != nil {
		return v1.Hash{}, err
	}
	for _, folder := range folders {
		arch := strings.TrimPrefix(filepath.Base(folder), "linux-")
		img, err := image(folder, arch)
		if err != nil {
			return v1.Hash{}, fmt.Errorf("the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	digest, err := index.Digest()
	if err != nil {
		return v1.Hash{}, fmt.Errorf("digest of the index: %w", err)
	}
	dir, err := os.MkdirTemp("", "nodens-image-")
	if err != nil {
		return v1.Hash{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		// containerd reads the first name, everybody else the second.
		err = path.AppendIndex(index, layout.WithAnnotations(map[string]string{
			"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name,
		}))
	}
	if err != nil {
		return v1.Hash{}, fmt.Errorf("write the image's layout: %w", err)
	}
	return digest, archive(dir, out)
}

// image is one architecture's.
func image(folder, arch string) (v1.Image, error) {
	files, err := layer(folder)
	if err != nil {
		return nil, err
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("compress the files: %w", err)
	}
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	img, err = mutate.Append(img, mutate.Addendum{Layer: content, History: v1.History{CreatedBy: "install/image"}})
	if err != nil {
		return nil, fmt.Errorf("add the files: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read back the configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: epoch}
	config.Config = v1.Config{Env: []string{"PATH=/bin"}, WorkingDir: "/"}
	return mutate.ConfigFile(img, config)
}

// layer is the tar of a root folder: the programs, and what they expect of a node. Runtimes name network
// namespaces below /var/run, which is mounted at /run.
func layer(folder string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	put := func(h tar.Header, data []byte) error {
		h.ModTime, h.Format, h.Size = epoch, tar.FormatPAX, int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	var errs []error
	for _, dir := range []string{"bin/", "run/", "tmp/", "var/"} {
		errs = append(errs, put(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil))
	}
	errs = append(errs, put(tar.Header{Typeflag: tar.TypeSymlink, Name: "var/run", Linkname: "../run", Mode: 0o777}, nil))
	for _, p := range programs {
		data, err := os.ReadFile(filepath.Join(folder, p))
		if err != nil {
			return nil, fmt.Errorf("a program to pack: %w", err)
		}
		errs = append(errs, put(tar.Header{Typeflag: tar.TypeReg, Name: "bin/" + p, Mode: 0o755}, data))
	}
	return out.Bytes(), errors.Join(append(errs, w.Close())...)
}

// archive writes a folder as a tar file, by name, without anything of this machine in it.
func archive(dir, out string) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		h := tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(name), Mode: 0o644, ModTime: epoch, Size: int64(len(data)), Format: tar.FormatPAX}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	return nil
}

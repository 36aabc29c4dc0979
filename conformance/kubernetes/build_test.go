package kubernetes

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Our image, of which there are two versions to update between, and the image of the pods.
const (
	image    = "registry.example/nodens" // as in README.md
	podImage = "localhost/pod:test"
	version  = "v1.36.3" // of Kubernetes, as in go.mod
	top      = "../.."   // our own module
)

var versions = []string{"one", "two"}

// build puts every program and image into folder.
func build(folder string) error {
	parts := filepath.Join(top, "bin", "kubernetes-parts") // kept: to link it takes long
	stamp := "-s -w -X k8s.io/component-base/version.gitVersion=" + version +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
	if err := compile(".", parts, "./parts", "-tags", "providerless", "-ldflags", stamp); err != nil {
		return err
	}
	if err := os.Symlink(mustAbs(parts), filepath.Join(folder, "parts")); err != nil {
		return err
	}
	for _, p := range []string{"main/ptp", "main/loopback", "ipam/host-local"} {
		out := filepath.Join(folder, "plugins", filepath.Base(p))
		if err := compile(top, out, "github.com/containernetworking/plugins/plugins/"+p); err != nil {
			return err
		}
	}
	if err := definitions(filepath.Join(folder, "istio.yaml")); err != nil {
		return err
	}
	if err := compile(".", filepath.Join(folder, "pod"), "./pod"); err != nil {
		return err
	}
	if err := packPod(filepath.Join(folder, "pod"), filepath.Join(folder, "pod.tar")); err != nil {
		return err
	}
	return images(folder)
}

// definitions copies Istio's kinds from the module whose types we use.
func definitions(out string) error {
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api")
	list.Dir = top
	dir, err := list.Output()
	if err != nil {
		return fmt.Errorf("find istio.io/api: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "kubernetes", "customresourcedefinitions.gen.yaml"))
	if err != nil {
		return err
	}
	return os.WriteFile(out, text, 0o644)
}

// images packs ours, in each version.
func images(folder string) error {
	for _, v := range versions {
		programs := filepath.Join(folder, v, "linux-"+runtime.GOARCH)
		for name, pkg := range map[string]string{"nodens": "./cni", "dnsd": "./dnsd", "nodens-install": "./install", "nodens-stub": "./install/stub"} {
			if err := compile(top, filepath.Join(programs, name), pkg, "-ldflags", "-s -w -X main.version="+v); err != nil {
				return err
			}
		}
		err := command(top, "go", "run", "./install/image", "-name", image+":"+v,
			"-out", filepath.Join(folder, "nodens-"+v+".tar"), filepath.Join(folder, v))
		if err != nil {
			return err
		}
	}
	return nil
}

func mustAbs(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		panic(err) // there is no working directory
	}
	return abs
}

func compile(dir, out, pkg string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", mustAbs(out)}, flags...)
	return command(dir, "go", append(args, pkg)...)
}

func command(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if dir == top { // which may be written to as little as when it is built by itself
		cmd.Env = append(cmd.Env, "GOFLAGS=")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, text)
	}
	return nil
}

// packPod writes an image with nothing but one program in it.
func packPod(program, out string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: "pod", Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config.OS, config.Architecture, config.Config = "linux", runtime.GOARCH, v1.Config{Entrypoint: []string{"/pod"}}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	tag, err := name.NewTag(podImage)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(out, tag, img)
}

// Command image packs nodens' programs into one OCI image, from scratch and the same bytes each time.
//
// It needs neither root nor a container engine: what it writes is a tar file of an OCI image layout, one
// image for each architecture, which `ctr image import`, `podman load` and `skopeo copy --all oci-archive:` take.
package main

import (
	"flag"
	"fmt"
	"os"
)

// programs are the files of the image, all in /bin: nodens-install finds what it installs beside itself.
var programs = []string{"dnsd", "nodens", "nodens-install", "nodens-stub"}

func main() {
	var name, out string
	flag.StringVar(&name, "name", "", "the image's name, such as ghcr.io/nodens-dns/nodens:v1.0.0")
	flag.StringVar(&out, "out", "", "the tar file to write")
	flag.Usage = func() {
		_, _ = fmt.Fprintln(flag.CommandLine.Output(), "usage: image -name NAME:TAG -out FILE FOLDER\nFOLDER holds linux-ARCHITECTURE for each that is wanted, with", programs)
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 || name == "" || out == "" {
		flag.Usage()
		os.Exit(2)
	}
	digest, err := build(flag.Arg(0), name, out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Println(name, digest)
}

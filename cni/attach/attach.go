// Package attach is what the CNI plugin and the daemon agree on: a file for every pod that exists, and
// a bell the plugin rings when it has written or removed one.
//
// The files are the truth and the bell only saves time: a daemon that was down, or hung, or is of
// another version reads the folder when it comes and knows every pod of the node.
package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Version is the version of the file format. A field may be added within a version; a field that
// changes its meaning makes a new one.
const Version = 1

// Where plugin and daemon meet unless they are told otherwise. Both are gone after a reboot, as the
// pods are.
const (
	DefaultDir  = "/run/nodens/attachments"
	DefaultBell = "/run/nodens/bell.sock"
)

// A file holds a few hundred bytes and the pod's annotations, of which Kubernetes allows 256 KiB.
const maxFile = 1 << 20

// Key is what CNI knows an attachment by. A pod's name or UID would not do: a sandbox made anew for the
// same pod has both, and the DEL of the old one may come after the ADD of the new one.
type Key struct{ ContainerID, IfName string }

// String is the form of a Key that errors and logs use; it is also the file's name without its suffix.
func (k Key) String() string { return k.ContainerID + ":" + k.IfName }

// file returns the name of the attachment's file. Neither part of a key the CNI specification allows
// holds a slash or a colon, so two keys never share a name and no key leaves the folder.
func (k Key) file() (string, error) {
	name := k.String() + suffix
	switch {
	case k.ContainerID == "" || k.IfName == "":
		return "", fmt.Errorf("attachment key %q: container ID and ifname must both be given", k)
	case strings.HasPrefix(name, "."), strings.Count(name, ":") != 1, strings.ContainsAny(name, "/\x00"), len(name) > maxName:
		return "", fmt.Errorf("attachment key %q: not a container ID and ifname as CNI allows them, or longer than %d bytes", k, maxName)
	}
	return name, nil
}

const (
	suffix  = ".json"
	maxName = 240 // NAME_MAX, less what a temporary name adds
)

// Attachment is one interface of one pod, as the plugin found it at ADD.
type Attachment struct {
	Version     int    `json:"version"`
	Network     string `json:"network"` // name of the CNI network
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
	Netns       string `json:"netns"`       // path of the pod's network namespace
	NetnsInode  uint64 `json:"netnsInode"`  // its inode, to tell whether the path still means the same one
	NetnsCookie uint64 `json:"netnsCookie"` // its cookie (SO_NETNS_COOKIE): never used twice between two boots

	PodNamespace string `json:"podNamespace,omitempty"` // these three are empty where no Kubernetes is
	PodName      string `json:"podName,omitempty"`
	PodUID       string `json:"podUID,omitempty"`

	Interface   string            `json:"interface"`           // name inside the namespace
	Addresses   []netip.Prefix    `json:"addresses,omitempty"` // as the plugins before us gave them
	DNS         DNS               `json:"dns"`
	Annotations map[string]string `json:"annotations,omitempty"` // the pod's, all of them
	Created     time.Time         `json:"created"`

	// Problem says what the plugin could not do and did not fail the pod for; empty when all went well.
	Problem string `json:"problem,omitempty"`
}

// DNS is what the pod's resolv.conf says.
type DNS struct {
	Nameservers []netip.Addr `json:"nameservers,omitempty"`
	Searches    []string     `json:"searches,omitempty"`
	Options     []string     `json:"options,omitempty"`
}

// Key returns what CNI knows the attachment by.
func (a Attachment) Key() Key { return Key{a.ContainerID, a.IfName} }

// Alive reports whether the pod's network namespace still is at its path: something is there, and has
// the inode number noted at ADD.
func (a Attachment) Alive() bool {
	inode, err := NetnsInode(a.Netns)
	return err == nil && inode == a.NetnsInode
}

// NetnsInode returns the inode number of the network namespace at path. It fails when nothing is
// there; a path left over from an unmounted namespace has a number of another file system's.
func NetnsInode(path string) (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return st.Ino, nil
}

// Write makes the attachment's file in dir, or replaces it, and makes dir if need be. Whoever reads
// sees the old file or the new one, also after a power cut. Version is set by Write. The file is
// readable by its owner only: annotations are nobody else's business.
func Write(dir string, a Attachment) (err error) {
	name, err := a.Key().file()
	if err != nil {
		return err
	}
	a.Version = Version
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("attachment %s: %w", a.Key(), err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of attachments: %w", err)
	}
	temp, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return fmt.Errorf("write attachment %s: %w", a.Key(), err)
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = os.Remove(temp.Name())
			err = fmt.Errorf("write attachment %s: %w", a.Key(), err)
		}
	}()
	if _, err := temp.Write(append(data, '\n')); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// Remove removes the attachment's file, and what a Write that was killed has left of it. A file or a
// folder that is absent is fine.
func Remove(dir string, k Key) error {
	name, err := k.file()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove attachment %s: %w", k, err)
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != name && !strings.HasPrefix(e.Name(), "."+name+".") {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove attachment %s: %w", k, err))
		}
	}
	return errors.Join(errs...)
}

// Find reads the attachment with this key. It wraps fs.ErrNotExist when there is none.
func Find(dir string, k Key) (Attachment, error) {
	name, err := k.file()
	if err != nil {
		return Attachment{}, err
	}
	return Read(filepath.Join(dir, name))
}

// Read reads one attachment file. The error names the file and what to do about it.
func Read(path string) (Attachment, error) {
	f, err := os.Open(path)
	if err != nil {
		return Attachment{}, fmt.Errorf("read attachment: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Attachment{}, fmt.Errorf("read attachment: %w", err)
	}
	a, err := decode(data, filepath.Base(path))
	if err != nil {
		return Attachment{}, fmt.Errorf("attachment file %s: %w", path, err)
	}
	return a, nil
}

// remedy is for a file that cannot be believed; its pod goes on, with its own nameserver.
const remedy = "remove the file and recreate the pod"

func decode(data []byte, name string) (Attachment, error) {
	if len(data) > maxFile {
		return Attachment{}, fmt.Errorf("longer than %d bytes; %s", maxFile, remedy)
	}
	// The version alone first: of another version nothing else can be relied upon.
	var head struct{ Version *int }
	if err := json.Unmarshal(data, &head); err != nil {
		return Attachment{}, fmt.Errorf("truncated or not JSON (%w); %s", err, remedy)
	}
	if head.Version == nil {
		return Attachment{}, fmt.Errorf("has no version, so is not ours; move it elsewhere")
	}
	if *head.Version != Version {
		return Attachment{}, fmt.Errorf("has version %d, this program reads version %d; run plugin and daemon of one release, or %s",
			*head.Version, Version, remedy)
	}
	var a Attachment
	if err := json.Unmarshal(data, &a); err != nil {
		return Attachment{}, fmt.Errorf("%w; %s", err, remedy)
	}
	// A copy under another name would be a second claim on one namespace.
	if want, err := a.Key().file(); err != nil {
		return Attachment{}, fmt.Errorf("%w; %s", err, remedy)
	} else if want != name {
		return Attachment{}, fmt.Errorf("holds the attachment of %s; move it elsewhere", want)
	}
	return a, nil
}

// List reads every attachment in dir, in order of file names, with one error for every file that cannot
// be read; the good ones are returned whatever the others are. Files being written are left out. A
// folder that is absent holds nothing.
func List(dir string) ([]Attachment, []error) { return new(Reader).List(dir) }

// Reader is for who lists a folder again and again: of files that are as they were it remembers what is in
// them. The zero value is ready to use, by one goroutine at a time.
type Reader struct{ known map[string]known }

// known is an attachment, and the file it was read from.
type known struct {
	file fs.FileInfo
	Attachment
}

// List is the function List. What it returns is shared, and must not be changed.
func (r *Reader) List(dir string) ([]Attachment, []error) {
	before := r.known
	r.known = make(map[string]known, len(before))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, []error{fmt.Errorf("list attachments: %w", err)}
	}
	var (
		list []Attachment
		errs []error
	)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), suffix) {
			errs = append(errs, fmt.Errorf("%s is not an attachment file; move it elsewhere", path))
			continue
		}
		file, err := e.Info()
		k := before[path]
		if err == nil && !same(k.file, file) {
			k = known{file: file}
			k.Attachment, err = Read(path)
		}
		switch {
		case err == nil:
			list = append(list, k.Attachment)
			r.known[path] = k
		case !errors.Is(err, fs.ErrNotExist): // removed since: its pod is gone
			errs = append(errs, err)
		}
	}
	return list, errs
}

// same reports whether two looks were at one file that was not written in between: attachments are written
// by rename.
func same(a, b fs.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

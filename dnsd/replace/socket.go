package replace

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Socket is a unix socket that listens, under another name until Place. One goroutine at a time may use it, but
// for what its listener allows.
type Socket struct {
	*net.UnixListener
	path   string
	placed bool
}

// Listen makes a socket beside path, of network "unix" or "unixpacket", with this mode and the group of its
// folder, which must exist. Something at path that is no socket is left alone, and is an error. As with File, one
// at a time is made for a path; another one that has its place already may well listen there.
func Listen(network, path string, mode fs.FileMode) (*Socket, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("a file that is no socket is in the way at %s: remove it", path)
	}
	s := &Socket{path: path}
	_ = os.Remove(s.beside()) // of a process that was killed before Place
	ln, err := net.ListenUnix(network, &net.UnixAddr{Name: s.beside(), Net: network})
	if err != nil {
		return nil, err
	}
	// The name may be a successor's by the time this one is closed; left behind it only says "connection refused".
	ln.SetUnlinkOnClose(false)
	s.UnixListener = ln
	if dir, err := os.Stat(filepath.Dir(path)); err == nil {
		// Who may not give it to the group has it open to fewer.
		_ = os.Lchown(s.beside(), -1, int(dir.Sys().(*syscall.Stat_t).Gid))
	}
	if err := os.Chmod(s.beside(), mode); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Socket) beside() string { return s.path + "~" }

// Place gives the socket its name, in the place of one that is there: it is that of a process which is gone, or
// is being relieved. After an error the socket has no name for good; another one must be made.
func (s *Socket) Place() error {
	err := os.Rename(s.beside(), s.path)
	s.placed = err == nil
	return err
}

// Lost reports that nobody can find the socket: it has not got its name, or somebody has removed it.
func (s *Socket) Lost() bool {
	_, err := os.Lstat(s.path)
	return !s.placed || errors.Is(err, fs.ErrNotExist)
}

// Close stops listening. The name stays, once placed.
func (s *Socket) Close() error {
	err := s.UnixListener.Close()
	if err == nil && !s.placed { // the first time: later what is there is another's
		_ = os.Remove(s.beside())
	}
	return err
}

// Package replace puts files and sockets in place by rename: whoever looks finds what was there before or the
// whole of what is new. It needs the standard library alone, so that everybody may use it.
package replace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// File makes path hold data, in a folder that exists. A crash at any moment leaves the old file whole or the
// new one; after an error the old one is as it was. The new one has a name beside it until then, always the
// same: what a crash leaves of it the next call overwrites, so there must be one writer at a time. It blocks
// until the disk has both.
func File(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what it takes of a full disk somebody else may need
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

package etcd

import "github.com/nodens-dns/nodens/dnsd/mesh"

// objects is the part of the store that holds route objects.
func (s *Source) objects() *root {
	return &root{
		prefix: "/nodens/routes/",
		clear:  func() { s.routes = map[string]mesh.Route{} },
		remove: func(key string) { delete(s.routes, key) },
		put: func(string, []byte, uint32) error {
			return nil
		},
	}
}

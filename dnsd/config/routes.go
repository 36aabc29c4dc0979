package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// Routes says how this node's nginx serves host and path routes.
type Routes struct {
	// File is ours among nginx's: its http block must include it.
	File string `json:"file"`
	// Address is the node's own at which hosts are served; unset, the one the node goes out with.
	Address netip.Addr `json:"address"`
	// Nginx is how nginx is run to check and to reload its configuration, the program first.
	Nginx []string `json:"nginx"`
}

func (c *Routes) check() (errs []error) {
	if !filepath.IsAbs(c.File) {
		errs = append(errs, fmt.Errorf("routes.file: %q is not an absolute path such as /etc/nginx/conf.d/nodens.conf", c.File))
	}
	if c.Address.IsValid() && (c.Address.IsUnspecified() || c.Address.Zone() != "") {
		errs = append(errs, fmt.Errorf("routes.address: %s is no address that pods could reach", c.Address))
	}
	return errs
}

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/nodens-dns/nodens/dnsd/routes"
)

// RoutesConfig says how this node's nginx serves host and path routes.
type RoutesConfig struct {
	// File is ours among nginx's: its http block must include it.
	File string `json:"file"`
	// Address is the node's own at which hosts are served; unset, the one the node goes out with.
	Address netip.Addr `json:"address"`
	// Nginx is how nginx is run to check and to reload its configuration, the program first.
	Nginx []string `json:"nginx"`
}

func (c *RoutesConfig) check() (errs []error) {
	if !filepath.IsAbs(c.File) {
		errs = append(errs, fmt.Errorf("routes.file: %q is not an absolute path such as /etc/nginx/conf.d/nodens.conf", c.File))
	}
	if !c.Address.IsValid() {
		var err error
		if c.Address, err = ownAddress(); err != nil {
			errs = append(errs, fmt.Errorf("routes.address: name the node's own: %w", err))
		}
	}
	if c.Address.IsValid() && (c.Address.IsUnspecified() || c.Address.Zone() != "") {
		errs = append(errs, fmt.Errorf("routes.address: %s is no address that pods could reach", c.Address))
	}
	return errs
}

// ownAddress is the one that packets to the world leave with; nothing is sent to find out.
func ownAddress() (netip.Addr, error) {
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", far)
		if err != nil {
			continue
		}
		own, _ := netip.ParseAddrPort(conn.LocalAddr().String())
		_ = conn.Close()
		return own.Addr().Unmap(), nil
	}
	return netip.Addr{}, errors.New("the node has no default route")
}

// source returns the keeper of nginx's routes.
func (c *RoutesConfig) source(clusterDomain string, log *slog.Logger) *routes.Source {
	return routes.New(routes.Options{Address: c.Address, File: c.File, Command: c.Nginx, ClusterDomain: clusterDomain, Log: log})
}

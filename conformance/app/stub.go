package app

import (
	"net"

	"github.com/miekg/dns"
)

// Stub listens at the first address, as systemd-resolved does at 127.0.0.53, and has what it is asked
// answered by the second, a server outside, over the same protocol. It remembers nothing.
func (a *App) Stub(where [2]string, out *bool) error {
	listen, server := net.JoinHostPort(where[0], "53"), net.JoinHostPort(where[1], "53")
	conn, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		_ = conn.Close()
		return err
	}
	ask := func(network string) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			r, _, err := (&dns.Client{Net: network}).Exchange(q, server)
			if err != nil {
				r = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
			}
			r.Id = q.Id
			_ = w.WriteMsg(r) // a client that has gone
		})
	}
	go func() { _ = (&dns.Server{PacketConn: conn, Handler: ask("udp")}).ActivateAndServe() }()
	go func() { _ = (&dns.Server{Listener: ln, Handler: ask("tcp")}).ActivateAndServe() }()
	*out = true
	return nil
}

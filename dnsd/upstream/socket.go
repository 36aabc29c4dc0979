package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

const (
	headerBytes = 12
	maxMessage  = 1<<16 - 1
	// maxMismatched is how many replies that do not fit are waited out before the question goes over
	// TCP, where nobody can guess at it from beside.
	maxMismatched = 16
	// rawBudget is for packets passed through untouched: a dynamic update may rightly take longer than
	// a query, and whoever sends one waits longer.
	rawBudget = 5 * time.Second
)

var (
	errGuessed  = errors.New("too many replies that do not fit the question")
	errMismatch = errors.New("reply does not fit the question")
	// errUnsent goes with a failure on our side: the server has no part in it.
	errUnsent = errors.New("no socket to ask from")
)

// send puts one packet to one server, from a socket of its own with an ID of its own, and waits for the
// reply that fits it.
func (c *Client) send(ctx context.Context, s Servers, network string, server netip.AddrPort, q *question, packet []byte) (*dns.Msg, error) {
	c.health.asked(server)
	began := time.Now()
	wire := append([]byte(nil), packet...)
	id := dns.Id()
	binary.BigEndian.PutUint16(wire, id)
	var reply *dns.Msg
	mismatched := 0
	err := c.converse(ctx, s, network, server, wire, func(packet []byte) (err error) {
		reply, err = q.parse(packet, id)
		if err != nil {
			mismatched++
		}
		if mismatched >= maxMismatched {
			return errGuessed
		}
		return err
	})
	if mismatched > 0 {
		c.health.mismatched(server, mismatched)
	}
	return c.note(ctx, s, server, began, time.Now(), reply, err)
}

// note has it remembered how a try ended that began at asked, with a reply at that time or with an error, and
// returns that.
func (c *Client) note(ctx context.Context, s Servers, server netip.AddrPort, asked, at time.Time, reply *dns.Msg, err error) (*dns.Msg, error) {
	if err == nil && ctx.Err() != nil {
		// Too late to count. In a circle it is our own failure that comes back, and no sign of life.
		err = context.Cause(ctx)
	}
	if err != nil {
		if !errors.Is(err, context.Canceled) { // another server was quicker
			c.health.failed(server, err)
		}
		return nil, err
	}
	c.heard(s, server, asked, at, reply.Rcode)
	return reply, nil
}

// heard has it remembered that a server has answered at that time.
func (c *Client) heard(s Servers, server netip.AddrPort, asked, at time.Time, rcode int) {
	if c.health.answered(s, server, asked, at, rcode) {
		c.cache.forgive() // what failed while the server was away need not fail now
	}
}

// Forward hands packet, a whole DNS message, to the first of the servers over network ("udp" or "tcp")
// and returns the message that comes back with the same ID, both untouched: for what is not a plain
// query, and may be signed. It blocks until then, until ctx ends, or for 5 s. Of a transfer in several
// messages only the first comes back. The reply is the caller's own. Zones do not matter here: what is
// signed is meant for the server it was sent to.
func (c *Client) Forward(ctx context.Context, s Servers, network string, packet []byte) ([]byte, error) {
	if len(s.Addrs) == 0 {
		return nil, errors.New("no nameserver to forward to")
	}
	if len(packet) < headerBytes || len(packet) > maxMessage {
		return nil, fmt.Errorf("%d bytes are not a DNS message", len(packet))
	}
	release, err := c.loops.enter(s.Addrs[0], packet)
	if err != nil {
		c.counts.loops.Add(1)
		return nil, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, rawBudget)
	defer cancel()
	c.counts.forwarded.Add(1)
	id := binary.BigEndian.Uint16(packet)
	var reply []byte
	err = c.converse(ctx, s, network, s.Addrs[0], packet, func(packet []byte) error {
		if len(packet) < headerBytes || binary.BigEndian.Uint16(packet) != id {
			return errMismatch
		}
		reply = append([]byte(nil), packet...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("forward to %s over %s: %w", s.Addrs[0], network, err)
	}
	return reply, nil
}

// converse sends packet and hands what comes back to accept until that says other than errMismatch. The
// bytes accept sees are only lent.
func (c *Client) converse(ctx context.Context, s Servers, network string, server netip.AddrPort, packet []byte, accept func([]byte) error) error {
	if network == "tls" {
		reply, err := s.links[server].exchange(ctx, packet)
		if err != nil {
			return err
		}
		return accept(reply)
	}
	conn, err := c.dial(ctx, s, network, server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := c.buffers.Get().(*[maxMessage]byte)
	defer c.buffers.Put(buf)

	read := conn.Read
	if network == "tcp" {
		packet = append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
		read = func(b []byte) (int, error) { return readFramed(conn, b) }
	}
	if _, err := conn.Write(packet); err != nil {
		return because(ctx, err)
	}
	for {
		n, err := read(buf[:])
		if err != nil {
			return because(ctx, err)
		}
		if err := accept(buf[:n]); !errors.Is(err, errMismatch) {
			return err
		}
	}
}

func (c *Client) dial(ctx context.Context, s Servers, network string, server netip.AddrPort) (net.Conn, error) {
	d := s.Dial
	if d == nil {
		d = c.dialer
	}
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil && network == "udp" {
		// Nothing was sent: connecting a UDP socket is between us and our own kernel.
		return nil, fmt.Errorf("%w: %w", errUnsent, err)
	}
	return conn, err
}

// readFramed reads one message with its length before it (RFC 1035, section 4.2.2).
func readFramed(r io.Reader, buf []byte) (int, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	return io.ReadFull(r, buf[:n])
}

// because says what an error of a socket stems from: the context's end if that was it, which shows as a
// deadline; or the Dialer having closed the socket under us, its pod being gone.
func because(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, net.ErrClosed):
		return fmt.Errorf("%w: %w", errUnsent, err)
	}
	return err
}

package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// ServeUDP answers c's queries on conn until conn is closed, which is no error; any other end is. By
// the time it returns, nothing of it runs any more. The caller owns conn.
func (s *Server) ServeUDP(conn *net.UDPConn, c *Client) error {
	ctx, cancel := context.WithCancel(context.Background())
	g := s.enter(c)
	var asking sync.WaitGroup
	defer func() {
		cancel()
		asking.Wait()
		s.leave(c, g)
	}()
	in, out := make([]byte, maxQuery), make([]byte, replySize)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(in)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read DNS queries of pod %s to %s: %w", c.Pod, c.Nameserver, err)
		}
		s.counts.udp.Add(1)
		if n == len(in) {
			s.counts.malformed.Add(1) // the rest of it is lost
			continue
		}
		// A reply that cannot be sent is lost like any datagram: the client asks again.
		reply, later := s.begin(c, "udp", in[:n], out)
		if later == nil {
			if reply != nil {
				_, _ = conn.WriteToUDPAddrPort(reply, from)
			}
			continue
		}
		select {
		case g.slots <- struct{}{}:
		default:
			s.counts.dropped.Add(1)
			continue
		}
		asking.Go(func() {
			defer func() { <-g.slots }()
			if reply := later(ctx); reply != nil {
				_, _ = conn.WriteToUDPAddrPort(reply, from)
			}
		})
	}
}

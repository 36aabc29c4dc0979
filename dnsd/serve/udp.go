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
	k := s.enter(c, "udp")
	var asking sync.WaitGroup
	defer func() {
		cancel()
		asking.Wait()
		s.leave(k)
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
		k.gate.counts.udp.Add(1)
		query := k.arrived(in[:n], from)
		if n == len(in) {
			v := k.malformed() // the rest of it is lost
			k.done(&v, &query)
			continue
		}
		// A reply that cannot be sent is lost like any datagram: the client asks again.
		reply, v, later := k.begin(in[:n], out)
		if later == nil {
			if reply != nil {
				_, _ = conn.WriteToUDPAddrPort(reply, from)
			}
			k.done(&v, &query)
			continue
		}
		select {
		case k.gate.slots <- struct{}{}:
		default:
			v = k.dropped()
			k.done(&v, &query)
			continue
		}
		kept := query.keep() // by itself, since what a goroutine uses is not on the stack
		asking.Go(func() {
			defer func() { <-k.gate.slots }()
			reply, v := k.wait(ctx, later)
			if reply != nil {
				_, _ = conn.WriteToUDPAddrPort(reply, from)
			}
			k.done(&v, &kept)
		})
	}
}

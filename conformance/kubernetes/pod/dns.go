package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// outside is the one name the cluster's nameserver knows, and its address (RFC 6761, RFC 5737).
const outside = "outside.example."

var outsideAddress = [4]byte{192, 0, 2, 53}

// nameserver stands for the cluster's own: what it says can only have come from it.
func nameserver(address string) error {
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	buf := make([]byte, 1232)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if reply, err := answer(buf[:n]); err == nil {
			_, _ = c.WriteTo(reply, from)
		}
	}
}

func answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, errors.New("no query")
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	q := m.Questions[0]
	switch {
	case !strings.EqualFold(q.Name.String(), outside):
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: outsideAddress},
		}}
	}
	return m.Pack()
}

func firstNameserver() (string, error) {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == "nameserver" {
			return net.JoinHostPort(words[1], "53"), nil
		}
	}
	return "", errors.New("/etc/resolv.conf names no server")
}

// ask sends one question over a connected socket or connection, and fails unless the answer is want.
func ask(c net.Conn, name, want string) error {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	query, err := m.Pack()
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_, stream := c.(*net.TCPConn)
	if stream {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := c.Write(query); err != nil {
		return err
	}
	for {
		text, err := readMessage(c, stream)
		if err != nil {
			return err
		}
		var reply dnsmessage.Message
		if err := reply.Unpack(text); err != nil {
			return err
		}
		if reply.ID != m.ID { // of a question that was given up
			continue
		}
		return first(reply, want)
	}
}

func readMessage(c net.Conn, stream bool) ([]byte, error) {
	if !stream {
		buf := make([]byte, 1232)
		n, err := c.Read(buf)
		return buf[:n], err
	}
	var size [2]byte

	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, buf)
	return buf, err
}

func first(m dnsmessage.Message, want string) error {
	for _, r := range m.Answers {
		if a, ok := r.Body.(*dnsmessage.AResource); ok {
			if have := netip.AddrFrom4(a.A).String(); have != want {
				return fmt.Errorf("the answer is %s, not %s", have, want)
			}
			return nil
		}
	}
	return fmt.Errorf("no address in the answer, %v", m.RCode)
}

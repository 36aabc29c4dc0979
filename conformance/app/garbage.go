package app

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Rubbish counts what came back for messages that are no queries.
type Rubbish struct {
	Sent, Replies int
}

// header is a DNS header with the given flags and record counts.
func header(flags uint16, counts ...uint16) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x12, 0x34}, flags)
	for i := range 4 {
		n := uint16(0)
		if i < len(counts) {
			n = counts[i]
		}
		b = binary.BigEndian.AppendUint16(b, n)
	}
	return b
}

// garbage are messages that a parser may stumble over.
func garbage() [][]byte {
	question := []byte("\x03foo\x04test\x00\x00\x01\x00\x01")
	loop := []byte("\xc0\x0c\x00\x01\x00\x01") // a name that points at itself
	return [][]byte{
		{}, {0}, []byte("\x12\x34\x01\x00"),
		header(0x0100),    // no question
		header(0x0100, 1), // a question promised, none there
		append(header(0x0100, 65535), question...),      // far more promised than there
		append(header(0x0100, 1), loop...),              //
		append(header(0x8180, 1), question...),          // a reply, not a query
		append(header(0x0100, 1, 1, 1, 1), question...), // records promised, none there
		append(append(header(0x0100, 2), question...), question...),
		append(header(0x7900, 1), question...), // opcode 15
		append(header(0x0100, 1), append(bytes.Repeat([]byte("\x3f"+string(bytes.Repeat([]byte{'a'}, 63))), 5), 0, 0, 1, 0, 1)...), // name over 255
		append(header(0x0100, 1), "\x7fshort"...), // a label longer than the packet
		append(append(header(0x0100, 1, 0, 0, 1), question...), "\x00\x00\x29\xff\xff\x00\x00\x00\x00\xff\xff"...), // OPT whose length lies
		bytes.Repeat([]byte{0xff}, 4096),
		bytes.Repeat([]byte{0}, 1232),
	}
}

// Garbage sends messages that are no queries to a nameserver ("udp" or "tcp", "address"), and counts
// replies. It fails only if nothing could be sent.
func (a *App) Garbage(t [2]string, out *Rubbish) error {
	server, err := serverOf(t[1])
	if err != nil {
		return err
	}
	for _, packet := range garbage() {
		if t[0] == "tcp" {
			packet = append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
		}
		replied, err := throw(t[0], server.String(), packet)
		if err != nil {
			return fmt.Errorf("send garbage to %s: %w", server, err)
		}
		out.Sent++
		if replied {
			out.Replies++
		}
	}
	if t[0] != "tcp" {
		return nil
	}
	// Frames that never end: half a length, and a length with less behind it.
	for _, packet := range [][]byte{{0x00}, {0xff, 0xff, 0x12}} {
		if _, err := throw("tcp", server.String(), packet); err != nil {
			return fmt.Errorf("send garbage to %s: %w", server, err)
		}
		out.Sent++
	}
	return nil
}

func throw(network, server string, packet []byte) (replied bool, err error) {
	conn, err := net.DialTimeout(network, server, time.Second)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := conn.Write(packet); err != nil {
		return false, err
	}
	n, err := conn.Read(make([]byte, 4096))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF) && n == 0 {
		return false, nil // reset or refused: an answer of sorts
	}
	return n > 0, nil
}

package script

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/nodens-dns/nodens/dnsd/handover"
)

// dnsd beside: another one, beside the one that runs, whose place it takes when that is ended.
// dnsd beside kill|term: its end.
func besideVerb(l *Line) (string, error) {
	switch l.word(1) {
	case "":
		return "", l.w.BesideDnsd()
	case "kill":
		return "", l.w.SignalBeside(syscall.SIGKILL)
	case "term":
		return "", l.w.SignalBeside(syscall.SIGTERM)
	}
	return "", usage("dnsd beside [kill|term]")
}

// dnsd knock: somebody is given all that dnsd has, and changes his mind. With protocol=N he speaks another
// protocol; what dnsd says to that is shown.
func knockVerb(l *Line) (string, error) {
	n, err := l.number("protocol", handover.Protocol)
	if err != nil {
		return "", err
	}
	if n != handover.Protocol {
		return stranger(l.w.Door(), n)
	}
	peer, err := handover.Knock(l.w.Door(), handover.Self{Version: "nobody"})
	if err != nil {
		return "", err
	}
	items, err := peer.Take(time.Minute)
	var kinds []string
	for _, item := range items {
		kinds = append(kinds, item.Kind)
		_ = item.File.Close()
	}
	return counted(kinds), errors.Join(err, peer.Close())
}

func stranger(door string, protocol int) (string, error) {
	conn, err := net.Dial("unixpacket", door)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, `{"kind":"hello","note":{"protocol":%d,"version":"stranger"}}`, protocol); err != nil {
		return "", err
	}
	var all strings.Builder
	text := make([]byte, 4096)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := conn.Read(text)
		if err != nil {
			return all.String(), nil // it hangs up
		}
		all.Write(append(text[:n], '\n'))
	}
}

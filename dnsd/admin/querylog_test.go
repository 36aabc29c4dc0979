package admin

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestQueries(t *testing.T) {
	o := options(t.TempDir())
	gone := make(chan struct{})
	o.Queries = func(ctx context.Context, pod string, every int, show func(*Query, bool) error) error {
		if pod == "default/nobody" {
			return errors.New("no such pod")
		}
		defer close(gone)
		err := show(nil, false)
		for i := 0; err == nil && i < 3; i++ {
			err = show(&Query{Pod: pod, Took: time.Duration(every)}, i == 0)
		}
		<-ctx.Done()
		return err
	}
	start(t, o)
	c := NewClient(o.Socket)
	enough := errors.New("enough")
	var got []Query
	err := c.Queries(t.Context(), "default/web", 7, func(q Query) error {
		if got = append(got, q); len(got) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || len(got) != 3 || got[2].Pod != "default/web" || got[2].Took != 7 {
		t.Errorf("%v, %+v", err, got)
	}
	<-gone // when its reader goes
	if err := c.Queries(t.Context(), "default/nobody", 1, nil); err == nil || err.Error() != "no such pod" {
		t.Errorf("%v", err)
	}
	if err := c.Queries(t.Context(), "", 0, nil); err == nil || !strings.Contains(err.Error(), "every") {
		t.Errorf("%v", err)
	}
}

// Who watches does not keep the daemon from ending.
func TestQueriesEndWithTheDaemon(t *testing.T) {
	o := options(t.TempDir())
	o.Queries = func(ctx context.Context, _ string, _ int, show func(*Query, bool) error) error {
		err := show(&Query{}, false)
		<-ctx.Done()
		return err
	}
	s, err := Listen(o)
	if err == nil {
		err = s.Open()
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	err = NewClient(o.Socket).Queries(t.Context(), "", 1, func(Query) error { stop(); return nil })
	if err == nil || !strings.Contains(err.Error(), "has stopped") {
		t.Errorf("%v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPrintQuery(t *testing.T) {
	q := Query{
		Time: noon.Add(1234567 * time.Microsecond), Took: 41234 * time.Nanosecond, Pod: "default/web",
		Client: "[fd44::5]:40123", Network: "udp", Nameserver: "10.96.0.10:53",
		Name: "api.example.com.", Type: "A", Rcode: "NOERROR", Source: "file", Object: "ServiceEntry a/b",
	}
	lost := Query{Time: noon, Pod: "default/web", Client: "10.244.0.5:1", Network: "tcp", Nameserver: "[fd96::10]:5353",
		Rcode: "none", Source: "malformed", Lost: 3}
	asked := q
	asked.Source, asked.Object, asked.Server = "upstream", "", "10.96.0.10:53"
	const want = `2026-03-01T12:00:01.234567Z default/web udp/40123 10.96.0.10 api.example.com. A NOERROR 41µs file (ServiceEntry a/b)
2026-03-01T12:00:01.234567Z default/web udp/40123 10.96.0.10 api.example.com. A NOERROR 41µs upstream 10.96.0.10:53
... 3 more came too fast to be shown
2026-03-01T12:00:00.000000Z default/web tcp/1 [fd96::10]:5353 - - none 0s malformed
`
	var buf bytes.Buffer
	for _, q := range []Query{q, asked, lost} {
		if err := PrintQuery(&buf, q); err != nil {
			t.Fatal(err)
		}
	}
	if buf.String() != want {
		t.Errorf("got\n%s", buf.String())
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/handover"
	"github.com/nodens-dns/nodens/dnsd/pods"
	"github.com/nodens-dns/nodens/dnsd/process"
	"github.com/nodens-dns/nodens/dnsd/tenure"
)

var _ tenure.Daemon = (*daemon)(nil)

// Settle waits until the pods that were there before are served, and puts the programs to work that were loaded
// for it.
func (d *daemon) Settle(ctx context.Context) error {
	select {
	case <-d.settled:
	case <-d.Done():
		return errors.New("ended before it took over")
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.datapath.Exchange()
}

// Begin answers whoever asks this node's dnsd.
func (d *daemon) Begin() {
	d.begun = true
	if err := d.admin.Open(); err != nil {
		d.log.Error("trying again", "error", err)
	}
	d.answering.Go(d.admin.Serve)
	process.Notify("READY=1")
	d.forget()
}

// Done is closed when something has ended that must not, or ctx of start.
func (d *daemon) Done() <-chan struct{} { return d.done }

// Unwell is why the plan is not wholly applied.
func (d *daemon) Unwell() string {
	if err := d.hub.state.Load().Err; err != nil {
		return err.Error()
	}
	return ""
}

// Pause ends what writes, with all that is to be remembered on disk.
func (d *daemon) Pause() error {
	var err error
	if d.bell, err = d.pods.Doorbell(); err != nil {
		d.log.Warn("the next dnsd has to make a bell of its own", "error", err)
	}
	return d.stopWriting()
}

func (d *daemon) stopWriting() error {
	err := d.learning.end()
	d.keep.Flush() // what the hub took while the keeper ended
	return err
}

// Open is everything this daemon has open.
func (d *daemon) Open() ([]handover.Item, error) {
	var items []handover.Item
	if d.bell != nil {
		bell, err := pods.Duplicate(d.bell)
		if err != nil {
			return nil, err
		}
		items = append(items, handover.Item{Kind: itemBell, File: bell})
	}
	health, err := d.admin.HealthFile()
	if err != nil {
		return items, err
	}
	if health != nil {
		note, err := json.Marshal(d.config.Listen)
		if err != nil {
			return items, errors.Join(err, health.Close())
		}
		items = append(items, handover.Item{Kind: itemHealth, Note: note, File: health})
	}
	sockets, err := d.pods.Sockets()
	for _, s := range sockets {
		item, noted := socketItem(s)
		items, err = append(items, item), errors.Join(err, noted)
	}
	return items, err
}

func socketItem(s pods.Socket) (handover.Item, error) {
	note, err := json.Marshal(s)
	return handover.Item{Kind: itemSocket, Note: note, File: s.File}, err
}

// Resume goes on with a connection whose pod is here.
func (d *daemon) Resume(item handover.Item) bool {
	s := pods.Socket{File: item.File}
	if json.Unmarshal(item.Note, &s) != nil {
		item.Close()
		return true
	}
	return d.pods.Resume(s)
}

// Leave passes on connections as soon as they are between two answers.
func (d *daemon) Leave(pass func(handover.Item)) {
	if err := d.answering.end(); err != nil {
		d.log.Warn("while handing over", "error", err)
	}
	d.pods.Retire(func(s pods.Socket) {
		item, err := socketItem(s)
		if err != nil {
			item.Close()
			return
		}
		pass(item)
	})
	d.letGo()
}

// Close ends everything: what writes, then what answers.
func (d *daemon) Close() error {
	d.closing.Do(func() {
		d.closed = errors.Join(d.stopWriting(), d.answering.end())
		d.pods.Close()
		if d.admin != nil {
			d.admin.Close()
		}
		d.letGo()
		if d.begun && d.closed == nil {
			d.log.Info("stopped; pods keep their connections, their queries go to their own nameservers")
		}
	})
	return d.closed
}

// openAdmin makes what answers health checks, metrics and the ask commands, on the socket of health checks that
// is given, if one is. With late, a port that is taken is opened when it is free.
func (d *daemon) openAdmin(health *os.File, late bool) (err error) {
	if health != nil {
		defer func() { _ = health.Close() }()
	}
	o := d.show.Options()
	o.Socket, o.Listen, o.Health, o.Version = d.config.AdminSocket(), d.config.Listen, health, version
	o.Late = late
	if d.admin, err = admin.Listen(o); err != nil {
		return err
	}
	if o.Listen != "" && d.admin.Addr() == nil {
		d.log.Warn("health and metrics: the port is the former dnsd's until it leaves; opening it then", "listen", o.Listen)
	}
	return nil
}

// told is the process's story in admin's words.
func told(s tenure.Story) admin.Tenure {
	other := func(o *tenure.Other) *admin.Other {
		if o == nil {
			return nil
		}
		return &admin.Other{Version: o.Version, PID: o.PID, At: o.At, Reason: o.Reason}
	}
	return admin.Tenure{PID: os.Getpid(), From: other(s.From), Failed: other(s.Failed), Refused: s.Refused}
}

package control_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/overlayd/control"
	"gridappliance/overlayd/control/controltest"
	"gridappliance/overlayd/nodeid"
)

// TestResources asks over the socket what the backend knows.
func TestResources(t *testing.T) {
	_, c, _ := serve(t, controltest.Status())
	n, ctx := &controltest.Node{}, t.Context()
	client := control.Target{Name: "pc"}
	service := control.RecordName{Kind: "service", Name: "collector"}
	key := control.Key{ID: nodeid.ID{7}}
	for name, ask := range map[string]func() (got, want any, err error){
		"find": func() (any, any, error) {
			got, err := c.Find(ctx, client)
			return got, controltest.Client, err
		},
		"peers": func() (any, any, error) {
			got, err := c.Peers(ctx)
			want, _ := n.Peers(ctx)
			return got, want, err
		},
		"why": func() (any, any, error) {
			got, err := c.Why(ctx, client)
			want, _ := n.Why(ctx, client)
			return got, want, err
		},
		"ping": func() (any, any, error) {
			got, err := c.Ping(ctx, client)
			want, _ := n.Ping(ctx, client)
			return got, want, err
		},
		"lookup": func() (any, any, error) {
			got, err := c.Lookup(ctx, key)
			want, _ := n.Lookup(ctx, key)
			return got, want, err
		},
		"lookup of a record": func() (any, any, error) {
			got, err := c.Lookup(ctx, control.Key{Record: service})
			want, _ := n.Lookup(ctx, control.Key{Record: service})
			return got, want, err
		},
		"get": func() (any, any, error) {
			got, err := c.Get(ctx, service)
			want, _ := n.Get(ctx, service)
			return got, want, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, want, err := ask()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, compareIP); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPutGetWithdraw(t *testing.T) {
	_, c, _ := serve(t, controltest.Status())
	ctx, name := t.Context(), control.RecordName{Kind: "service", Name: "web"}
	value := []byte{0, 0xff, '\n', '"'}
	if s, err := c.Put(ctx, name, value, time.Minute); err != nil || s.Copies != 5 {
		t.Fatalf("Put: %+v, %v", s, err)
	}
	records, err := c.Get(ctx, name)
	if err != nil || len(records) != 1 || !bytes.Equal(records[0].Value, value) {
		t.Fatalf("Get: %+v, %v", records, err)
	}
	if _, err := c.Withdraw(ctx, name); err != nil {
		t.Fatal(err)
	}
	if records, err := c.Get(ctx, name); err != nil || len(records) != 0 {
		t.Errorf("Get after Withdraw: %+v, %v", records, err)
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	_, c, _ := serve(t, controltest.Status())
	ctx := t.Context()
	web := control.RecordName{Kind: "service", Name: "web"}
	for name, c := range map[string]struct {
		err  error
		want error
		says string
	}{
		"nobody":           {second(c.Ping(ctx, control.Target{Name: "nobody"})), control.ErrUnknown, "ping nobody.ipop: nobody known holds it"},
		"silent":           {second(c.Ping(ctx, control.Target{Address: controltest.Silent.Address})), control.ErrNoAnswer, "ping 10.250.9.9: no answer"},
		"node's own":       {second(c.Put(ctx, control.RecordName{Kind: "name", Name: "pc"}, []byte("x"), 0)), control.ErrRefused, "put name/pc: refused: name records"},
		"nothing put":      {second(c.Withdraw(ctx, web)), control.ErrUnknown, "withdraw service/web"},
		"no descriptor":    {c.Publish(ctx, []byte("hello")), control.ErrRefused, "publish: refused"},
		"empty value":      {second(c.Put(ctx, web, nil, 0)), nil, "empty"},
		"long value":       {second(c.Put(ctx, web, make([]byte, 1025), 0)), nil, "longer than 1024 bytes"},
		"short lifetime":   {second(c.Put(ctx, web, []byte("x"), time.Second)), nil, "want 10 to 3600"},
		"published folder": {c.Publish(ctx, make([]byte, 256<<10+1)), nil, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.err == nil || !strings.Contains(c.err.Error(), c.says) || c.want != nil && !errors.Is(c.err, c.want) {
				t.Errorf("%v; want %q and errors.Is %v", c.err, c.says, c.want)
			}
			for _, other := range []error{control.ErrUnknown, control.ErrNoAnswer, control.ErrRefused, control.ErrBusy} {
				if other != c.want && errors.Is(c.err, other) {
					t.Errorf("%v is also %v", c.err, other)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestRequestsWithoutMeaning(t *testing.T) {
	_, _, path := serve(t, controltest.Status())
	h := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}, DisableKeepAlives: true}}
	for _, request := range []string{
		"GET /", "GET /v2/status", "POST /v1/status", "GET /v1/whois", "GET /v1/whois?addr=pc", "GET /v1/whois?name=10.250.0.2",
		"GET /v1/why?addr=10.250.0.2&name=pc", "GET /v1/whois?addr=fe80::1%25eth0", "GET /v1/ping?name=-a", "GET /v1/lookup",
		"GET /v1/lookup?key=x", "GET /v1/lookup?record=service", "GET /v1/records", "GET /v1/records?record=thing/x",
		"GET /v1/records?record=masters/x", "DELETE /v1/records?record=service/", "PUT /v1/records?record=service/x&lifetime_s=1e9",
	} {
		method, resource, _ := strings.Cut(request, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, "http://overlayd"+resource, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest || len(bytes.TrimSpace(text)) == 0 {
			t.Errorf("%s: %s %q, want 400 and a reason", request, resp.Status, text)
		}
	}
}

func TestPublish(t *testing.T) {
	n := &controltest.Node{}
	c := serveNode(t, n)
	text := []byte("-----BEGIN GRID DESCRIPTOR-----\n")
	err := c.Publish(t.Context(), text)
	if os.Getuid() == 0 {
		if err != nil || !bytes.Equal(n.Published(), text) {
			t.Errorf("as root: %v, published %q", err, n.Published())
		}
		return
	}
	if !errors.Is(err, fs.ErrPermission) || n.Published() != nil {
		t.Errorf("as uid %d: %v, published %q", os.Getuid(), err, n.Published())
	}
}

func TestCrawl(t *testing.T) {
	_, c, _ := serve(t, controltest.Status())
	var ids []string
	for member, err := range c.Crawl(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, member.NodeID)
	}
	if diff := cmp.Diff([]string{controltest.Self.NodeID, controltest.Worker.NodeID, controltest.Client.NodeID}, ids); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

// brokenCrawl fails after the first member, or before.
type brokenCrawl struct {
	controltest.Node
	after int
}

func (b *brokenCrawl) Crawl(_ context.Context, visit func(control.Crawled) error) error {
	for range b.after {
		if err := visit(control.Crawled{NodeID: "x"}); err != nil {
			return err
		}
	}
	return control.ErrNoAnswer
}

func TestCrawlThatBreaksOff(t *testing.T) {
	for after, want := range map[int]error{0: control.ErrNoAnswer, 2: io.ErrUnexpectedEOF} {
		var members int
		var last error
		for _, err := range serveNode(t, &brokenCrawl{after: after}).Crawl(t.Context()) {
			if last = err; err == nil {
				members++
			}
		}
		if members != after || !errors.Is(last, want) {
			t.Errorf("%d members, then %v; want %d and %v", members, last, after, want)
		}
	}
}

func TestMillis(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", 12*time.Millisecond + 345678*time.Nanosecond: "12.346", time.Second: "1000", 1499 * time.Nanosecond: "0.001",
	} {
		text, err := control.Millis(d).MarshalJSON()
		if err != nil || string(text) != want {
			t.Errorf("%v: %s, %v; want %s", d, text, err, want)
		}
		var back control.Millis
		if err := back.UnmarshalJSON(text); err != nil || time.Duration(back) != d.Round(time.Microsecond) {
			t.Errorf("%s reads as %v, %v", text, time.Duration(back), err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]string{
		"10.250.0.2": "10.250.0.2", "::ffff:10.250.0.2": "10.250.0.2", "fd00::1": "fd00::1",
		"C250000002": "c250000002.ipop", "C250000002.IPOP.": "c250000002.ipop", "PC": "pc.ipop",
		strings.Repeat("0A", 16): strings.Repeat("0a", 16),
		"":                       "", ".ipop": "", "a b": "", "a.b": "", "-a": "", "fe80::1%eth0": "", strings.Repeat("a", 64): "", "ä": "",
	} {
		got, err := control.ParseTarget(text)
		switch {
		case want == "" && err == nil:
			t.Errorf("ParseTarget(%q) = %v, want an error", text, got)
		case want != "" && (err != nil || got.String() != want):
			t.Errorf("ParseTarget(%q) = %v, %v, want %s", text, got, err, want)
		}
	}
}

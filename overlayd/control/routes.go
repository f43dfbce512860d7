package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"
)

const (
	maxRecord    = 1024      // bytes of a record's value (package dht)
	maxPublished = 256 << 10 // bytes of a descriptor or revocation list

	minLifetime = 10 * time.Second // of a record (package dht)
	maxLifetime = time.Hour
)

// Errors that a request may end with. Clients get them wrapped, with the
// server's line as text.
var (
	ErrUnknown  = errors.New("nobody known holds it")
	ErrNoAnswer = errors.New("no answer")
	ErrBusy     = errors.New("not possible now") // too many requests at once, or not on the ring
	ErrRefused  = errors.New("refused")
	ErrBarred   = errors.New("its certificate is refused: revoked, or at its end")

	errNotRoot = fmt.Errorf("%w: this needs root", fs.ErrPermission)
	errRequest = errors.New("bad request")
)

// statuses says how each error travels.
var statuses = []struct {
	err    error
	status int
}{
	{errRequest, http.StatusBadRequest},
	{fs.ErrPermission, http.StatusForbidden},
	{ErrUnknown, http.StatusNotFound},
	{ErrBarred, http.StatusGone},
	{ErrRefused, http.StatusUnprocessableEntity},
	{ErrBusy, http.StatusServiceUnavailable},
	{ErrNoAnswer, http.StatusGatewayTimeout},
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	b := s.backend
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		status, _ := s.Status()
		answer(w, status)
	})
	mux.HandleFunc("GET /v1/watch", s.serveWatch)
	mux.HandleFunc("GET /v1/whois", aboutNode("whois", b.Whois))
	mux.HandleFunc("GET /v1/why", aboutNode("why", b.Why))
	mux.HandleFunc("GET /v1/ping", aboutNode("ping", b.Ping))
	mux.HandleFunc("GET /v1/peers", func(w http.ResponseWriter, r *http.Request) {
		peers, err := b.Peers(r.Context())
		reply(w, "peers", orEmpty(peers), err)
	})
	mux.HandleFunc("GET /v1/lookup", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		text := q.Get("key") + q.Get("record")
		key, err := ParseKey(text)
		if err != nil || len(q) != 1 {
			refuse(w, "lookup", fmt.Errorf("%w: want one of key and record: %v", errRequest, err))
			return
		}
		found, err := b.Lookup(r.Context(), key)
		reply(w, "lookup "+text, found, err)
	})
	mux.HandleFunc("GET /v1/records", aboutRecord("get", func(r *http.Request, name RecordName) (any, error) {
		records, err := b.Get(r.Context(), name)
		return orEmpty(records), err
	}))
	mux.HandleFunc("DELETE /v1/records", aboutRecord("withdraw", func(r *http.Request, name RecordName) (any, error) {
		return b.Withdraw(r.Context(), name)
	}))
	mux.HandleFunc("PUT /v1/records", aboutRecord("put", s.put))
	mux.HandleFunc("POST /v1/publish", s.servePublish)
	mux.HandleFunc("GET /v1/crawl", s.serveCrawl)
	mux.HandleFunc("GET /metrics", s.serveMetrics)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r.Method+" "+r.URL.Path, fmt.Errorf("%w: no such resource", errRequest))
	})
	return mux
}

// aboutNode serves a question about one node.
func aboutNode[T any](verb string, ask func(context.Context, Target) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, err := targetOf(r.URL.Query())
		if err != nil {
			refuse(w, verb, fmt.Errorf("%w: %w", errRequest, err))
			return
		}
		v, err := ask(r.Context(), who)
		reply(w, verb+" "+who.String(), v, err)
	}
}

// aboutRecord serves what is done with the records of one name.
func aboutRecord(verb string, do func(*http.Request, RecordName) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, err := ParseRecordName(r.URL.Query().Get("record"))
		if err != nil {
			refuse(w, verb, fmt.Errorf("%w: %w", errRequest, err))
			return
		}
		v, err := do(r, name)
		reply(w, verb+" "+name.String(), v, err)
	}
}

func (s *Server) put(r *http.Request, name RecordName) (any, error) {
	var lifetime time.Duration
	if text := r.URL.Query().Get("lifetime_s"); text != "" {
		n, err := strconv.Atoi(text)
		lifetime = time.Duration(n) * time.Second
		if err != nil || lifetime < minLifetime || lifetime > maxLifetime {
			return nil, fmt.Errorf("%w: lifetime_s %q: want %.0f to %.0f", errRequest, text, minLifetime.Seconds(), maxLifetime.Seconds())
		}
	}
	value, err := readAll(r, maxRecord)
	if err != nil {
		return nil, err
	}
	if len(value) == 0 { // which takes a record back
		return nil, fmt.Errorf("%w: the value is empty", errRequest)
	}
	return s.backend.Put(r.Context(), name, value, lifetime)
}

func (s *Server) servePublish(w http.ResponseWriter, r *http.Request) {
	if !callerIsRoot(r.Context()) {
		refuse(w, "publish", errNotRoot)
		return
	}
	text, err := readAll(r, maxPublished)
	if err == nil {
		err = s.backend.Publish(r.Context(), text)
	}
	reply(w, "publish", struct{}{}, err)
}

func (s *Server) serveCrawl(w http.ResponseWriter, r *http.Request) {
	begun := false
	err := s.backend.Crawl(r.Context(), func(c Crawled) error {
		begun = true
		return errors.Join(answer(w, c), http.NewResponseController(w).Flush())
	})
	switch {
	case err != nil && begun: // the client sees that the stream breaks off
		panic(http.ErrAbortHandler)
	case err != nil:
		refuse(w, "crawl", err)
	}
}

func (s *Server) serveWatch(w http.ResponseWriter, r *http.Request) {
	for {
		status, changed := s.Status()
		if answer(w, status) != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// readAll reads a request's body, which is at most limit bytes.
func readAll(r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("longer than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRequest, err)
	}
	return body, nil
}

// reply writes v, or what err is.
func reply(w http.ResponseWriter, what string, v any, err error) {
	if err != nil {
		refuse(w, what, err)
		return
	}
	answer(w, v)
}

// refuse writes err as a line of text with the status that stands for it.
func refuse(w http.ResponseWriter, what string, err error) {
	status := http.StatusInternalServerError
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			status = s.status
			break
		}
	}
	http.Error(w, what+": "+err.Error(), status)
}

// answer writes v as one line of JSON.
func answer(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}

// orEmpty makes JSON say [] and not null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

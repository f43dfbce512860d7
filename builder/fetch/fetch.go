// Package fetch brings one file from a server or a folder and checks it: bases
// and modules come this way.
//
// go-getter does the work, with two getters only: http (and https) and plain
// files. Nothing is unpacked, no symbolic link is followed or made, no header
// of the server leads to another kind of source, a redirect stays with its
// scheme, and a file has at most the bytes that its caller allows. The SHA-256
// is required, so whoever serves the file need not be trusted.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	getter "github.com/hashicorp/go-getter/v2"
)

// patience is how long one file may take.
const patience = 30 * time.Minute

// File brings from, a URL or a path, to the file to, which has at most limit
// bytes and this SHA-256 (hex). What is read is also written to progress.
func File(ctx context.Context, from, sha256, to string, limit int64, progress io.Writer) error {
	client := &getter.Client{
		Getters: []getter.Getter{
			&getter.HttpGetter{Client: &http.Client{Timeout: patience, CheckRedirect: sameScheme},
				MaxBytes: limit + 1, XTerraformGetDisabled: true, DoNotCheckHeadFirst: true},
			&getter.FileGetter{},
		},
		Decompressors:   map[string]getter.Decompressor{},
		DisableSymlinks: true,
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	_, err = client.Get(ctx, &getter.Request{
		Src: from + "?checksum=sha256:" + sha256 + "&archive=false", Dst: to, Pwd: wd, GetMode: getter.ModeFile, Copy: true,
		ProgressListener: tracker{progress},
	})
	if err != nil {
		return fmt.Errorf("fetch %s: %w", from, err)
	}
	return nil
}

func sameScheme(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	if r.URL.Scheme != via[0].URL.Scheme {
		return fmt.Errorf("redirected from %s to %s", via[0].URL.Scheme, r.URL.Scheme)
	}
	return nil
}

// tracker passes on what go-getter reads.
type tracker struct{ w io.Writer }

func (t tracker) TrackProgress(_ string, _, _ int64, stream io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.TeeReader(stream, t.w), stream}
}

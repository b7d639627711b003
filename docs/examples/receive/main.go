// Command receive receives dispatchd's webhooks; nothing but Go's library.
//
//	WEBHOOK_SECRET=whsec_... PORT=8000 go run .
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// tolerance is how far the timestamp may be away from our clock.
const tolerance = 5 * time.Minute

// verify reports whether the body was signed with our key, not long ago.
func verify(key []byte, h http.Header, body []byte, now time.Time) bool {
	id, stamp := h.Get("webhook-id"), h.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > tolerance {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", id, stamp)
	mac.Write(body) // the bytes as they came, not parsed and written anew
	want := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	// There are two signatures while the secret is being changed: one must fit.
	for one := range strings.FieldsSeq(h.Get("webhook-signature")) {
		if hmac.Equal(want, []byte(one)) {
			return true
		}
	}
	return false
}

func run() error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("WEBHOOK_SECRET"), "whsec_"))
	if err != nil {
		return err
	}
	var seen sync.Map // in real life: a table with a unique key
	server := http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), ReadTimeout: 10 * time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
			if err != nil || r.Method != http.MethodPost || !verify(key, r.Header, body, time.Now()) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			var event struct {
				Type, ORCID string
			}
			if _, again := seen.LoadOrStore(r.Header.Get("webhook-id"), true); !again && json.Unmarshal(body, &event) == nil {
				// Only put it into a queue here: answer first, work afterwards.
				fmt.Println(event.Type, event.ORCID)
			}
			w.WriteHeader(http.StatusNoContent)
		})}
	return server.ListenAndServe()
}

func main() {
	if err := run(); err != nil {
		panic(err)
	}
}

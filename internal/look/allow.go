package look

import "net/http"

// Allow lists the methods that a path of the mux takes, for a request that no
// pattern takes; empty when there is no such path at all. It lets a face say
// either in its own words: the mux would say it in its own.
func Allow(mux *http.ServeMux, r *http.Request) string {
	said := overheard{}
	mux.ServeHTTP(said, r)
	return http.Header(said).Get("Allow")
}

// overheard is a ResponseWriter that keeps the header only.
type overheard http.Header

func (o overheard) Header() http.Header { return http.Header(o) }

func (overheard) WriteHeader(int) {}

func (overheard) Write(b []byte) (int, error) { return len(b), nil }

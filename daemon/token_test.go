package main

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"dispatchd/internal/orcidtest"
)

// TestARefusedTokenIsOneLineThatSaysWhatToDo, for each error that ORCID's token
// endpoint has for a client: no storm of requests, nobody else waits, and it ends
// at a reload when ORCID serves the client again.
func TestARefusedTokenIsOneLineThatSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer orcidtest.Refusal
		words  []string // of the line
	}{
		"invalid_client": {
			orcidtest.Refusal{Status: http.StatusUnauthorized, Error: "invalid_client", Text: "Client authentication failed"},
			[]string{clientMain, "invalid_client", "check client_id and client_secret"},
		},
		"invalid_scope": {
			orcidtest.Refusal{Status: http.StatusBadRequest, Error: "invalid_scope", Text: "Invalid scope: /webhook"},
			[]string{clientMain + " lacks /webhook", "premium member API credential"},
		},
		"unauthorized_client": {
			orcidtest.Refusal{Status: http.StatusBadRequest, Error: "unauthorized_client", Text: "The client is deactivated"},
			[]string{clientMain, "unauthorized_client", "ORCID deactivated this client"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, fake := independent(t, 60)
			fake.RefuseTokens(map[string]orcidtest.Refusal{clientMain: c.answer})
			w.organisation("uni-a", nil)
			w.organisation("uni-b", object{"credential": "other"})
			w.affiliate("uni-a", w.users[:40]...)
			w.eventually("status names the credential", func() bool { return w.problem("credential main: ") })
			w.affiliate("uni-b", w.users[40:]...)
			w.eventually("the other credential's users are registered", func() bool { return len(rowsOf(fake.State(), clientOther)) == 20 })
			w.idle()

			lines := 0
			for _, p := range w.status().Problems {
				if !strings.Contains(p.What, "credential main") {
					continue
				}
				lines++
				for _, word := range c.words {
					if !strings.Contains(p.What, word) {
						t.Errorf("the line does not say %q: %s", word, p.What)
					}
				}
			}
			if lines != 1 {
				t.Errorf("%d lines for one refused credential: %+v", lines, w.status().Problems)
			}
			if n := strings.Count(w.log.String(), "ORCID refuses a credential"); n != 1 {
				t.Errorf("%d lines in the log", n)
			}
			// One for /webhook is refused, and one for /read-public when catch-up is
			// due; a request that was on its way with the first may add one.
			refused := "token " + strconv.Itoa(c.answer.Status)
			if n := fake.State().Counts[refused]; n < 1 || n > 3 {
				t.Errorf("%d requests for a token were refused, 40 users wait", n)
			}
			if st := fake.State(); len(rowsOf(st, clientMain)) != 0 || st.Counts["put 201"] != 20 {
				t.Errorf("ORCID was asked %v", st.Counts)
			}
			for _, secret := range []string{secretMain, secretOther} {
				if strings.Contains(w.log.String(), secret) {
					t.Error("a client's secret is in the log")
				}
			}

			fake.RefuseTokens(map[string]orcidtest.Refusal{})
			w.must(ignoreChanges(w.d.app.reload(t.Context())))
			w.eventually("everybody is registered", func() bool { return len(fake.State().Rows) == 60 })
			w.settled(60)
			w.eventually("the problem is gone", func() bool { return !w.problem("credential main: ") })
			if st := fake.State(); st.Counts["put 201"] != 60 || st.Repeated != 0 {
				t.Errorf("PUTs were answered %v, %d repeated", st.Counts, st.Repeated)
			}
		})
	}
}

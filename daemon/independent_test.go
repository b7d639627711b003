package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/orcidtest"
	"dispatchd/internal/secret"
)

// independent is a world whose ORCID was written apart from ours.
func independent(t *testing.T, users int) (*world, *orcidtest.Server) {
	t.Helper()
	fake := orcidtest.Start(t, map[string]string{clientMain: secretMain, clientOther: secretOther})
	w := newWorld(t, setting{users: users, later: true})
	w.orcidURL = fake.URL
	w.writeConfig("")
	w.start()
	return w, fake
}

// rowsOf counts the rows of one client, by iD.
func rowsOf(st orcidtest.State, client string) map[string]int {
	out := map[string]int{}
	for _, row := range st.Rows {
		if row.Client == client {
			out[row.ORCID]++
		}
	}
	return out
}

// TestAnIndependentORCIDFindsNothingWrong: enabling, an organisation that moves, a
// new callback key, leaving and removing lead to exactly the requests that they
// need, each by the client that owns the row, and within the rate.
func TestAnIndependentORCIDFindsNothingWrong(t *testing.T) {
	t.Parallel()
	w, fake := independent(t, 60)
	onlyA, both, onlyB := w.users[:30], w.users[30:40], w.users[40:]
	usersA, usersB := w.users[:40], w.users[30:]
	holds := func(what, client string, users ...orcid.ID) {
		t.Helper()
		w.eventually(what, func() bool {
			rows := rowsOf(fake.State(), client)
			for _, id := range users {
				if rows[id.String()] != 1 {
					return false
				}
			}
			return len(rows) == len(users)
		})
	}
	counted := func(what string, want map[string]int) {
		t.Helper()
		st := fake.State()
		for answer, n := range want {
			if st.Counts[answer] != n {
				t.Errorf("%s: %d requests were answered %s, want %d; all: %v", what, st.Counts[answer], answer, n, st.Counts)
			}
		}
		for answer, n := range st.Counts {
			if _, listed := want[answer]; !listed && answer != "token 200" && answer != "get 200" {
				t.Errorf("%s: %d requests were answered %s", what, n, answer)
			}
		}
		if st.Repeated > 0 || len(st.Foreign) > 0 {
			t.Errorf("%s: %d PUTs were repeated, DELETEs of others' rows: %v", what, st.Repeated, st.Foreign)
		}
	}

	w.organisation("uni-a", nil)
	w.organisation("uni-b", nil)
	w.affiliate("uni-a", usersA...)
	w.affiliate("uni-b", usersB...)
	holds("everybody is registered once", clientMain, w.users...)
	w.settled(60)
	counted("enabled", map[string]int{"put 201": 60})

	w.ask("POST", "/v1/registrations/sync", nil, nil)
	w.stop()
	w.start()
	w.skip(time.Hour)
	w.settled(60)
	counted("compared, and started again", map[string]int{"put 201": 60})

	w.ask("POST", "/v1/organisations/uni-b/move", object{"credential": "other"}, nil)
	holds("the other client has uni-b's", clientOther, usersB...)
	w.settled(90)
	counted("moved, the old rows still serve", map[string]int{"put 201": 90})
	w.skip(11 * time.Minute)
	holds("only uni-a's are left of the old client", clientMain, usersA...)
	w.settled(70)
	counted("moved", map[string]int{"put 201": 90, "delete 204": len(onlyB)})

	path := filepath.Join(w.dir, "callback.key")
	old, err := os.ReadFile(path)
	w.must(err)
	w.must(os.WriteFile(path, append([]byte(secret.NewKey(32).Reveal()+"\n"), bytes.TrimSpace(old)...), 0o600))
	w.must(ignoreChanges(w.d.app.reload(t.Context())))
	w.eventually("everybody is registered with the new key", func() bool { return fake.State().Counts["put 201"] == 90+70 })
	w.settled(140)
	counted("a new key, the old rows still serve", map[string]int{"put 201": 160, "delete 204": len(onlyB)})
	w.skip(11 * time.Minute)
	w.settled(70)
	holds("one row each, the new one", clientMain, usersA...)
	holds("one row each, the new one", clientOther, usersB...)
	counted("a new key", map[string]int{"put 201": 160, "delete 204": len(onlyB) + 70})
	for _, row := range fake.State().Rows {
		if !bytes.Contains([]byte(row.URI), []byte("/2/")) {
			t.Errorf("a row of an old epoch is left: %s", row.ORCID)
		}
	}

	w.ask("DELETE", "/v1/organisations/uni-a/users/"+onlyA[0].String(), nil, nil)
	w.ask("DELETE", "/v1/organisations/uni-a/users/"+both[0].String(), nil, nil)
	w.ask("DELETE", "/v1/organisations/uni-b", nil, nil)
	holds("who left is gone", clientMain, append(append([]orcid.ID{}, onlyA[1:]...), both[1:]...)...)
	holds("nobody is left", clientOther)
	w.settled(38)
	counted("left and removed", map[string]int{"put 201": 160, "delete 204": len(onlyB) + 70 + 2 + len(usersB)})

	w.ask("POST", "/v1/organisations/uni-a/disable", object{}, nil)
	holds("nobody is left", clientMain)
	w.settled(0)
	if n := fake.State().Peak; n > 48 {
		t.Errorf("%d requests came within a second, at most 48 may", n)
	}
}

// TestARefusedClientIsOneProblem: ORCID deactivates a client; that is one line for
// a person, costs a request now and then, and ends by itself when ORCID takes the
// client again.
func TestARefusedClientIsOneProblem(t *testing.T) {
	t.Parallel()
	w, fake := independent(t, 60)
	w.organisation("uni-a", nil)
	w.affiliate("uni-a", w.users[:30]...)
	w.eventually("thirty are registered", func() bool { return len(fake.State().Rows) == 30 })
	w.settled(30)
	fake.Deactivate(clientMain)
	w.affiliate("uni-a", w.users[30:]...)
	w.eventually("status names the credential", func() bool { return w.problem("credential main: ") })
	w.idle()
	lines := 0
	for _, p := range w.status().Problems {
		if bytes.Contains([]byte(p.What), []byte("credential main")) {
			lines++
		}
	}
	if lines != 1 {
		t.Errorf("%d lines for one refused credential: %v", lines, w.status().Problems)
	}
	if n := fake.State().Counts["put 409"]; n == 0 || n > 8 {
		t.Errorf("%d requests were refused; a few show it", n)
	}
	if n := w.metric("dispatchd_credentials", "refused"); n != 1 {
		t.Errorf("dispatchd_credentials{state=\"refused\"} is %v", n)
	}
	if st := fake.State(); len(st.Rows) != 30 {
		t.Errorf("%d rows, want 30: %v", len(st.Rows), st.Counts)
	}
	fake.Deactivate() // none
	w.must(ignoreChanges(w.d.app.reload(t.Context())))
	w.eventually("everybody is registered", func() bool { return len(fake.State().Rows) == 60 })
	w.settled(60)
	w.eventually("the problem is gone", func() bool { return !w.problem("credential main: ") })
	if st := fake.State(); st.Counts["put 201"] != 60 || st.Counts["put 204"] != 0 {
		t.Errorf("PUTs were answered %v", st.Counts)
	}
}

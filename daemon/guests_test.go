package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"dispatchd/internal/orcid"
	"dispatchd/internal/orcidtest"
	"dispatchd/internal/service"
)

// callback registers a URL of an organisation's own for a user, as the Hub API does.
func (w *world) callback(org string, id orcid.ID, url string) {
	w.t.Helper()
	_, err := w.d.app.service.PutCallback(w.t.Context(), service.By{Who: "test"}, org, id, url)
	w.must(err)
}

// own says which client has the rows of callback URLs that are not ours.
func (w *world) own(fake *orcidtest.Server) map[string]string {
	w.t.Helper()
	out := map[string]string{}
	for _, row := range fake.State().Rows {
		if !strings.HasPrefix(row.URI, "http://"+w.addr[0]) {
			out[row.ORCID+" "+row.URI] = row.Client
		}
	}
	return out
}

// traces lists the keys of Redis that name a user.
func (w *world) traces(id orcid.ID) []string {
	w.t.Helper()
	return w.holding(id.String(), strconv.FormatUint(id.Base(), 10))
}

// holding lists the keys of Redis that have any of these texts.
func (w *world) holding(texts ...string) (found []string) {
	w.t.Helper()
	ctx := w.t.Context()
	keys := w.rdb.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		held := key
		switch w.rdb.Type(ctx, key).Val() {
		case "hash":
			held += fmt.Sprint(w.rdb.HGetAll(ctx, key).Val())
		case "zset":
			held += fmt.Sprint(w.rdb.ZRange(ctx, key, 0, -1).Val())
		case "list":
			held += fmt.Sprint(w.rdb.LRange(ctx, key, 0, -1).Val())
		case "stream":
			held += fmt.Sprint(w.rdb.XRange(ctx, key, "-", "+").Val())
		case "set":
			held += fmt.Sprint(w.rdb.SMembers(ctx, key).Val())
		default:
			held += w.rdb.Get(ctx, key).Val()
		}
		for _, text := range texts {
			if strings.Contains(held, text) {
				found = append(found, key+" has "+text)
			}
		}
	}
	w.must(keys.Err())
	return found
}

// TestOwnCallbacksEndWithTheirUserAndTheirOrganisation: an erasure and the removal
// of an organisation unregister the callbacks of organisations' own, each by the
// client that has the row, leave those of others, and nothing of them in Redis.
func TestOwnCallbacksEndWithTheirUserAndTheirOrganisation(t *testing.T) {
	t.Parallel()
	w, fake := independent(t, 6)
	w.organisation("uni-a", nil)
	w.organisation("uni-b", object{"credential": "other"})
	w.affiliate("uni-a", w.users...)
	w.affiliate("uni-b", w.users...)
	w.eventually("everybody is registered", func() bool { return len(fake.State().Rows) == 12 })
	for _, id := range w.users {
		w.callback("uni-a", id, "https://a.example/ping/1")
		w.callback("uni-a", id, "https://a.example/ping/2")
		w.callback("uni-b", id, "https://b.example/ping")
	}
	if rows := w.own(fake); len(rows) != 18 {
		t.Fatalf("%d callbacks at ORCID, want 18: %v", len(rows), rows)
	}
	gone := w.users[0]
	w.ask("DELETE", "/v1/users/"+gone.String(), nil, nil)
	equally(w, "rows of the erased user at ORCID", 0, func() (n int) {
		for _, row := range fake.State().Rows {
			if row.ORCID == gone.String() {
				n++
			}
		}
		return n
	})
	w.idle()
	w.eventually("nothing names the erased user", func() bool { w.skip(time.Minute); return len(w.traces(gone)) == 0 })
	rows := w.own(fake)
	for _, id := range w.users[1:] {
		for url, client := range map[string]string{"https://a.example/ping/1": clientMain, "https://a.example/ping/2": clientMain, "https://b.example/ping": clientOther} {
			if rows[id.String()+" "+url] != client {
				t.Errorf("%s of %s belongs to %q, want %s", url, id, rows[id.String()+" "+url], client)
			}
		}
	}

	w.ask("DELETE", "/v1/organisations/uni-a", nil, nil)
	equally(w, "rows at ORCID, all of uni-b", 10, func() int { return len(fake.State().Rows) })
	for row, client := range w.own(fake) {
		if client != clientOther || !strings.Contains(row, "b.example") {
			t.Errorf("%s is left of %s", row, client)
		}
	}
	w.eventually("nothing is left of uni-a's callbacks", func() bool { w.skip(time.Minute); return len(w.holding("a.example/ping")) == 0 })
	st := fake.State()
	if len(st.Foreign) > 0 || st.Repeated > 0 || st.Counts["delete 204"] != (2+3)+5*(1+2) || st.Counts["delete 403"]+st.Counts["delete 404"] > 0 {
		t.Errorf("ORCID answered %v; DELETEs of others' rows %v, repeated %d", st.Counts, st.Foreign, st.Repeated)
	}
	if n := w.metric("dispatchd_registrations", "callback"); n != 5 {
		t.Errorf("%v callbacks are counted, want uni-b's 5", n)
	}
}

// TestOwnCallbacksWaitForACredentialThatIsGone: status and `user show` say so, in one
// line of the log; they go on when the credential is back, and end when the
// organisation is removed.
func TestOwnCallbacksWaitForACredentialThatIsGone(t *testing.T) {
	t.Parallel()
	w, fake := independent(t, 6)
	w.organisation("uni-b", object{"credential": "other"})
	w.affiliate("uni-b", w.users...)
	w.eventually("everybody is registered", func() bool { return len(fake.State().Rows) == 6 })
	for _, id := range w.users {
		w.callback("uni-b", id, "https://b.example/ping")
	}
	raw, err := os.ReadFile(w.configPath())
	w.must(err)
	section := fmt.Sprintf("[orcid.credential.other]\nclient_id = %q\nclient_secret = %q\n", clientOther, secretOther)
	w.edited(section, "")
	_, err = w.d.app.service.DeleteCallback(t.Context(), service.By{Who: "test"}, "uni-b", w.users[0], "https://b.example/ping")
	w.must(err)
	w.ask("DELETE", "/v1/organisations/uni-b/users/"+w.users[1].String(), nil, nil)
	const words = "credential other is not configured, and callbacks of organisations wait for it (2)"
	w.eventually("status names the credential", func() bool { return w.problem(words) })
	// Each look is one hour after the last; ours is one more that finds nothing new.
	for range 6 {
		w.skip(time.Hour)
		_, err := w.d.app.guests.Settle(t.Context(), w.users[0], "https://b.example/ping")
		w.must(err)
	}
	if n := strings.Count(w.log.String(), "wait for a credential that is not configured"); n != 1 {
		t.Errorf("%d lines in the log in six hours", n)
	}
	var story service.Story
	w.ask("GET", "/v1/users/"+w.users[0].String(), nil, &story)
	if len(story.Callbacks) != 1 || !strings.Contains(story.Callbacks[0].Waits, "credential other") {
		t.Errorf("the callback is shown as %+v", story.Callbacks)
	}
	if n := fake.State().Counts["delete 204"]; n != 0 {
		t.Errorf("%d DELETEs without their credential", n)
	}
	w.stop()
	w.start()
	w.eventually("status names the credential after a restart", func() bool { return w.problem(words) })

	w.must(os.WriteFile(w.configPath(), raw, 0o600))
	w.must(ignoreChanges(w.d.app.reload(t.Context())))
	w.eventually("both are removed at ORCID", func() bool { return len(w.own(fake)) == 4 })
	w.eventually("the problem is gone", func() bool { return !w.problem("callbacks of organisations wait") })

	w.edited(section, "")
	w.ask("DELETE", "/v1/organisations/uni-b", nil, nil)
	w.eventually("nothing is left of them here", func() bool { w.skip(time.Minute); return len(w.holding("b.example/ping")) == 0 })
	if n := strings.Count(w.log.String(), "stay at ORCID"); n != 1 {
		t.Errorf("%d lines say that rows stay at ORCID", n)
	}
	if w.problem("callbacks of organisations wait") {
		t.Error("status still names the credential")
	}
	if n := len(w.own(fake)); n != 4 {
		t.Errorf("%d rows at ORCID", n)
	}
}

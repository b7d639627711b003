package cli

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

func TestJobsAndCredentialsOneByOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if r := b.run("", "org", "add", "uni-a-"+strings.Repeat("with-a-long-name-", 3)+"x", "--name", "A", "--disabled"); r.code != 0 {
		t.Fatal(r)
	}
	org := "uni-a-" + strings.Repeat("with-a-long-name-", 3) + "x"
	job, err := b.svc.Replay(context.Background(), service.By{Who: "test"}, org, store.Selection{})
	b.must(err)
	fits := func(r result) {
		t.Helper()
		for line := range strings.Lines(r.out + r.err) {
			if n := textWidth(strings.TrimRight(line, "\n")); n > width {
				t.Errorf("%d columns: %s", n, line)
			}
		}
	}
	r := b.run("", "job", "show", job.ID)
	fits(r)
	if r.code != 0 || !strings.Contains(r.out, job.ID) || !strings.Contains(r.out, "running") {
		t.Errorf("%+v", r)
	}
	var j store.Job
	if r := b.run("", "job", "cancel", job.ID, "--json"); r.code != 0 || json.Unmarshal([]byte(r.out), &j) != nil || j.State != store.JobCancelled {
		t.Errorf("%+v", r)
	}
	r = b.run("", "job", "cancel", job.ID)
	fits(r)
	if r.code != 1 || !strings.Contains(r.err, "is over: cancelled") {
		t.Errorf("%+v", r)
	}
	fits(b.run("", "job", "list"))
	if r := b.run("", "job", "show", "nothing"); r.code != 1 || !strings.Contains(r.err, "There is no job") {
		t.Errorf("%+v", r)
	}
	b.refused = errors.New("ORCID token: 401 invalid_client: " + strings.Repeat("the client is not known ", 8))
	r = b.run("", "credential", "test", "main")
	fits(r)
	if r.code != 1 || !strings.Contains(r.out, "no token") {
		t.Errorf("%+v", r)
	}
	if r := b.run("", "credential", "test", "nobody"); r.code != 1 || !strings.Contains(r.err, "There is no credential") {
		t.Errorf("%+v", r)
	}
}

package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"dispatchd/internal/sim/smtpsink"
)

// troubles counts the lines above info by what they say and which part or job
// says it.
func (w *world) troubles() map[string]int {
	said := regexp.MustCompile(`level=(?:WARN|ERROR) msg=("(?:[^"\\]|\\.)*"|\S+)`)
	whose := regexp.MustCompile(` (?:job|lane)=\S+`)
	out := map[string]int{}
	for line := range strings.Lines(w.log.String()) {
		if m := said.FindStringSubmatch(line); m != nil {
			out[m[1]+whose.FindString(line)]++
		}
	}
	return out
}

// failures is how many failures the line that ends a trouble counts; 0 before
// there is one.
func (w *world) failures(words string) int {
	m := regexp.MustCompile(`level=INFO msg="` + words + `".* failures=(\d+)`).FindStringSubmatch(w.log.String())
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	w.must(err)
	return n
}

// An outage of Redis fails in every part and for every organisation, again and
// again. Each says so once, and how often it failed when it is over.
func TestAnOutageOfRedisIsFewLines(t *testing.T) {
	t.Parallel()
	const organisations = 20
	_, smtp := mailServer(t, smtpsink.Options{})
	w := newWorld(t, setting{users: organisations, more: smtp, redis: []string{"--appendonly", "yes"}})
	for i, id := range w.users {
		org := fmt.Sprintf("uni-%d", i)
		w.organisation(org, object{"email": object{"enabled": true, "mode": "each"}})
		w.affiliate(org, id)
	}
	w.registered(clientMain, w.users...)
	w.pingAll(len(w.users), w.users)
	w.redis.Kill()
	w.pingAll(10*len(w.users), w.users)
	w.eventually("fan-out fails again and again", func() bool { return w.metric("dispatchd_fanout_errors_total") > 10 })
	w.must(w.redis.Restart())
	w.eventually("fan-out goes on", func() bool { return w.failures("fan-out goes on") > 1 })
	w.eventually("due deliveries are looked for again", func() bool { return w.failures("due deliveries are looked for again") > 1 })
	w.eventually("the spool is empty", func() bool { return w.status().Spool.Waiting == 0 })
	if w.troubles()[`"redis cannot be used; pings go to the local spool"`] == 0 {
		t.Error("the log does not say that pings went to the spool")
	}
	for what, n := range w.troubles() {
		if n > 1 {
			t.Errorf("%d lines say %s", n, what)
		}
	}
}

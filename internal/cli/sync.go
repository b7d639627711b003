package cli

import (
	"fmt"
	"net/url"
	"strings"

	"dispatchd/internal/service"
)

type userSyncCmd struct {
	listFile
	DryRun bool `name:"dry-run" help:"Only say what would be done."`
	Force  bool `help:"Also when more than 10 % of the users would be removed."`
}

// Run implements the command.
func (c *userSyncCmd) Run(s *session) error {
	var report, last service.SyncReport
	q := url.Values{}
	for key, yes := range map[string]bool{"announce": c.Announce, "dry_run": c.DryRun, "force": c.Force} {
		if yes {
			q.Set(key, "1")
		}
	}
	return s.sendList(&c.listFile, sending{
		path: at("organisations", c.Org, "users", "sync"), query: q, report: &report, progress: &last,
		bar: func(*bar) drawing {
			all := last.Total + last.ToRemove
			if all == 0 {
				return drawing{}
			}
			done := last.Lines
			if done == last.Total {
				done += min(last.Removed, last.ToRemove)
			}
			return drawing{float64(done) / float64(all), true, done, []word{{number(last.Added) + " new", 1}, {number(last.Removed) + " removed", 5}}}
		},
		how: func() (int, string) { return last.Lines, "run the same sync again, it does what is left" },
		show: func() error {
			s.showSync(c.Org, report)
			return nil
		},
		bad: func() bool { return report.Bad > 0 || report.NeedsForce || report.Withheld != "" },
	})
}

func (s *session) showSync(orgID string, r service.SyncReport) {
	s.showBadLines(r.ImportReport)
	would := ""
	if r.DryRun {
		would = "would be "
	}
	parts := []string{fmt.Sprintf("%s %sadded", number(r.Added), would), fmt.Sprintf("%s %sremoved", number(r.Removed), would), number(r.Known) + " unchanged"}
	if r.Updated > 0 {
		parts[2] = fmt.Sprintf("%s unchanged, %s with new data", number(r.Known-r.Updated), number(r.Updated))
	}
	for _, more := range []struct {
		n    int
		what string
	}{{r.Kept, "kept"}, {r.Suppressed, "on the suppression list"}, {r.Bad, "bad"}} {
		if more.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", number(more.n), more.what))
		}
	}
	wrap(s.env.Stdout, "", "  ", fmt.Sprintf("%s, %s had %s: %s.", count(r.Total, "line", "lines"), orgID, count(r.Members, "user", "users"), strings.Join(parts, ", ")))
	if r.Withheld != "" {
		wrap(s.env.Stdout, "", "  ", "Nobody was removed: "+r.Withheld+". Mend the bad lines and run it again.")
	}
	if r.NeedsForce && r.DryRun {
		wrap(s.env.Stdout, "", "  ", "More than 10 % of the users would be removed: that needs --force.")
	}
}

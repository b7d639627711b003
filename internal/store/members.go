package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dispatchd/internal/orcid"
)

// membersPerCall bounds one script run.
const membersPerCall = 500

// memberCall makes a call of a script of an organisation's member index.
func (s *Store) memberCall(sc *script, orgID string, args ...any) *call {
	p := orgPartition(orgID)
	return &call{
		script: sc, mark: s.keys.mark(p),
		keys: []string{s.keys.members(p, orgID), s.keys.memberMeta(p, orgID)}, args: args,
	}
}

// memberCalls adds or removes users, one pipeline for all. It returns how many
// had ever been removed when it began.
func (s *Store) memberCalls(ctx context.Context, sc *script, orgID string, ids []orcid.ID) (removed int64, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	var calls []*call
	for part := range slices.Chunk(ids, membersPerCall) {
		c := s.memberCall(sc, orgID)
		c.args = make([]any, len(part))
		for i, id := range part {
			c.args[i] = memberNumber(id)
		}
		calls = append(calls, c)
	}
	if err := s.do(ctx, calls...); err != nil {
		return 0, fmt.Errorf("change the member index: %w", err)
	}
	return calls[0].integer()
}

// Members returns up to n users of the member index after the cursor ("" from
// the beginning) and the next cursor, "" after the last. Whoever is a member
// all the time is shown at least once, perhaps twice when the index grows
// meanwhile. The index is written before a record on adding and after it on
// removing, so a caller that acts asks the record.
func (s *Store) Members(ctx context.Context, orgID, cursor string, n int) (ids []orcid.ID, next string, err error) {
	fail := func(err error) ([]orcid.ID, string, error) {
		return nil, "", fmt.Errorf("list the members of %s: %w", orgID, err)
	}
	bucket, after, err := parseMemberCursor(cursor)
	if err != nil || n <= 0 {
		return fail(fmt.Errorf("cursor %q with a page of %d is not valid", cursor, n))
	}
	for len(ids) < n {
		c := s.memberCall(s.scripts.memberPage, orgID, bucket, n-len(ids))
		if err := s.do(ctx, c); err != nil {
			return fail(err)
		}
		buckets, list, err := memberAnswer(c)
		if err != nil {
			return fail(err)
		}
		for _, members := range list {
			for _, m := range members {
				if after >= 0 && m <= uint64(after) {
					continue
				}
				if len(ids) == n {
					return ids, fmt.Sprintf("%d-%d", bucket, after), nil
				}
				id, err := userOfMember(m)
				if err != nil {
					return fail(err)
				}
				ids, after = append(ids, id), int64(m)
			}
			bucket, after = bucket+1, -1
		}
		if bucket >= buckets {
			return ids, "", nil
		}
	}
	return ids, fmt.Sprintf("%d-%d", bucket, after), nil
}

// parseMemberCursor reads "bucket-number": go on in that bucket behind that
// number. A split moves members to a new last bucket only, so nobody who was
// there all the time slips behind a cursor.
func parseMemberCursor(cursor string) (bucket int, after int64, err error) {
	if cursor == "" {
		return 0, -1, nil
	}
	b, a, ok := strings.Cut(cursor, "-")
	if !ok {
		return 0, 0, fmt.Errorf("cursor %q", cursor)
	}
	x, err := strconv.ParseUint(b, 10, 31)
	if err != nil {
		return 0, 0, err
	}
	after, err = strconv.ParseInt(a, 10, 64)
	return int(x), max(after, -1), err
}

// memberAnswer reads the number of buckets and the sorted members of some.
func memberAnswer(c *call) (buckets int, list [][]uint64, err error) {
	parts, err := c.list()
	if err != nil {
		return 0, nil, err
	}
	if len(parts) == 0 {
		return 0, nil, fmt.Errorf("%s: redis answered nothing", c.script.name)
	}
	n, ok := parts[0].(int64)
	if !ok {
		return 0, nil, fmt.Errorf("%s: unexpected answer element %T of redis", c.script.name, parts[0])
	}
	for _, part := range parts[1:] {
		texts, err := stringList(c, part)
		if err != nil {
			return 0, nil, err
		}
		members := make([]uint64, len(texts))
		for i, text := range texts {
			if members[i], err = strconv.ParseUint(text, 10, 64); err != nil {
				return 0, nil, fmt.Errorf("member %q is damaged", text)
			}
		}
		slices.Sort(members)
		list = append(list, members)
	}
	return int(n), list, nil
}

// MemberCount returns how many users the member index of the organisation has.
func (s *Store) MemberCount(ctx context.Context, orgID string) (int, error) {
	members, _, err := s.memberSize(ctx, orgID)
	return int(members), err
}

// memberCountsBody: KEYS mark, metas; ARGV mark. Returns the number of members
// of each.
const memberCountsBody = `
local out = {}
for i = 2, #KEYS do out[i - 1] = tonumber(redis.call('HGET', KEYS[i], 'members') or '0') end
return out
`

// MemberCounts is MemberCount for many organisations, in their order.
func (s *Store) MemberCounts(ctx context.Context, orgs []string) ([]int, error) {
	calls, members := byPartition(orgs, func(o string) string { return o }, func(p int) *call {
		return &call{script: s.scripts.memberCounts, mark: s.keys.mark(p)}
	}, func(c *call, p int, o string) { c.keys = append(c.keys, s.keys.memberMeta(p, o)) })
	if err := s.do(ctx, calls...); err != nil {
		return nil, fmt.Errorf("count the members of %d organisations: %w", len(orgs), err)
	}
	out := make([]int, len(orgs))
	for i, c := range calls {
		n, err := c.ints(len(members[i]))
		if err != nil {
			return nil, fmt.Errorf("count the members of %d organisations: %w", len(orgs), err)
		}
		for j, at := range members[i] {
			out[at] = int(n[j])
		}
	}
	return out, nil
}

func (s *Store) memberSize(ctx context.Context, orgID string) (members, removed int64, err error) {
	p := orgPartition(orgID)
	c := &call{script: s.scripts.memberSize, mark: s.keys.mark(p), keys: []string{s.keys.memberMeta(p, orgID)}}
	if err := s.do(ctx, c); err != nil {
		return 0, 0, fmt.Errorf("count the members of %s: %w", orgID, err)
	}
	n, err := c.ints(2)
	if err != nil {
		return 0, 0, fmt.Errorf("count the members of %s: %w", orgID, err)
	}
	return n[0], n[1], nil
}

// DropMembers deletes the member index of an organisation. Its users must have
// been taken out before. After an error it is to be called again.
func (s *Store) DropMembers(ctx context.Context, orgID string) error {
	const step = 500
	for bucket := 0; ; bucket += step {
		c := s.memberCall(s.scripts.membersDrop, orgID, bucket, step)
		if err := s.do(ctx, c); err != nil {
			return fmt.Errorf("drop the member index of %s: %w", orgID, err)
		}
		done, err := c.integer()
		if err != nil {
			return fmt.Errorf("drop the member index of %s: %w", orgID, err)
		}
		if done == 1 {
			return nil
		}
	}
}

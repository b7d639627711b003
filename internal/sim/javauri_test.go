package sim

import "testing"

// What OpenJDK 17.0.15 answered to new java.net.URI(…).
func TestParseJavaURIIsJavas(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in    string
		host  string
		port  int
		path  string
		query string
	}{
		{"", "", -1, "", ""},
		{"http://h.example/x", "h.example", -1, "/x", ""},
		{"ftp://x/y", "x", -1, "/y", ""},
		{"relative/path", "", -1, "relative/path", ""},
		{"http://h/%41", "h", -1, "/%41", ""},
		{"http://h/ü", "h", -1, "/ü", ""},
		{"http://h/?q=[x]", "h", -1, "/", "q=[x]"},
		{"http://[::1]:80/x", "[::1]", 80, "/x", ""},
		{"http:///x", "", -1, "/x", ""},
		{"//h/x", "h", -1, "/x", ""},
		{"mailto:x@y", "", -1, "", ""},
		{"mailto:[x]", "", -1, "", ""},
		{"http://ho_st/x", "", -1, "/x", ""},
		{"http://h:abc/x", "", -1, "/x", ""},
		{"http://h:99999/", "h", 99999, "/", ""},
		{"http://h:/x", "h", -1, "/x", ""},
		{"http://u:p@h/x", "h", -1, "/x", ""},
		{"http://h/x#frag", "h", -1, "/x", ""},
		{"http://-h/x", "", -1, "/x", ""},
		{"http://h-/x", "", -1, "/x", ""},
		{"http://1.2.3/x", "", -1, "/x", ""},
		{"http://1.2.3.4/x", "1.2.3.4", -1, "/x", ""},
		{"http://a.1/x", "", -1, "/x", ""},
		{"http://h.example./x", "h.example.", -1, "/x", ""},
		{"?q", "", -1, "", "q"},
		{"#f", "", -1, "", ""},
		{"http://h?q#f", "h", -1, "", "q"},
		{"http://h/;a=b,c&d+e$f@g:h!i*j'k(l)~m", "h", -1, "/;a=b,c&d+e$f@g:h!i*j'k(l)~m", ""},
		{"http://@h/", "h", -1, "/", ""},
		{"http://u@@h/", "", -1, "/", ""},
		{"http://h%41/x", "", -1, "/x", ""},
		{"http://,;/x", "", -1, "/x", ""},
		{"http://a..b/x", "", -1, "/x", ""},
		{"HTTP://H/x", "H", -1, "/x", ""},
		{"http://h/😀", "h", -1, "/😀", ""},
		{"http:?x", "", -1, "", ""},
		{"http://[::1%25eth0]/", "[::1%25eth0]", -1, "/", ""},
		{"http://[::1%eth0]/", "[::1%eth0]", -1, "/", ""},
		{"//?x", "", -1, "", "x"},
		{"http://256.1.1.1/x", "", -1, "/x", ""},
		{"http://h:-1/x", "", -1, "/x", ""},
		{"http://h:+1/", "", -1, "/", ""},
		{"http://h/a%00b", "h", -1, "/a%00b", ""},
		{"éa", "", -1, "éa", ""},
		{"a:é", "", -1, "", ""},
		{"a:[", "", -1, "", ""},
		{"a:]b", "", -1, "", ""},
		{"?[y]", "", -1, "", "[y]"},
	} {
		u, err := parseJavaURI(c.in)
		if err != nil || u.host != c.host || u.port != c.port || u.path != c.path || u.query != c.query {
			t.Errorf("parseJavaURI(%q) = %+v, %v; want %+v", c.in, u, err, c)
		}
	}
	for _, bad := range []string{
		"http://h/a b", "http://h/%zz", "http://h/a|b", "http://h/[x]", "http://h/?q=a|b", "http://[::1", "http://", "//",
		"http:", ":foo", "1a:b", "a_b:c", "http://ho st/x", "http://h/x#a#b", "http://h/a^b", "http://h/a{b}", "http://h/a`b",
		`http://h/\x`, `http://h/"x"`, "http://h/<x>", "http://h/x\u00a0y", "http://h/x\u2028y", "http://h/x\x01y",
		"http://h/x\x7fy", "http://h/%", "http://h/%4", "http:#x", "a:b#c d", "http://[::g]/", "http://[1.2.3.4]/",
		"http://[::1]x/", "http://h[::1]/", "a:", "-a:b", "é:b", "x[y]",
	} {
		if u, err := parseJavaURI(bad); err == nil {
			t.Errorf("parseJavaURI(%q) = %+v; Java throws URISyntaxException", bad, u)
		}
	}
}

// What OpenJDK 17.0.15's HttpClient sent, or threw.
func TestParseTargetIsTheJDKs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, address, host, path string }{
		{"http://127.0.0.1:18099", "127.0.0.1:18099", "127.0.0.1:18099", "/"},
		{"http://127.0.0.1:18099?", "127.0.0.1:18099", "127.0.0.1:18099", "/"},
		{"http://127.0.0.1:18099/?", "127.0.0.1:18099", "127.0.0.1:18099", "/"},
		{"http://h/x?a=b#f", "h:80", "h", "/x?a=b"},
		{"http://u:p@h:80/x", "h:80", "h", "/x"},
		{"https://h:443/x", "h:443", "h", "/x"},
		{"https://h:80/x", "h:80", "h:80", "/x"},
		{"HTTP://LOCALHOST:18099/x", "LOCALHOST:18099", "LOCALHOST:18099", "/x"},
		{"http://h/ü?ö", "h:80", "h", "/%C3%BC?%C3%B6"},
		{"http://h//a//b/../c", "h:80", "h", "//a//b/../c"},
		{"http://[::ffff:127.0.0.1]:18099/", "[::ffff:127.0.0.1]:18099", "[::ffff:127.0.0.1]:18099", "/"},
		{"http://h/😀", "h:80", "h", "/%F0%9F%98%80"},
		{"h.example/x", "h.example:80", "h.example", "/x"},
		{"ftp://h/x", "ftp:80", "ftp", "//h/x"},
	} {
		got, err := parseTarget(c.in)
		if err != nil || got.address != c.address || got.host != c.host || got.path != c.path {
			t.Errorf("parseTarget(%q) = %+v, %v; want %+v", c.in, got, err, c)
		}
	}
	for _, bad := range []string{"http://h/a b", "http://ho_st/x", "httpfoo://h/x", "http:///x", "http://h:99999/", ""} {
		if got, err := parseTarget(bad); err == nil {
			t.Errorf("parseTarget(%q) = %+v; the JDK throws", bad, got)
		}
	}
}

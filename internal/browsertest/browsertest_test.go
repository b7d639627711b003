package browsertest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

var browser *Browser

func TestMain(m *testing.M) {
	var err error
	if browser, err = Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // TestMain has to
	}
	code := m.Run()
	if err := browser.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code) //nolint:forbidigo // TestMain has to
}

const good = `<!doctype html><html lang="en"><head><title>Good</title><style>input,button{min-height:24px}</style><meta name="viewport" content="width=device-width"></head>
<body><main><h1>Good</h1><form method="post" action="/sent"><label for="a">Name</label><input id="a" name="a"><button>Send</button></form></main></body></html>`

const poor = `<!doctype html><html><head></head><body><h1>a</h1><h3>b</h3><input name="a" id="x"><input type="checkbox" name="c" id="x">
<p style="color:#aaa;background:#fff">pale</p><a href="/x"></a><table><tr><td>1</td></tr></table><img src="data:," ><svg></svg>
<div style="width:3000px">wide</div><label for="nope">l</label><button>ok</button></body></html>`

func serve(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		switch r.URL.Path {
		case "/good":
			_, _ = io.WriteString(w, good)
		case "/poor":
			_, _ = io.WriteString(w, poor)
		case "/script":
			_, _ = io.WriteString(w, `<body><p id="p">without</p><script>document.getElementById("p").textContent = "with"</script>`)
		case "/sent":
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, "<p>got "+r.FormValue("a"))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestAPageIsUsed(t *testing.T) {
	t.Parallel()
	url := serve(t)
	p := browser.Page(t, Look{})
	if status := p.Open(url + "/good"); status != 200 {
		t.Errorf("status %d", status)
	}
	p.Audit()
	p.Fill("#a", "Ada Lovelace")
	if got := p.Value("#a"); got != "Ada Lovelace" {
		t.Errorf("the field has %q", got)
	}
	p.Shot("good")
	if status := p.Press("button"); status != http.StatusCreated || p.Text("p") != "got Ada Lovelace" || p.Path() != "/sent" {
		t.Errorf("%d %q at %s", status, p.Text("p"), p.Path())
	}
	if status := p.Open(url + "/none"); status != http.StatusNotFound {
		t.Errorf("status %d", status)
	}
}

func TestLooks(t *testing.T) {
	t.Parallel()
	url := serve(t)
	p := browser.Page(t, Look{NoScript: true, Dark: true, Phone: true})
	p.Open(url + "/script")
	if p.Text("#p") != "without" || Eval[int](p, "innerWidth") != 360 || !Eval[bool](p, `matchMedia("(prefers-color-scheme: dark)").matches`) {
		t.Errorf("%q, %d wide", p.Text("#p"), Eval[int](p, "innerWidth"))
	}
	p.Look(Look{})
	p.Open(url + "/script")
	if p.Text("#p") != "with" || Eval[int](p, "innerWidth") != 1280 {
		t.Errorf("%q, %d wide", p.Text("#p"), Eval[int](p, "innerWidth"))
	}
}

// TestAuditFinds holds the auditor against a page with everything wrong.
func TestAuditFinds(t *testing.T) {
	t.Parallel()
	p := browser.Page(t, Look{})
	p.Open(serve(t) + "/poor")
	found := strings.Join(Eval[[]string](p, auditScript), "\n")
	for _, want := range []string{
		"no lang", "no title", "no viewport", "one main", "skips a level", "comes twice: x", "field without a label", "contrast 2.3", "nothing to read",
		"table without headings", "table without caption", "without alt", "svg without", "wider than the window", "names nope", "inline style",
	} {
		if !strings.Contains(found, want) {
			t.Errorf("not found: %s", want)
		}
	}
	if t.Failed() {
		t.Log(found)
	}
}

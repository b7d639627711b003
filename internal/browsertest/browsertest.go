// Package browsertest drives a real headless chromium for tests of pages: one
// browser for a package's tests, a page of its own, with its own cookies, for
// each. A test fails, never skips, when chromium is missing. Screenshots go to
// the folder that the variable DISPATCHD_SCREENSHOTS names, so that people can
// look at them, or else to the test's temporary directory.
package browsertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// patience bounds every step: nothing takes so long, but a loaded machine may.
const patience = 60 * time.Second

// Browser is one chromium process.
type Browser struct {
	ctx    context.Context
	cancel []context.CancelFunc
	dir    string
}

// Start runs a chromium, for TestMain; the caller stops it.
func Start() (_ *Browser, err error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, fmt.Errorf("start a browser (apt-get install chromium): %w", err)
	}
	dir, err := os.MkdirTemp("", "browsertest-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the browser: %w", err)
	}
	b := &Browser{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Stop())
		}
	}()
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(dir),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("hide-scrollbars", true), chromedp.WindowSize(1280, 900), chromedp.WSURLReadTimeout(patience),
		// Names are looked up nowhere: what a page loads from elsewhere is a bug.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
	)...)
	b.cancel = append(b.cancel, cancel)
	b.ctx, cancel = chromedp.NewContext(alloc)
	b.cancel = append(b.cancel, cancel)
	if err := chromedp.Do(b.ctx); err != nil {
		return nil, fmt.Errorf("start chromium: %w", err)
	}
	return b, nil
}

// Stop ends the process and removes what it wrote.
func (b *Browser) Stop() error {
	for i := len(b.cancel) - 1; i >= 0; i-- {
		b.cancel[i]()
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("remove the browser's directory: %w", err)
	}
	return nil
}

// Look is how a page is looked at; the zero value is a desktop in daylight.
type Look struct {
	Dark     bool
	Phone    bool // 360 pixels wide
	NoScript bool // JavaScript of pages does not run
}

// Page is one tab with its own cookies.
type Page struct {
	t    testing.TB
	ctx  context.Context
	shot string // folder of screenshots
}

// Page opens a tab with no cookies, closed with the test.
func (b *Browser) Page(t testing.TB, look Look) *Page {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &Page{t: t, ctx: ctx, shot: os.Getenv("DISPATCHD_SCREENSHOTS")}
	if p.shot == "" {
		p.shot = t.TempDir()
	}
	// Not under a time limit: a tab lives as long as the context that opened it.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	p.Look(look)
	return p
}

// Look changes how the page is looked at from now on.
func (p *Page) Look(l Look) {
	p.t.Helper()
	width, height, scheme := int64(1280), int64(900), "light"
	if l.Phone {
		width, height = 360, 740
	}
	if l.Dark {
		scheme = "dark"
	}
	p.do("look at the page otherwise", chromedp.EmulateViewport(width, height), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		if err != nil {
			return err
		}
		_, err = cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: l.NoScript})
		return err
	}))
}

func (p *Page) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatalf("%s: %v%s", what, err, p.where())
	}
}

// where says which page a step failed on.
func (p *Page) where() string {
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.pathname.slice(0, 60) + "\n" + document.body.innerText.slice(0, 2000)`))
	if err != nil {
		return ""
	}
	return "\non " + text
}

// Open goes to an address and returns the status of the answer.
func (p *Page) Open(url string) int {
	p.t.Helper()
	return p.answered("open "+url, chromedp.Navigate(url))
}

// Press clicks what leads to another page, waits for that, and returns the
// status of the answer.
func (p *Page) Press(selector string) int {
	p.t.Helper()
	return p.answered("press "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

func (p *Page) answered(what string, step chromedp.Action[chromedp.Void]) int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	res, err := chromedp.RunResponse(ctx, step)
	if err != nil {
		p.t.Fatalf("%s: %v%s", what, err, p.where())
	}
	return int(res.Status)
}

// Click clicks what stays on the page.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.do("click "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// Fill types a text into an empty or emptied field.
func (p *Page) Fill(selector, text string) {
	p.t.Helper()
	steps := []chromedp.Action[chromedp.Void]{chromedp.Clear(chromedp.CSS(selector))}
	if text != "" {
		steps = append(steps, chromedp.SendKeys(chromedp.CSS(selector), text))
	}
	p.do("fill "+selector, steps...)
}

// Keys types keys wherever the focus is, for example kb.Tab.
func (p *Page) Keys(keys string) {
	p.t.Helper()
	p.do("type", chromedp.KeyEvent(keys))
}

// Tick clicks a box or radio button unless it is as wanted.
func (p *Page) Tick(selector string, want bool) {
	p.t.Helper()
	if Eval[bool](p, fmt.Sprintf("document.querySelector(%q).checked", selector)) != want {
		p.Click(selector)
	}
}

// Upload chooses a file in a file field.
func (p *Page) Upload(selector, file string) {
	p.t.Helper()
	p.do("choose a file in "+selector, chromedp.SetUploadFiles(chromedp.CSS(selector), []string{file}))
}

// Text returns what a person reads at the first match; empty when there is none.
func (p *Page) Text(selector string) string {
	p.t.Helper()
	return Eval[string](p, fmt.Sprintf(`(document.querySelector(%q)||{innerText:""}).innerText`, selector))
}

// Value returns the value of a field.
func (p *Page) Value(selector string) string {
	p.t.Helper()
	return Eval[string](p, fmt.Sprintf(`document.querySelector(%q).value`, selector))
}

// Count returns how many elements match.
func (p *Page) Count(selector string) int {
	p.t.Helper()
	return Eval[int](p, fmt.Sprintf(`document.querySelectorAll(%q).length`, selector))
}

// Path returns the path of the page's address.
func (p *Page) Path() string {
	p.t.Helper()
	return Eval[string](p, "location.pathname")
}

// HTML returns the page as it is now.
func (p *Page) HTML() string {
	p.t.Helper()
	return Eval[string](p, "document.documentElement.outerHTML")
}

// Until polls a JavaScript expression until it is true.
func (p *Page) Until(what, expression string) {
	p.t.Helper()
	end := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression))
		cancel()
		if err == nil && ok { // an error is a page that changes right now
			return
		}
		select {
		case <-tick.C:
		case <-end:
			p.t.Fatalf("it did not happen: %s (%v)%s", what, err, p.where())
		}
	}
}

// Eval evaluates a JavaScript expression on the page.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.t.Fatalf("evaluate %s: %v%s", expression, err, p.where())
	}
	return v
}

// Shot writes a screenshot of the whole page as name.png.
func (p *Page) Shot(name string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	var raw []byte
	err := chromedp.Do(ctx, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		res, err := cdp.Call(ctx, t, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: new(true)})
		raw = res.Data
		return err
	}))
	if err == nil {
		err = os.MkdirAll(p.shot, 0o750)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(p.shot, name+".png"), raw, 0o600)
	}
	if err != nil {
		p.t.Fatalf("take the screenshot %s: %v", name, err)
	}
}

// For runs a chromium for one test and stops it with the test.
func For(t testing.TB) *Browser {
	t.Helper()
	b, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
	return b
}

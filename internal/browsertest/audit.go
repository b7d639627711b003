package browsertest

import _ "embed"

//go:embed audit.js
var auditScript string

// Audit checks the page as a person with a keyboard, a screen reader, weak eyes
// or a phone would find it, and fails the test with everything that is wrong:
// language, title, headings, labels, references between elements, names of
// buttons and links, tables, contrast of every visible text, size of targets,
// and nothing wider than the window.
func (p *Page) Audit() {
	p.t.Helper()
	for _, problem := range p.Problems() {
		p.t.Errorf("%s: %s", p.Path(), problem)
	}
}

// Problems is what Audit finds, for what need not be good in every way: mails.
func (p *Page) Problems() []string {
	p.t.Helper()
	return Eval[[]string](p, auditScript)
}

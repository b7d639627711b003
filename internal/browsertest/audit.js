(() => {
  const bad = [];
  const all = (s) => [...document.querySelectorAll(s)];
  const name = (e) => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "") + " " + JSON.stringify((e.innerText || e.value || "").slice(0, 30));
  const seen = (e) => e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && e.getClientRects().length > 0;
  const onlyHeard = (e) => !!e.closest(".hidden, .skip");
  const text = (e) => (e.getAttribute("aria-label") ||
    (e.getAttribute("aria-labelledby") || "").split(/\s+/).filter(Boolean).map((id) => document.getElementById(id)?.textContent || "").join(" ") ||
    e.textContent || e.getAttribute("title") || e.alt || "").trim();

  if (!document.documentElement.lang) bad.push("html has no lang");
  if (!document.title.trim()) bad.push("there is no title");
  if (!document.querySelector("meta[name=viewport]")) bad.push("there is no viewport");
  if (all("main").length !== 1) bad.push("there must be one main");
  if (all("h1").length !== 1) bad.push("there must be one h1, there are " + all("h1").length);
  let level = 0;
  for (const h of all("h1,h2,h3,h4,h5,h6").filter(seen)) {
    const n = Number(h.tagName[1]);
    if (n > level + 1) bad.push("heading skips a level: " + name(h));
    if (!h.textContent.trim()) bad.push("empty heading");
    level = n;
  }
  const ids = new Set();
  for (const e of all("[id]")) {
    if (ids.has(e.id)) bad.push("id comes twice: " + e.id);
    ids.add(e.id);
  }
  for (const attr of ["for", "aria-describedby", "aria-labelledby", "aria-controls"])
    for (const e of all("[" + attr + "]"))
      for (const id of e.getAttribute(attr).split(/\s+/).filter(Boolean))
        if (!ids.has(id)) bad.push(name(e) + ": " + attr + " names " + id + ", which is not there");
  for (const e of all("a[href^='#']")) if (e.getAttribute("href") !== "#" && !ids.has(e.getAttribute("href").slice(1))) bad.push(name(e) + " leads nowhere");
  for (const e of all("input:not([type=hidden]),select,textarea"))
    if (![...(e.labels || [])].some((l) => l.textContent.trim()) && !text({getAttribute: (a) => a.startsWith("aria") ? e.getAttribute(a) : null}))
      bad.push("field without a label: " + name(e) + " " + (e.name || ""));
  for (const e of all("[aria-invalid=true]"))
    if (!e.getAttribute("aria-describedby")) bad.push("wrong field that does not say why: " + name(e));
  for (const e of all("button,a[href],summary")) if (!text(e)) bad.push("nothing to read on " + e.outerHTML.slice(0, 80));
  for (const e of all("img")) if (!e.hasAttribute("alt")) bad.push("img without alt");
  for (const e of all("svg")) if (e.getAttribute("aria-hidden") !== "true" && !(e.getAttribute("role") === "img" && text(e))) bad.push("svg without role img and name");
  for (const e of all("progress")) if (!text(e) && !e.labels.length) bad.push("progress without a name");
  const groups = {};
  for (const e of all("input[type=radio],input[type=checkbox]")) (groups[e.name] ||= []).push(e);
  for (const [n, list] of Object.entries(groups))
    if (list.length > 1 && !list.every((e) => e.closest("fieldset")?.querySelector("legend")?.textContent.trim())) bad.push("group without legend: " + n);
  for (const e of all("table")) {
    if (!e.querySelector("th")) bad.push("table without headings");
    if (!e.caption && !text({getAttribute: (a) => e.getAttribute(a)})) bad.push("table without caption or label");
    for (const th of e.querySelectorAll("th")) if (!th.scope) bad.push("th without scope: " + name(th));
  }
  for (const e of all("[tabindex]")) if (e.tabIndex > 0) bad.push("tabindex above 0: " + name(e));
  for (const e of all("[style],[onclick],[onload],[onsubmit]")) bad.push("inline style or script: " + name(e));
  for (const e of all("button,summary,select,input:not([type=hidden]),.top nav a,a.button").filter(seen)) {
    if (onlyHeard(e)) continue;
    const r = e.getBoundingClientRect();
    const small = e.type === "checkbox" || e.type === "radio" ? 20 : 24;
    if (r.width < small - .5 || r.height < small - .5) bad.push("too small to hit: " + name(e) + " " + Math.round(r.width) + "x" + Math.round(r.height));
  }
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth + 1) {
    const wide = all("body *").filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && !e.closest(".scroll") && !onlyHeard(e));
    bad.push("wider than the window: " + wide.slice(0, 3).map(name).join(", "));
  }

  // Contrast of every visible text with what is behind it.
  const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
  const lum = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (e) => {
    const layers = [];
    for (let x = e; x; x = x.parentElement) {
      const c = parse(getComputedStyle(x).backgroundColor);
      if (c[3] > 0) layers.push(c);
      if (c[3] === 1) break;
    }
    return layers.reverse().reduce((under, c) => over(c, under), matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255]);
  };
  const told = new Set();
  const check = (e, colour) => {
    const style = getComputedStyle(e), back = behind(e), fore = over(parse(colour), back);
    const [a, b] = [lum(fore), lum(back)];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && Number(style.fontWeight) >= 700;
    const key = colour + back;
    if (ratio < (large ? 3 : 4.5) && !told.has(key)) {
      told.add(key);
      bad.push("contrast " + ratio.toFixed(2) + ": " + name(e));
    }
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !seen(e) || onlyHeard(e) || e.closest("noscript,script,progress")) continue;
    check(e, e.closest("svg") ? getComputedStyle(e).fill : getComputedStyle(e).color);
  }
  for (const e of all("input,select,textarea").filter(seen)) {
    check(e, getComputedStyle(e).color);
    if (e.placeholder) check(e, getComputedStyle(e, "::placeholder").color);
  }
  return bad;
})()

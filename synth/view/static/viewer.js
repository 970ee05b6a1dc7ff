// The trace viewer: `dailViewer.mount(root, source)`. The page of the API and the file of `dail inspect` share it.
//
// A source has `page()`, which gives {data: summaries, has_more}, and `trace(unit_id)`, which gives a trace. Texts become
// text nodes and nothing else; a formula is rebuilt from KaTeX's tree, element by element, of those that are known here.
// A classic script, since a module cannot be inlined into the file beside another that it imports.
"use strict";
(() => {
  const CHUNK = 400, LONGEST_CHUNK = 1200; // tokens that are laid out together; a chunk ends with a line where it can
  const FORMULA_CHARS = 2000; // a longer one is shown as it is written
  const MATHML = "http://www.w3.org/1998/Math/MathML";
  const TAGS = new Set(("math mrow mfrac mn mo mi mtext mspace mroot msqrt mstyle mpadded mtable mtr mtd munder mover " +
    "munderover menclose msub msup msubsup mphantom mmultiscripts mprescripts merror").split(" "));
  const ATTRIBUTES = new Set(("width height depth lspace voffset scriptlevel displaystyle fence separator stretchy " +
    "rowspacing columnalign columnspacing columnlines rowlines mathvariant accent accentunder notation linethickness " +
    "minsize maxsize symmetric rspace mathcolor").split(" "));
  // bounded, since a text may open what it never closes; a box counts outside of formulas too
  const FORMULAS = /\$\$[^]{1,2000}?\$\$|\\\[[^]{1,2000}?\\\]|\\\([^]{1,2000}?\\\)|\$(?!\s)[^$\n]{1,2000}?\$|\\boxed\{(?:[^{}\n]|\{(?:[^{}\n]|\{[^{}\n]{0,200}\}){0,200}\}){0,200}\}/g;
  // What steers a terminal, turns the order of letters or has no ink is named.
  const NO_INK = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  const FILTERS = [
    ["failed", "failed", (one) => one.error !== null],
    ["cut", "cut", (one) => one.truncated],
    ["leaky", "cites what was shown", (one) => one.cites > 0],
    ["wrong", "wrong answer", (one) => one.verdict === "wrong"],
    ["low-student", "student wrote under half", (one) => one.student_share !== null && one.student_share < 0.5],
  ];
  const VERDICTS = { correct: "right answer", wrong: "wrong answer", cut: "cut", unknown: "answer unknown" };
  const KEYS = [
    ["n / p", "next or previous disagreement: a token that the student did not write, or that replaced a proposal"],
    ["← / →", "previous or next token, once one is chosen"],
    ["j / k", "next or previous trace"],
    ["r", "formulas as they are written, or rendered (in a trace those that one has written)"],
    ["?", "this list"],
  ];

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const inked = (text) =>
    text.replace(NO_INK, (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  const visible = (text) => (text.trim() ? inked(text).replace(/\n/g, "↵").replace(/\t/g, "→") : inked(text).replace(/\n/g, "↵").replace(/\t/g, "→").replace(/ /g, "␣"));
  const percent = (share) => (share === null ? "unknown" : `${(100 * share).toFixed(share > 0.99 && share < 1 ? 2 : 0)} %`);

  function logprob(value) {
    if (value === null || value === undefined) return "not computed";
    return `${String(Number(value.toPrecision(3))).replace("-", "−")} (${chance(value)})`;
  }

  function chance(value) {
    const percents = 100 * Math.exp(Math.min(0, value));
    if (percents >= 99.995) return "> 99.99 %";
    return percents < 0.001 ? "< 0.001 %" : `${Number(percents.toPrecision(percents > 99 ? 4 : 3))} %`;
  }

  // ── formulas ──────────────────────────────────────────────────────────────────────────────────────────────────
  function formulasIn(text) {
    return [...text.matchAll(FORMULAS)].map((found) => ({ start: found.index, end: found.index + found[0].length, text: found[0] }));
  }

  function rendered(written) {
    const edge = written.startsWith("\\boxed") ? 0 : written.startsWith("$") && !written.startsWith("$$") ? 1 : 2;
    const inside = written.slice(edge, written.length - edge);
    if (inside.length > FORMULA_CHARS) return null;
    const isBlock = written.startsWith("$$") || written.startsWith("\\[");
    try {
      const options = { output: "mathml", throwOnError: true, trust: false, strict: "ignore", maxSize: 20, maxExpand: 500, displayMode: isBlock };
      const math = firstMath(globalThis.katex.__renderToDomTree(inside, options));
      const element = rebuilt(math);
      if (isBlock) element.setAttribute("display", "block");
      return element;
    } catch {
      return null; // what KaTeX cannot read, or is nested too deeply, is shown as it is written
    }
  }

  function firstMath(node) {
    if (node.type === "math") return node;
    for (const child of node.children || []) {
      const found = firstMath(child);
      if (found) return found;
    }
    return null;
  }

  function rebuilt(node) {
    if (node.text !== undefined && !node.children) return document.createTextNode(inked(node.text));
    if (node.type === "semantics") return rebuilt(node.children[0]); // its annotation is the text as it was written
    if (node.type === undefined) {
      const space = document.createElementNS(MATHML, "mspace");
      if (typeof node.width === "number") space.setAttribute("width", `${node.width}em`);
      return space;
    }
    const element = document.createElementNS(MATHML, TAGS.has(node.type) ? node.type : "mrow");
    for (const [name, value] of Object.entries(node.attributes || {})) {
      if (ATTRIBUTES.has(name)) element.setAttribute(name, String(value));
    }
    for (const child of node.children || []) element.append(rebuilt(child));
    return element;
  }

  // ── a text with marks and, if asked, its formulas ─────────────────────────────────────────────────────────────
  function within(marks, start, end) {
    return marks.some(([from, to]) => from < end && to > start);
  }

  function marked(text, marks, start, end) {
    const pieces = [];
    let at = start;
    for (const [from, to] of marks) {
      if (to <= at || from >= end) continue;
      if (from > at) pieces.push(inked(text.slice(at, from)));
      pieces.push(make("mark", { title: "a waypoint" }, inked(text.slice(Math.max(at, from), Math.min(to, end)))));
      at = Math.min(to, end);
    }
    if (at < end) pieces.push(inked(text.slice(at, end)));
    return pieces;
  }

  function textWith(text, marks, isRendered) {
    const pieces = [];
    let at = 0;
    for (const formula of isRendered ? formulasIn(text) : []) {
      const math = rendered(formula.text);
      if (!math) continue;
      pieces.push(...marked(text, marks, at, formula.start));
      pieces.push(make("span", { class: within(marks, formula.start, formula.end) ? "dv-formula dv-way" : "dv-formula" }, math));
      at = formula.end;
    }
    return [...pieces, ...marked(text, marks, at, text.length)];
  }

  // ── the tokens of one trace ───────────────────────────────────────────────────────────────────────────────────
  class Tokens {
    constructor(trace, root, tell) {
      this.trace = trace;
      this.root = root;
      this.tell = tell;
      this.at = -1;
      this.starts = [0];
      for (const text of trace.texts) this.starts.push(this.starts[this.starts.length - 1] + text.length);
      this.text = trace.texts.join("");
      this.disagreements = trace.texts.map((_, token) => token).filter(
        (token) => token in trace.rejected || (trace.student_prob[token] !== null && trace.student_prob[token] < 0.5));
      this.seen = new IntersectionObserver((entries) => this.look(entries), { rootMargin: "800px" });
      root.addEventListener("mouseover", (event) => this.point(event.target));
      root.addEventListener("click", (event) => this.point(event.target, true));
      root.addEventListener("focusin", (event) => this.point(event.target, true));
      root.addEventListener("keydown", (event) => this.key(event));
    }

    show(isRendered) {
      this.seen.disconnect();
      this.groups = isRendered ? this.grouped() : [];
      this.chunks = this.cut();
      this.root.replaceChildren(...this.chunks.map((chunk) => chunk.element));
      for (const chunk of this.chunks) this.seen.observe(chunk.element);
      if (this.chunks.length) this.fill(this.chunks[0]);
      if (this.at >= 0) this.go(this.at);
      else this.root.querySelector("[data-t]")?.setAttribute("tabindex", "0");
    }

    grouped() { // formulas as stretches of whole tokens; one that two have written stays as its tokens, which say so
      const groups = [];
      let token = 0;
      for (const formula of formulasIn(this.text)) {
        while (token < this.trace.texts.length && this.starts[token + 1] <= formula.start) token++;
        let end = token;
        while (end < this.trace.texts.length && this.starts[end] < formula.end) end++;
        if (groups.length && token < groups[groups.length - 1].end) continue; // shares a token with the one before
        if (!this.isOfOne(token, end)) continue;
        groups.push({ text: formula.text, start: formula.start, last: formula.end, token, end });
      }
      return groups;
    }

    isOfOne(start, end) {
      const writer = (token) => (this.trace.student_prob[token] === null ? null : this.trace.student_prob[token] >= 0.5);
      for (let token = start; token < end; token++) if (writer(token) !== writer(start) || token in this.trace.rejected) return false;
      return true;
    }

    cut() {
      const chunks = [], total = this.trace.texts.length;
      let start = 0, group = 0;
      for (let token = 0; token < total; token++) {
        while (group < this.groups.length && this.groups[group].end <= token) group++;
        const isInside = group < this.groups.length && this.groups[group].token <= token && token + 1 < this.groups[group].end;
        const length = token + 1 - start;
        const endsLine = this.trace.texts[token].endsWith("\n");
        if (!isInside && ((length >= CHUNK && endsLine) || length >= LONGEST_CHUNK || token + 1 === total)) {
          const element = make("div", { class: "dv-chunk" }, inked(this.text.slice(this.starts[start], this.starts[token + 1])));
          const chunk = { start, end: token + 1, element, isFull: false };
          element.dataset.chunk = String(chunks.length);
          chunks.push(chunk);
          start = token + 1;
        }
      }
      return chunks;
    }

    look(entries) { // far away a chunk is one text: its tokens are made when it comes near, and dropped again
      for (const entry of entries) {
        const chunk = this.chunks[Number(entry.target.dataset.chunk)];
        if (!chunk || chunk.element !== entry.target) continue;
        if (entry.isIntersecting) this.fill(chunk);
        else if (!(this.at >= chunk.start && this.at < chunk.end)) this.empty(chunk);
      }
    }

    fill(chunk) {
      if (chunk.isFull) return;
      chunk.isFull = true;
      const pieces = document.createDocumentFragment();
      let group = this.groups.findIndex((one) => one.end > chunk.start);
      for (let token = chunk.start; token < chunk.end; token++) {
        while (group >= 0 && group < this.groups.length && this.groups[group].end <= token) group++;
        const formula = group >= 0 && group < this.groups.length && this.groups[group].token === token ? this.groups[group] : null;
        const math = formula && rendered(formula.text);
        if (math) {
          pieces.append(this.formula(formula, math));
          token = formula.end - 1;
        } else pieces.append(this.token(token));
      }
      chunk.element.replaceChildren(pieces);
    }

    empty(chunk) {
      if (!chunk.isFull) return;
      chunk.isFull = false;
      chunk.element.replaceChildren(inked(this.text.slice(this.starts[chunk.start], this.starts[chunk.end])));
    }

    token(token) {
      const element = make("span", { class: this.look_of(token), "data-t": token });
      element.textContent = inked(this.trace.texts[token]);
      return element;
    }

    formula(formula, math) {
      const before = this.text.slice(this.starts[formula.token], formula.start);
      const behind = this.text.slice(formula.last, this.starts[formula.end]);
      const names = new Set();
      for (let token = formula.token; token < formula.end; token++) for (const name of this.look_of(token).split(" ")) names.add(name);
      const strongest = ["dv-c3", "dv-c2", "dv-c1", "dv-c0"].find((name) => names.has(name));
      for (const name of ["dv-c0", "dv-c1", "dv-c2", "dv-c3"]) if (name !== strongest) names.delete(name);
      if (names.has("dv-p")) names.delete("dv-s");
      return make("span", { class: [...names].join(" "), "data-t": formula.token, "data-e": formula.end }, inked(before), make("span", { class: "dv-formula" }, math), inked(behind));
    }

    look_of(token) {
      const { student_prob: student, privileged_logprob: privileged, rejected, trace_marks: marks, cited } = this.trace;
      const [start, end] = [this.starts[token], this.starts[token + 1]];
      const writer = student[token] === null ? "u" : student[token] >= 0.5 ? "s" : "p";
      const value = privileged[token];
      const sure = value === null ? "x" : value >= Math.log(0.9) ? 0 : value >= Math.log(0.5) ? 1 : value >= Math.log(0.1) ? 2 : 3;
      let names = `dv-t dv-${writer} dv-c${sure}`;
      if (token in rejected) names += " dv-refused";
      if (within(marks, start, end)) names += " dv-way";
      if (within(cited, start, end)) names += " dv-cited";
      return names;
    }

    about(token) {
      const { texts, student_prob: student, student_logprob: ours, privileged_logprob: theirs, rejected } = this.trace;
      const share = student[token];
      const writer = share === null ? "it is not known who wrote it" : share === 1 ? "the student wrote it"
        : share === 0 ? "the privileged student wrote it" : `the student wrote it with probability ${share.toFixed(2)}`;
      const found = [
        ["token", `${token + 1} of ${texts.length}`],
        ["text", texts[token] ? `“${visible(texts[token])}”` : "part of a character"],
        ["written by", writer],
        ["student", logprob(ours[token])],
        ["privileged student", logprob(theirs[token])],
      ];
      if (token in rejected) found.push(["refused before", `“${visible(rejected[token])}”`]);
      if (within(this.trace.trace_marks, this.starts[token], this.starts[token + 1])) found.push(["waypoint", "part of one"]);
      if (within(this.trace.cited, this.starts[token], this.starts[token + 1])) found.push(["cites", "what was shown"]);
      return found;
    }

    point(target, isChosen = false) {
      const element = target.closest?.("[data-t]");
      if (!element || !this.root.contains(element)) return;
      const [start, end] = [Number(element.dataset.t), Number(element.dataset.e || 0)];
      const token = this.at >= start && this.at < end ? this.at : start;
      if (isChosen) this.choose(token, element);
      this.tell(this.about(token));
    }

    choose(token, element) { // one tab stop for the whole trace
      for (const one of this.root.querySelectorAll('[tabindex="0"], .dv-at')) {
        if (one === element) continue; // what loses its tab stop loses the focus
        one.removeAttribute("tabindex");
        one.classList.remove("dv-at");
      }
      element.setAttribute("tabindex", "0");
      element.classList.add("dv-at");
      this.at = token;
    }

    go(token) {
      const chunk = this.chunks.find((one) => token < one.end);
      if (!chunk) return;
      this.fill(chunk);
      const element = [...chunk.element.querySelectorAll("[data-t]")].findLast((one) => Number(one.dataset.t) <= token);
      if (!element) return;
      this.choose(token, element);
      element.focus({ preventScroll: true });
      element.scrollIntoView({ block: "center", inline: "nearest" });
      this.tell(this.about(token));
    }

    jump(step) {
      const { disagreements: all, at } = this;
      const next = step > 0 ? all.find((one) => one > at) : all.findLast((one) => one < (at < 0 ? Infinity : at));
      if (next === undefined) return false;
      this.go(next);
      return true;
    }

    key(event) {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || this.at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.go(Math.max(0, Math.min(this.trace.texts.length - 1, this.at + step)));
    }
  }

  // ── the viewer ────────────────────────────────────────────────────────────────────────────────────────────────
  class Viewer {
    constructor(root, source) {
      this.source = source;
      this.root = root;
      this.summaries = [];
      this.filters = new Set();
      this.unit = null;
      this.isRendered = true;
      this.hasKeys = true;
      this.build();
    }

    build() {
      const button = (label, title, act) => make("button", { type: "button", title, onclick: act }, label);
      this.chips = make("div", { class: "dv-chips", role: "group", "aria-label": "Show only traces that are" });
      this.select = make("select", { id: "dv-trace", onchange: () => this.open(this.select.value) });
      this.count = make("span", { class: "dv-count", "aria-live": "polite" });
      this.more = button("Load more", "Read further traces", () => this.load());
      this.raw = button("Raw text (r)", "Formulas as they are written, or rendered", () => this.toggle());
      this.body = make("div", { class: "dv-body" });
      this.about = make("div", { class: "dv-about", role: "status", "aria-live": "polite", "aria-label": "The token that is chosen" });
      this.help = this.helped();
      this.root.classList.add("dv");
      this.root.replaceChildren(
        make("div", { class: "dv-head" },
          this.chips,
          make("div", { class: "dv-row" },
            make("label", { for: "dv-trace" }, "Trace"), this.select,
            button("Previous (k)", "Previous trace", () => this.step(-1)),
            button("Next (j)", "Next trace", () => this.step(1)), this.count, this.more),
          make("div", { class: "dv-row" },
            button("Previous disagreement (p)", "Previous token that the student did not write", () => this.jump(-1)),
            button("Next disagreement (n)", "Next token that the student did not write", () => this.jump(1)),
            this.raw, button("Keys (?)", "What keys do", () => this.help.showModal())),
          legend()),
        this.body, this.about, this.help);
      this.onkey = (event) => this.key(event);
      this.onhash = () => this.follow();
      document.addEventListener("keydown", this.onkey);
      addEventListener("hashchange", this.onhash);
    }

    close() {
      document.removeEventListener("keydown", this.onkey);
      removeEventListener("hashchange", this.onhash);
      this.tokens?.seen.disconnect();
    }

    helped() {
      const list = make("dl", {}, ...KEYS.flatMap(([keys, what]) => [make("dt", {}, make("kbd", {}, keys)), make("dd", {}, what)]));
      const box = make("input", { type: "checkbox", checked: true, onchange: () => (this.hasKeys = box.checked) });
      const dialog = make("dialog", { class: "dv-help", "aria-labelledby": "dv-keys" },
        make("h2", { id: "dv-keys" }, "Keys"), list, make("p", {}, make("label", {}, box, " single letters are keys here")),
        make("button", { type: "button", onclick: () => dialog.close() }, "Close"));
      return dialog;
    }

    async load() {
      this.more.disabled = true;
      try {
        const { data, has_more } = await this.source.page();
        this.summaries.push(...data);
        this.more.hidden = !has_more;
      } catch (error) {
        this.say(String(error.message || error), "dv-error");
        return;
      } finally {
        this.more.disabled = false;
      }
      this.list();
      if (this.unit === null) await this.follow();
    }

    shown() {
      const chosen = FILTERS.filter(([name]) => this.filters.has(name));
      return this.summaries.filter((one) => !chosen.length || chosen.some(([, , applies]) => applies(one)));
    }

    list() {
      this.chips.replaceChildren(...FILTERS.map(([name, label, applies]) => {
        const count = this.summaries.filter(applies).length;
        const open = name !== "wrong" ? 0 : this.summaries.filter((one) => one.kind === "verifiable" && !one.error && one.verdict === null).length;
        return make("button", { type: "button", class: "dv-chip", "data-filter": name, "aria-pressed": String(this.filters.has(name)), onclick: () => this.filter(name) },
          `${label} `, make("b", {}, String(count)), open ? ` (${open} not judged)` : null);
      }));
      const shown = this.shown();
      this.select.replaceChildren(...shown.map((one) => make("option", { value: one.unit_id, selected: one.unit_id === this.unit }, inked(titled(one)))));
      this.select.disabled = !shown.length;
      this.where();
    }

    where() {
      const shown = this.shown();
      const place = shown.findIndex((one) => one.unit_id === this.unit);
      this.count.textContent = shown.length ? `${place < 0 ? "–" : place + 1} of ${shown.length}` : "none of these";
    }

    filter(name) {
      if (!this.filters.delete(name)) this.filters.add(name);
      this.list();
      this.chips.querySelector(`[data-filter="${name}"]`).focus();
      const shown = this.shown();
      if (shown.length && !shown.some((one) => one.unit_id === this.unit)) this.open(shown[0].unit_id);
    }

    step(by) {
      const shown = this.shown();
      const next = shown[shown.findIndex((one) => one.unit_id === this.unit) + by];
      if (next) this.open(next.unit_id);
    }

    jump(by) {
      if (this.tokens && !this.tokens.jump(by)) this.tell([["disagreements", by > 0 ? "none further on" : "none before"]]);
    }

    async follow() { // a link to a trace
      const wanted = new URLSearchParams(location.hash.slice(1)).get("trace");
      const shown = this.shown();
      if (wanted && wanted !== this.unit) await this.open(wanted, false);
      else if (this.unit === null && shown.length) await this.open(shown[0].unit_id, false);
      else if (!this.summaries.length) this.say(this.source.empty || "There are no traces yet.");
    }

    async open(unit, isLinked = true) {
      this.unit = unit;
      if (isLinked) {
        const hash = new URLSearchParams(location.hash.slice(1));
        hash.set("trace", unit);
        history.replaceState(null, "", `#${hash}`);
      }
      this.select.value = unit;
      this.where();
      const summary = this.summaries.find((one) => one.unit_id === unit);
      this.tokens?.seen.disconnect();
      this.tokens = null;
      this.tell([]);
      if (summary?.error) {
        this.say(`${summary.error.code}: ${summary.error.detail}`, "dv-error");
        return;
      }
      try {
        const trace = await this.source.trace(unit);
        if (this.unit === unit) this.show(trace);
      } catch (error) {
        if (this.unit === unit) this.say(String(error.message || error), "dv-error");
      }
    }

    show(trace) {
      this.trace = trace;
      const { summary } = trace;
      this.problem = make("div", { class: "dv-text" });
      this.solution = make("div", { class: "dv-text" });
      this.written = make("div", { class: "dv-text dv-tokens", role: "group", "aria-label": "The trace, token by token; arrow keys move" });
      const facts = [`${summary.tokens} tokens`, `student wrote ${percent(summary.student_share)}`, `${summary.disagreements} disagreement${summary.disagreements === 1 ? "" : "s"}`];
      if (VERDICTS[summary.verdict]) facts.push(VERDICTS[summary.verdict]);
      if (summary.truncated && summary.verdict !== "cut") facts.push("cut");
      if (summary.cites) facts.push("cites what was shown");
      const section = (title, name, ...children) => {
        const id = `dv-h-${name}`;
        return make("section", { class: `dv-${name}`, "aria-labelledby": id }, make("h2", { id }, title), ...children);
      };
      const ways = trace.waypoints.length ? make("p", { class: "dv-small" }, `Waypoints: ${inked(trace.waypoints.join(", "))}`) : null;
      const answer = trace.answer === null ? null : make("p", { class: "dv-small" }, `Answer: ${inked(trace.answer)}`);
      this.body.replaceChildren(
        section("Problem", "problem", this.problem),
        section("Expert solution", "solution", this.solution, answer, ways),
        section("Trace", "trace", make("p", { class: "dv-small" }, inked(`${summary.item_id}, sample ${summary.sample ?? "unknown"}: ${facts.join(", ")}. ${trace.method}, ${trace.model_name}, ${trace.engine}.`)),
          trace.no_tokens ? make("p", { class: "dv-small dv-note" }, `Without tokens: ${trace.no_tokens}.`) : null, this.written));
      this.tokens = trace.texts.length ? new Tokens(trace, this.written, (facts) => this.tell(facts)) : null;
      this.draw();
      scrollTo(0, 0);
    }

    draw() {
      const { trace, isRendered } = this;
      this.raw.setAttribute("aria-pressed", String(!isRendered));
      this.problem.replaceChildren(...textWith(trace.problem, [], isRendered));
      this.solution.replaceChildren(...textWith(trace.solution, trace.solution_marks, isRendered));
      if (this.tokens) this.tokens.show(isRendered);
      else this.written.replaceChildren(...textWith(trace.text, trace.trace_marks, isRendered));
    }

    toggle() {
      this.isRendered = !this.isRendered;
      if (this.trace && this.written?.isConnected) this.draw();
      this.raw.setAttribute("aria-pressed", String(!this.isRendered));
    }

    say(text, name = "dv-note") {
      this.body.replaceChildren(make("p", { class: name }, inked(text)));
    }

    tell(facts) {
      this.about.replaceChildren(...facts.map(([name, value]) => make("span", {}, make("b", {}, `${name} `), value)));
    }

    key(event) {
      if (!this.hasKeys || event.ctrlKey || event.metaKey || event.altKey || this.help.open) return;
      if (event.target.closest?.("input:not([type=checkbox]), textarea, select")) return;
      const acts = { n: () => this.jump(1), p: () => this.jump(-1), j: () => this.step(1), k: () => this.step(-1), r: () => this.toggle(), "?": () => this.help.showModal() };
      if (!acts[event.key]) return;
      event.preventDefault();
      acts[event.key]();
    }
  }

  function titled(one) {
    const notes = [one.sample === null ? "" : `sample ${one.sample}`, one.error ? `failed: ${one.error.code}` : `${one.tokens} tokens`];
    if (!one.error && one.student_share !== null) notes.push(`student ${percent(one.student_share)}`);
    if (VERDICTS[one.verdict]) notes.push(VERDICTS[one.verdict]);
    return `${one.item_id}: ${notes.filter(Boolean).join(", ")}`;
  }

  function legend() {
    const one = (names, text) => make("span", { class: `dv-t ${names}` }, text);
    return make("details", { class: "dv-legend", open: matchMedia("(min-width: 40rem)").matches }, make("summary", {}, "What the colours say"),
      make("p", {}, "Written by ", one("dv-s dv-c0", "the student"), ", ", one("dv-p dv-c0", "the privileged student"), " (underlined), ", one("dv-u dv-cx", "nobody knows whom"), " (dotted). ",
        "The stronger the colour, the less likely the token was to the privileged student: ",
        one("dv-s dv-c0", "90 % and more"), " ", one("dv-s dv-c1", "50 %"), " ", one("dv-s dv-c2", "10 %"), " ", one("dv-s dv-c3", "less"), "; ",
        one("dv-p dv-c0", "90 % and more"), " ", one("dv-p dv-c1", "50 %"), " ", one("dv-p dv-c2", "10 %"), " ", one("dv-p dv-c3", "less"), ". ",
        one("dv-refused dv-cx", "A bar before it"), ": a proposal was refused here. ", make("mark", {}, "Framed"), ": a waypoint. ",
        one("dv-cited dv-cx", "Wavy"), ": it cites what was shown."));
  }

  globalThis.dailViewer = {
    make,
    inked,
    mount(root, source) {
      const viewer = new Viewer(root, source);
      viewer.load();
      return viewer;
    },
  };
})();

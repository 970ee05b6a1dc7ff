// The page of the API: batches as they go on, their items, files and traces, and who works.
//
// The token lies in this tab's session storage and is sent as a header, never as part of a URL. What the API says becomes
// text nodes. Events come over fetch, since an EventSource sends no token.
"use strict";
(() => {
  const { make, inked, mount } = globalThis.dailViewer;
  const main = document.getElementById("main"), told = document.getElementById("told"), leave = document.getElementById("leave");
  const KEY = "dail-token", AGAIN_MS = 2000, LIST_MS = 3000;
  const OPEN = new Set(["validating", "in_progress", "finalizing", "cancelling"]);
  let shown = 0; // counts what was navigated to; what comes late for an older one is dropped
  let stop = () => {};

  class Refused extends Error {
    constructor(status, code, detail) {
      super(detail);
      Object.assign(this, { status, code });
    }
  }

  async function ask(path, options = {}) {
    const token = sessionStorage.getItem(KEY);
    const headers = { ...(token ? { Authorization: `Bearer ${token}` } : {}), ...options.headers };
    const reply = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store", redirect: "error" });
    if (reply.ok) return reply;
    let problem = {};
    try { problem = await reply.json(); } catch { /* a proxy's own page */ }
    throw new Refused(reply.status, problem.code || "unknown", problem.detail || `the server answered ${reply.status}`);
  }

  const get = async (path) => (await ask(path)).json();
  const say = (text, isBad = false) => { told.textContent = inked(text); told.classList.toggle("bad", isBad); };
  const cell = (value, name) => make("td", name ? { class: name } : {}, value instanceof Node ? value : inked(String(value ?? "")));
  const time = (seconds) => (seconds ? new Date(1000 * seconds).toLocaleString() : "–");
  const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(0)} %`);
  const some = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
  const button = (label, act, more = {}) => make("button", { type: "button", onclick: act, ...more }, label);

  function table(caption, heads, rows) {
    return make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
      make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((one) => make("th", { scope: "col" }, one)))), make("tbody", {}, ...rows)));
  }

  function bar(counts) {
    const done = counts.completed + counts.failed + counts.cancelled + counts.expired;
    return make("span", {}, make("progress", { max: Math.max(1, counts.total), value: done, "aria-label": `${done} of ${counts.total} items ended` }), ` ${done} / ${counts.total}`);
  }

  async function tried(mine, act) { // whatever a reader must hear is said in one place
    try {
      return await act();
    } catch (error) {
      if (mine !== shown) return undefined;
      if (error.status === 401) return door();
      say(error instanceof Refused ? `${error.code}: ${error.message}` : `the server cannot be reached (${error.message}); is dail serve running?`, true);
      return undefined;
    }
  }

  function door() {
    stop();
    const field = make("input", { id: "token", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
    const form = make("form", { class: "token" }, make("h2", {}, "This server wants a token"),
      make("p", {}, make("label", { for: "token" }, "One that `dail token new --scope read` made, or DAIL_TOKEN of the server")), field, " ", make("button", {}, "Go on"),
      make("p", { class: "dv-small" }, "It stays in this tab until the tab is closed, and is sent to this server alone."));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, field.value.trim());
      go();
    });
    main.replaceChildren(form);
    say(sessionStorage.getItem(KEY) ? "that token is not taken: it may be mistyped, revoked or over" : "", true);
    sessionStorage.removeItem(KEY);
    leave.hidden = true;
    field.focus();
  }

  // ── all batches ───────────────────────────────────────────────────────────────────────────────────────────────
  async function batches(mine) {
    const rows = make("div", {}), more = button("Older", () => load(true), { hidden: true });
    const section = make("section", { "aria-labelledby": "batches" }, make("h2", { id: "batches" }, "Batches"), rows, make("p", {}, more));
    let pages = 1, timer = 0;
    async function load(isMore) {
      if (isMore) pages++;
      const data = [];
      let after = "", page = null;
      for (let n = 0; n < pages && (n === 0 || page.has_more); n++) {
        page = await tried(mine, () => get(`/v1/batches?limit=20${after}`));
        if (!page || mine !== shown) return;
        data.push(...page.data);
        after = `&after=${encodeURIComponent(page.last_id)}`;
      }
      more.hidden = !page.has_more;
      if (told.classList.contains("bad")) say("");
      leave.hidden = !sessionStorage.getItem(KEY);
      rows.replaceChildren(data.length ? listed(data) : empty());
      if (!section.isConnected) main.replaceChildren(section);
      clearTimeout(timer);
      timer = setTimeout(() => mine === shown && load(false), LIST_MS);
    }
    stop = () => clearTimeout(timer);
    await load(false);
  }

  function listed(data) {
    return table("Batches", ["batch", "state", "items", "failed", "student wrote", "posted"], data.map((one) => make("tr", {},
      cell(make("a", { href: `#${new URLSearchParams({ batch: one.id })}` }, inked(one.run_label || one.id))), cell(one.status), cell(bar(one.request_counts)),
      cell(one.request_counts.failed || "", "number"), cell(percent(one.tokens.student_share), "number"), cell(time(one.created_at)))));
  }

  const empty = () => make("p", {}, "No batch has been posted. Next, in a terminal: ", make("code", {}, `dail submit FILE --api ${location.origin}`));

  // ── one batch ─────────────────────────────────────────────────────────────────────────────────────────────────
  async function batch(mine, id) {
    const path = `/v1/batches/${encodeURIComponent(id)}`;
    const first = await tried(mine, () => get(path));
    if (!first || mine !== shown) return;
    leave.hidden = !sessionStorage.getItem(KEY);
    const aborted = new AbortController();
    const part = (name, title) => {
      const body = make("div", {});
      return [make("section", { "aria-labelledby": `h-${name}` }, make("h2", { id: `h-${name}` }, title), body), body];
    };
    const [head, facts] = part("batch", `Batch ${inked(first.run_label || first.id)}`);
    const [things, items] = part("items", "Items");
    const [files, shards] = part("shards", "Shards");
    const viewer = make("div", {});
    const traces = make("section", { "aria-labelledby": "h-traces" }, make("h2", { id: "h-traces" }, "Traces"), viewer);
    main.replaceChildren(head, things, files, traces);
    const list = new Items(mine, path, items);
    let view = null, seen = -1;
    stop = () => { aborted.abort(); view?.close(); };

    async function draw(now) {
      facts.replaceChildren(...described(now), actions(mine, path, now, refresh));
      await list.load();
      shards.replaceChildren(...(await tried(mine, () => shardsOf(mine, path, now)) || []));
      const done = now.units.committed + now.units.failed;
      if (done !== seen && (view === null || !view.summaries.length) && done) {
        view?.close();
        view = mount(viewer, tracesOf(path));
      } else if (!done) viewer.replaceChildren(make("p", {}, "There is no trace yet; the first ones appear here as they are committed."));
      else if (done !== seen) view.more.hidden = false;
      seen = done;
    }

    async function refresh() {
      const now = await tried(mine, () => get(path));
      if (now && mine === shown) await draw(now);
    }

    await draw(first);
    if (OPEN.has(first.status)) follow(mine, path, aborted.signal, refresh);
  }

  async function follow(mine, path, signal, refresh) { // until the batch has ended or somebody looks elsewhere
    let last = 0, isDue = false, isBusy = false;
    async function update() { // what comes while it is drawn is drawn once, behind it
      isDue = true;
      if (isBusy) return;
      isBusy = true;
      while (isDue && mine === shown) {
        isDue = false;
        await refresh();
      }
      isBusy = false;
    }
    while (mine === shown) {
      try {
        const reply = await ask(`${path}/events`, { headers: { "Last-Event-ID": String(last) }, signal });
        const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          const events = (rest + value).split("\n\n");
          rest = events.pop();
          for (const event of events) {
            const number = /^id: (\d+)$/m.exec(event);
            if (number) last = Math.max(last, Number(number[1]));
            if (/^event: done$/m.test(event)) {
              await update();
              return;
            }
          }
          if (events.length) update();
        }
      } catch (error) {
        if (signal.aborted || mine !== shown) return;
        if (error.status === 401) return void door();
        say(`the connection was lost; trying again (${error.message})`, true);
      }
      await new Promise((later) => setTimeout(later, AGAIN_MS));
      if (mine === shown) { say(""); update(); }
    }
  }

  function described(now) {
    const units = Object.entries(now.units).filter(([name, count]) => name !== "total" && count).map(([name, count]) => `${count} ${name}`);
    const facts = [
      ["id", now.id], ["state", now.status], ["model", now.model.name],
      ["traces", `${units.join(", ") || "none"} of ${now.units.total}`],
      ["tokens", `${now.tokens.total}, ${percent(now.tokens.student_share)} by the student, ${Math.round(now.tokens_per_s)} a second`],
      ["posted", time(now.created_at)], ["ended", time(now.completed_at || now.cancelled_at || now.expired_at || now.failed_at)],
    ];
    if (now.tenant) facts.push(["tenant", now.tenant]);
    if (now.waiting_for) facts.push(["waits for", now.waiting_for.detail]);
    if (now.ending_error) facts.push(["cannot end", now.ending_error]);
    if (now.damaged_shards) facts.push(["damaged", `${now.damaged_shards} traces`]);
    return [make("p", {}, bar(now.request_counts)), make("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, inked(String(value)))]))];
  }

  function actions(mine, path, now, refresh) {
    const act = (label, question, method, rest, body) => button(label, () => {
      if (confirm(question)) tried(mine, async () => {
        await ask(path + rest, { method, ...(body ? { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : {}) });
        if (method === "DELETE") location.hash = "";
        else if (rest === "/retry") go();
        else await refresh();
      });
    });
    const row = make("div", { class: "row" });
    if (now.status === "in_progress") row.append(act("Cancel", "Stop this batch? Finished traces are kept.", "POST", "/cancel"));
    else if (!OPEN.has(now.status)) {
      if (now.request_counts.completed < now.request_counts.total) row.append(act("Retry what failed", "Draw what has no trace again?", "POST", "/retry", { items: "failed" }));
      row.append(act("Delete", "Delete this batch and, in 30 days, its traces?", "DELETE", ""));
    }
    return row;
  }

  class Items {
    constructor(mine, path, root) {
      Object.assign(this, { mine, path, root, pages: 1, status: "" });
      const names = ["", "failed", "queued", "running", "completed", "cancelled", "expired"];
      this.choice = make("select", { id: "status", onchange: () => { this.status = this.choice.value; this.pages = 1; this.load(); } },
        ...names.map((name) => make("option", { value: name }, name || "all")));
      this.rows = make("div", {});
      this.more = button("More items", () => { this.pages++; this.load(); }, { hidden: true });
      root.replaceChildren(make("div", { class: "row" }, make("label", { for: "status" }, "Show"), this.choice), this.rows, this.more);
    }

    async load() {
      const data = [];
      let page = null, after = "";
      for (let n = 0; n < this.pages && (n === 0 || page.has_more); n++) {
        const query = `limit=20${this.status && `&status=${this.status}`}${after}`;
        page = await tried(this.mine, () => get(`${this.path}/items?${query}`));
        if (!page || this.mine !== shown) return;
        data.push(...page.data);
        after = `&after=${encodeURIComponent(page.last_id)}`;
      }
      this.more.hidden = !page.has_more;
      this.rows.replaceChildren(data.length ? table("Items", ["item", "state", "traces", "tokens", "why not"], data.map((one) => this.row(one))) : make("p", {}, "None."));
    }

    row(one) {
      const errors = [one.error, ...one.samples.map((sample) => sample.error)].filter(Boolean);
      const why = make("div", {}, ...errors.map((error) => make("p", { class: "bad" }, make("code", {}, inked(error.code)), `: ${inked(error.detail)}`)));
      if (errors.length) why.append(make("p", { class: "dv-small" }, "What each code means and what to do: “Errors” in the documents, deploy/docs/errors.md."));
      const committed = one.samples.filter((sample) => sample.status === "committed");
      const links = make("span", {}, ...committed.flatMap((sample) => [
        make("a", { href: `#${new URLSearchParams({ batch: this.path.split("/").pop(), trace: sample.unit_id })}` }, `sample ${sample.sample}`), " "]));
      return make("tr", {}, cell(one.id), cell(one.status), cell(links), cell(one.samples.reduce((sum, sample) => sum + sample.tokens, 0), "number"), cell(why));
    }
  }

  async function shardsOf(mine, path, now) {
    const { data, output_root } = await get(`${path}/shards`);
    if (!data.length) return [make("p", {}, "None yet.")];
    if (!now.manifest) return [make("p", {}, inked(`${some(new Set(data.map((one) => one.key)).size, "file")} with ${some(data.length, "trace")}, in ${output_root}; when the batch has ended, they can be had here.`))];
    const manifest = await get(`${path}/manifest`);
    const listed = [...new Map(manifest.shards.map((one) => [one.key, one])).values()];
    const rows = listed.map((one, number) => make("tr", {}, cell(one.key), cell(manifest.shards.filter((other) => other.key === one.key).length, "number"), cell(one.size_bytes, "number"),
      cell(button("Download", () => tried(mine, () => download(`${path}/shards/${number}`, `${one.sha256.slice(0, 16)}.parquet`)), { "aria-label": `Download ${one.key}` }))));
    return [table("Shards", ["file", "traces", "bytes", ""], rows),
      make("p", {}, "Next: ", make("code", {}, inked(`dail train --manifest ${now.manifest.path} --model MODEL --out FOLDER`)))];
  }

  async function download(path, name) {
    const url = URL.createObjectURL(await (await ask(path)).blob());
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  function tracesOf(path) {
    let after = "";
    return {
      empty: "There is no trace here.",
      page: async () => {
        const page = await get(`${path}/traces?limit=50${after}`);
        if (page.last_id) after = `&after=${encodeURIComponent(page.last_id)}`;
        return page;
      },
      trace: (unit) => get(`${path}/traces/${encodeURIComponent(unit)}`),
    };
  }

  // ── who works ─────────────────────────────────────────────────────────────────────────────────────────────────
  async function workers(mine) {
    const body = make("div", {});
    main.replaceChildren(make("section", { "aria-labelledby": "workers" }, make("h2", { id: "workers" }, "Workers"), body));
    let timer = 0;
    async function load() {
      const found = await tried(mine, async () => {
        try {
          return (await get("/v1/workers")).data;
        } catch (error) {
          if (error.status !== 403) throw error;
          return null;
        }
      });
      if (found === undefined || mine !== shown) return;
      leave.hidden = !sessionStorage.getItem(KEY);
      if (found === null) body.replaceChildren(make("p", {}, "Workers hold units of every tenant, so this wants a token with the scope admin: ", make("code", {}, "dail token new --scope admin")));
      else if (!found.length) body.replaceChildren(make("p", {}, "No worker has been heard of in the last day. Next, where the GPUs are: ", make("code", {}, `dail worker --api ${location.origin} --model FOLDER`)));
      else body.replaceChildren(table("Workers", ["worker", "model", "host", "heard of", "holds"], found.map((one) => make("tr", {},
        cell(one.id), cell(one.model), cell(one.host), cell(`${time(one.heard_at)}${one.silent ? ", silent since" : ""}`), cell(held(one.units))))));
      if (found !== null) timer = setTimeout(() => mine === shown && load(), LIST_MS);
    }
    stop = () => clearTimeout(timer);
    await load();
  }

  function held(units) {
    if (!units.length) return "nothing";
    const list = make("ul", {}, ...units.map((one) => make("li", {}, make("a", { href: `#${new URLSearchParams({ batch: one.batch_id })}` }, inked(one.item_id)), `, ${one.tokens} tokens${one.lapsed ? ", lapsed" : ""}`)));
    return make("details", { open: units.length < 10 }, make("summary", {}, `${units.length} units`), list);
  }

  // ── where one is ──────────────────────────────────────────────────────────────────────────────────────────────
  let where = null;
  function go() {
    stop();
    stop = () => {};
    const mine = ++shown;
    const hash = new URLSearchParams(location.hash.slice(1));
    where = hash.get("batch");
    document.title = where ? `dail: ${inked(where)}` : "dail";
    say("");
    if (where) batch(mine, where);
    else if (hash.has("workers")) workers(mine);
    else batches(mine);
  }

  leave.addEventListener("click", () => { sessionStorage.removeItem(KEY); go(); });
  addEventListener("hashchange", () => {
    const wanted = new URLSearchParams(location.hash.slice(1)).get("batch");
    if (wanted === null || wanted !== where) go(); // another trace of the same batch is the viewer's
    else document.getElementById("h-traces")?.scrollIntoView();
  });
  go();
})();

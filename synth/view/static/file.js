// The file of `dail inspect`: the viewer over the JSON that lies in it.
"use strict";
(() => {
  const { make, inked, mount } = globalThis.dailViewer;
  const read = (name) => JSON.parse(document.getElementById(name).textContent);
  const { title, said, left_out, summaries } = read("traces");
  const numbers = new Map();
  for (const one of summaries) numbers.set(one.unit_id, numbers.size);
  const main = document.getElementById("viewer");
  const left = left_out ? ` ${summaries.length} of them are in this file; a higher --limit takes more.` : "";
  main.before(make("header", { class: "dv-title" }, make("h1", {}, inked(title)), make("p", {}, inked(said + left))));
  mount(main, {
    empty: "There is no trace in this file. `dail inspect` without --only shows all there are.",
    page: async () => ({ data: summaries, has_more: false }),
    trace: async (unit) => {
      if (!numbers.has(unit)) throw new Error("that trace is not in this file; `dail inspect --item` makes one that has it");
      return read(`trace-${numbers.get(unit)}`);
    },
  });
})();

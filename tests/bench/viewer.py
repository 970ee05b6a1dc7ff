"""How long a browser takes for a trace of 20,000 tokens in the file of `dail inspect`, and how many nodes it makes.

python -m tests.bench.viewer
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from dail.synth.view.page_file import as_file
from dail.synth.view.traces import viewed
from tests.browser import Watched, chromium
from tests.synth.view.conftest import a_row

TOKENS = 20_000
_TASKS = """
globalThis.longest = 0;
new PerformanceObserver((list) => { for (const one of list.getEntries()) longest = Math.max(longest, one.duration); })
  .observe({ type: "longtask", buffered: true });
"""
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_SCROLL = """async () => {
  longest = 0;
  let most = 0, slowest = 0, frames = 0;
  const end = document.documentElement.scrollHeight;
  for (let at = 0; at < document.documentElement.scrollHeight && frames < 600; at += 400) {
    const began = performance.now();
    scrollTo(0, at);
    await new Promise(requestAnimationFrame);
    slowest = Math.max(slowest, performance.now() - began);
    most = Math.max(most, document.querySelectorAll("*").length);
    frames++;
  }
  await new Promise((later) => setTimeout(later, 500));
  return { longest_task_ms: Math.round(longest), slowest_frame_ms: Math.round(slowest), nodes: most, frames };
}"""


def main() -> None:
    texts = [
        f"step {n} is $x_{{{n}}}^2 = \\frac{{{n}}}{{7}}$.\n" if n % 40 == 39 else f"word{n} " for n in range(TOKENS)
    ]
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        path = Path(folder) / "traces.html"
        path.write_text("".join(as_file([viewed(a_row(texts))], "Traces", "said")), "utf-8")
        for rendered in (False, True):
            watched = Watched(browser, viewport={"width": 1400, "height": 900})
            watched.context.add_init_script(_TASKS)
            watched.page.goto(f"file://{path}")
            watched.page.wait_for_selector(".dv-tokens [data-t]")
            watched.page.wait_for_function(f"{_PAINT} !== undefined")
            found = {
                "rendered": rendered,
                "bytes": path.stat().st_size,
                "first_paint_ms": round(watched.page.evaluate(_PAINT)),
            }
            found["load_task_ms"] = round(watched.page.evaluate("longest"))
            if not rendered:
                watched.page.keyboard.press("r")
            print(json.dumps(found | watched.page.evaluate(_SCROLL)), flush=True)
            watched.context.close()


if __name__ == "__main__":
    main()

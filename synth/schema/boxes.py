r"""What a text puts into its last box: the answer of an expert solution, or of a completion (paper App. B.1)."""

from __future__ import annotations

import re

_BOX_OR_BRACES = re.compile(r"(?P<box>\\boxed\s*+\{)|\\\\(?!boxed)|\\[{}]|(?P<open>\{+)|(?P<close>\}+)")


def final_answer(solution: str) -> str | None:
    r"""Content of the last balanced `\boxed{...}` that is not blank (paper App. B.1), else none.

    `\boxed 7` is no answer, since TeX would box one character of `\boxed 42`; nor is `\fbox{7}`. Of two nested
    boxes the inner one starts last. A backslash too many, as in `\\boxed{7}`, is forgiven.

        So $\boxed{\frac{3}{4}}$.        \frac{3}{4}
        \boxed{5}, then \boxed{7         5
        \boxed{\{1, 2\}}                 \{1, 2\}
    """
    last_start, answer = -1, None
    depth, open_boxes = 0, list[tuple[int, int]]()  # a box: where its content starts, depth of its brace
    first_box = solution.find(r"\boxed")
    for match in _BOX_OR_BRACES.finditer(solution, first_box) if first_box >= 0 else ():
        if match["box"]:
            depth += 1
            open_boxes.append((match.end(), depth))
        elif match["open"]:
            depth += len(match["open"])
        elif match["close"]:
            left = max(depth - len(match["close"]), 0)
            while open_boxes and open_boxes[-1][1] > left:
                start, box_depth = open_boxes.pop()
                content = solution[start : match.start() + depth - box_depth].strip() if start > last_start else ""
                if content:
                    last_start, answer = start, content
            depth = left
    return answer

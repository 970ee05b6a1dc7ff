"""The paper's method: prompts, waypoints, the rule of acceptance, grading."""

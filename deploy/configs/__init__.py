"""The named runs, installed as `dail.configs`: `--config NAME` finds them from anywhere."""

"""The paper's tables and figures (contents.toml) and the runs they are made of, installed as `dail.paper`."""

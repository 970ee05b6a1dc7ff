"""Which template a model folder has, and what it can be told, from its files alone."""

import json
from pathlib import Path

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.schema.chat_templates import chat_template, names_read

LLAMA_DATE = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}{{ date_string }}"
)


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{% if enable_thinking is defined and enable_thinking is false %}x{% endif %}", ("enable_thinking",)),
        ("{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ thinking }}", ("thinking",)),
        ("{% set effort = reasoning_effort or 'medium' %}{{ effort }}", ("reasoning_effort",)),
        ("{% if reasoning_effort is undefined %}{% set reasoning_effort = 'low' %}{% endif %}", ("reasoning_effort",)),
        ("{{ strftime_now('%Y') }}", ("strftime_now",)),
        (LLAMA_DATE, ("date_string", "strftime_now")),
        # a word in a comment, in a text, or of a loop is no switch
        ("{# enable_thinking #}{{ 'enable_thinking' }} thinking", ()),
        ("{% for thinking in messages %}{% if thinking is defined %}{{ thinking }}{% endif %}{% endfor %}", ()),
        ("{% macro said(x, y=none) %}{% if y is defined %}{{ y }}{% endif %}{{ x }}{% endmacro %}{{ said(1) }}", ()),
        ("{{ bos_token }}{{ messages }}{% if tools %}{{ raise_exception('no') }}{% endif %}{{ namespace(a=1) }}", ()),
        ("{% if messages %}{% set c = 1 %}{% endif %}{{ c }}{% set c = 2 %}", ()),
        (
            "{% for m in messages %}{% set c = m.content %}{{ c }}{{ loop.index }}{% endfor %}{{ c if c is defined }}",
            (),
        ),
        ("{% set c = c | default(1) %}{{ c }}", ("c",)),
        ("{% set ns = namespace(a=false) %}{% for m in messages %}{% set ns.a = true %}{% endfor %}{{ ns.a }}", ()),
        # an argument of a macro is a name inside it alone; values are read before the names that they get
        (
            "{% macro f(enable_thinking=1) %}{{ enable_thinking }}{% endmacro %}{{ 'x' if enable_thinking }}",
            ("enable_thinking",),
        ),
        ("{% macro f(a, b=thinking) %}{% set thinking = a %}{{ b }}{% endmacro %}", ("thinking",)),
        ("{% with thinking = thinking %}{{ thinking }}{% endwith %}", ("thinking",)),
        ("{% set c %}{{ c }}{% endset %}{% for t in t %}{{ t }}{% endfor %}", ("c", "t")),
        (
            "{% macro f() %}{{ caller(1) }}{% endmacro %}{% call(user) f() %}{{ user }}{% endcall %}{{ user }}",
            ("user",),
        ),
        # what transformers let a template say beside Jinja
        ("{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% break %}{% endfor %}", ()),
    ],
)
def test_what_a_template_can_be_told_is_read_from_its_syntax_tree(template: str, names: tuple[str, ...]):
    assert names_read(template) == names


def test_what_is_no_jinja_is_refused():
    with pytest.raises(UsageError, match="the chat template is no Jinja template: "):
        names_read("{% if %}")


def test_of_several_templates_the_default_one_speaks(tmp_path: Path):
    config = tmp_path / "tokenizer_config.json"
    named = {"default": "D", "tool_use": "T"}
    for value in (named, [{"name": name, "template": text} for name, text in named.items()]):
        config.write_text(json.dumps({"chat_template": value}))
        assert chat_template(tmp_path) == "D"
    config.write_text(json.dumps({"chat_template": {"rag": "R", "tool_use": "T"}}))
    with pytest.raises(UsageError, match="has chat templates named rag, tool_use and none named default; save the one"):
        chat_template(tmp_path)
    more = tmp_path / "additional_chat_templates"
    more.mkdir()
    (more / "default.jinja").write_text("M")
    assert chat_template(tmp_path) == "M"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert chat_template(tmp_path) == "J"

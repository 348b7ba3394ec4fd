"""Compares the chat-template interpreter with jinja2, set up as transformers does, byte for byte.

Each template of tests/data/templates is rendered over many message lists with both; where jinja2 raises, the interpreter must fail too.
Called with the path of the bpdq binary; the tool render_template lies beside it.
"""

import datetime
import functools
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROLES = ["system", "user", "assistant", "tool"]
CONTENTS = [
    "", "Hello", "  padded \n", "two\nlines", "quotes \" ' \\ and {{ braces }} {% tags %} {# comments #}", "naïve – 日本語 🙂‍↔️", "\u00a0\u2003edge\u3000",
    "<think>\nfirst\n</think>\n\nthen", "</think>", "<response>x</response>", "a" * 300, "\t\x1ftabs\x0b", "0", "{\"a\": [1, 2]}", "\r\nwindows\r\n",
]
SPECIALS = [(None, "<|im_end|>"), ("<s>", "</s>"), ("<|begin|>", "<|eot|>")]

# One construct each, mostly from real templates' corners; jinja2 decides what is right.
CONSTRUCTS = [
    "{{ messages[0].content.split('\\n')|first }}", "{{ (messages|length)*2 }}", "{{ -messages|length }}", "{{ 'a' is string and 'b' is string }}",
    "{{ not messages is none }}", "{{ messages[-1:][0].role }}", "{{ messages[:-1]|length }}", "{{ messages.0.role }}", "{{ 1 if 0 else 2 if 0 else 3 }}",
    "{{ undefined.attribute }}", "{{ undefined + 'a' }}", "{{ none + 'a' }}", "{{ 1 + 'a' }}", "{{ undefined['x'] }}", "{{ undefined() }}", "{{ 'a' in none }}",
    "{{ none|length }}", "{{ 1 / 0 }}", "{% for x in none %}{% endfor %}", "{% for x in undefined %}{% else %}e{% endfor %}", "{{ raise_exception('stop') }}",
    "{{ messages|tojson }}", "{{ undefined|tojson }}", "{{ 'a'.nothing }}", "{{ 'a'.nothing.more }}", "{{ none.a.b }}", "{% set ns = namespace() %}{{ ns.x }}|{{ ns.x is defined }}",
    "{% set x.y = 1 %}", "{{ [1,2].append(3) }}", "{{ 'a' < 1 }}", "{{ ''.join([1]) }}", "{{ 'abc'.startswith(('x','a')) }}", "{{ range(200000)|length }}",
    "{% if 'x' %}\n  a\n{% endif %}\n  b\n", "a\n  {%- if true -%}\n  b  \n  {%- endif %}\n c", "  {{ 'x' }}  \n  {# c #}  \n  {% set a = 1 %}  y", "{% if true %}\r\nx\r\n{% endif %}\r\n",
    "x\n\n", "x\n", "{{ 'a' }}\n{{ 'b' }}\n", "{#- c -#}  x  {#+ d +#}\n y", "{%- raw -%}  {{ x }}  {%- endraw -%}  z", "  {% raw %}\n a {% endraw %}\n b",
    "{{ '%s' }} {{ 5 % 3 }}", "{{ {'a': 1}|length }}", "{{ 'x'|trim|upper ~ 'y' }}", "{{ ('x' + 'y')|upper }}", "{{ 'x' + 'y'|upper }}", "{{ 2 + 3 ~ 4 + 5 }}",
    "{{ -2 ** 2 }}", "{{ 2 ** 3 ** 2 }}", "{{ not true or true }}", "{{ 1 in [1] in [true] }}", "{{ 1 not in [2] }}", "{{ [messages[0].role, 1] }}", "{{ messages[0] }}",
    "{{ add_generation_prompt }}", "{{ bos_token is defined }}", "{{ bos_token }}|{{ eos_token }}", "{{ strftime_now('%Y-%m-%d') }}", "{{ messages[0]['content'][0] }}",
    "{% set m = messages %}{% for x in m %}{% for y in m %}{{ loop.index }}{{ x.role == y.role }}{% endfor %}{{ loop.index }}{{ loop.depth }}{% endfor %}",
    "{% for x in messages %}{% if loop.nextitem is defined and loop.nextitem.role == 'user' %}n{% endif %}{% endfor %}",
    "{% macro f(a, b='q') %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% set v = 1 %}{% macro f() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ f() }}", "{% set c = 'x' %}{% set c %}{{ c }}y{% endset %}{{ c }}", "{% for i in range(4) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(4) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "{{ 'a\\'b' }}{{ \"a\\\"b\" }}", "{{ [[1, 2], [3]]|map('length')|list }}", "{{ messages|map('tojson')|join(',') }}",
    "{{ [none, '', 0, 'a']|select|list }}", "{{ ['b', 'a']|unique|join }}", "{{ 'a,b'|replace(',', '\\n')|indent }}", "{{ 1.0 }} {{ 1e16 }} {{ 123456789.125 }} {{ 1e-5 }} {{ 100000.0 * 10 }}",
    "{{ 10 // 3.0 }} {{ -7 // 2.0 }} {{ -7.5 % 2 }}", "{{ true + 1 }}", "{{ 'x' * 0 }}|{{ 0 * 'x' }}", "{{ 'a' 'b' ~ 'c' }}", "{{ (1, 2)[0] }}", "{% set a, b = messages[0].role, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}",
    "{{ messages[0].items()|list }}", "{{ messages[0].get('content') }}", "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "{{ messages|last|tojson }}", "{{ (messages|last).role }}",
    "{{ 'abc'|first }}{{ 'abc'|last }}{{ 'abc'|reverse }}", "{{ ''|first is defined }}", "{{ 'A b'.swapcase is defined }}", "{{ loop }}", "{{ 'é'|upper }}{{ 'ǆ'|capitalize }}", "{{ '١'.isdigit() }}{{ 'a1'.isalpha() }}{{ ''.isspace() }}{{ 'Ab'.isupper() }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first | default('none') }}", "{{ 3|string + 'x' }}", "{{ ['a']|string }}", "{{ 'x'|safe }}", "{{ 5 is lt 6 }}{{ 5 is ge(5) }}{{ 5 is ne 5 }}", "{{ x if x is defined else 'd' }}",
    "{{ 'abc'[1:][::-1] }}", "{{ 'abcdef'[4:1:-1] }}", "{{ 'abcdef'[-100:100:3] }}", "{{ [1,2,3][0:-1] }}", "{{ 'abc'[none:2] }}", "{{ 'abc'['length'] is defined }}", "{{ messages[1.5] is defined }}", "{{ namespace(a=1).a }}", "{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{{ n.a }}{{ n['a'] }}",
]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


def conversations(rng, random_count):
    """Every usual order of roles, then random ones."""
    orders = [["user"], ["system", "user"], ["user", "assistant", "user"], ["system", "user", "assistant", "user"], ["user", "assistant"] * 3,
              ["system", "user", "assistant", "user", "assistant"], ["assistant"], ["system"], ["user", "user"], ["user", "assistant", "tool", "assistant"],
              ["user", "system", "user"]]
    for order, content in itertools.product(orders, CONTENTS):
        yield [{"role": role, "content": content if i % 2 == 0 else CONTENTS[(i * 7) % len(CONTENTS)]} for i, role in enumerate(order)]
    for _ in range(random_count):
        yield [{"role": rng.choice(ROLES), "content": rng.choice(CONTENTS)} for _ in range(rng.randint(1, 8))]


@functools.lru_cache(maxsize=None)
def compiled(env, text):
    return env.from_string(text)


def expected(env, request):
    variables = {"messages": request["messages"], "tools": None, "documents": None, "add_generation_prompt": request["add_generation_prompt"]}
    variables.update({key: request[key] for key in ("bos_token", "eos_token") if request[key] is not None})
    try:
        return compiled(env, request["template"]).render(**variables)
    except Exception:  # whatever jinja2 or Python raises, the interpreter must refuse too
        return None


def main():
    tool = Path(sys.argv[1]).parent / "render_template"
    data = Path(os.environ.get("BPDQ_TEST_DATA", Path(__file__).parent.parent / "data"))
    templates = {path.name: path.read_text(encoding="utf-8") for path in sorted((data / "templates").glob("*.jinja"))}
    assert templates, f"no templates in {data}/templates"
    env, rng, requests = environment(), random.Random(1), []
    for name, text in templates.items():
        for messages, prompt in itertools.product(conversations(rng, 60), (False, True)):
            bos, eos = SPECIALS[len(requests) % len(SPECIALS)]
            requests.append((name, {"template": text, "messages": messages, "add_generation_prompt": prompt, "bos_token": bos, "eos_token": eos}))
    for text, messages in itertools.product(CONSTRUCTS, itertools.islice(conversations(rng, 0), 0, None, 29)):
        requests.append((text, {"template": text, "messages": messages, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": None}))
    lines = "\n".join(json.dumps(request) for _, request in requests)
    answers = subprocess.run([tool], input=lines, capture_output=True, text=True, encoding="utf-8", check=True).stdout.split("\n")
    failures = refusals = 0
    for (name, request), line in zip(requests, answers):
        answer, wanted = json.loads(line), expected(env, request)
        refusals += wanted is None
        if answer.get("output") == wanted:
            continue
        failures += 1
        if failures <= 20:
            print(f"{name}: {json.dumps(request['messages'], ensure_ascii=False)[:300]}\n  jinja2 {wanted!r}\n  bpdq   {answer!r}")
    print(f"{len(requests)} renderings of {len(templates)} templates and {len(CONSTRUCTS)} constructs, {refusals} refused by both, {failures} differ")
    return 1 if failures or len(answers) < len(requests) else 0


if __name__ == "__main__":
    sys.exit(main())
